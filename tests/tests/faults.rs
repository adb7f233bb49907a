//! Allocations that fail, on the machine: each is answered with the error that is documented, and nothing has changed.

use std::cell::Cell;
use std::time::Duration;

use serde_json::Value;
use sluice_tests::artefacts::{KERNEL, linux};
use sluice_tests::bundle::{Guest, Population};
use sluice_tests::driven::guest;
use sluice_tests::ensure;
use sluice_tests::failure::{Failure, Outcome};
use sluice_tests::machine::{BOOT, COMMAND, Machine, Plan};
use sluice_tests::monitor::{number, rows, text, wait_until};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// More allocations than any of the commands makes.
const ENOUGH: u64 = 1000;
const LOADED: Duration = Duration::from_secs(240);

/// What is tried with each of its allocations failing, and made undone again.
struct Trial<'a> {
    name: &'a str,
    /// Does it; returns the error where it was refused.
    attempt: &'a dyn Fn(&mut Machine) -> Outcome<Option<String>>,
    undo: &'a dyn Fn(&mut Machine) -> Outcome,
    /// What the error says.
    words: &'a str,
}

impl Trial<'_> {
    /// Has each of its allocations fail, one after the other, until it does not come to the next; then each with all
    /// that follow it. Returns how often it was tried, and how often it was refused: otherwise something smaller was
    /// had, or it was asked again.
    fn run(&self, machine: &mut Machine) -> Outcome<(u64, u64)> {
        let (once, refused_once) = self.fail(machine, "after")?;
        let (from, refused_from) = self.fail(machine, "from")?;
        println!(
            "{}: of {once} allocations that failed alone {refused_once} were refused, of {from} with all after them \
             {refused_from}",
            self.name
        );
        Ok((once + from, refused_once + refused_from))
    }

    /// The same with one alone (`after`), or with all that follow (`from`).
    fn fail(&self, machine: &mut Machine, which: &str) -> Outcome<(u64, u64)> {
        let mut refused = 0;
        for after in 0..ENOUGH {
            let name = self.name;
            let during =
                |error: Failure| error.during(&format!("{name}, allocations fail {which} {after}"));
            let before = machine.owners_at_rest().map_err(during)?;
            machine.ask(&format!("fail {which} {after}"))?;
            let answer = (self.attempt)(machine).map_err(during)?;
            let failed = number(&machine.ask("fail never")?, "failed")?;
            machine.audit_at_rest(1).map_err(during)?;
            if let Some(error) = answer {
                ensure!(failed > 0, "{name}: allocation {after} did not fail: {error}");
                ensure!(error.contains(self.words), "{name} is answered {error:?}");
                refused += 1;
            }
            (self.undo)(machine).map_err(during)?;
            let now = machine.owners_at_rest().map_err(during)?;
            ensure!(
                now.guests == before.guests && now.accounted() == now.total,
                "{name}, allocation {after}: {before:?} became {now:?}"
            );
            if failed == 0 {
                return Ok((after, refused));
            }
        }
        Err(Failure::new(format!("{} makes more than {ENOUGH} allocations", self.name)))
    }
}

/// Tries a command that another makes undone.
fn try_each(machine: &mut Machine, command: &str, undo: &str, words: &str) -> Outcome<(u64, u64)> {
    let trial = Trial {
        name: command,
        attempt: &|machine| done_or_refused(machine, command),
        undo: &|machine| done_or_refused(machine, undo).map(|_| ()),
        words,
    };
    trial.run(machine)
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

/// A guest that is off until it is started.
fn held(name: &str, orders: &str, population: Population) -> Outcome<Guest> {
    let mut guest = guest(name, 1, 64 * MIB, 64 * MIB)?;
    guest.command_line = orders.into();
    (guest.held, guest.population) = (true, population);
    Ok(guest)
}

fn state(machine: &mut Machine, guest: &str) -> Outcome<Option<String>> {
    let answer = machine.ask("guests")?;
    for row in rows(&answer, "guests")? {
        if text(row, "guest")? == guest {
            return Ok(Some(text(row, "state")?.into()));
        }
    }
    Ok(None)
}

/// Waits until a guest is in this state, or is no more.
fn comes_to(machine: &mut Machine, guest: &str, wanted: Option<&str>) -> Outcome {
    wait_until(&format!("{guest} is {wanted:?}"), BOOT, || {
        Ok((state(machine, guest)?.as_deref() == wanted).then_some(()))
    })
}

/// Starts a guest and waits until it says `ready`; or returns why it stays off, or waits for memory.
fn starts(machine: &mut Machine, guest: &str, ready: &str) -> Outcome<Option<String>> {
    machine.ask(&format!("console {guest}"))?;
    let _ = machine.control()?.events();
    machine.ask(&format!("start {guest}"))?;
    wait_until(&format!("{guest} starts or does not"), BOOT, || {
        let told = |event: &Value, name: &str| {
            event.get("event") == Some(&name.into()) && event.get("guest") == Some(&guest.into())
        };
        let events = machine.control()?.events();
        if events.iter().any(|event| told(event, "paused")) {
            return Ok(Some(Some("paused: no memory".to_owned())));
        }
        if events.iter().any(|event| told(event, "failed")) {
            let log = machine.ask("log 5")?;
            let mut lines = rows(&log, "lines")?.iter().filter_map(|row| text(row, "text").ok());
            let why = lines.rfind(|line| line.contains("stays off")).unwrap_or_default();
            return Ok(Some(Some(why.to_owned())));
        }
        let ready = machine.console.look_for(ready, Duration::from_millis(10))?;
        Ok(ready.map(|_| None))
    })
}

fn stops(machine: &mut Machine, guest: &str) -> Outcome {
    if state(machine, guest)?.as_deref() != Some("off") {
        machine.ask(&format!("stop {guest}"))?;
    }
    comes_to(machine, guest, Some("off"))
}

#[test]
fn each_allocation_that_fails_is_answered_and_changes_nothing() -> Outcome {
    let guest = guest("stub", 1, 64 * MIB, 256 * MIB)?;
    let mut machine = Plan::with_image("faults-each", "sluice-faults", &[guest])?
        .append("when-off=stay")
        .start()?;
    let region = machine.driven_region()?;
    let at = |offset: u64| region.start + offset;
    // Blocks in the middle, pages at both ends, and tables for them.
    let (start, size) = (at(2016 * KIB), 2 * MIB + 64 * KIB);
    let add = format!("add stub {size} at {start:#x}");
    let remove = format!("remove stub {start:#x}+{size} now");
    let added = try_each(&mut machine, &add, &remove, "memory")?;
    // A hole in a block, which takes a table.
    let whole = at(32 * MIB);
    let block = format!("add stub 2M at {whole:#x}");
    let no_block = format!("remove stub {whole:#x}+2M now");
    let must = |machine: &mut Machine, command: &str| {
        let refused = done_or_refused(machine, command)?;
        ensure!(refused.is_none(), "{command}: {refused:?}");
        Ok(())
    };
    must(&mut machine, &block)?;
    let (hole, bytes) = (whole + 64 * KIB, 8 * KIB);
    let cut = format!("remove stub {hole:#x}+{bytes} now");
    let fill = format!("add stub {bytes} at {hole:#x}");
    let removed = try_each(&mut machine, &cut, &fill, "memory")?;
    // A block goes elsewhere, as a whole or in pages.
    let mut moved = (0, 0);
    for in_pages in [false, true] {
        let renew = |machine: &mut Machine| {
            let pieces = [&cut, &fill].into_iter().filter(|_| in_pages);
            let mut commands = [&no_block, &block].into_iter().chain(pieces);
            commands.try_for_each(|command| must(machine, command))
        };
        renew(&mut machine)?;
        let range = Cell::new(0);
        let trial = Trial {
            name: if in_pages { "offline, pages" } else { "offline, a block" },
            attempt: &|machine| {
                let tables = machine.ask(&format!("tables stub {whole:#x}"))?;
                let run = rows(&tables, "runs")?.first();
                range.set(number(run.ok_or_else(|| Failure::new("no entry"))?, "pa")?);
                done_or_refused(machine, &format!("offline {:#x}+2M", range.get()))
            },
            undo: &|machine| {
                done_or_refused(machine, &format!("online {:#x}+2M", range.get()))?;
                renew(machine)
            },
            words: "free elsewhere",
        };
        let (failed, refused) = trial.run(&mut machine)?;
        moved = (moved.0 + failed, moved.1 + refused);
    }
    ensure!(removed.0 > 0, "no allocation of removing failed");
    for (what, (failed, refused)) in [("add", added), ("offline", moved)] {
        ensure!(failed > 0 && refused > 0, "{what}: {failed} failed, {refused} were refused");
    }
    Ok(())
}

#[test]
fn guests_are_made_and_started_with_each_allocation_failing_once() -> Outcome {
    let eager = held("eager", "test=driven", Population::Eager)?;
    let lazy = held("lazy", "test=driven", Population::Lazy)?;
    let mut machine = Plan::with_image("faults-start", "sluice-faults", &[eager, lazy])?
        .append("when-off=stay")
        .start()?;
    let create = Trial {
        name: "create",
        attempt: &|machine| done_or_refused(machine, "create eager as other"),
        undo: &|machine| {
            let _ = done_or_refused(machine, "destroy other")?;
            comes_to(machine, "other", None)
        },
        words: "memory",
    };
    let (failed, refused) = create.run(&mut machine)?;
    ensure!(failed > 0 && failed == refused, "{failed} failed, {refused} were refused");
    for guest in ["eager", "lazy"] {
        let start = Trial {
            name: &format!("start {guest}"),
            attempt: &|machine| starts(machine, guest, "driven: ready, "),
            undo: &|machine| stops(machine, guest),
            words: "memory",
        };
        let (failed, refused) = start.run(&mut machine)?;
        ensure!(failed > 0 && refused > 0, "{guest}: {failed} failed, {refused} were refused");
    }
    Ok(())
}

#[test]
fn devices_go_on_with_each_allocation_failing_once() -> Outcome {
    let balloon = held("balloon", "test=balloon-follow seconds=100000 touch=1", Population::Eager)?;
    let plug = held("plug", "test=plug-follow seconds=100000 patient=1", Population::Eager)?;
    let mut machine = Plan::with_image("faults-devices", "sluice-faults", &[balloon, plug])?
        .append("when-off=stay")
        .start()?;
    // As much as takes a table, and comes back page by page as it is touched.
    let there_and_back = |machine: &mut Machine| {
        for kib in [64 * 1024 - 64, 64 * 1024] {
            machine.ask(&format!("balloon balloon {kib}K"))?;
            wait_until("the balloon follows", BOOT, || {
                Ok((machine.guest("balloon")?.memory == kib * KIB).then_some(()))
            })?;
        }
        Ok(None)
    };
    machine.ask("start balloon")?;
    there_and_back(&mut machine)?;
    let inflate = Trial { name: "balloon", attempt: &there_and_back, undo: &|_| Ok(()), words: "" };
    ensure!(inflate.fail(&mut machine, "after")?.0 > 0, "nothing failed");
    machine.ask("destroy balloon")?;
    comes_to(&mut machine, "balloon", None)?;
    let ready = starts(&mut machine, "plug", "note plug-follow: ready")?;
    ensure!(ready.is_none(), "{ready:?}");
    let plug = Trial {
        name: "plug",
        attempt: &|machine| done_or_refused(machine, "plug plug 8M"),
        undo: &|machine| done_or_refused(machine, "unplug plug 8M").map(|_| ()),
        words: "",
    };
    ensure!(plug.fail(&mut machine, "after")?.0 > 0, "nothing failed");
    // The driver was told, and has asked again.
    machine.expect(r"8 MiB plugged, [1-9]\d* times refused", COMMAND)?;
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
