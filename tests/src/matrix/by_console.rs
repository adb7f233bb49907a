//! What a cell does, on a machine that has no control port: by the monitor on the console.

use std::thread;
use std::time::{Duration, Instant};

use crate::failure::{Failure, Outcome};
use crate::machine::{COMMAND, Machine};

const MIB: u64 = 1 << 20;
const PROMPT: &str = "sluice> ";
/// How long memory may take to move.
const MOVE: Duration = Duration::from_secs(240);

/// Has the guest `linux`, whose shell is shown, give memory and get it back, get `more` and give that back, and go;
/// audits. It has `memory` bytes, less than a GiB in all.
///
/// # Errors
/// What went wrong first.
pub fn moves_memory(machine: &mut Machine, memory: u64, more: u64) -> Outcome {
    machine.type_text("\x1d")?;
    machine.expect(PROMPT, COMMAND)?;
    for target in [memory - more / 2, memory] {
        ask(machine, &format!("balloon linux {}M", target / MIB), "target", COMMAND)?;
        comes_to(machine, &format!(r"linux\s+0\s+on\s+{} MiB\s", target / MIB))?;
    }
    for command in ["plug", "unplug"] {
        ask(machine, &format!("{command} linux {}M", more / MIB), r"whole\s+yes", MOVE)?;
    }
    ask(machine, "audit", r"clean\s+yes", COMMAND)?;
    machine.show("linux")?;
    machine.power_off_guest()?;
    machine.type_text("\x1d")?;
    machine.expect(PROMPT, COMMAND)?;
    comes_to(machine, r"linux\s+0\s+off\s")?;
    ask(machine, "audit", r"clean\s+yes", COMMAND)
}

/// Gives a command, and expects this of its answer.
fn ask(machine: &mut Machine, command: &str, answer: &str, patience: Duration) -> Outcome {
    machine.type_text(&format!("{command}\n"))?;
    let during = |error: Failure| error.during(command);
    machine.expect(answer, patience).map_err(during)?;
    machine.expect(PROMPT, COMMAND).map_err(during)?;
    Ok(())
}

/// Waits until the list of guests has this.
fn comes_to(machine: &mut Machine, wanted: &str) -> Outcome {
    let end = Instant::now() + MOVE;
    while Instant::now() < end {
        machine.type_text("guests\n")?;
        let said = machine.expect(&format!(r"(?s)(guest\s+number.*?){PROMPT}"), COMMAND)?;
        if regex::Regex::new(wanted).is_ok_and(|wanted| wanted.is_match(&said[1])) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(200));
    }
    Err(Failure::new(format!("the guest does not come to {wanted}")))
}
