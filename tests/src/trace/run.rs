//! Runs that are traced.

use std::path::Path;
use std::time::Duration;

use crate::artefacts::{KERNEL, linux};
use crate::bundle::Guest;
use crate::ensure;
use crate::failure::Outcome;
use crate::machine::{COMMAND, Plan};
use crate::monitor::wait_until;

const MIB: u64 = 1 << 20;
/// How long memory may take to move.
const MOVE: Duration = Duration::from_secs(240);

/// A machine whose Sluice, another build, writes its trace to `file`.
///
/// # Errors
/// A file is not there.
pub fn traced(name: &str, image: &str, guests: &[Guest], file: &Path) -> Outcome<Plan> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // One of an earlier run is not to be taken for this one's.
    let _ = std::fs::remove_file(file);
    let semihosting = format!("enable=on,target=native,arg=sluice,arg={}", file.display());
    Ok(Plan::with_image(name, image, guests)?.option("-semihosting-config").option(semihosting))
}

/// A Linux guest from its first instruction to its power-off, with memory that comes and goes in each of the ways:
/// balloon, virtio-mem, evacuation of physical memory, a look at what is used.
///
/// # Errors
/// Something goes otherwise than it is to.
pub fn whole_life(name: &str, cpu: &str, file: &Path) -> Outcome {
    let mut guest = linux(KERNEL)?;
    guest.memory = 512 * MIB;
    guest.maximum_memory = Some(1024 * MIB);
    guest.command_line += " memhp_default_state=online_movable";
    let plan = traced(name, "sluice-trace", &[guest], file)?.cpu(cpu).append("when-off=stay");
    let mut machine = plan.start()?;
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
    machine.audit()?;
    let check = machine.command("load check", MOVE)?;
    ensure!(check.contains("load: intact"), "{check}");
    machine.power_off_guest()?;
    machine.control()?.event("off", COMMAND)?;
    // With it goes all that it had, the root table last.
    machine.ask("destroy linux")?;
    machine.control()?.event("destroyed", COMMAND)?;
    wait_until("all frames are free", COMMAND, || {
        let rest = machine.owners_at_rest()?;
        Ok((rest.accounted() == rest.total).then_some(()))
    })?;
    machine.control()?.send("quit")?;
    let status = machine.wait_for_end(COMMAND)?;
    ensure!(status.success(), "QEMU ended with {status}");
    Ok(())
}
