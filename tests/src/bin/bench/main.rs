//! `make bench`: what things cost, in executed instructions, which are the same on every host.
//!
//! Small operations are measured by the guest stub with the counter that the guest itself has:
//! under `-icount shift=0` an instruction takes 1 ns, and the counter has a tick of 16 ns. Large
//! ones are counted from outside, for the whole machine.

mod hotplug;
mod offline;
mod peer;
mod scheme;

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use sluice_tests::artefacts::{KERNEL, image, linux, stub};
use sluice_tests::bundle::Guest;
use sluice_tests::ensure;
use sluice_tests::failure::{Failure, Outcome};
use sluice_tests::instructions::Instructions;
use sluice_tests::machine::{COMMAND, Plan};
use sluice_tests::monitor::{number, rows, text};
use sluice_tests::timeline::size;

/// Instructions a tick of a counter of 62.5 MHz, at 1 ns an instruction.
const TICK: f64 = 16.0;
const MODELS: [&str; 2] = ["cortex-a72", "max"];
const MIB: u64 = 1 << 20;
/// The emulator is slow when it counts.
const PATIENCE: Duration = Duration::from_secs(900);

/// What the stub measures, what it is, and what it may cost; the others are shown without.
const BUDGETS: [(&str, &str, f64); 7] = [
    ("hypercall", "hypercall, SMCCC_VERSION", 90.0),
    ("gicd-typer", "read of a distributor register", 180.0),
    ("fault-block", "fault on fresh memory, a 2 MiB block", 500.0),
    ("fault-page", "fault on fresh memory, a 4 KiB page", 500.0),
    ("report-block", "reported 2 MiB block", 1000.0),
    ("report-batch", "reported 2 MiB block, 32 at once", 300.0),
    ("balloon-inflate", "inflated page, 256 at once", f64::NAN),
];

fn main() -> ExitCode {
    let parts = [
        ("operations", operations as fn() -> Outcome),
        ("boot", boot),
        ("balloon", balloon),
        ("plug", plug),
        ("memory", memory),
        ("hotplug", hotplug::hotplug),
        ("offline", offline::offline),
        ("scheme", scheme::scheme),
        (peer::NAME, peer::peer),
    ];
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let mut status = ExitCode::SUCCESS;
    for (name, run) in parts {
        // What is in time and not in instructions is for those who ask for it.
        let unasked = wanted.is_empty() && name != peer::NAME;
        if !unasked && !wanted.iter().any(|word| word == name) {
            continue;
        }
        if let Err(error) = run() {
            eprintln!("bench: {name}: {error}");
            status = ExitCode::FAILURE;
        }
    }
    status
}

fn heading(text: &str, columns: &str) {
    println!("\n{text:<44} {columns}");
}

fn line(name: &str, measured: f64, wanted: f64) {
    let wanted_text = if wanted.is_nan() { "-".into() } else { format!("{wanted:.0}") };
    let verdict = if measured > wanted { "  over" } else { "" };
    println!("  {name:<42} {measured:>12.1} {wanted_text:>10}{verdict}");
}

/// Has a stub measure on so many CPUs, and returns what it said.
fn measure(model: &str, orders: &str, cpus: u32) -> Outcome<String> {
    let mut guest = stub(orders)?;
    guest.vcpus = cpus;
    guest.memory = 512 * MIB;
    let plan = Plan::new(&format!("bench-{model}-{cpus}"), &[guest])?.cpu(model).cpus(cpus);
    let mut machine = plan.counting().start()?;
    machine.expect(r"stub: done (\d+) (\d+)\s", PATIENCE)?;
    Ok(machine.console.all())
}

/// Small operations, as the stub measures them from inside. On one CPU: all CPUs' instructions are time for each, and
/// another one would zero meanwhile what the guest has given.
fn operations() -> Outcome {
    for model in MODELS {
        heading(&format!("Instructions an operation, {model}"), "   measured     wanted");
        let alone = measure(model, "bench=all", 1)?;
        let said = alone + &measure(model, "bench=sgi-pair", 2)?;
        let measured: Vec<(&str, f64)> =
            said.lines().filter_map(|said| measurement(said, TICK)).collect();
        ensure!(!measured.is_empty(), "the stub measured nothing");
        let empty =
            measured.iter().find(|(name, _)| *name == "empty").map_or(0.0, |(_, cost)| *cost);
        for (name, cost) in measured.iter().filter(|(name, _)| *name != "empty") {
            let budget = BUDGETS.iter().find(|(known, ..)| known == name);
            let (label, wanted) =
                budget.map_or((*name, f64::NAN), |(_, label, wanted)| (label, *wanted));
            line(label, cost - empty, wanted);
        }
        for skipped in
            said.lines().filter(|line| line.starts_with("skip ") || line.starts_with("fail "))
        {
            println!("  {}", skipped.trim_end());
        }
    }
    within()
}

/// What only the hypervisor can measure, where its monitor has a command for it.
fn within() -> Outcome {
    let mut machine = Plan::new("bench-within", &[stub("test=smccc")?])?
        .append("when-off=stay")
        .counting()
        .start()?;
    let answer = machine.control()?.ask_any("bench operations")?;
    if answer.get("error").is_some() {
        println!("  at EL2 (pin and unpin, guest memory): this build has no command `bench`");
        return Ok(());
    }
    heading("Instructions an operation at EL2, cortex-a72", "   measured     wanted");
    for row in rows(&answer, "benches")? {
        let cost = number(row, "ticks")? as f64 * TICK / number(row, "count")?.max(1) as f64;
        let name = text(row, "name")?;
        line(name, cost, if name.contains("pin") { 8.0 } else { f64::NAN });
    }
    Ok(())
}

/// Reads `bench <name> <iterations> <ticks>` as the name and instructions an operation, of `tick` instructions a tick.
fn measurement(line: &str, tick: f64) -> Option<(&str, f64)> {
    let mut words = line.trim().strip_prefix("bench ")?.split_whitespace();
    let name = words.next()?;
    let iterations: f64 = words.next()?.parse().ok()?;
    let ticks: f64 = words.next()?.parse().ok()?;
    (iterations > 0.0).then_some((name, ticks * tick / iterations))
}

/// One Linux guest as large as the machine that it is compared with.
fn one_vcpu(command_line: &str) -> Outcome<Guest> {
    let mut guest = linux(KERNEL)?;
    guest.vcpus = 1;
    guest.command_line = format!("console=ttyAMA0 {command_line}");
    Ok(guest)
}

/// From power on to the guest's first process and off, all of the machine's instructions.
fn boot() -> Outcome {
    heading("Boot to init, millions of instructions", "     Sluice  bare      ratio  wanted");
    for model in MODELS {
        let guest = one_vcpu("sluice.run=poweroff")?;
        let run = |plan: Plan| -> Outcome<u64> {
            let (plan, count) = Instructions::of(plan.cpu(model).cpus(1))?;
            let mut machine = plan.start()?;
            machine.expect(r"guest: init: Linux", PATIENCE)?;
            machine.wait_for_end(PATIENCE)?;
            count.so_far()
        };
        let bare = run(Plan::bare(&format!("bench-bare-{model}"), &guest)?)? as f64;
        let sluice = run(Plan::new(&format!("bench-boot-{model}"), &[guest])?)? as f64;
        let ratio = sluice / bare;
        println!(
            "  {model:<42} {:>10.1} {:>6.1} {ratio:>9.3}    1.10{}",
            sluice / 1e6,
            bare / 1e6,
            if ratio > 1.10 { "  over" } else { "" }
        );
    }
    Ok(())
}

/// Memory out of a guest that had used it, and back; all of the machine's instructions.
fn balloon() -> Outcome {
    heading("A guest of 1 GiB, millions of instructions", "   measured     wanted");
    let (plan, count) = Instructions::of(Plan::new("bench-balloon", &[one_vcpu("")?])?.cpus(1))?;
    let mut machine = plan.start()?;
    machine.shell()?;
    machine.command("dd if=/dev/zero of=/tmp/big bs=1M count=700 && rm /tmp/big", PATIENCE)?;
    for (what, bytes, wanted) in
        [("shrink by 512 MiB", 512 * MIB, 250.0), ("grow by 512 MiB", 1024 * MIB, 130.0)]
    {
        let before = count.so_far()?;
        machine.set_target("linux", bytes)?;
        // An idle guest's time flies, and its timer ticks count: look often.
        while machine.guest("linux")?.memory != bytes {
            std::thread::sleep(Duration::from_millis(1));
        }
        line(what, (count.so_far()? - before) as f64 / 1e6, wanted);
    }
    machine.power_off_guest()?;
    machine.wait_for_end(COMMAND)?;
    Ok(())
}

/// Memory plugged into a guest and unplugged again; all of the machine's instructions, the guest's own among them.
fn plug() -> Outcome {
    heading("A guest of 512 MiB, millions of instructions", "   measured     wanted");
    let mut guest = one_vcpu("memhp_default_state=online_movable")?;
    guest.memory = 512 * MIB;
    guest.maximum_memory = Some(1536 * MIB);
    let plan = Plan::new("bench-plug", &[guest])?.memory("3G").cpus(1).append("zeroed=2G");
    let (plan, count) = Instructions::of(plan)?;
    let mut machine = plan.start()?;
    machine.shell()?;
    for (what, command) in [("plug 1 GiB", "plug linux 1G"), ("unplug 1 GiB", "unplug linux 1G")] {
        let before = count.so_far()?;
        let end = machine.control()?.do_whole(command, PATIENCE)?;
        ensure!(end.get("whole") == Some(&true.into()), "{command}: {end}");
        line(what, (count.so_far()? - before) as f64 / 1e6, f64::NAN);
    }
    machine.power_off_guest()?;
    machine.wait_for_end(COMMAND)?;
    Ok(())
}

/// What Sluice takes for itself.
fn memory() -> Outcome {
    heading("Memory, KiB", "   measured     wanted");
    for (model, total) in [("2G", 2048 * MIB), ("4G", 4096 * MIB)] {
        let mut machine = Plan::new(&format!("bench-memory-{model}"), &[linux(KERNEL)?])?
            .memory(model)
            .start()?;
        machine.shell()?;
        let owners = machine.owners()?;
        let taken = owners.hypervisor + owners.all_tables();
        let wanted = 2 * MIB + total / 200;
        line(
            &format!("of a machine with {model}, one guest"),
            taken as f64 / 1024.0,
            wanted as f64 / 1024.0,
        );
        println!(
            "    of it {} tables, {} the rest; frames of 16 bytes a record are {}",
            size(owners.all_tables()),
            size(owners.hypervisor),
            size(total / 256)
        );
    }
    let image = fs::metadata(image("sluice")?).map_err(Failure::from)?.len();
    line("the image", image as f64 / 1024.0, 400.0);
    Ok(())
}
