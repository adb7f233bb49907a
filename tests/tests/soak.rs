//! Much of it, for long: memory that comes and goes on all CPUs while walkers and audits look on.

use std::env;
use std::time::Duration;

use sluice_tests::artefacts::stub;
use sluice_tests::ensure;
use sluice_tests::failure::Outcome;
use sluice_tests::machine::{COMMAND, Machine, Plan};
use sluice_tests::monitor::{number, rows};

const MIB: u64 = 1 << 20;
/// How long the emulator may take for one cycle, and for all that is around them.
const CYCLE: Duration = Duration::from_millis(30);
const AROUND: Duration = Duration::from_secs(180);

/// How many cycles there are; the environment may say another number.
fn cycles() -> u32 {
    env::var("CYCLES").ok().and_then(|cycles| cycles.parse().ok()).unwrap_or(10_000)
}

/// Walks the guest's tables, and sees that no more is retired than may be. Returns how many frames are.
fn look_on(machine: &mut Machine) -> Outcome<u64> {
    let dump = machine.ask("tables stub")?;
    ensure!(!rows(&dump, "runs")?.is_empty(), "the dump is empty");
    let epoch = machine.ask("epoch")?;
    let (most, bound) = (number(&epoch, "most_retired")?, number(&epoch, "retired_bound")?);
    ensure!(most <= bound, "{most} frames were retired, and {bound} may be");
    Ok(most)
}

/// Ranges of mixed sizes are added and removed on 4 vCPUs, against two walkers (dumps and access scans) and the audit.
#[test]
fn memory_comes_and_goes_on_four_cpus_while_walkers_look_on() -> Outcome {
    let cycles = cycles();
    let mut guest = stub(&format!("test=churn cycles={cycles}"))?;
    guest.vcpus = 4;
    guest.memory = 64 * MIB;
    guest.maximum_memory = Some(64 * MIB + 512 * MIB);
    let plan = Plan::new("soak-churn", &[guest])?.cpus(4).memory("1G").append("when-off=stay");
    let mut machine = plan.start()?;
    machine.expect(r"churn: \d+ cycles", AROUND)?;
    machine.ask("audit continuous on")?;
    machine.ask("balance on")?;
    let end = std::time::Instant::now() + AROUND + CYCLE * cycles;
    let mut walks = 0;
    let (said, most) = loop {
        let most = look_on(&mut machine)?;
        walks += 1;
        let pattern = r"churn: (\d+) cycles of (\d+) pages";
        if let Some(said) = machine.console.look_for(pattern, Duration::from_millis(1))? {
            break (said, most);
        }
        let all = machine.console.all();
        let failed = all.lines().find(|line| line.starts_with("fail "));
        ensure!(failed.is_none(), "in the guest: {failed:?}");
        ensure!(
            std::time::Instant::now() < end,
            "it does not come to an end: {:?}",
            machine.ask("top")
        );
    };
    ensure!(said[1].parse::<u32>().is_ok_and(|done| done >= cycles), "{} cycles", said[1]);
    machine.ask("balance off")?;
    let audited = machine.end_continuous_audit(2)?;
    println!("{} cycles of {} pages, {walks} dumps, most retired {most}", said[1], said[2]);
    println!("audited all the while: {audited}");
    machine.control()?.event("off", COMMAND)?;
    machine.audit_at_rest(0)?;
    let owners = machine.owners_at_rest()?;
    ensure!(owners.guest("stub") == 0 && owners.accounted() == owners.total, "left: {owners:?}");
    Ok(())
}
