//! A Sluice that compares its guests' tables with the executable specification, whatever is done to them.

use std::time::Duration;

use sluice_tests::artefacts::{KERNEL, linux, stub};
use sluice_tests::ensure;
use sluice_tests::failure::Outcome;
use sluice_tests::machine::{BOOT, COMMAND, Plan};

const MIB: u64 = 1 << 20;
/// How long memory may take to move.
const MOVE: Duration = Duration::from_secs(240);
/// What the log says of the first difference.
const DIFFERENCE: &str = "specification: guest";

/// Linux boots, balloons, plugs in and out, has its memory moved under load, and ends: at no time do its tables say
/// anything but what the specification does.
#[test]
fn a_whole_life_of_a_linux_guest_is_as_specified() -> Outcome {
    let mut guest = linux(KERNEL)?;
    guest.memory = 512 * MIB;
    guest.maximum_memory = Some(1024 * MIB);
    guest.command_line += " memhp_default_state=online_movable";
    let plan = Plan::with_image("checking-linux", "sluice-checking", &[guest])?;
    let mut machine = plan.append("when-off=stay").start()?;
    machine.shell()?;
    machine.command("load start 64", MOVE)?;
    machine.resize("linux", 256 * MIB, MOVE)?;
    machine.resize("linux", 512 * MIB, MOVE)?;
    for command in ["plug linux 512M", "unplug linux 512M", "plug linux 128M"] {
        machine.control()?.do_whole(command, MOVE)?;
    }
    for command in ["offline 0xa0000000+256M", "online 0xa0000000+256M"] {
        machine.control()?.do_whole(command, MOVE)?;
    }
    let check = machine.command("load check", MOVE)?;
    ensure!(check.contains("load: intact"), "{check}");
    machine.audit()?;
    machine.power_off_guest()?;
    machine.control()?.event("off", COMMAND)?;
    machine.ask("destroy linux")?;
    machine.control()?.event("destroyed", COMMAND)?;
    let said = machine.console.all();
    ensure!(!said.contains(DIFFERENCE), "there is a difference:\n{said}");
    let log = machine.ask("log 50")?.to_string();
    ensure!(
        log.contains(" operations, 0 differences"),
        "there is a difference, or nothing was compared: {log}"
    );
    ensure!(log.contains("all of guest 0 is as specified"), "it was not compared whole: {log}");
    println!("{log}");
    Ok(())
}

/// One page in 512 is marked wrongly as a guest gives it up: that is told, with the page and the operation.
#[test]
fn a_seeded_difference_is_told_in_words() -> Outcome {
    let guests = [stub("test=balloon")?];
    let plan = Plan::with_image("checking-seeded", "sluice-seeded-difference", &guests)?;
    let mut machine = plan.append("when-off=stay").start()?;
    let told = "specification: guest 0: after pages were taken: 0x[0-9a-f_]+ff000 is empty; by the \
                specification it is ballooned";
    machine.console.expect(told, BOOT)?;
    Ok(())
}
