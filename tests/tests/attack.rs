//! A guest that tries everything at once, beside one that wants to be left alone.

use std::env;
use std::time::{Duration, Instant};

use sluice_tests::artefacts::stub;
use sluice_tests::ensure;
use sluice_tests::failure::Outcome;
use sluice_tests::machine::{BOOT, COMMAND, Plan};
use sluice_tests::monitor::{number, wait_until};

const MIB: u64 = 1 << 20;
const BEAT: &str = r"note beats: (\d+)\s";
/// How long the other guest may take for ten beats, each of which takes it a hundredth of a second.
const BEATS: Duration = Duration::from_secs(120);
/// How long the emulator may take for one request.
const REQUEST: Duration = Duration::from_micros(500);

/// How many requests there are, and from which seed; the environment may say others.
fn orders() -> (u32, u64) {
    let number = |name: &str| env::var(name).ok().and_then(|value| value.parse().ok());
    (number("REQUESTS").unwrap_or(300_000) as u32, number("SEED").unwrap_or(1))
}

#[test]
fn a_hostile_guest_harms_nobody_but_itself() -> Outcome {
    let (requests, seed) = orders();
    attack("attack", 3, requests, seed)
}

/// The other GIC's registers, a tenth of the requests.
#[test]
fn a_hostile_guest_harms_nobody_but_itself_with_a_gicv2() -> Outcome {
    let (requests, seed) = orders();
    attack("attack-gicv2", 2, requests / 10, seed)
}

/// Four vCPUs make calls, spoil queues, registers and memory at random: no other guest is disturbed, and all frames are
/// accounted for while they do, and back when they have gone.
fn attack(name: &str, gic: u32, requests: u32, seed: u64) -> Outcome {
    println!("REQUESTS={requests} SEED={seed}");
    let mut beats = stub("test=beats")?;
    beats.name = "beats".into();
    beats.memory = 64 * MIB;
    beats.vcpus = 1;
    let mut hostile = stub(&format!("test=attack requests={requests} seed={seed}"))?;
    hostile.name = "hostile".into();
    hostile.memory = 512 * MIB;
    hostile.maximum_memory = Some(768 * MIB);
    hostile.vcpus = 4;
    let board = format!("virt,virtualization=on,gic-version={gic}");
    let plan = Plan::new(name, &[beats, hostile])?.board(&board).cpus(4).append("when-off=stay");
    let mut machine = plan.start()?;
    machine.expect(BEAT, BOOT)?;
    machine.ask("audit continuous on")?;
    // So that requests for memory are granted.
    machine.ask("plug hostile 128M")?;
    let (began, end) = (Instant::now(), Instant::now() + REQUEST * requests);
    let mut beat = String::new();
    while machine.guest("hostile")?.on {
        ensure!(
            Instant::now() < end,
            "it does not come to an end: {:?}, {:?}",
            machine.ask("guests"),
            machine.ask("log 15")
        );
        beat = machine.expect(BEAT, BEATS)?.swap_remove(1);
    }
    println!(
        "{requests} requests in {} s, {beat} beats of the other guest",
        began.elapsed().as_secs()
    );
    let said = machine.console.all();
    let failed = said.lines().find(|line| line.starts_with("fail ") || line.contains("panic"));
    ensure!(failed.is_none(), "the other guest was disturbed: {failed:?}");
    machine.expect(BEAT, BEATS)?;
    println!("audited all the while: {}", machine.end_continuous_audit(1)?);
    let retired = number(&machine.ask("epoch")?, "retired_ever")?;
    println!("{retired} frames were retired");
    ensure!(retired > u64::from(requests) / 100, "the attack reached no memory: {retired} retired");
    // What it says of itself was kept while the other guest was shown.
    machine.type_text("\x1d")?;
    let note =
        machine.expect(r"note attack: \d+ requests: .*other faults", COMMAND)?.swap_remove(0);
    println!("{note}");
    machine.expect("pass attack", COMMAND)?;
    machine.control()?.ask("stop beats")?;
    wait_until("the other guest goes off", COMMAND, || {
        Ok((!machine.guest("beats")?.on).then_some(()))
    })?;
    machine.audit_at_rest(0)?;
    let owners = machine.owners_at_rest()?;
    let left = owners.guest("hostile") + owners.guest("beats");
    ensure!(left == 0 && owners.accounted() == owners.total, "left: {owners:?}");
    Ok(())
}
