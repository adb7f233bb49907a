//! Allocations that fail, on the machine: each is answered with the error that is documented, and nothing has changed.

use std::time::Duration;

use serde_json::Value;
use sluice_tests::artefacts::{KERNEL, linux};
use sluice_tests::driven::guest;
use sluice_tests::ensure;
use sluice_tests::failure::{Failure, Outcome};
use sluice_tests::machine::{BOOT, Machine, Plan};
use sluice_tests::monitor::{number, text, wait_until};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// More allocations than any of the commands makes.
const ENOUGH: u64 = 1000;
const LOADED: Duration = Duration::from_secs(240);

/// Has `command` meet a failure at each of its allocations, one after the other, until it does not come to the next;
/// `undo` makes what it did undone. Returns how many there were.
fn at_each_allocation(machine: &mut Machine, command: &str, undo: &str) -> Outcome<u64> {
    for after in 0..ENOUGH {
        let during = |error: Failure| error.during(&format!("{command}, allocation {after}"));
        let before = machine.owners_at_rest().map_err(during)?;
        machine.ask(&format!("fail after {after}"))?;
        let answer = done_or_refused(machine, command).map_err(during)?;
        let failed = number(&machine.ask("fail never")?, "failed")?;
        machine.audit_at_rest(1).map_err(during)?;
        if let Some(error) = answer {
            ensure!(failed == 1, "allocation {after} did not fail, and {command}: {error}");
            ensure!(error.contains("memory"), "{command} is answered {error:?}");
        }
        done_or_refused(machine, undo).map_err(during)?;
        let now = machine.owners_at_rest().map_err(during)?;
        ensure!(
            now.guests == before.guests && now.accounted() == now.total,
            "{command}, allocation {after}: {before:?} became {now:?}"
        );
        if failed == 0 {
            return Ok(after);
        }
    }
    Err(Failure::new(format!("{command} makes more than {ENOUGH} allocations")))
}

/// Does `command` to its end; returns the error where it was refused.
fn done_or_refused(machine: &mut Machine, command: &str) -> Outcome<Option<String>> {
    let control = machine.control()?;
    let answer = control.ask_any(command)?;
    let end = match answer.get("job").and_then(Value::as_u64) {
        Some(job) => control.end_of(job, BOOT)?,
        None => answer,
    };
    end.get("error").map(|_| text(&end, "error").map(str::to_string)).transpose()
}

#[test]
fn each_allocation_that_fails_is_answered_and_changes_nothing() -> Outcome {
    let guest = guest("stub", 1, 64 * MIB, 256 * MIB)?;
    let mut machine = Plan::with_image("faults-each", "sluice-faults", &[guest])?
        .append("when-off=stay")
        .start()?;
    let region = machine.driven_region()?;
    let at = |offset: u64| region.start + offset;
    let mut tried = Vec::new();
    // Blocks in the middle, pages at both ends, and tables for them.
    let (start, size) = (at(2016 * KIB), 2 * MIB + 64 * KIB);
    let add = format!("add stub {size} at {start:#x}");
    let remove = format!("remove stub {start:#x}+{size} now");
    tried.push(at_each_allocation(&mut machine, &add, &remove)?);
    // A hole in a block, which takes a table.
    let block = format!("add stub 2M at {:#x}", at(32 * MIB));
    ensure!(done_or_refused(&mut machine, &block)?.is_none(), "{block}");
    let (hole, bytes) = (at(32 * MIB + 64 * KIB), 8 * KIB);
    let cut = format!("remove stub {hole:#x}+{bytes} now");
    let fill = format!("add stub {bytes} at {hole:#x}");
    tried.push(at_each_allocation(&mut machine, &cut, &fill)?);
    println!("allocations that failed: {tried:?}");
    ensure!(tried.iter().all(|&tried| tried > 0), "nothing failed: {tried:?}");
    Ok(())
}

/// Linux under load, whose memory is moved while one allocation in 16 fails.
#[test]
fn failures_at_random_under_linux_do_no_harm() -> Outcome {
    let seed = 1;
    let mut guest = linux(KERNEL)?;
    guest.maximum_memory = Some(1536 * MIB);
    let mut machine = Plan::with_image("faults-random", "sluice-faults", &[guest])?.start()?;
    machine.shell()?;
    machine.command("load start 128", BOOT)?;
    machine.ask(&format!("fail one-in 16 {seed}"))?;
    for _ in 0..2 {
        balloon_follows(&mut machine, 512 * MIB)?;
        balloon_follows(&mut machine, 1024 * MIB)?;
        for command in ["plug linux 512M", "unplug linux 512M"] {
            // A driver that is refused comes again when it likes: how far it comes is not foretold.
            let _ = done_or_refused(&mut machine, command)?;
        }
        machine.audit()?;
    }
    let failed = number(&machine.ask("fail never")?, "failed")?;
    ensure!(failed > 100, "only {failed} allocations have failed");
    println!("{failed} allocations have failed, seed {seed}");
    // Nothing has stuck.
    for size in [512 * MIB, 1024 * MIB] {
        balloon_follows(&mut machine, size)?;
    }
    // What the guest could not spare when it was asked to unplug is plugged still.
    let more = 512 * MIB - number_of_guest(&mut machine, "plugged")?;
    if more > 0 {
        let _ = done_or_refused(&mut machine, &format!("plug linux {}M", more / MIB))?;
    }
    wait_until("all is plugged", LOADED, || {
        Ok((number_of_guest(&mut machine, "plugged")? == 512 * MIB).then_some(()))
    })?;
    let check = machine.command("load check", BOOT)?;
    ensure!(check.contains("load: intact"), "{check}");
    machine.command("load stop", BOOT)?;
    machine.audit_at_rest(1)?;
    Ok(())
}

/// Asks for a size once, and waits until the driver is there: nobody else's wish gets in between.
fn balloon_follows(machine: &mut Machine, size: u64) -> Outcome {
    machine.set_target("linux", size)?;
    wait_until(&format!("the balloon follows to {} MiB", size / MIB), LOADED, || {
        Ok((beside_plugged(machine)? == size).then_some(()))
    })
}

fn number_of_guest(machine: &mut Machine, member: &str) -> Outcome<u64> {
    let state = machine.ask("guests")?;
    let row = state.get("guests").and_then(|guests| guests.get(0));
    number(row.ok_or_else(|| Failure::new(format!("no guest: {state}")))?, member)
}

/// What the guest has of the memory that it started with.
fn beside_plugged(machine: &mut Machine) -> Outcome<u64> {
    Ok(number_of_guest(machine, "memory")?.saturating_sub(number_of_guest(machine, "plugged")?))
}
