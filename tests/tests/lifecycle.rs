//! Several guests: they share CPUs and memory, come and go, and leave nothing behind.

use std::env;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use sluice_tests::artefacts::{KERNEL, linux, stub};
use sluice_tests::bundle::{Guest, Population};
use sluice_tests::ensure;
use sluice_tests::failure::{Failure, Outcome};
use sluice_tests::machine::{BOOT, COMMAND, Machine, Plan};
use sluice_tests::monitor::{Owners, rows, text, wait_until};

const MIB: u64 = 1 << 20;

/// A Linux guest of this name.
fn named(name: &str, vcpus: u32, memory: u64) -> Outcome<Guest> {
    let mut guest = linux(KERNEL)?;
    guest.name = name.into();
    guest.vcpus = vcpus;
    guest.memory = memory;
    Ok(guest)
}

/// A stub that does this, and is started by the test.
fn held(name: &str, orders: &str) -> Outcome<Guest> {
    let mut guest = stub(orders)?;
    guest.name = name.into();
    guest.memory = 64 * MIB;
    guest.held = true;
    Ok(guest)
}

/// Waits until a guest is in this state.
fn comes_to(machine: &mut Machine, guest: &str, state: &str) -> Outcome {
    wait_until(&format!("{guest} is {state}"), BOOT, || {
        Ok((state_of(machine, guest)?.as_deref() == Some(state)).then_some(()))
    })
}

/// Returns the state of a guest, if there is one of that name.
fn state_of(machine: &mut Machine, guest: &str) -> Outcome<Option<String>> {
    let answer = machine.ask("guests")?;
    for row in rows(&answer, "guests")? {
        if text(row, "guest")? == guest {
            return Ok(Some(text(row, "state")?.into()));
        }
    }
    Ok(None)
}

/// Waits until there is no guest of this name.
fn is_gone(machine: &mut Machine, guest: &str) -> Outcome {
    wait_until(&format!("{guest} is gone"), BOOT, || {
        Ok(state_of(machine, guest)?.is_none().then_some(()))
    })
}

/// What must be the same when guests have come and gone.
#[derive(Debug, PartialEq)]
struct Footprint {
    /// Frames that are free or kept for tables; tables come back to their pool.
    spare: u64,
    heap: u64,
    guests: usize,
}

fn footprint(machine: &mut Machine) -> Outcome<Footprint> {
    let Owners { free, hypervisor, .. } = machine.owners_at_rest()?;
    let heap = machine.heap_used()?;
    let guests = rows(&machine.ask("guests")?, "guests")?.len();
    Ok(Footprint { spare: free + hypervisor, heap, guests })
}

/// Has each guest's shell, on the one console, answer.
fn each_works(machine: &mut Machine, guests: &[&str]) -> Outcome {
    for guest in guests {
        machine.ask(&format!("console {guest}"))?;
        let said = machine.command("echo $((6 * 7)) processors $(nproc)", COMMAND)?;
        ensure!(said.contains("42 processors"), "{guest}: {said}");
    }
    Ok(())
}

/// Waits until each guest has booted to its shell: `console` shows what it said meanwhile.
fn each_boots(machine: &mut Machine, guests: &[&str]) -> Outcome {
    for guest in guests {
        machine.ask(&format!("console {guest}"))?;
        machine.shell()?;
    }
    Ok(())
}

#[test]
fn two_guests_of_two_vcpus_share_two_cpus() -> Outcome {
    let guests = [named("one", 2, 512 * MIB)?, named("two", 2, 512 * MIB)?];
    let mut machine = Plan::new("life-two", &guests)?.start()?;
    each_boots(&mut machine, &["one", "two"])?;
    let answer = machine.ask("guests")?;
    for cpu in 0..2 {
        let here = rows(&answer, "vcpus")?.iter().filter(|row| row.get("cpu") == Some(&cpu.into()));
        ensure!(here.count() == 2, "CPU {cpu} has not its share: {answer}");
    }
    each_works(&mut machine, &["one", "two", "one"])?;
    machine.audit()?;
    Ok(())
}

#[test]
fn three_guests_boot_on_one_cpu() -> Outcome {
    let names = ["one", "two", "three"];
    let guests = names.map(|name| named(name, 1, 256 * MIB));
    let guests = guests.into_iter().collect::<Outcome<Vec<_>>>()?;
    let mut machine = Plan::new("life-three", &guests)?.cpus(1).start()?;
    each_boots(&mut machine, &names)?;
    each_works(&mut machine, &names)?;
    machine.audit()?;
    Ok(())
}

/// A guest that never gives a CPU up, with a vCPU on each: another one on the same CPUs boots and works.
#[test]
fn a_guest_that_spins_starves_nobody() -> Outcome {
    let mut spinner = held("spinner", "test=spin")?;
    (spinner.vcpus, spinner.held) = (2, false);
    let guests = [named("linux", 2, 512 * MIB)?, spinner];
    let mut machine = Plan::new("life-spin", &guests)?.start()?;
    each_boots(&mut machine, &["linux"])?;
    each_works(&mut machine, &["linux"])?;
    let answer = machine.ask("guests")?;
    for row in rows(&answer, "vcpus")? {
        let spins = text(row, "guest")? == "spinner";
        ensure!(!spins || text(row, "state")? == "running", "it does not spin: {answer}");
    }
    Ok(())
}

#[test]
fn a_pinned_guest_stays_where_it_is_to_run() -> Outcome {
    let mut guest = held("pinned", "test=smccc")?;
    (guest.vcpus, guest.cpus) = (3, vec![1]);
    let mut lost = held("lost", "test=smccc")?;
    lost.cpus = vec![7];
    let mut machine = Plan::new("life-pinned", &[guest, lost])?.append("when-off=stay").start()?;
    machine.expect("guest lost: cpus: there is no CPU 7; there are 0 to 1", COMMAND)?;
    let answer = machine.ask("guests")?;
    let homes: Vec<_> = rows(&answer, "vcpus")?.iter().filter_map(|row| row.get("cpu")).collect();
    ensure!(homes == [&Value::from(1); 3], "it has its homes elsewhere: {answer}");
    Ok(())
}

/// The most guests, of the most vCPUs, with all that a guest can have: Sluice's own heap has room for them.
#[test]
fn there_is_room_for_the_most_guests_of_the_most_vcpus() -> Outcome {
    let all = (0..8).map(|number| {
        let mut guest = held(&format!("guest-with-a-long-name-{number}"), "test=smccc")?;
        (guest.vcpus, guest.maximum_memory) = (16, Some(1 << 30));
        Ok(guest)
    });
    let all = all.collect::<Outcome<Vec<_>>>()?;
    let mut machine = Plan::new("life-most", &all)?.cpus(16).append("when-off=stay").start()?;
    let answer = machine.ask("guests")?;
    ensure!(rows(&answer, "vcpus")?.len() == 8 * 16, "vCPUs are missing: {answer}");
    println!("{} bytes of the heap are used", machine.heap_used()?);
    for guest in &all {
        machine.ask(&format!("start {}", guest.name))?;
    }
    for guest in &all {
        comes_to(&mut machine, &guest.name, "off")?;
    }
    println!("{} bytes of the heap are used", machine.heap_used()?);
    machine.audit_at_rest(0)?;
    Ok(())
}

/// What a guest is made of comes back when it is destroyed: frames, tables, heap, and its number.
#[test]
fn guests_that_come_and_go_leave_nothing() -> Outcome {
    let rounds: u32 =
        env::var("SLUICE_LIFE_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(40);
    let stubs = [held("calls", "test=smccc")?, held("balloon", "test=balloon")?];
    let mut machine = Plan::new("life-loop", &stubs)?.append("when-off=stay").start()?;
    machine.ask("destroy calls")?;
    machine.ask("destroy balloon")?;
    is_gone(&mut machine, "calls")?;
    is_gone(&mut machine, "balloon")?;
    let before = footprint(&mut machine)?;
    machine.ask("audit continuous on")?;
    for round in 0..rounds {
        let (kind, name) = (["calls", "balloon"][round as usize % 2], format!("guest{round}"));
        machine.ask(&format!("create {kind} as {name}"))?;
        let again = machine.control()?.ask_any(&format!("create {kind} as {name}"))?;
        ensure!(again.get("error").is_some(), "there are two of one name");
        machine.ask(&format!("start {name}"))?;
        match round % 4 {
            0 => comes_to(&mut machine, &name, "off")?,
            1 => comes_to(&mut machine, &name, "on")?,
            _ => {}
        }
        machine.ask(&format!("destroy {name}"))?;
        is_gone(&mut machine, &name)?;
    }
    machine.end_continuous_audit(3)?;
    machine.audit_at_rest(0)?;
    // At least: what was gone from the list before the first look may still have been on its way out.
    wait_until("what was there before is there again", COMMAND, || {
        let now = footprint(&mut machine)?;
        let whole = now.spare >= before.spare && now.heap <= before.heap;
        Ok((whole && now.guests == before.guests).then_some(()))
    })
    .map_err(|error| {
        let after = footprint(&mut machine);
        Failure::new(format!("{error}: {before:?} became {after:?}"))
    })?;
    Ok(())
}

#[test]
fn more_is_promised_only_where_the_manifest_says_so() -> Outcome {
    let mut guests = [
        named("one", 1, 1024 * MIB)?,
        named("two", 1, 1024 * MIB)?,
        named("three", 1, 1024 * MIB)?,
    ];
    guests[1].held = true;
    guests[2].held = true;
    guests[2].overcommit = true;
    let mut machine = Plan::new("life-promises", &guests)?.start()?;
    let refused = machine.control()?.ask_any("start two")?;
    let why = refused.get("error").and_then(Value::as_str).unwrap_or_default();
    ensure!(why.contains("1 GiB of memory are wanted") && why.contains("overcommit"), "{refused}");
    machine.ask("start three")?;
    each_boots(&mut machine, &["one", "three"])?;
    // What one gives up can be promised to another.
    machine.ask("destroy three")?;
    is_gone(&mut machine, "three")?;
    machine.resize("one", 512 * MIB, BOOT)?;
    machine.ask("start two")?;
    each_boots(&mut machine, &["two"])?;
    machine.audit()?;
    Ok(())
}

/// Two guests that want more than there is: one is paused, lives, and goes on by itself when the other is gone.
#[test]
fn a_guest_without_memory_is_paused_and_goes_on() -> Outcome {
    let mut hungry = named("hungry", 1, 512 * MIB)?;
    // It keeps what it has: Linux would report what it does not use.
    let mut eater = held("eater", "test=spin")?;
    (eater.vcpus, eater.memory, eater.held) = (1, 448 * MIB, false);
    eater.cpus = vec![1];
    hungry.cpus = vec![0];
    eater.population = Population::Eager;
    hungry.overcommit = true;
    eater.overcommit = true;
    let mut machine = Plan::new("life-pause", &[hungry, eater])?
        .memory("832M")
        .append("when-off=stay")
        .start()?;
    each_boots(&mut machine, &["hungry"])?;
    machine.ask("console hungry")?;
    // It touches more than there is left.
    machine.type_text(
        "mkdir -p /tmp/fill; head -c 330000000 /dev/zero >/tmp/fill/all; echo fill''ed\n",
    )?;
    machine.control()?.event("paused", BOOT)?;
    let answer = machine.ask("guests")?;
    let paused =
        rows(&answer, "vcpus")?.iter().any(|row| row.get("state") == Some(&"paused".into()));
    ensure!(paused, "nobody is paused: {answer}");
    machine.audit()?;
    machine.ask("destroy eater")?;
    machine.control()?.event("resumed", COMMAND)?;
    machine.expect("filled", BOOT)?;
    machine.audit()?;
    Ok(())
}

/// A small generator, whose numbers a seed gives again (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % below
    }
}

/// Guests are killed, reset and turned off at random moments of whatever moves their memory. Nothing is left behind,
/// and nothing is ever where it should not be.
#[test]
fn guests_end_at_any_moment_and_leave_no_frame() -> Outcome {
    let ends: u32 =
        env::var("SLUICE_LIFE_ENDS").ok().and_then(|text| text.parse().ok()).unwrap_or(500);
    let seed: u64 = env::var("SLUICE_LIFE_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| u64::from(std::process::id()));
    eprintln!("SLUICE_LIFE_SEED={seed}");
    let mut random = Random(seed);
    let mut one = held("one", "test=balloon-follow seconds=100000")?;
    one.maximum_memory = Some(256 * MIB);
    one.vcpus = 2;
    let mut two = one.clone();
    two.name = "two".into();
    two.command_line = "test=plug-follow seconds=100000".into();
    let mut machine = Plan::new("life-ends", &[one, two])?
        .memory("1G")
        .append("when-off=stay loglevel=off")
        .start()?;
    let before = footprint(&mut machine)?;
    for end in 0..ends {
        let guest = ["one", "two"][random.next(2) as usize];
        let at = 0x4000_0000 + random.next(448) * 2 * MIB;
        // Some of these are refused, as it happens: what matters is what is left of them.
        let mut operations = vec![
            format!("start {guest}"),
            format!("balloon {guest} {}M", 8 + random.next(56)),
            format!("plug {guest} {}M", 2 + 2 * random.next(32)),
            format!("unplug {guest} {}M", 2 + 2 * random.next(32)),
            format!("add {guest} {}M", 2 + 2 * random.next(32)),
            format!("remove {guest} 0x{:x}+{}M", at, 2 + 2 * random.next(16)),
            format!("offline 0x{at:x}+{}M", 2 + 2 * random.next(8)),
            format!("online 0x{at:x}+64M"),
            format!("move {}M from {guest} to two", 2 + 2 * random.next(8)),
        ];
        for _ in 0..random.next(4) {
            let operation = operations.swap_remove(random.next(operations.len() as u64) as usize);
            machine.control()?.ask_any(&operation)?;
        }
        thread::sleep(Duration::from_millis([0, 0, 3, 8, 20, 60, 150][random.next(7) as usize]));
        let stop = ["stop", "reset", "reset", "stop", "destroy"][random.next(5) as usize];
        machine.control()?.ask_any(&format!("{stop} {guest}"))?;
        if stop == "destroy" {
            is_gone(&mut machine, guest)?;
            machine.ask(&format!("create {guest}"))?;
        }
        if end % 25 == 24 {
            machine.audit().map_err(|error| error.during(&format!("seed {seed}, end {end}")))?;
        }
    }
    let _ = machine.control()?.ask_any("cancel")?;
    machine.control()?.ask_any("online 0x40000000+1G")?;
    for guest in ["one", "two"] {
        machine.ask(&format!("destroy {guest}"))?;
        is_gone(&mut machine, guest)?;
        machine.ask(&format!("create {guest}"))?;
    }
    machine.audit_at_rest(0)?;
    let spare = wait_until("every frame is back", COMMAND, || {
        let now = footprint(&mut machine)?;
        Ok((now == before).then_some(now))
    });
    spare.map_err(|error| {
        let after = footprint(&mut machine);
        Failure::new(format!("seed {seed}: {error}: {before:?} became {after:?}"))
    })?;
    Ok(())
}
