//! Memory by the range: what a guest asks for by hypercall, and what the operator adds and removes by its address.

use serde_json::Value;
use sluice_tests::artefacts::stub;
use sluice_tests::driven::{Range, guest};
use sluice_tests::ensure;
use sluice_tests::failure::{Failure, Outcome};
use sluice_tests::machine::{BOOT, COMMAND, Machine, Plan};
use sluice_tests::monitor::{number, text};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Runs the stub's own tests of the service under Sluice; afterwards nothing of the guest is left.
fn stub_tests(name: &str, vcpus: u32) -> Outcome {
    let mut guest = stub("test=service test=hammer-release test=hostile-service")?;
    guest.vcpus = vcpus;
    guest.memory = 256 * MIB;
    guest.maximum_memory = Some(512 * MIB);
    let plan = Plan::new(name, &[guest])?.cpus(vcpus.max(2)).append("when-off=stay");
    let mut machine = plan.start()?;
    let said = machine.expect(r"stub: done (\d+) (\d+)\s", BOOT)?;
    let all = machine.console.all();
    let failed: Vec<&str> = all.lines().filter(|line| line.starts_with("fail ")).collect();
    ensure!(failed.is_empty(), "failed in the guest:\n  {}", failed.join("\n  "));
    ensure!(said[1].parse::<u32>().is_ok_and(|passed| passed >= 8), "{} passed", said[1]);
    machine.control()?.event("off", COMMAND)?;
    machine.audit_at_rest(0)?;
    let owners = machine.owners_at_rest()?;
    ensure!(owners.guest("stub") == 0 && owners.accounted() == owners.total, "left: {owners:?}");
    Ok(())
}

#[test]
fn the_service_does_as_specified_on_one_vcpu() -> Outcome {
    stub_tests("service-1", 1)
}

#[test]
fn the_service_does_as_specified_on_four_vcpus() -> Outcome {
    stub_tests("service-4", 4)
}

/// Has the operator do something whole.
fn whole(machine: &mut Machine, command: &str) -> Outcome<Value> {
    machine.control()?.do_whole(command, BOOT)
}

/// How a guest loses memory.
#[derive(Copy, Clone, Debug)]
enum Loss {
    /// It releases it.
    Release,
    /// An operator removes it.
    Remove,
    /// It goes off.
    Off,
}

/// A guest fills memory with a pattern and loses it. Another then takes all there is and searches it: the answer.
fn donate(loss: Loss, image: &str) -> Outcome<Outcome> {
    let donor = guest("donor", 1, 64 * MIB, 192 * MIB)?;
    let receiver = guest("receiver", 1, 64 * MIB, 1024 * MIB)?;
    let name = format!("service-{loss:?}-{image}").to_lowercase();
    let plan = Plan::with_image(&name, image, &[donor, receiver])?;
    let mut machine = plan.memory("1G").append("when-off=stay").start()?;
    let region = machine.driven_region()?;
    machine.order_at("request", region)?;
    machine.order_at("fill", region)?;
    machine.order_at("check", region)?;
    match loss {
        Loss::Release => machine.order_at("release", region)?,
        Loss::Remove => {
            whole(&mut machine, &format!("remove donor {} now", region.for_monitor()))?;
        }
        Loss::Off => {
            machine.begin_order("end")?;
            machine.control()?.event("off", COMMAND)?;
        }
    }

    machine.next_console("receiver")?;
    let free = machine.owners_at_rest()?.free;
    ensure!(free > region.bytes, "only {free} bytes are free");
    let taken = machine.order("take")?;
    let free = machine.owners()?.free;
    ensure!(free < 4 * MIB, "{free} bytes are free still: it has not taken all");
    let found = machine.order_at("search", taken);
    machine.audit()?;
    Ok(found)
}

#[test]
fn no_byte_crosses_from_one_guest_to_another() -> Outcome {
    for loss in [Loss::Release, Loss::Remove, Loss::Off] {
        donate(loss, "sluice")
            .and_then(|found| found)
            .map_err(|error| error.during(&format!("{loss:?}")))?;
    }
    Ok(())
}

/// The same where frames are handed on as they are: the search must find what the donor wrote.
#[test]
fn without_the_scrub_the_donors_bytes_are_found() -> Outcome {
    for loss in [Loss::Release, Loss::Remove] {
        let Err(found) = donate(loss, "sluice-no-scrub")? else {
            return Err(Failure::new(format!("{loss:?}: the donor's bytes went unnoticed")));
        };
        // The pattern is each word's address with these bits turned over.
        let found = found.to_string();
        let pattern = found.contains(" holds 0xd01dd01d5");
        ensure!(pattern, "{loss:?}: it is not what the donor wrote: {found}");
        println!("caught: {found}");
    }
    Ok(())
}

/// Ranges that are added and removed while three CPUs read and write them without pause: as pages, as blocks, out of
/// the middle of memory that stays.
fn remove_under_hammers(name: &str, image: &str) -> Outcome {
    let guest = guest("stub", 4, 64 * MIB, 256 * MIB)?;
    let mut machine = Plan::with_image(name, image, &[guest])?.cpus(4).start()?;
    let region = machine.driven_region()?;
    let mut free = None;
    for round in 0..3 {
        for (added, removed) in [
            (region.part(0, 4 * KIB), region.part(0, 4 * KIB)),
            (region.part(0, 2 * MIB), region.part(0, 2 * MIB)),
            (region.part(0, 64 * MIB), region.part(0, 64 * MIB)),
            (region.part(MIB, 6 * MIB), region.part(MIB + 12 * KIB, 3 * MIB)),
        ] {
            let what = format!("round {round}, {removed:x?} of {added:x?}");
            hammer_once(&mut machine, added, removed).map_err(|error| error.during(&what))?;
        }
        let now = machine.owners_at_rest()?;
        machine.audit_at_rest(1)?;
        let before = *free.get_or_insert(now.free);
        ensure!(now.free == before, "round {round}: {} bytes are free, not {before}", now.free);
    }
    Ok(())
}

fn hammer_once(machine: &mut Machine, added: Range, removed: Range) -> Outcome {
    whole(machine, &format!("add stub {} at {:#x}", added.bytes, added.start))?;
    let before = added.part(0, removed.start - added.start);
    let behind = removed.part(removed.bytes, added.bytes - removed.bytes - before.bytes);
    for kept in [before, behind] {
        machine.order_at("search", kept)?;
        machine.order_at("fill", kept)?;
    }
    machine.hammer(removed)?;
    let end = whole(machine, &format!("remove stub {} now", removed.for_monitor()))?;
    machine.hammered_is_gone(removed)?;
    ensure!(number(&end, "removed")? == removed.bytes, "{end}");
    for kept in [before, behind] {
        machine.order_at("check", kept)?;
    }
    machine.audit()?;
    whole(machine, &format!("remove stub {} now", added.for_monitor()))?;
    Ok(())
}

#[test]
fn what_is_removed_is_gone_for_all_cpus() -> Outcome {
    remove_under_hammers("service-hammer", "sluice")
}

/// The same with the TLB maintenance left out: the hammering must notice.
#[test]
fn without_the_tlbi_a_removal_is_not_complete() -> Outcome {
    match remove_under_hammers("service-no-tlbi", "sluice-no-tlbi") {
        Ok(()) => Err(Failure::new("stale translations went unnoticed")),
        Err(caught) if caught.to_string().contains("stale translation") => {
            println!("caught: {caught}");
            Ok(())
        }
        Err(other) => Err(other),
    }
}

/// A guest that listens is asked: it takes what is offered, releases what it shall, or does neither.
#[test]
fn a_guest_that_listens_is_asked() -> Outcome {
    let guest = guest("stub", 2, 64 * MIB, 256 * MIB)?;
    let mut machine = Plan::new("service-asked", &[guest])?.start()?;
    let region = machine.driven_region()?;
    machine.order("listen")?;
    let all = region.part(0, 16 * MIB);
    let (add, remove) = ("add stub 16M", format!("remove stub {}", all.for_monitor()));
    for _ in 0..2 {
        let job = machine.control()?.begin(add)?;
        ensure!(machine.order("follow")? == all, "it was offered something else");
        let end = machine.control()?.end_of(job, COMMAND)?;
        ensure!(number(&end, "added")? == all.bytes, "{end}");
        machine.order_at("search", all)?;
        machine.order_at("fill", all)?;

        // It need not, and then keeps what it has.
        let job = machine.control()?.begin(&remove)?;
        ensure!(machine.order("decline")? == all, "it was asked for something else");
        let end = machine.control()?.end_of(job, COMMAND)?;
        ensure!(text(&end, "error")?.contains("stub"), "{end}");
        machine.order_at("check", all)?;

        // Who does not wait for it gives up, and what was wished is wished no longer.
        let job = machine.control()?.begin(&remove)?;
        machine.ask("cancel")?;
        machine.control()?.end_of(job, COMMAND)?;

        let part = all.part(4 * KIB, 8 * MIB);
        let job = machine.control()?.begin(&format!("remove stub {}", part.for_monitor()))?;
        ensure!(machine.order("follow")? == part, "it was asked for something else");
        let end = machine.control()?.end_of(job, COMMAND)?;
        ensure!(number(&end, "removed")? == part.bytes, "{end}");
        machine.order_at("check", all.part(0, 4 * KIB))?;
        // An operator who insists does not ask.
        whole(&mut machine, &format!("{remove} now"))?;
        machine.audit()?;
    }
    Ok(())
}

#[test]
fn mistakes_of_the_operator_are_named() -> Outcome {
    let guest = guest("stub", 2, 64 * MIB, 64 * MIB)?;
    let mut machine = Plan::new("service-mistakes", &[guest])?.start()?;
    let region = machine.driven_region()?;
    let at = |offset: u64| format!("{:#x}", region.start + offset);
    for (command, word) in [
        ("add nobody 2M".into(), "nobody"),
        ("add stub".into(), "how much"),
        ("add stub 3000".into(), "4K"),
        ("add stub 128M".into(), "maximum-memory"),
        ("add stub 4M at 0x1000".into(), "region"),
        (format!("add stub 4M at {}", at(1)), "page"),
        (format!("add stub 4M at {}", at(62 * MIB)), "room"),
        ("remove stub".into(), "which range"),
        ("remove stub 0x1000+4K now".into(), "stub"),
        (format!("remove stub {}+128M now", at(0)), "stub"),
        (format!("remove stub {}+4M later", at(0)), "now"),
    ] {
        let command: String = command;
        let answer = machine.control()?.ask_any(&command)?;
        let said = answer.get("error").and_then(Value::as_str).unwrap_or_default();
        let usage = answer.get("usage").is_some();
        ensure!(said.contains(word) || usage, "{command}: no {word:?} in {answer}");
        ensure!(!said.is_empty(), "{command} was carried out: {answer}");
    }

    let part = region.part(4 * MIB, 4 * MIB);
    whole(&mut machine, &format!("add stub 4M at {}", at(4 * MIB)))?;
    machine.order_at("fill", part)?;
    // Over memory that is there: told where, and nothing is left of what was added before it.
    let job = machine.control()?.begin(&format!("add stub 8M at {}", at(0)))?;
    let end = machine.control()?.end_of(job, COMMAND)?;
    ensure!(text(&end, "error")?.contains(&at(4 * MIB)), "{end}");
    ensure!(number(&end, "added")? == 0, "{end}");
    machine.order_at("check", part)?;
    // The first gap that is large enough is behind it.
    whole(&mut machine, "add stub 6M")?;
    machine.order_at("search", region.part(8 * MIB, 6 * MIB))?;
    // Where nothing is there is nothing to lose.
    whole(&mut machine, &format!("remove stub {} now", region.for_monitor()))?;
    whole(&mut machine, &format!("remove stub {} now", region.for_monitor()))?;
    machine.audit_at_rest(1)?;
    Ok(())
}
