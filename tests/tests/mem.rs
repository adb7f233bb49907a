//! Memory plugged into a running Linux guest and unplugged again, by virtio-mem.

use std::time::Duration;

use serde_json::Value;
use sluice_tests::artefacts::{KERNEL, KERNELS, linux};
use sluice_tests::ensure;
use sluice_tests::failure::Outcome;
use sluice_tests::machine::{BOOT, COMMAND, Machine, Plan};
use sluice_tests::monitor::{number, rows, wait_until};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const BOOT_MEMORY: u64 = 512 * MIB;

/// How long a guest under load may take to plug or unplug.
const MOVE: Duration = Duration::from_secs(240);

/// How often memory goes in and out; the environment may say another number.
fn rounds() -> u32 {
    std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(10)
}

fn booted(name: &str, kernel: &str) -> Outcome<Machine> {
    let mut guest = linux(kernel)?;
    guest.memory = BOOT_MEMORY;
    guest.maximum_memory = Some(BOOT_MEMORY + 2 * GIB);
    guest.command_line += " memhp_default_state=online_movable";
    let plan = Plan::new(name, &[guest])?.memory("4G").append("when-off=stay");
    let mut machine = plan.start()?;
    machine.shell()?;
    Ok(machine)
}

/// Has a command done and returns how it ended.
fn done(machine: &mut Machine, command: &str) -> Outcome<Value> {
    machine.control()?.do_whole(command, MOVE)
}

/// Has a command done that the guest is to do whole.
fn whole(machine: &mut Machine, command: &str) -> Outcome {
    let end = done(machine, command)?;
    ensure!(end.get("whole") == Some(&Value::Bool(true)), "{command}: {end}");
    Ok(())
}

/// 0 to 2 GiB and back, under load, whose data then is what it was; the guest's own account follows.
#[test]
fn two_gibibytes_in_and_out_under_load() -> Outcome {
    let mut machine = booted("mem-rounds", KERNEL)?;
    let small = machine.meminfo()?.total;
    machine.command("load start 96", BOOT)?;
    for round in 1..=rounds() {
        whole(&mut machine, "plug linux 2G").map_err(|e| e.during(&format!("round {round}")))?;
        wait_until("MemTotal has followed", MOVE, || {
            let grown = (machine.meminfo()?.total - small) * 1024;
            Ok((grown == 2 * GIB).then_some(()))
        })?;
        machine.audit()?;
        whole(&mut machine, "unplug linux 2G").map_err(|e| e.during(&format!("round {round}")))?;
        ensure!(machine.meminfo()?.total == small, "round {round}: MemTotal is not what it was");
        let owned = machine.owners()?.guest("linux");
        ensure!(owned <= BOOT_MEMORY, "round {round}: it owns {owned} bytes");
        machine.audit()?;
    }
    let check = machine.command("load check", BOOT)?;
    ensure!(check.contains("load: intact"), "{check}");
    machine.audit_at_rest(1)?;
    machine.power_off_guest()?;
    machine.control()?.event("off", COMMAND)?;
    let after = machine.owners_at_rest()?;
    ensure!(after.guest("linux") == 0, "it is off and owns {} bytes", after.guest("linux"));
    ensure!(after.accounted() == after.total, "lost: {after:?}");
    Ok(())
}

/// What the guest does not give it keeps, unharmed; that is told; and it is had when the guest gives it.
#[test]
fn a_refused_unplug_is_told_and_harmless() -> Outcome {
    let mut machine = booted("mem-refused", KERNEL)?;
    whole(&mut machine, "plug linux 1G")?;
    machine.command("mount -o remount,size=1g /tmp", COMMAND)?;
    machine.command("dd if=/dev/urandom of=/tmp/kept bs=1M count=600", BOOT)?;
    let sum = machine.command("sha256sum /tmp/kept", BOOT)?;
    // The driver then leaves alone what Linux has in use.
    let allow = "/sys/module/virtio_mem/parameters/unplug_online";
    machine.command(&format!("echo 0 > {allow}"), COMMAND)?;
    let end = done(&mut machine, "unplug linux 1G")?;
    ensure!(end.get("whole") == Some(&Value::Bool(false)), "it was refused: {end}");
    ensure!(number(&end, "left")? == GIB, "{end}");
    ensure!(machine.command("sha256sum /tmp/kept", BOOT)? == sum, "the data changed");
    machine.audit()?;
    machine.command(&format!("rm /tmp/kept; echo 1 > {allow}"), COMMAND)?;
    whole(&mut machine, "unplug linux 1G")?;
    machine.audit_at_rest(1)?;
    Ok(())
}

/// A guest that starts anew has what it starts with, and plugs again what it is to have.
#[test]
fn a_guest_that_starts_anew_plugs_again() -> Outcome {
    for kernel in KERNELS {
        let mut machine = booted(&format!("mem-reset-{kernel}"), kernel)?;
        let small = machine.meminfo()?.total;
        whole(&mut machine, "plug linux 256M")?;
        machine.ask("reset linux")?;
        machine.shell()?;
        // Linux is not always loaded at the same place, and what it keeps differs by some kilobytes.
        wait_until("it has plugged again", BOOT, || {
            let grown = (machine.meminfo()?.total.saturating_sub(small)) * 1024;
            Ok((grown.abs_diff(256 * MIB) < MIB).then_some(()))
        })?;
        machine.audit_at_rest(1)?;
    }
    Ok(())
}

/// Mistakes are told, with what is possible; Ctrl-C's counterpart leaves things as they are.
#[test]
fn commands_are_refused_and_cancelled_with_reasons() -> Outcome {
    let mut machine = booted("mem-commands", KERNEL)?;
    let control = machine.control()?;
    for (command, reason) in [
        ("plug linux 3G", "less can be plugged"),
        ("plug linux 1M", "whole blocks"),
        ("plug linux 0", "whole blocks"),
        ("unplug linux 2M", "less is plugged"),
        ("plug nobody 2M", "there is no guest"),
    ] {
        let answer = control.ask_any(command)?;
        let error = answer.get("error").and_then(Value::as_str).unwrap_or_default();
        ensure!(error.contains(reason), "{command}: {answer}");
    }
    let job = control.begin("plug linux 2G")?;
    control.ask("cancel")?;
    let end = control.end_of(job, COMMAND)?;
    ensure!(end.get("cancelled").is_some(), "{end}");
    let state = machine.ask("guests")?;
    let row = rows(&state, "guests")?.first();
    // The target stays where the cancel found it; the driver may have had one request under way.
    ensure!(row.and_then(|row| row.get("plug_target")) == end.get("plugged"), "{end}, {state}");
    machine.audit()?;
    Ok(())
}
