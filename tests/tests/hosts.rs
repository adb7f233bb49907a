//! What `make doctor` and `make ci` conclude from what a host answers, for hosts that were recorded or put together
//! (`tests/hosts`, whose heads say which). Each has what is to be said beside it; `SLUICE_BLESS=1` writes that anew.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use sluice_tests::ensure;
use sluice_tests::failure::Outcome;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("hosts")
}

/// Runs a script and returns what it says, on either stream, and whether it is content.
fn run(script: &str, arguments: &[&str], variable: (&str, &Path)) -> Outcome<(String, bool)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts").join(script);
    let mut command = Command::new(path);
    command.args(arguments).env(variable.0, variable.1);
    if variable.0 == "SLUICE_HOST" {
        // Nothing of the host that this runs on is to matter.
        command.env("SLUICE_CACHE", "/cache").env_remove("QEMU").env_remove("SLUICE_RECORD");
    }
    let output = command.output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((String::from_utf8_lossy(&said).into_owned(), output.status.success()))
}

/// What is concluded for a host.
fn conclusions(host: &Path) -> Outcome<String> {
    let (doctor, content) = run("doctor.sh", &[], ("SLUICE_HOST", host))?;
    let (plan, _) = run("ci.sh", &["plan"], ("SLUICE_HOST", host))?;
    let content = if content { "content" } else { "not content" };
    Ok(format!("{doctor}doctor: {content}\n\n{plan}"))
}

fn of(name: &str) -> Outcome<String> {
    conclusions(&folder().join(format!("{name}.host")))
}

#[test]
fn of_each_host_is_said_what_is_expected() -> Outcome {
    let mut hosts: Vec<PathBuf> = fs::read_dir(folder())?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "host"))
        .collect();
    hosts.sort();
    ensure!(hosts.len() >= 15, "only {} hosts", hosts.len());
    let mut wrong = Vec::new();
    for host in hosts {
        let said = conclusions(&host)?;
        let expected = host.with_extension("expected");
        if env::var_os("SLUICE_BLESS").is_some() {
            fs::write(&expected, &said)?;
        }
        if fs::read_to_string(&expected).unwrap_or_default() != said {
            wrong.push(format!("{}:\n{said}", host.display()));
        }
    }
    ensure!(wrong.is_empty(), "otherwise than expected:\n{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn sluice_runs_under_kvm_only_where_guests_have_an_el2() -> Outcome {
    for entry in fs::read_dir(folder())?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(name) = name.strip_suffix(".host") else { continue };
        let said = of(name)?;
        let planned = |what: &str| said.lines().any(|line| line.contains(what));
        ensure!(planned("SLUICE_EL2=kvm") == (name == "arm64-nested"), "{name}: {said}");
        let at_el1 = ["arm64-nested", "arm64-kvm", "arm64-two-kinds"].contains(&name);
        ensure!(planned("SLUICE_EL1=kvm") == at_el1, "{name}: {said}");
        // What is not run is named, with a reason.
        ensure!(name == "arm64-nested" || planned("left out"), "{name}: {said}");
    }
    Ok(())
}

#[test]
fn machines_under_kvm_stay_on_cpus_of_one_kind() -> Outcome {
    ensure!(of("arm64-two-kinds")?.contains("SLUICE_EL1=kvm taskset -c 4,5,6,7 "), "not kept");
    ensure!(!of("arm64-kvm")?.contains("taskset"), "kept, where all are alike");
    Ok(())
}

#[test]
fn what_is_missing_is_named_as_the_system_names_it() -> Outcome {
    for (name, command) in [
        ("debian-12-no-rust", "get rustup"),
        ("fedora", "dnf install "),
        ("arch", "bring the guests' files yourself"),
        ("opensuse", "zypper install "),
        ("alpine", "apk add "),
        ("nixos", "until there is: qemu-system-aarch64"),
    ] {
        let said = of(name)?;
        ensure!(said.contains(command), "{name}: no {command:?} in {said}");
    }
    Ok(())
}

/// A record made here, of which the same is concluded as of the host itself.
#[test]
fn this_host_can_be_recorded() -> Outcome {
    let file = env::temp_dir().join(format!("sluice-host-{}", std::process::id()));
    let (said, _) = run("doctor.sh", &[], ("SLUICE_RECORD", &file))?;
    let (again, _) = run("doctor.sh", &[], ("SLUICE_HOST", &file))?;
    let record = fs::read_to_string(&file)?;
    // A record that lacks an answer must not pass for one that has a bad one.
    fs::write(&file, record.replace("== qemu ", "== other "))?;
    let (incomplete, _) = run("doctor.sh", &[], ("SLUICE_HOST", &file))?;
    fs::remove_file(&file)?;
    ensure!(said == again, "of the host:\n{said}\nof its record:\n{again}");
    ensure!(incomplete.contains("the record has no answer to: qemu"), "said: {incomplete}");
    Ok(())
}
