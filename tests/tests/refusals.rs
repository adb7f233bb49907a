//! What cannot be done is refused in one line that says what is wrong, never in silence.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sluice_tests::artefacts::{self, KERNEL, image, kernel, linux, stub};
use sluice_tests::ensure;
use sluice_tests::failure::{Failure, Outcome};
use sluice_tests::machine::{BOOT, COMMAND, Plan};
use sluice_tests::monitor::FRAME;

/// How long the hypervisor may take to say no.
const SOON: Duration = Duration::from_secs(60);

/// A manifest with these lines for its only guest, and the stub as a kernel beside it.
fn with_properties(name: &str, properties: &str) -> Outcome<Plan> {
    let source = format!(
        "/dts-v1/; / {{ compatible = \"sluice,manifest-v1\"; guests {{ one {{ {properties} }}; }}; }};"
    );
    Plan::new(name, &[])?.manifest(&source, &[image("guest-stub")?])
}

fn says(name: &str, plan: Plan, pattern: &str) -> Outcome {
    plan.start()?.expect(pattern, SOON).map_err(|error| error.during(name))?;
    Ok(())
}

#[test]
fn a_bad_manifest_names_the_guest_and_the_property() -> Outcome {
    let good = "memory = /bits/ 64 <0x10000000>; kernel = \"guest-stub.img\";";
    for (name, properties, pattern) in [
        ("no-memory", "kernel = \"guest-stub.img\";".into(), "one.*memory"),
        ("no-kernel", "memory = /bits/ 64 <0x10000000>;".into(), "one.*kernel"),
        ("no-file", good.replace("guest-stub.img", "absent"), "one.*kernel.*absent"),
        ("odd-memory", good.replace("0x10000000", "0x10000001"), "one.*memory"),
        ("vcpus-0", format!("{good} vcpus = <0>;"), "one.*vcpus"),
        ("vcpus-1000", format!("{good} vcpus = <1000>;"), "one.*vcpus"),
        ("population", format!("{good} population = \"often\";"), "one.*population"),
        ("unknown", format!("{good} colour = \"red\";"), "one.*colour"),
        ("cpus", format!("{good} cpus = <0 0>;"), "one.*cpus"),
        ("maximum", format!("{good} maximum-memory = <0x200000>;"), "one.*maximum-memory"),
    ] {
        says(name, with_properties(&format!("manifest-{name}"), &properties)?, pattern)?;
    }
    Ok(())
}

#[test]
fn a_bad_bundle_is_told() -> Outcome {
    let plan = |name: &str| Plan::new(&format!("bundle-{name}"), &[]);
    says("none", plan("none")?.no_bundle(), "bundle")?;
    says("noise", plan("noise")?.raw_bundle(vec![0x5a; 100_000]), "bundle|cpio")?;
    says("empty", plan("empty")?, "(?i)guest")?;
    let mut cut = sluice_tests::bundle::bundle(&[stub("test=all")?])?;
    cut.truncate(cut.len() / 2);
    says("cut", plan("cut")?.raw_bundle(cut), "(?i)bundle|cut|manifest")
}

#[test]
fn a_machine_that_will_not_do_is_told() -> Outcome {
    let guests = [stub("test=smccc")?];
    let mut at_el1 =
        Plan::new("el1", &guests)?.option("-machine").option("virtualization=off").start()?;
    at_el1.expect("sluice: .*EL1", SOON)?;
    at_el1.wait_for_end(COMMAND)?;
    let mut small = Plan::new("small", &[])?.no_bundle().memory("8M").start()?;
    small.expect("(?i)memory|bundle", SOON)?;
    Ok(())
}

/// Without a device tree there is no UART to tell it by; the machine ends, and that is all.
#[test]
fn without_a_device_tree_the_machine_ends() -> Outcome {
    let mut machine =
        Plan::new("no-tree", &[])?.load(&image("sluice")?, 0x4800_0000, true).start()?;
    machine.wait_for_end(SOON)?;
    Ok(())
}

/// Started far from where QEMU puts kernels, by a loader of three instructions.
#[test]
fn it_runs_wherever_it_is_loaded() -> Outcome {
    let loader = std::env::temp_dir().join(format!("sluice-loader-{}", std::process::id()));
    // movz x0, #0x4000, lsl #16 (the device tree); movz x16, #0x5860, lsl #16; br x16
    let words: [u32; 3] = [0xd2a8_0000, 0xd2ab_0c10, 0xd61f_0200];
    fs::write(&loader, words.map(u32::to_le_bytes).concat())?;
    let outcome = Plan::new("elsewhere", &[])?
        .load(&image("sluice")?, 0x5860_0000, false)
        .load(&loader, 0x5800_0000, true)
        .start()
        .and_then(|mut machine| {
            machine.expect(r"2 CPUs, 2048 MiB of memory", SOON)?;
            machine.expect("no bundle", SOON)
        });
    fs::remove_file(&loader)?;
    outcome.map(|_| ())
}

#[test]
fn a_flat_binary_without_a_header_runs() -> Outcome {
    // Say X on the UART, if the device tree is at the start of memory and the flash for variables is empty; another letter
    // otherwise. Then PSCI SYSTEM_OFF by HVC.
    let words: [u32; 15] = [
        0xd2a8_0002, // movz x2, #0x4000, lsl #16
        0xb940_0043, // ldr w3, [x2]
        0x5281_ba04, // movz w4, #0x0dd0
        0x72bd_bfc4, // movk w4, #0xedfe, lsl #16
        0x4b04_0063, // sub w3, w3, w4
        0xd2a0_8002, // movz x2, #0x400, lsl #16
        0xb940_0044, // ldr w4, [x2]
        0x2a04_0063, // orr w3, w3, w4
        0x1101_6060, // add w0, w3, #'X'
        0xd2a1_2001, // movz x1, #0x900, lsl #16
        0xb900_0020, // str w0, [x1]
        0xd280_0100, // movz x0, #8
        0xf2b0_8000, // movk x0, #0x8400, lsl #16
        0xd400_0002, // hvc #0
        0x1400_0000, // b .
    ];
    let path = std::env::temp_dir().join(format!("flat-{}.bin", std::process::id()));
    fs::write(&path, words.map(u32::to_le_bytes).concat())?;
    let mut guest = stub("")?;
    guest.kernel = path.clone();
    let outcome = Plan::new("flat", &[guest])?.start().and_then(|mut machine| {
        machine.expect(r"X", SOON)?;
        machine.wait_for_end(COMMAND)
    });
    fs::remove_file(&path)?;
    outcome.map(|_| ())
}

/// Packs a bundle as `make run` does, and gives what it says when it refuses.
fn pack(arguments: &[String]) -> Outcome<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_pack"))
        .args(["bundle", "/dev/null"])
        .args(arguments)
        .output()?;
    ensure!(!output.status.success(), "{arguments:?} was taken");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn an_unsuitable_file_is_told_in_one_line() -> Outcome {
    let folder = std::env::temp_dir().join(format!("sluice-files-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let write = |name: &str, bytes: &[u8]| -> Outcome<PathBuf> {
        let path = folder.join(name);
        fs::write(&path, bytes)?;
        Ok(path)
    };
    let good = kernel(KERNEL)?.display().to_string();
    let gzip = write("gzip", &[0x1f, 0x8b, 8, 0, 0, 0])?;
    let elf = write("elf", b"\x7fELF\x02\x01\x01")?;
    let empty = write("empty", b"")?;
    let cases = [
        (vec!["kernel=/absent".into()], "/absent"),
        (vec![format!("kernel={}", gzip.display())], "gzip"),
        (vec![format!("kernel={}", elf.display())], "ELF"),
        (vec![format!("kernel={}", empty.display())], "empty"),
        (vec![format!("kernel={}", folder.display())], "no file"),
        (vec![format!("kernel={good}"), "initrd=/absent".into()], "initrd /absent"),
        (vec![format!("kernel={good}"), "memory=lots".into()], "lots"),
        (vec![format!("kernel={good}"), "vcpus=x".into()], "vcpus=x"),
        (vec![format!("kernel={good}"), "guests=9".into()], "guests"),
    ];
    for (arguments, word) in cases {
        let said = pack(&arguments)?;
        ensure!(said.contains(word), "{arguments:?}: no {word:?} in {said:?}");
        ensure!(said.trim().lines().count() == 1, "{arguments:?}: more than one line: {said}");
    }
    fs::remove_dir_all(&folder)?;
    Ok(())
}

/// Folders of programs for the set-up: all that this machine has but those named.
fn path_without(folder: &Path, hidden: &[&str]) -> Outcome {
    fs::create_dir_all(folder)?;
    for place in std::env::var("PATH").unwrap_or_default().split(':') {
        let Ok(entries) = fs::read_dir(place) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let link = folder.join(&name);
            if !hidden.iter().any(|hidden| name == *hidden) && !link.exists() {
                std::os::unix::fs::symlink(entry.path(), link)?;
            }
        }
    }
    Ok(())
}

fn script(folder: &Path, name: &str, text: &str) -> Outcome {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn set_up(path: &Path) -> Outcome<(bool, String)> {
    let root = artefacts::build().join("..");
    let mut set_up = Command::new(root.join("scripts/setup.sh"));
    // One that is named by its path would be found.
    let output = set_up.env("PATH", path).env_remove("QEMU").output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

#[test]
fn without_root_the_set_up_lists_what_to_install_and_stops() -> Outcome {
    let folder = std::env::temp_dir().join(format!("sluice-path-{}", std::process::id()));
    path_without(&folder, &["qemu-system-aarch64", "dtc", "id", "apt-get"])?;
    script(&folder, "id", "echo 1000")?;
    script(&folder, "apt-get", "echo must not be called; exit 1")?;
    let (done, said) = set_up(&folder)?;
    fs::remove_dir_all(&folder)?;
    ensure!(!done, "it went on: {said}");
    let expected = ["qemu-system-arm", "device-tree-compiler"];
    ensure!(expected.iter().all(|name| said.contains(name)), "not all is listed: {said}");
    ensure!(!said.contains("must not be called"), "it tried to install: {said}");
    Ok(())
}

#[test]
fn a_second_set_up_downloads_nothing() -> Outcome {
    let folder = std::env::temp_dir().join(format!("sluice-again-{}", std::process::id()));
    path_without(&folder, &["apt-get", "curl", "wget"])?;
    script(&folder, "apt-get", "echo must not be called; exit 1")?;
    let (done, said) = set_up(&folder)?;
    fs::remove_dir_all(&folder)?;
    ensure!(done && !said.contains("must not be called"), "it wants something: {said}");
    Ok(())
}

/// A guest that needs more than the machine has is refused, and the machine stays in order.
#[test]
fn a_guest_larger_than_the_machine_is_told() -> Outcome {
    let mut guest = linux(KERNEL)?;
    guest.memory = 8 << 30;
    guest.population = sluice_tests::bundle::Population::Eager;
    let mut machine =
        Plan::new("too-large", &[guest])?.memory("1G").append("when-off=stay").start()?;
    machine.expect("(?i)guest linux: .*memory", BOOT)?;
    let owners = machine.owners_at_rest()?;
    if owners.guest("linux") == 0 && owners.all_tables() <= FRAME {
        Ok(())
    } else {
        Err(Failure::new(format!("it was refused and owns: {owners:?}")))
    }
}
