//! The harness against a machine without Sluice: what must work before anything else counts.

use sluice_tests::artefacts::{KERNEL, KERNELS, linux};
use sluice_tests::ensure;
use sluice_tests::failure::Outcome;
use sluice_tests::machine::{BOOT, COMMAND, Plan};

#[test]
fn both_kernels_boot_without_a_hypervisor() -> Outcome {
    for version in KERNELS {
        let mut machine = Plan::bare(&format!("bare-{version}"), &linux(version)?)?.start()?;
        let (said, cpus, _) = machine.shell()?;
        ensure!(said.starts_with(version), "asked for {version}, got {said}");
        ensure!(cpus == 2, "{cpus} CPUs");
        let output = machine.command("uname -m", COMMAND)?;
        ensure!(output == "aarch64", "uname: {output:?}");
        let (_, status) = machine.command_with_status("false", COMMAND)?;
        ensure!(status == 1, "status of false: {status}");
        machine.power_off_guest()?;
        let status = machine.wait_for_end(COMMAND)?;
        ensure!(status.success(), "QEMU ended with {status}");
    }
    Ok(())
}

#[test]
fn the_load_in_the_guest_sees_damaged_data() -> Outcome {
    let mut machine = Plan::bare("bare-load", &linux(KERNEL)?)?.start()?;
    machine.shell()?;
    machine.command("load start 32", BOOT)?;
    let check = machine.command("load check", BOOT)?;
    ensure!(check.contains("intact"), "{check}");
    machine.command("load stop; load start 8; load check", BOOT)?;
    machine
        .command("printf x | dd of=/tmp/load/3 bs=1 seek=777 conv=notrunc 2>/dev/null", COMMAND)?;
    let check = machine.command("load check", BOOT)?;
    ensure!(check.contains("DAMAGED"), "{check}");
    Ok(())
}
