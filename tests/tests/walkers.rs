//! Walks of tables while those tables change: dumps and audits neither fault nor wait nor see
//! what is not so; and where a mistake is put in on purpose, it is caught.

use std::time::{Duration, Instant};

use sluice_tests::artefacts::{KERNEL, linux};
use sluice_tests::ensure;
use sluice_tests::failure::{Failure, Outcome};
use sluice_tests::machine::{Machine, Plan};
use sluice_tests::monitor::{number, rows};

const MIB: u64 = 1 << 20;

/// No walk may take longer than this, whatever else goes on; it is the emulator's time, on a
/// host that is busy.
const WALK: Duration = Duration::from_secs(20);

/// Has a guest give and take memory, and walks its tables all the while.
fn walk_while_memory_moves(machine: &mut Machine, rounds: u32) -> Outcome<u64> {
    let mut walks = 0;
    for _ in 0..rounds {
        for size in [512 * MIB, 1024 * MIB] {
            machine.set_target("linux", size)?;
            let started = Instant::now();
            loop {
                let walk = Instant::now();
                let dump = machine.ask("tables linux")?;
                ensure!(!rows(&dump, "runs")?.is_empty(), "the dump is empty");
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

/// The same without a grace period, and with freed tables poisoned: somebody must notice.
#[test]
fn without_the_grace_period_the_same_is_caught() -> Outcome {
    let mut machine =
        Plan::with_image("walkers-no-grace", "sluice-no-grace", &[linux(KERNEL)?])?.start()?;
    machine.shell()?;
    for _ in 0..10 {
        if let Err(caught) = walk_while_memory_moves(&mut machine, 1) {
            println!("caught: {caught}");
            return Ok(());
        }
    }
    Err(Failure::new("a walker on a freed table went unnoticed"))
}
