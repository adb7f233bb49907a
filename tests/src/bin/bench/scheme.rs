//! What the epoch scheme costs: pins, guest exits with and without them, translations and dumps, grace periods beside
//! CPUs that do different things, and what walkers get done while memory is taken away, with pins and under a lock.

use serde_json::Value;
use sluice_tests::artefacts::stub;
use sluice_tests::ensure;
use sluice_tests::failure::{Failure, Outcome};
use sluice_tests::machine::{Machine, Plan};
use sluice_tests::monitor::{number, rows, text};

use crate::{MIB, PATIENCE, heading, line, measurement};

/// A CPU whose counter has a tick an instruction.
const CPU: &str = "cortex-a72,cntfrq=1000000000";
/// How many CPUs there are beside the one that measures.
const OTHERS: [u32; 4] = [1, 2, 4, 8];
/// The exits that are measured with and without pins, and what they are.
const EXITS: [(&str, &str); 6] = [
    ("hypercall", "hypercall"),
    ("gicd-typer", "read of a distributor register"),
    ("virtio-magic", "read of a virtio register"),
    ("fault-block", "fault on fresh memory, a 2 MiB block"),
    ("fault-page", "fault on fresh memory, a 4 KiB page"),
    ("report-block", "reported 2 MiB block"),
];

/// Measures and prints.
pub fn scheme() -> Outcome {
    exits()?;
    let answer = measure(&mut idle(8, 2048 * MIB)?)?;
    operations(&answer)?;
    grace(&answer)?;
    throughput(&answer)
}

fn measure(machine: &mut Machine) -> Outcome<Value> {
    let answer = machine.control()?.ask_within("bench scheme", PATIENCE)?;
    match answer.get("error") {
        Some(error) => Err(Failure::new(format!("the monitor's bench: {error}"))),
        None => Ok(answer),
    }
}

/// A machine whose guest is off, and which has so many CPUs beside the first.
fn idle(others: u32, more: u64) -> Outcome<Machine> {
    let mut guest = stub("test=smccc")?;
    guest.memory = 64 * MIB;
    guest.maximum_memory = Some(guest.memory + more);
    let mut machine = Plan::with_image(&format!("bench-idle-{others}"), "sluice-scheme", &[guest])?
        .cpu(CPU)
        .cpus(others + 1)
        .memory("4G")
        .append("when-off=stay zeroed=3G")
        .counting()
        .start()?;
    machine.control()?.event("off", PATIENCE)?;
    Ok(machine)
}

/// A machine of which so many CPUs beside the first run a guest that never comes out.
fn busy(others: u32) -> Outcome<Machine> {
    let mut guest = stub("test=spin")?;
    guest.vcpus = others;
    guest.cpus = (1..=others).collect();
    guest.memory = 64 * MIB;
    let mut machine = Plan::with_image(&format!("bench-busy-{others}"), "sluice-scheme", &[guest])?
        .cpu(CPU)
        .cpus(others + 1)
        .counting()
        .start()?;
    machine.expect("note spin: ready", PATIENCE)?;
    Ok(machine)
}

/// What exits cost on one CPU, with pins and in a build that leaves them out.
fn exits() -> Outcome {
    let orders: Vec<String> = EXITS.iter().map(|(name, _)| format!("bench={name}")).collect();
    let costs = |image: &str| -> Outcome<Vec<f64>> {
        let mut guest = stub(&orders.join(" "))?;
        guest.vcpus = 1;
        guest.memory = 512 * MIB;
        let mut machine = Plan::with_image(&format!("bench-exits-{image}"), image, &[guest])?
            .cpu(CPU)
            .cpus(1)
            .counting()
            .start()?;
        machine.expect(r"stub: done (\d+) (\d+)\s", PATIENCE)?;
        let said = machine.console.all();
        let measured: Vec<(&str, f64)> =
            said.lines().filter_map(|at| measurement(at, 1.0)).collect();
        EXITS
            .iter()
            .map(|(name, _)| {
                let found = measured.iter().find(|(measured, _)| measured == name);
                found.map(|(_, cost)| *cost).ok_or_else(|| Failure::new(format!("no {name}")))
            })
            .collect()
    };
    let (with, without) = (costs("sluice")?, costs("sluice-no-pin")?);
    heading("Guest exits, instructions", "  with pins    without      pins");
    for ((_, label), (with, without)) in EXITS.iter().zip(with.iter().zip(&without)) {
        println!("  {label:<42} {with:>10.1} {without:>10.1} {:>9.1}", with - without);
    }
    Ok(())
}

/// What one CPU does alone.
fn operations(answer: &Value) -> Outcome {
    heading("Walks by one CPU, instructions", "   measured     wanted");
    let mut empty = 0.0;
    for row in rows(answer, "operations")? {
        let cost = number(row, "ticks")? as f64 / number(row, "count")?.max(1) as f64;
        match text(row, "name")? {
            "empty" => empty = cost,
            name => line(name, cost - empty, if name == "pin and unpin" { 8.0 } else { f64::NAN }),
        }
    }
    Ok(())
}

fn grace(answer: &Value) -> Outcome {
    heading("Grace period, instructions", "       mean    longest");
    let say = |what: &str, rows: &[Value]| -> Outcome {
        ensure!(!rows.is_empty(), "no grace period was measured");
        for row in rows {
            let cpus = number(row, "walkers")?;
            let mean = number(row, "ticks")? as f64 / number(row, "count")?.max(1) as f64;
            let what = if cpus == 0 { what.into() } else { format!("{cpus} {what}") };
            println!("  {what:<42} {mean:>10.1} {:>10}", number(row, "longest")?);
        }
        Ok(())
    };
    for cpus in OTHERS {
        let answer = measure(&mut idle(cpus, 0)?)?;
        say(&format!("{cpus} CPUs idle"), rows(&answer, "grace")?)?;
    }
    for cpus in OTHERS {
        let answer = measure(&mut busy(cpus)?)?;
        say(&format!("{cpus} CPUs busy in a guest"), rows(&answer, "grace")?)?;
    }
    say("CPUs in walks of 64 entries", rows(answer, "grace")?)
}

/// Translations by a walker in 1000 of its instructions.
fn rate(row: &Value) -> Outcome<f64> {
    let spent = number(row, "ticks")? * number(row, "walkers")?;
    Ok(number(row, "translations")? as f64 * 1000.0 / spent.max(1) as f64)
}

fn throughput(answer: &Value) -> Outcome {
    heading(
        "Translations a walker, in 1000 instructions",
        "  alone  beside removals  longest entry  a removal",
    );
    let measured = rows(answer, "throughput")?;
    ensure!(!measured.is_empty(), "no walker was measured");
    for pair in measured.chunks_exact(2) {
        let [alone, beside] = pair else { continue };
        let what = format!(
            "{} walkers, {} translations a {}",
            number(alone, "walkers")?,
            number(alone, "of")?,
            text(alone, "guard")?
        );
        println!(
            "  {what:<42} {:>8.2} {:>16.2} {:>14} {:>10}",
            rate(alone)?,
            rate(beside)?,
            number(beside, "longest_entry")?,
            number(beside, "ticks")? / number(beside, "removed")?.max(1)
        );
    }
    Ok(())
}
