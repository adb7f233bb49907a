//! Physical memory that comes and goes under running guests.

use std::env;
use std::time::Duration;

use serde_json::Value;
use sluice_tests::artefacts::{KERNEL, linux, stub};
use sluice_tests::ensure;
use sluice_tests::failure::{Failure, Outcome};
use sluice_tests::machine::{BOOT, COMMAND, Machine, Plan};
use sluice_tests::monitor::{FRAME, number, rows, text, wait_until};

const MIB: u64 = 1 << 20;
/// Where QEMU's `virt` has its memory.
const START: u64 = 0x4000_0000;
/// What is taken offline at a time.
const RANGE: u64 = 256 * MIB;

/// How long a range may take on a machine that is busy with other things.
const EMPTYING: Duration = Duration::from_secs(180);

/// How many ranges are emptied in turn.
fn rounds() -> u64 {
    env::var("OFFLINE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(20)
}

fn owner(machine: &mut Machine, pa: u64) -> Outcome<String> {
    Ok(text(&machine.ask(&format!("owner {pa:#x}"))?, "owner")?.to_owned())
}

/// Has the console show a guest.
fn show(machine: &mut Machine, guest: &str) -> Outcome {
    for _ in 0..4 {
        machine.type_text("\u{1d}")?;
        let shown = machine.expect(r"-- (?:console of guest (\S+)|monitor); ", COMMAND)?;
        if shown.get(1).is_some_and(|shown| shown == guest) {
            return Ok(());
        }
    }
    Err(Failure::new(format!("the console of {guest} does not come")))
}

fn offline(machine: &mut Machine, start: u64, size: u64) -> Outcome<Value> {
    machine.control()?.do_whole(&format!("offline {start:#x}+{size:#x}"), EMPTYING)
}

fn online(machine: &mut Machine, start: u64, size: u64) -> Outcome {
    let answer = machine.control()?.do_whole(&format!("online {start:#x}+{size:#x}"), EMPTYING)?;
    ensure!(number(&answer, "online")? == size, "{answer}");
    Ok(())
}

/// The main job: all of memory, range after range, is emptied and comes back under two guests that are at work.
#[test]
fn ranges_are_emptied_under_two_loaded_guests_that_notice_nothing() -> Outcome {
    let mut first = linux(KERNEL)?;
    first.name = "first".into();
    first.memory = 512 * MIB;
    let mut second = first.clone();
    second.name = "second".into();
    let mut machine = Plan::new("offline", &[first, second])?.append("when-off=stay").start()?;
    machine.shell()?;
    machine.command("load start 64", BOOT)?;
    show(&mut machine, "second")?;
    machine.shell()?;
    machine.command("load start 64", BOOT)?;
    let total = machine.owners()?.total;

    let (mut done, mut moved, mut at) = (0, 0, START);
    let mut refused = 0;
    while done < rounds() {
        let number_of = |answer: &Value| number(answer, "moved");
        match offline(&mut machine, at, RANGE) {
            Ok(answer) => {
                moved += number_of(&answer)?;
                let owners = machine.owners()?;
                ensure!(owners.offline == RANGE, "offline {at:#x}: {owners:?}");
                for pa in (at..at + RANGE).step_by((8 * MIB) as usize) {
                    let whose = owner(&mut machine, pa)?;
                    ensure!(whose == "offline", "{pa:#x} is {whose}");
                }
                machine.audit()?;
                online(&mut machine, at, RANGE)?;
                ensure!(machine.owners()?.offline == 0, "it is online");
                done += 1;
            }
            // Where Sluice itself and the bundle are.
            Err(error) if at == START => {
                let error = error.to_string();
                ensure!(error.contains("cannot move: "), "{error}");
                ensure!(machine.owners()?.offline == 0, "nothing was to change");
                refused += 1;
            }
            Err(error) => return Err(error.during(&format!("range {done} at {at:#x}"))),
        }
        machine.audit()?;
        at = if at + RANGE < START + total { at + RANGE } else { START };
    }
    ensure!(moved > 64 * MIB, "only {moved} bytes were moved");
    ensure!(refused > 0, "a range that holds Sluice was emptied");
    println!("{done} ranges were emptied, {} MiB moved", moved / MIB);

    for guest in ["second", "first"] {
        if guest == "first" {
            show(&mut machine, guest)?;
        }
        let check = machine.command("load check", BOOT)?;
        ensure!(check.contains("load: intact"), "{guest}: {check}");
        println!("{guest}: {check}");
        machine.command("load stop", COMMAND)?;
        let complaints = "dmesg | grep -E 'BUG|Oops|WARNING|lockup|stall|[Uu]nhandled' || true";
        let said = machine.command(complaints, COMMAND)?;
        ensure!(said.is_empty(), "{guest}: its kernel complained: {said}");
    }
    machine.audit_at_rest(2)?;
    machine.ask("off first")?;
    machine.ask("off second")?;
    let after = wait_until("both are off", COMMAND, || {
        let owners = machine.owners_at_rest()?;
        let resident = owners.guest("first") + owners.guest("second");
        Ok((resident == 0 && owners.all_tables() <= 2 * FRAME).then_some(owners))
    })?;
    ensure!(after.accounted() == after.total, "lost: {after:?}");
    ensure!(after.total == total, "the total changed from {total}: {after:?}");
    Ok(())
}

#[test]
fn what_cannot_be_emptied_is_named_and_a_cancelled_one_is_as_it_was() -> Outcome {
    let mut machine = Plan::new("offline-refused", &[linux(KERNEL)?])?.start()?;
    machine.shell()?;
    let before = machine.owners()?;
    let refusal = |machine: &mut Machine, command: &str| -> Outcome<String> {
        let job = machine.control()?.begin(command)?;
        let end = machine.control()?.end_of(job, EMPTYING)?;
        Ok(text(&end, "error")?.to_owned())
    };
    let image = refusal(&mut machine, "offline 0x40200000+2M")?;
    ensure!(image.contains("image, heap and stacks"), "{image}");
    let bundle = refusal(&mut machine, "poison 0x48001000")?;
    ensure!(bundle.contains("bundle"), "{bundle}");
    let nowhere = refusal(&mut machine, "offline 0x1000+4K")?;
    ensure!(nowhere.contains("not all of the range is memory"), "{nowhere}");
    // All but where Sluice is: the guest has room enough there.
    offline(&mut machine, 0x5000_0000, 1792 * MIB)?;
    machine.command("true", COMMAND)?;
    machine.audit()?;
    let again = refusal(&mut machine, "poison 0x60000000")?;
    ensure!(again.contains("offline"), "{again}");
    online(&mut machine, 0x5000_0000, 1792 * MIB)?;

    let control = machine.control()?;
    let job = control.begin("offline 0x50000000+1792M")?;
    // It may have ended by now.
    control.ask_any(&format!("cancel {job}"))?;
    let end = control.end_of(job, EMPTYING)?;
    if end.get("offline").is_some() {
        online(&mut machine, 0x5000_0000, 1792 * MIB)?;
    }
    wait_until("all is free again", COMMAND, || {
        let owners = machine.owners()?;
        Ok((owners.offline == 0 && owners.in_hand == 0).then_some(()))
    })?;
    ensure!(machine.owners()?.total == before.total, "{before:?}");
    machine.command("true", COMMAND)?;
    machine.audit_at_rest(1)?;
    Ok(())
}

#[test]
fn a_range_can_be_held_offline_from_the_start() -> Outcome {
    let words = "offline=0x80000000-0x90000000,0xa0000000+64M when-off=stay";
    let mut machine = Plan::new("offline-boot", &[linux(KERNEL)?])?.append(words).start()?;
    machine.shell()?;
    let owners = machine.owners()?;
    ensure!(owners.offline == RANGE + 64 * MIB, "{owners:?}");
    for pa in [0x8000_0000, 0x8fff_f000, 0xa000_0000, 0xa3ff_ffff] {
        let whose = owner(&mut machine, pa)?;
        ensure!(whose == "offline", "{pa:#x} is {whose}");
    }
    let whose = owner(&mut machine, 0xa400_0000)?;
    ensure!(whose != "offline", "what follows is {whose}");
    online(&mut machine, 0x8000_0000, RANGE)?;
    online(&mut machine, 0xa000_0000, 64 * MIB)?;
    let after = machine.owners_at_rest()?;
    ensure!(after.offline == 0 && after.accounted() == after.total, "{after:?}");
    machine.audit_at_rest(1)?;
    Ok(())
}

#[test]
fn a_page_that_fails_is_lost_to_one_guest_alone() -> Outcome {
    let mut one = stub("test=memory-failing")?;
    one.memory = 64 * MIB;
    let mut machine =
        Plan::new("offline-poison", &[one, linux(KERNEL)?])?.append("when-off=stay").start()?;
    for life in 1..=2 {
        let said = machine.expect(r"note memory-failing: 0x([0-9a-f]+) may fail", BOOT)?;
        let page = u64::from_str_radix(&said[1], 16).map_err(|_| Failure::new("no address"))?;
        let tables = machine.ask(&format!("tables stub {page:#x}"))?;
        let run = rows(&tables, "runs")?.first().ok_or_else(|| Failure::new("no entry"))?;
        let pa = number(run, "pa")?;
        ensure!(owner(&mut machine, pa)? == "stub", "{pa:#x} is not the stub's");
        let end = machine.control()?.do_whole(&format!("poison {pa:#x}"), EMPTYING)?;
        ensure!(number(&end, "pages_lost")? == 1, "{end}");
        ensure!(owner(&mut machine, pa)? == "bad", "{pa:#x} is still in use");
        machine.expect(r"pass memory-failing", BOOT)?;
        machine.control()?.event("off", COMMAND)?;
        machine.audit()?;
        if life == 1 {
            // A fresh page comes with the next life.
            machine.ask("start stub")?;
        }
    }
    let owners = machine.owners_at_rest()?;
    ensure!(owners.bad == 2 * FRAME, "{owners:?}");
    show(&mut machine, "linux")?;
    machine.shell()?;
    machine.command("true", COMMAND)?;
    machine.audit_at_rest(1)?;
    Ok(())
}
