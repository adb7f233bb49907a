//! Emptying 256 MiB under a guest that has them, beside the cost of copying alone.

use sluice_tests::artefacts::stub;
use sluice_tests::ensure;
use sluice_tests::failure::{Failure, Outcome};
use sluice_tests::machine::Plan;
use sluice_tests::monitor::{number, rows, text};
use sluice_tests::timeline::size;

use crate::{MIB, PATIENCE, TICK, heading};

/// What the monitor's `bench` says of one measurement.
struct Row {
    /// What was done, and how the memory was mapped.
    name: String,
    bytes: u64,
    instructions: f64,
    longest: f64,
    tlbis: u64,
}

fn measure(image: &str) -> Outcome<Vec<Row>> {
    let mut guest = stub("test=smccc")?;
    guest.memory = 64 * MIB;
    guest.maximum_memory = Some(64 * MIB + 512 * MIB);
    let mut machine = Plan::with_image(&format!("bench-offline-{image}"), image, &[guest])?
        .cpus(1)
        .append("when-off=stay zeroed=1G")
        .counting()
        .start()?;
    machine.control()?.event("off", PATIENCE)?;
    let answer = machine.control()?.ask_within("bench offline", PATIENCE)?;
    if let Some(error) = answer.get("error") {
        return Err(Failure::new(format!("the monitor's bench: {error}")));
    }
    rows(&answer, "offline")?
        .iter()
        .map(|row| {
            Ok(Row {
                name: format!("{} {}", text(row, "operation")?, text(row, "mapped")?),
                bytes: number(row, "moved")?,
                instructions: number(row, "ticks")? as f64 * TICK,
                longest: number(row, "longest")? as f64 * TICK,
                tlbis: number(row, "tlbis")?,
            })
        })
        .collect()
}

/// Measures and prints.
pub fn offline() -> Outcome {
    let (plain, counted) = (measure("sluice")?, measure("sluice-tally")?);
    ensure!(plain.len() == 4, "{} rows were measured instead of 4", plain.len());
    heading("Offline of 256 MiB that a guest has, a MiB", "instructions   longest     TLBIs");
    for (row, counted) in plain.iter().zip(&counted) {
        let mib = row.bytes as f64 / MIB as f64;
        println!(
            "  {:<42} {:>12.0} {:>9.0} {:>9.2}",
            format!("{}, {} moved", row.name, size(row.bytes)),
            row.instructions / mib,
            row.longest,
            counted.tlbis as f64 / mib
        );
    }
    for pair in plain.chunks_exact(2) {
        if let [whole, copy] = pair {
            let times = whole.instructions / copy.instructions;
            println!("  {:<42} {times:>12.2} times copying alone", whole.name);
        }
    }
    Ok(())
}
