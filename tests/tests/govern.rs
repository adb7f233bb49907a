//! Memory that moves between running Linux guests: on an operator's word, and by the governor's judgement.

use std::time::Duration;

use serde_json::Value;
use sluice_tests::artefacts::{KERNEL, linux};
use sluice_tests::bundle::Guest;
use sluice_tests::driven;
use sluice_tests::ensure;
use sluice_tests::failure::Outcome;
use sluice_tests::machine::{BOOT, COMMAND, Machine, Plan};
use sluice_tests::monitor::{number, rows, text, wait_until};

const MIB: u64 = 1 << 20;
const FULL: u64 = 1024 * MIB;
const HALF: u64 = 512 * MIB;

/// How long guests under load may take to move 512 MiB.
const MOVE: Duration = Duration::from_secs(240);

/// How often memory goes to and fro; the environment may say another number.
fn rounds() -> u32 {
    std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(20)
}

fn guest(name: &str, memory: u64) -> Outcome<Guest> {
    let mut guest = linux(KERNEL)?;
    guest.name = name.into();
    guest.memory = memory;
    Ok(guest)
}

/// Starts a machine of 2 CPUs and takes the shells of its guests over.
fn booted(name: &str, memory: &str, guests: &[Guest]) -> Outcome<Machine> {
    let plan = Plan::new(name, guests)?.memory(memory).append("when-off=stay");
    let mut machine = plan.start()?;
    machine.shell()?;
    for guest in &guests[1..] {
        machine.show(&guest.name)?;
        machine.shell()?;
    }
    Ok(machine)
}

/// Runs a command in a guest's shell.
fn in_guest(machine: &mut Machine, guest: &str, command: &str) -> Outcome<String> {
    machine.show(guest)?;
    machine.command(command, BOOT)
}

/// Moves all of it, and gives the end of the story.
fn move_whole(machine: &mut Machine, bytes: u64, from: &str, to: &str) -> Outcome<Value> {
    let command = format!("move {}M from {from} to {to}", bytes / MIB);
    let end = machine.control()?.do_whole(&command, MOVE)?;
    ensure!(number(&end, "moved")? == bytes && end.get("short").is_none(), "{command}: {end}");
    Ok(end)
}

/// The main job: 512 MiB to and fro between two guests under load.
#[test]
fn half_a_gibibyte_to_and_fro_under_load_in_both() -> Outcome {
    let guests = [guest("east", FULL)?, guest("west", FULL)?];
    let mut machine = booted("govern-to-and-fro", "3G", &guests)?;
    let before = machine.owners()?;
    machine.resize("west", HALF, MOVE)?;
    for guest in ["east", "west"] {
        in_guest(&mut machine, guest, "load start 128")?;
    }
    machine.ask("audit continuous on")?;
    for round in 1..=rounds() {
        for (from, to) in [("east", "west"), ("west", "east")] {
            let end = move_whole(&mut machine, HALF, from, to)
                .map_err(|error| error.during(&format!("round {round}")))?;
            let (donor, receiver) = (machine.guest(from)?, machine.guest(to)?);
            ensure!((donor.memory, receiver.memory) == (HALF, FULL), "{donor:?} {receiver:?}");
            ensure!(donor.resident <= HALF, "round {round}: {donor:?}");
            ensure!(rows(&end, "guests")?.len() == 2, "both views: {end}");
            machine.audit()?;
        }
    }
    for guest in ["east", "west"] {
        let check = in_guest(&mut machine, guest, "load check")?;
        ensure!(check.contains("load: intact"), "{guest}: {check}");
        in_guest(&mut machine, guest, "load stop")?;
    }
    let audited = machine.end_continuous_audit(10)?;
    println!("all the while: {audited}");
    machine.audit_at_rest(2)?;
    for guest in ["east", "west"] {
        machine.show(guest)?;
        machine.power_off_guest()?;
        machine.control()?.event("off", COMMAND)?;
    }
    let after = machine.owners_at_rest()?;
    ensure!(after.accounted() == after.total, "lost: {after:?}");
    ensure!(after.guests.values().all(|bytes| *bytes == 0), "they are off: {after:?}");
    // Frames of the table pool are the hypervisor's, and stay so.
    let whole = |owners: &sluice_tests::monitor::Owners| owners.total - owners.bundle;
    ensure!(after.free + after.hypervisor + after.all_tables() == whole(&before), "{after:?}");
    machine.audit_at_rest(0)?;
    Ok(())
}

/// A move that is ended early leaves both guests what they have, and nothing goes on behind.
#[test]
fn a_move_can_be_cancelled_and_says_what_it_did() -> Outcome {
    let guests = [guest("east", FULL)?, guest("west", FULL)?];
    let mut machine = booted("govern-cancel", "3G", &guests)?;
    machine.resize("west", HALF, MOVE)?;
    let control = machine.control()?;
    let job = control.begin("move 512M from east to west")?;
    // Something has moved, and most likely not all.
    control.heard(job, MOVE)?;
    let busy = control.ask_any("move 16M from west to east")?;
    ensure!(busy.get("error").is_some() || busy.get("job").is_some(), "{busy}");
    control.ask_any(&format!("cancel {job}"))?;
    let end = control.end_of(job, MOVE)?;
    let (given, asked) = (number(&end, "given")?, number(&end, "asked")?);
    ensure!(given <= asked, "{end}");
    wait_until("what was given is taken, and no more", MOVE, || {
        let (east, west) = (machine.guest("east")?, machine.guest("west")?);
        let settled = east.memory == east.target && west.memory == west.target;
        Ok((settled && west.memory + east.memory == FULL + HALF).then_some(()))
    })?;
    for command in
        ["move 16M from east to east", "move 16M from east to nobody", "move 0 from east to west"]
    {
        let refused = machine.control()?.ask_any(command)?;
        ensure!(refused.get("error").is_some(), "{command}: {refused}");
    }
    machine.audit_at_rest(2)?;
    Ok(())
}

/// Who can spare memory gives it back to the machine; nobody goes below its minimum.
#[test]
fn reclaim_takes_from_who_can_spare_it() -> Outcome {
    let mut east = guest("east", FULL)?;
    east.minimum_memory = Some(512 * MIB);
    let guests = [east, guest("west", HALF)?];
    let mut machine = booted("govern-reclaim", "3G", &guests)?;
    let end = machine.control()?.do_whole("reclaim 256M", MOVE)?;
    ensure!(number(&end, "reclaimed")? == 256 * MIB, "{end}");
    ensure!(machine.guest("east")?.memory == 768 * MIB, "the one with most gives it: {end}");
    let end = machine.control()?.do_whole("reclaim 4G", MOVE)?;
    ensure!(number(&end, "reclaimed")? < FULL, "{end}");
    ensure!(machine.guest("east")?.memory >= 512 * MIB, "{end}");
    ensure!(machine.guest("west")?.memory >= 128 * MIB, "{end}");
    machine.audit_at_rest(2)?;
    Ok(())
}

/// One guest runs short, the other is idle: memory goes where it is needed, and why is told.
#[test]
fn balance_moves_memory_to_where_it_is_needed() -> Outcome {
    let mut idle = guest("idle", 640 * MIB)?;
    idle.minimum_memory = Some(320 * MIB);
    let mut busy = guest("busy", 640 * MIB)?;
    busy.overcommit = true;
    let mut machine = booted("govern-balance", "1G", &[idle, busy])?;
    machine.resize("busy", 192 * MIB, MOVE)?;
    ensure!(machine.ask("balance")?.get("on") == Some(&Value::Bool(false)), "it is off at first");
    machine.ask("balance on")?;
    machine.show("busy")?;
    let fill = "for i in $(seq 1 45); do dd if=/dev/urandom of=/tmp/$i bs=1M count=8 2>/dev/null; sleep 0.2; done";
    machine.command(fill, MOVE)?;
    let decided = wait_until("memory moves from the idle to the busy guest", MOVE, || {
        let log = machine.ask("balance log 32")?;
        let moved = rows(&log, "decisions")?.iter().any(|decision| {
            text(decision, "from").is_ok_and(|from| from == "idle")
                && text(decision, "to").is_ok_and(|to| to == "busy")
                && number(decision, "taken").is_ok_and(|taken| taken > 0)
        });
        Ok(moved.then_some(log))
    })?;
    for decision in rows(&decided, "decisions")? {
        ensure!(text(decision, "to")? == "busy", "{decision}");
        let reason = text(decision, "reason")?;
        ensure!(reason.contains("available") || reason.contains("stalled"), "{decision}");
    }
    ensure!(machine.guest("idle")?.memory >= 320 * MIB, "its minimum");
    let size = machine.command("cat /tmp/[0-9]* | wc -c", MOVE)?;
    ensure!(size == (360 * MIB).to_string(), "it could write {size} bytes");
    // What passes over the access flags have seen is shown.
    let job = machine.control()?.begin("top")?;
    wait_until("a pass over the idle guest's access flags", MOVE, || {
        let seen = machine.control()?.heard(job, COMMAND)?;
        let idle = rows(&seen, "guests")?
            .iter()
            .find(|row| text(row, "guest").is_ok_and(|name| name == "idle"));
        let in_use = idle.and_then(|row| number(row, "in_use").ok());
        Ok(in_use.filter(|bytes| *bytes < 640 * MIB))
    })?;
    machine.ask("cancel")?;
    machine.ask("balance off")?;
    machine.audit_at_rest(2)?;
    Ok(())
}

/// Guests that have no drivers, but listen to the service, give and get by it.
#[test]
fn a_move_goes_by_the_service_where_there_are_no_drivers() -> Outcome {
    let guests = [
        driven::guest("giver", 1, 64 * MIB, 192 * MIB)?,
        driven::guest("taker", 1, 64 * MIB, 192 * MIB)?,
    ];
    let plan = Plan::new("govern-service", &guests)?.memory("1G").append("when-off=stay");
    let mut machine = plan.start()?;
    let region = machine.driven_region()?;
    let moved = region.part(64 * MIB, 32 * MIB);
    machine.order_at("request", region.part(0, 96 * MIB))?;
    machine.order_at("fill", region.part(0, 96 * MIB))?;
    machine.order("listen")?;
    machine.begin_order("follow")?;
    machine.next_console("taker")?;
    let region = machine.driven_region()?;
    machine.order("listen")?;
    machine.begin_order("follow")?;
    move_whole(&mut machine, 32 * MIB, "giver", "taker")?;
    ensure!(
        machine.answer_to("follow")? == region.part(0, 32 * MIB),
        "it has taken something else"
    );
    // What it got holds zeroes, and the other has kept the rest.
    machine.order_at("search", region.part(0, 32 * MIB))?;
    machine.show("giver")?;
    ensure!(machine.answer_to("follow")? == moved, "it has given something else");
    machine.order_at("check", region.part(0, 64 * MIB))?;
    machine.audit_at_rest(2)?;
    Ok(())
}
