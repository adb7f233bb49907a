//! The guest stub's benchmarks on a machine without Sluice: what they cost a guest of KVM, where the host has one for this
//! code. In time, as KVM counts no instructions; so none of it can be compared with the other benchmarks.

use sluice_tests::accelerator::Accelerator;
use sluice_tests::artefacts::stub;
use sluice_tests::ensure;
use sluice_tests::failure::{Failure, Outcome};
use sluice_tests::machine::Plan;

use crate::{MIB, PATIENCE, heading};

/// What it is called on the command line.
pub const NAME: &str = "peer";

/// Runs all benchmarks that need no hypervisor of ours, and prints nanoseconds an operation.
pub fn peer() -> Outcome {
    let accelerator = Accelerator::of_bare_machines();
    let mut guest = stub("plain bench=all")?;
    guest.vcpus = 2;
    guest.memory = 512 * MIB;
    let mut machine = Plan::bare("bench-peer", &guest)?.start()?;
    let ready = machine.expect(r"stub: ready .* counter of (\d+) Hz", PATIENCE)?;
    let hertz: f64 = ready
        .get(1)
        .and_then(|hertz| hertz.parse().ok())
        .ok_or_else(|| Failure::new("the stub has no counter"))?;
    machine.expect(r"stub: done (\d+) (\d+)\s", PATIENCE)?;
    let said = machine.console.all();
    let measured: Vec<(&str, f64)> =
        said.lines().filter_map(|line| crate::measurement(line, 1e9 / hertz)).collect();
    ensure!(!measured.is_empty(), "the stub measured nothing");
    let what = match accelerator {
        Accelerator::Kvm => "under KVM",
        Accelerator::Tcg => "emulated, which says nothing about any machine",
    };
    heading(&format!("Nanoseconds an operation, {what}"), "");
    for (name, cost) in measured {
        println!("  {name:<42} {cost:>12.1}");
    }
    Ok(())
}
