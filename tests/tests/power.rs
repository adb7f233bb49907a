//! Guests and machines that start, start anew, and end.

use std::time::Duration;

use sluice_tests::artefacts::{KERNEL, linux, stub};
use sluice_tests::bundle::Population;
use sluice_tests::ensure;
use sluice_tests::failure::Outcome;
use sluice_tests::machine::{BOOT, COMMAND, Plan};
use sluice_tests::monitor::{FRAME, wait_until};

#[test]
fn a_guest_that_resets_itself_boots_again() -> Outcome {
    let mut machine = Plan::new("reset", &[linux(KERNEL)?])?.start()?;
    machine.shell()?;
    machine.command("touch /tmp/before", COMMAND)?;
    machine.type_text("reboot\n")?;
    machine.control()?.event("reset", COMMAND)?;
    machine.shell()?;
    let (_, status) = machine.command_with_status("test -e /tmp/before", COMMAND)?;
    ensure!(status != 0, "the guest remembers its former life");
    machine.audit()?;

    machine.ask("reset linux")?;
    machine.shell()?;
    machine.audit()?;
    Ok(())
}

#[test]
fn a_guest_that_goes_off_gives_every_frame_back() -> Outcome {
    let mut guest = linux(KERNEL)?;
    guest.population = Population::Eager;
    let mut machine = Plan::new("off", &[guest])?.append("when-off=stay").start()?;
    machine.shell()?;
    machine.power_off_guest()?;
    machine.control()?.event("off", COMMAND)?;
    let after = machine.owners_at_rest()?;
    // A guest that could be started again has its empty root table, and nothing else.
    ensure!(after.guest("linux") == 0 && after.all_tables() <= FRAME, "it keeps {after:?}");
    ensure!(after.accounted() == after.total, "lost: {after:?}");
    machine.audit_at_rest(0)?;

    machine.ask("start linux")?;
    machine.shell()?;
    machine.ask("off linux")?;
    machine.control()?.event("off", COMMAND)?;
    let again = machine.owners_at_rest()?;
    ensure!(again.free == after.free, "free were {}, are {}", after.free, again.free);
    Ok(())
}

#[test]
fn the_machine_ends_with_its_last_guest() -> Outcome {
    let mut machine = Plan::new("end", &[linux(KERNEL)?])?.start()?;
    machine.shell()?;
    machine.power_off_guest()?;
    machine.control()?.event("end", COMMAND)?;
    let status = machine.wait_for_end(COMMAND)?;
    ensure!(status.success(), "QEMU ended with {status}");
    Ok(())
}

#[test]
fn quit_ends_the_machine_while_guests_run() -> Outcome {
    let mut machine = Plan::new("quit", &[linux(KERNEL)?])?.start()?;
    machine.shell()?;
    machine.control()?.send("quit")?;
    let status = machine.wait_for_end(COMMAND)?;
    ensure!(status.success(), "QEMU ended with {status}");
    Ok(())
}

#[test]
fn an_eager_guest_owns_its_memory_before_it_runs() -> Outcome {
    let mut guest = stub("test=smccc")?;
    guest.population = Population::Eager;
    guest.memory = 256 << 20;
    let mut machine = Plan::new("eager", &[guest])?.append("when-off=stay").start()?;
    machine.expect("stub: ready", BOOT)?;
    let owned = machine.owners()?.guest("stub");
    ensure!(owned == 256 << 20 || owned == 0, "it owns {owned} bytes");
    Ok(())
}

#[test]
fn two_guests_run_side_by_side() -> Outcome {
    let mut first = linux(KERNEL)?;
    first.name = "first".into();
    first.memory = 512 << 20;
    let mut second = first.clone();
    second.name = "second".into();
    second.command_line = "console=ttyAMA0 sluice.run=poweroff".into();
    let mut machine = Plan::new("two", &[first, second])?.start()?;
    machine.shell()?;
    wait_until("the second goes off", BOOT, || Ok((!machine.guest("second")?.on).then_some(())))?;
    ensure!(machine.guest("first")?.on, "the first went with it");
    let answer = machine.command("echo still here", COMMAND)?;
    ensure!(answer == "still here", "{answer}");
    machine.audit()?;
    Ok(())
}

/// A guest that is idle leaves the host's CPUs alone: WFI gives the CPU up.
#[test]
fn an_idle_guest_leaves_the_cpu() -> Outcome {
    let mut machine = Plan::new("idle", &[linux(KERNEL)?])?.start()?;
    machine.shell()?;
    let used = |process: u32| -> Outcome<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        // User and system time in ticks of 10 ms (proc(5)), counted behind the name.
        let ticks: u64 = fields[11..13].iter().filter_map(|field| field.parse::<u64>().ok()).sum();
        Ok(Duration::from_millis(ticks * 10))
    };
    machine.command("sleep 3", COMMAND)?;
    let before = used(machine.process_id())?;
    machine.command("sleep 4", COMMAND)?;
    let spent = used(machine.process_id())?.saturating_sub(before);
    ensure!(spent < Duration::from_secs(3), "it used {spent:?} of the host's CPUs in 4 s of sleep");
    Ok(())
}

/// Each way to end at EL2 tells where, shows the registers and the last events, and ends the machine
/// with a word that a program sees.
#[test]
fn a_crash_at_el2_says_where_and_ends_the_machine() -> Outcome {
    for (how, says) in [
        ("panic", r"panic on CPU 0: asked for by the monitor \(hypervisor/src/monitor/faults.rs:"),
        ("fault", r"panic on CPU 0: data abort at 0x[0-9a-f]+, address 0x10"),
        ("stack", r"panic on CPU 0: data abort at 0x[0-9a-f]+, address 0x[0-9a-f]+"),
    ] {
        let name = format!("crash-{how}");
        let mut machine = Plan::with_image(&name, "sluice-no-tlbi", &[linux(KERNEL)?])?.start()?;
        machine.shell()?;
        machine.control()?.send(&format!("crash {how}"))?;
        machine.expect(says, COMMAND)?;
        if how != "panic" {
            machine.expect(r"x0 +0x[0-9a-f]{16}", COMMAND)?;
            machine.expect(r"sp +0x[0-9a-f]{16} +pc +0x[0-9a-f]{16}", COMMAND)?;
        }
        machine.expect(r"(?s)the last events:.*2 CPUs", COMMAND)?;
        machine.expect("sluice: exit status 1", COMMAND)?;
        machine.control()?.event("panic", COMMAND)?;
        machine.wait_for_end(COMMAND)?;
    }
    Ok(())
}
