//! Adding memory to a guest and taking it away, by size: instructions, table writes, TLBIs, barriers.

use std::fs;

use sluice_tests::artefacts::{build, stub};
use sluice_tests::curve::{self, Curve};
use sluice_tests::ensure;
use sluice_tests::failure::Outcome;
use sluice_tests::machine::{Machine, Plan};
use sluice_tests::monitor::{number, rows, text};

use crate::{MIB, PATIENCE, TICK, heading};

/// How much is added at most: what the machine has, but for 2 GiB.
const GIB_ADDED: u64 = 16;

/// A machine with nothing to do, and all of its free memory zeroed.
fn machine(image: &str) -> Outcome<Machine> {
    let mut guest = stub("test=smccc")?;
    guest.memory = 64 * MIB;
    guest.maximum_memory = Some((GIB_ADDED << 30) + 64 * MIB);
    let mut machine = Plan::with_image(&format!("bench-{image}"), image, &[guest])?
        .cpus(1)
        .memory(&format!("{}G", GIB_ADDED + 2))
        .append(&format!("when-off=stay zeroed={}G", GIB_ADDED + 1))
        .counting()
        .start()?;
    machine.control()?.event("off", PATIENCE)?;
    Ok(machine)
}

/// One operation on one size, mapped in one way.
struct Row {
    operation: String,
    mapped: String,
    bytes: u64,
    instructions: f64,
    longest: f64,
    steps: u64,
    events: [u64; 3],
}

fn measure(image: &str) -> Outcome<Vec<Row>> {
    let mut machine = machine(image)?;
    let answer = machine.control()?.ask_within("bench hotplug", PATIENCE)?;
    rows(&answer, "hotplug")?
        .iter()
        .map(|row| {
            Ok(Row {
                operation: text(row, "operation")?.into(),
                mapped: text(row, "mapped")?.into(),
                bytes: number(row, "bytes")?,
                instructions: number(row, "ticks")? as f64 * TICK,
                longest: number(row, "longest")? as f64 * TICK,
                steps: number(row, "steps")?,
                events: [number(row, "writes")?, number(row, "tlbis")?, number(row, "barriers")?],
            })
        })
        .collect()
}

/// Measures, prints and draws.
pub fn hotplug() -> Outcome {
    let plain = measure("sluice")?;
    let counted = measure("sluice-tally")?;
    ensure!(!plain.is_empty(), "nothing was measured");
    heading(
        "Hot-add and hot-remove, zeroed frames ready",
        "instructions  longest  steps  writes  TLBIs  barriers",
    );
    let mut curves: Vec<Curve> = Vec::new();
    for (row, count) in plain.iter().zip(&counted) {
        let [writes, tlbis, barriers] = count.events;
        let what = format!("{} {}", row.operation, row.mapped);
        println!(
            "  {:<42} {:>14.0} {:>8.0} {:>6} {writes:>7} {tlbis:>6} {barriers:>9}",
            format!("{what}, {}", curve::size(row.bytes)),
            row.instructions,
            row.longest,
            row.steps
        );
        let point = (row.bytes, row.instructions);
        match curves.iter_mut().find(|curve| curve.name == what) {
            Some(curve) => curve.points.push(point),
            None => curves.push(Curve { name: what, points: vec![point] }),
        }
    }
    let path = build().join("hotplug.svg");
    let unit = "instructions under -icount, cortex-a72; remove: until no CPU reaches it";
    fs::write(&path, curve::draw("Hot-add and hot-remove by size", unit, &curves))?;
    println!("  curves: {}", path.display());
    Ok(())
}
