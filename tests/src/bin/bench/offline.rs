//! Emptying 256 MiB under a guest that has them, beside the cost of copying alone.

use sluice_tests::artefacts::stub;
use sluice_tests::ensure;
use sluice_tests::failure::Outcome;
use sluice_tests::machine::Plan;
use sluice_tests::monitor::{number, rows, text};
use sluice_tests::timeline::size;

use crate::{MIB, PATIENCE, TICK, heading};

/// What the monitor's `bench` says of it: what was done and how mapped, bytes, instructions, the longest step, TLBIs.
fn measure(image: &str) -> Outcome<Vec<(String, u64, f64, f64, u64)>> {
    let mut guest = stub("test=smccc")?;
    guest.memory = 64 * MIB;
    guest.maximum_memory = Some(64 * MIB + 256 * MIB);
    let mut machine = Plan::with_image(&format!("bench-offline-{image}"), image, &[guest])?
        .cpus(1)
        .append("when-off=stay zeroed=1G")
        .counting()
        .start()?;
    machine.expect(r"stub: done (\d+) (\d+)", PATIENCE)?;
    let answer = machine.control()?.ask_within("bench", PATIENCE)?;
    rows(&answer, "offline")?
        .iter()
        .map(|row| {
            Ok((
                format!("{} {}", text(row, "operation")?, text(row, "mapped")?),
                number(row, "moved")?,
                number(row, "ticks")? as f64 * TICK,
                number(row, "longest")? as f64 * TICK,
                number(row, "tlbis")?,
            ))
        })
        .collect()
}

/// Measures and prints.
pub fn offline() -> Outcome {
    let (plain, counted) = (measure("sluice")?, measure("sluice-tally")?);
    ensure!(plain.len() == 4, "not all was measured: {plain:?}");
    heading("Offline of 256 MiB that a guest has, a MiB", "instructions   longest     TLBIs");
    for ((name, bytes, cost, longest, _), (.., tlbis)) in plain.iter().zip(&counted) {
        let mib = *bytes as f64 / MIB as f64;
        println!(
            "  {:<42} {:>12.0} {longest:>9.0} {:>9.2}",
            format!("{name}, {} moved", size(*bytes)),
            cost / mib,
            *tlbis as f64 / mib
        );
    }
    for pair in plain.chunks_exact(2) {
        if let [(name, _, cost, ..), (_, _, copy, ..)] = pair {
            println!("  {name:<42} {:>12.2} times copying alone", cost / copy);
        }
    }
    Ok(())
}
