//! Memory out of a running Linux guest and back.

use std::time::Duration;

use sluice_tests::artefacts::{KERNEL, KERNELS, linux};
use sluice_tests::ensure;
use sluice_tests::failure::Outcome;
use sluice_tests::machine::{BOOT, COMMAND, Machine, Plan};
use sluice_tests::monitor::{FRAME, number, rows, text, wait_until};

const MIB: u64 = 1 << 20;
const FULL: u64 = 1024 * MIB;
const HALF: u64 = 512 * MIB;

/// How long a guest under load may take to give 512 MiB or take them back.
const MOVE: Duration = Duration::from_secs(600);

fn booted(name: &str, kernel: &str) -> Outcome<Machine> {
    let mut machine = Plan::new(name, &[linux(kernel)?])?.append("when-off=stay").start()?;
    machine.shell()?;
    Ok(machine)
}

/// The main job: halves a guest fifty times under load; nothing is lost, doubled or damaged.
#[test]
fn fifty_times_to_half_and_back_under_load() -> Outcome {
    let mut machine = booted("balloon-fifty", KERNEL)?;
    let total = machine.owners()?.total;
    machine.command("load start 128", BOOT)?;
    for round in 1..=50 {
        for size in [HALF, FULL] {
            machine
                .resize("linux", size, MOVE)
                .map_err(|error| error.during(&format!("round {round}")))?;
            let owners = machine.owners()?;
            ensure!(owners.total == total, "round {round}: the total changed: {owners:?}");
            // Between two looks of the guest's driver it may have more than it agreed to, by
            // what it was given back; never when it has agreed to less.
            let owned = owners.guest("linux");
            ensure!(size == FULL || owned <= HALF, "round {round}: it owns {owned} bytes");
        }
        machine.audit()?;
    }
    let check = machine.command("load check", BOOT)?;
    ensure!(check.contains("load: intact"), "{check}");
    machine.command("load stop", COMMAND)?;
    machine.audit_at_rest(1)?;
    machine.power_off_guest()?;
    machine.control()?.event("off", COMMAND)?;

    // All that the guest had is free again, to the frame.
    let after = machine.owners_at_rest()?;
    ensure!(after.guest("linux") == 0, "it is off and owns {} bytes", after.guest("linux"));
    ensure!(after.accounted() == after.total, "lost: {after:?}");
    Ok(())
}

/// The count of free frames is the same after a cycle as before, when the guest touches the
/// same memory.
#[test]
fn a_second_life_takes_and_gives_the_same_frames() -> Outcome {
    let mut machine = booted("balloon-lives", KERNEL)?;
    let mut free = Vec::new();
    for life in 0..2 {
        machine.resize("linux", HALF, MOVE)?;
        machine.resize("linux", FULL, MOVE)?;
        machine.power_off_guest()?;
        machine.control()?.event("off", COMMAND)?;
        // What the table pool has grown by stays the pool's.
        let owners = machine.owners_at_rest()?;
        free.push(owners.free + owners.hypervisor);
        machine.audit_at_rest(0)?;
        if life == 0 {
            machine.ask("start linux")?;
            machine.shell()?;
        }
    }
    ensure!(free[0] == free[1], "free bytes after each life: {free:?}");
    Ok(())
}

#[test]
fn the_guest_and_the_hypervisor_agree_on_both_kernels() -> Outcome {
    for kernel in KERNELS {
        let mut machine = booted(&format!("balloon-agree-{kernel}"), kernel)?;
        let before = machine.meminfo()?;
        machine.resize("linux", HALF, MOVE)?;
        let half = machine.meminfo()?;
        let taken = (before.available - half.available) * 1024;
        ensure!(
            taken.abs_diff(HALF) < 48 * MIB,
            "{kernel}: 512 MiB were taken, the guest misses {} MiB",
            taken / MIB
        );
        ensure!(machine.owners()?.guest("linux") <= HALF, "{kernel}: more is resident");
        machine.resize("linux", FULL, MOVE)?;
        // What the guest is about to report as free it holds out of its free lists meanwhile.
        wait_until(&format!("{kernel}: what was taken comes back"), COMMAND, || {
            let missing = before.available.saturating_sub(machine.meminfo()?.available) * 1024;
            Ok((missing < 32 * MIB).then_some(()))
        })?;

        let counters = machine.ask("stats linux")?;
        let (inflated, deflated) =
            (number(&counters, "inflated_pages")?, number(&counters, "deflated_pages")?);
        ensure!(inflated >= HALF / FRAME, "{kernel}: {inflated} pages were inflated");
        ensure!(deflated >= HALF / FRAME, "{kernel}: {deflated} pages were deflated");
        machine.audit_at_rest(1)?;
    }
    Ok(())
}

#[test]
fn statistics_are_what_the_guest_sees() -> Outcome {
    let mut machine = booted("balloon-stats", KERNEL)?;
    let answer = wait_until("statistics", COMMAND, || {
        let answer = machine.ask("stats linux")?;
        Ok((number(&answer, "updates")? >= 2).then_some(answer))
    })?;
    let meminfo = machine.meminfo()?;
    let total = rows(&answer, "statistics")?
        .iter()
        .find(|row| text(row, "statistic").is_ok_and(|name| name.contains("total")))
        .map(|row| number(row, "value"))
        .transpose()?;
    ensure!(total == Some(meminfo.total * 1024), "the guest has {meminfo:?}, told is {answer}");
    Ok(())
}

#[test]
fn reported_free_pages_leave_the_guest_without_being_asked_for() -> Outcome {
    let mut machine = booted("balloon-report", KERNEL)?;
    machine.command("dd if=/dev/urandom of=/tmp/big bs=1M count=300", BOOT)?;
    let filled = machine.owners()?.guest("linux");
    machine.command("rm /tmp/big", COMMAND)?;
    wait_until("200 MiB come back by reports", Duration::from_secs(120), || {
        Ok((machine.owners()?.guest("linux") + 200 * MIB < filled).then_some(()))
    })?;
    machine.audit_at_rest(1)?;
    // What comes back is zeroed and works.
    machine.command("dd if=/dev/zero of=/tmp/big bs=1M count=300 && rm /tmp/big", BOOT)?;
    machine.audit()?;
    Ok(())
}

/// A guest that is squeezed to less than it needs gets memory back before it kills programs.
#[test]
fn a_guest_in_need_takes_memory_back() -> Outcome {
    let mut machine = booted("balloon-oom", KERNEL)?;
    machine.set_target("linux", 128 * MIB)?;
    wait_until("most of it is taken", MOVE, || {
        Ok((machine.guest("linux")?.memory < 300 * MIB).then_some(()))
    })?;
    machine.command("dd if=/dev/urandom of=/tmp/big bs=1M count=400", MOVE)?;
    let size = machine.command("wc -c < /tmp/big", MOVE)?;
    ensure!(size == (400 * MIB).to_string(), "it could write {size} bytes");
    machine.audit()?;
    Ok(())
}
