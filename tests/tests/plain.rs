//! The guest stub on a machine without Sluice: what it asks of Sluice, the machine itself must do as well. Under KVM if
//! `SLUICE_EL1` says so (`make ci`).

use std::time::Duration;

use sluice_tests::artefacts::stub;
use sluice_tests::ensure;
use sluice_tests::failure::Outcome;
use sluice_tests::machine::{COMMAND, Plan};

const PATIENCE: Duration = Duration::from_secs(900);

#[test]
fn what_is_asked_of_sluice_holds_on_the_machine_itself() -> Outcome {
    let mut guest = stub("plain test=all")?;
    guest.vcpus = 4;
    guest.memory = 512 << 20;
    let mut machine = Plan::bare("plain", &guest)?.start()?;
    machine.expect(r"stub: ready .*entered at EL1", PATIENCE)?;
    machine.expect(r"stub: done (\d+) (\d+)\s", PATIENCE)?;
    let status = machine.wait_for_end(COMMAND)?;
    ensure!(status.success(), "QEMU ended with {status}");
    let said = machine.console.all();
    let lines = |word: &str| -> Vec<&str> {
        said.lines().map(str::trim).filter(|line| line.starts_with(word)).collect()
    };
    let failed = lines("fail ");
    ensure!(failed.is_empty(), "failed:\n  {}", failed.join("\n  "));
    // A machine without SMP, interrupts or timers would pass what is left.
    for group in ["psci", "gic", "timer", "float", "uart", "memory", "hostile"] {
        let name = format!("pass {group}-");
        ensure!(said.contains(&name), "nothing of {group} passed");
    }
    Ok(())
}
