//! Walks of tables while those tables change: dumps and audits neither fault nor wait nor see
//! what is not so; and where a mistake is put in on purpose, it is caught.

use std::ops::Range;
use std::time::{Duration, Instant};

use serde_json::Value;
use sluice_tests::artefacts::{KERNEL, linux, stub};
use sluice_tests::ensure;
use sluice_tests::failure::{Failure, Outcome};
use sluice_tests::machine::{BOOT, Machine, Plan};
use sluice_tests::monitor::{number, rows, text, wait_until};

const MIB: u64 = 1 << 20;

/// Where the machine has its 2 GiB.
const RAM: Range<u64> = 0x4000_0000..0xc000_0000;

/// No walk may take longer than this, whatever else goes on; it is the emulator's time, on a
/// host that is busy.
const WALK: Duration = Duration::from_secs(20);

/// Sees whether a dump says what can be: ascending ranges, memory that the machine has, the
/// attributes that guests' memory is mapped with. A freed table says otherwise.
fn look_through(dump: &Value) -> Outcome {
    let runs = rows(dump, "runs")?;
    ensure!(!runs.is_empty(), "the dump is empty");
    let mut end = 0;
    for run in runs {
        ensure!(number(run, "from")? >= end, "the dump goes back: {run}");
        end = number(run, "to")?;
        let attributes = text(run, "attributes")?;
        if let Some(pa) = run.get("pa").and_then(Value::as_u64) {
            ensure!(RAM.contains(&pa), "mapped where no memory is: {run}");
            ensure!(attributes.contains("rwx normal"), "mapped in an odd way: {run}");
        } else {
            ensure!(["empty", "ballooned"].contains(&attributes), "odd: {run}");
        }
    }
    Ok(())
}

/// Has a guest give and take memory, and walks its tables all the while.
fn walk_while_memory_moves(machine: &mut Machine, rounds: u32) -> Outcome<u64> {
    let mut walks = 0;
    for _ in 0..rounds {
        for size in [512 * MIB, 1024 * MIB] {
            machine.set_target("linux", size)?;
            let started = Instant::now();
            loop {
                let walk = Instant::now();
                look_through(&machine.ask("tables linux")?)?;
                machine.audit()?;
                ensure!(walk.elapsed() < WALK, "a walk took {:?}", walk.elapsed());
                walks += 1;
                if machine.guest("linux")?.memory == size {
                    break;
                }
                ensure!(started.elapsed() < Duration::from_secs(180), "memory does not move");
            }
        }
    }
    Ok(walks)
}

#[test]
fn dumps_and_audits_run_while_memory_moves() -> Outcome {
    let mut machine = Plan::new("walkers", &[linux(KERNEL)?])?.start()?;
    machine.shell()?;
    let walks = walk_while_memory_moves(&mut machine, 4)?;
    ensure!(walks >= 16, "only {walks} walks: nothing ran side by side");
    machine.audit_at_rest(1)?;
    let epoch = machine.ask("epoch")?;
    ensure!(number(&epoch, "retired_ever")? > 0, "nothing was ever retired: {epoch}");
    Ok(())
}

/// A guest that makes and breaks tables all the time, on a CPU other than the monitor's.
fn restless(name: &str, image: &str) -> Outcome<Machine> {
    let mut restless = stub("test=balloon-cycle rounds=1000000")?;
    restless.name = "restless".into();
    restless.vcpus = 1;
    restless.cpus = vec![1];
    restless.memory = 48 * MIB;
    let mut machine = Plan::with_image(name, image, &[restless])?.start()?;
    machine.ask("counters")?;
    wait_until("the guest runs", BOOT, || {
        Ok((machine.guest("restless")?.resident > 16 * MIB).then_some(()))
    })?;
    Ok(machine)
}

/// Dumps the restless guest's tables again and again, and gives how often it did.
fn dump_the_restless(machine: &mut Machine, time: Duration) -> Outcome<u64> {
    let end = Instant::now() + time;
    let mut dumps = 0;
    while Instant::now() < end {
        look_through(&machine.ask("tables restless")?)?;
        dumps += 1;
    }
    Ok(dumps)
}

#[test]
fn dumps_of_a_restless_guest_say_what_is() -> Outcome {
    let mut machine = restless("restless", "sluice")?;
    machine.ask("audit continuous on")?;
    let dumps = dump_the_restless(&mut machine, Duration::from_secs(10))?;
    ensure!(dumps > 20, "only {dumps} dumps");
    let audited = machine.end_continuous_audit(20)?;
    println!("all the while: {audited}");
    let epoch = machine.ask("epoch")?;
    ensure!(number(&epoch, "retired_ever")? > 10_000, "little was retired: {epoch}");
    machine.audit()?;
    Ok(())
}

/// The same without a grace period, and with freed tables poisoned: it must be noticed.
#[test]
fn without_the_grace_period_the_same_is_caught() -> Outcome {
    let mut machine = restless("restless-no-grace", "sluice-no-grace")?;
    match dump_the_restless(&mut machine, Duration::from_secs(180)) {
        Ok(dumps) => {
            Err(Failure::new(format!("a walker on a freed table went unnoticed in {dumps} dumps")))
        }
        Err(caught) => {
            println!("caught: {caught}");
            Ok(())
        }
    }
}
