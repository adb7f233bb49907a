//! The guest stub's own tests under Sluice: what Linux cannot show quickly and exactly.

use std::time::Duration;

use sluice_tests::artefacts::stub;
use sluice_tests::ensure;
use sluice_tests::failure::{Failure, Outcome};
use sluice_tests::machine::{COMMAND, Plan};
use sluice_tests::monitor::{number, wait_until};

const PATIENCE: Duration = Duration::from_secs(900);

/// What the stub may plug at most, and what it is asked to.
const PLUGGABLE: u64 = 256 * MIB;
const PLUGGED: u64 = 64 * MIB;
/// What the memory device plugs as one.
const BLOCK: u64 = 2 * MIB;
const MIB: u64 = 1 << 20;

/// What the stub said of its tests.
struct Report {
    passed: Vec<String>,
    failed: Vec<String>,
}

/// Runs the stub with these orders under an image of Sluice.
fn run(name: &str, image: &str, orders: &str, vcpus: u32, model: &str) -> Outcome<Report> {
    run_on(name, image, orders, vcpus, model, "virt,virtualization=on,gic-version=3")
}

/// The same on another machine.
fn run_on(
    name: &str,
    image: &str,
    orders: &str,
    vcpus: u32,
    model: &str,
    board: &str,
) -> Outcome<Report> {
    let mut guest = stub(orders)?;
    guest.vcpus = vcpus;
    guest.memory = 512 << 20;
    guest.maximum_memory = Some(guest.memory + PLUGGABLE);
    guest.held = true;
    let plan = Plan::with_image(name, image, &[guest])?.board(board).cpu(model);
    let mut machine = plan.cpus(vcpus.max(2)).start()?;
    // The control port is there before the guests are.
    wait_until("the guest is made", COMMAND, || {
        Ok(machine.ask("guests")?.to_string().contains("\"stub\"").then_some(()))
    })?;
    machine.ask(&format!("plug stub {}M", PLUGGED / MIB))?;
    machine.ask("start stub")?;
    machine.expect(r"stub: ready", PATIENCE)?;
    machine.expect(r"stub: done (\d+) (\d+)\s", PATIENCE)?;
    machine.wait_for_end(COMMAND)?;
    let said = machine.console.all();
    let lines = |word: &str| -> Vec<String> {
        said.lines().filter_map(|line| line.trim().strip_prefix(word)).map(str::to_owned).collect()
    };
    Ok(Report { passed: lines("pass "), failed: lines("fail ") })
}

fn all_pass(name: &str, orders: &str, vcpus: u32, model: &str) -> Outcome {
    passed(&run(name, "sluice", orders, vcpus, model)?)
}

fn passed(report: &Report) -> Outcome {
    ensure!(report.failed.is_empty(), "failed in the guest:\n  {}", report.failed.join("\n  "));
    ensure!(!report.passed.is_empty(), "the stub did nothing");
    println!("{} passed in the guest", report.passed.len());
    Ok(())
}

#[test]
fn everything_holds_on_one_vcpu() -> Outcome {
    all_pass("stub-1", "test=all", 1, "cortex-a72")
}

#[test]
fn everything_holds_on_four_vcpus() -> Outcome {
    all_pass("stub-4", "test=all", 4, "cortex-a72")
}

#[test]
fn everything_holds_with_a_gicv2() -> Outcome {
    // With one vCPU it is the GIC alone that differs.
    for (vcpus, orders) in [(1, "test=gic"), (4, "test=all")] {
        let name = format!("stub-gicv2-{vcpus}");
        passed(&run_on(
            &name,
            "sluice",
            orders,
            vcpus,
            "cortex-a72",
            "virt,virtualization=on,gic-version=2",
        )?)?;
    }
    Ok(())
}

#[test]
fn everything_holds_on_an_early_cpu_and_on_one_with_all_features() -> Outcome {
    for model in ["cortex-a53", "max"] {
        all_pass(&format!("stub-{model}"), "test=all", 2, model)
            .map_err(|error| error.during(model))?;
    }
    Ok(())
}

/// Four vCPUs hammer a page while it is given up: none reaches it afterwards.
#[test]
fn no_stale_translation_survives_an_inflate() -> Outcome {
    all_pass("stub-hammer", "test=hammer", 4, "cortex-a72")
}

/// A plugged block is hammered while it is unplugged, and the memory device is told what makes no sense.
#[test]
fn unplugged_memory_is_out_of_reach() -> Outcome {
    let orders = "test=plug test=hammer-plugged test=hostile-blocks test=hostile-block \
                  test=hostile-unplugged rounds=100";
    all_pass("stub-plug", orders, 4, "cortex-a72")
}

/// A driver follows what the host wants, and keeps what it cannot spare, which the host is told.
#[test]
fn a_driver_follows_what_the_host_wants() -> Outcome {
    let mut guest = stub("test=plug-follow seconds=600 keep=3")?;
    guest.memory = 64 << 20;
    guest.maximum_memory = Some(guest.memory + PLUGGABLE);
    let mut machine = Plan::new("stub-follow", &[guest])?.append("when-off=stay").start()?;
    machine.expect(r"note plug-follow: ready", PATIENCE)?;
    let end = machine.control()?.do_whole("plug stub 32M", COMMAND)?;
    ensure!(end.get("whole") == Some(&true.into()), "plug: {end}");
    machine.expect(r"note plug-follow: 32 MiB plugged", COMMAND)?;
    let end = machine.control()?.do_whole("unplug stub 32M", COMMAND)?;
    ensure!(end.get("whole") == Some(&false.into()), "unplug: {end}");
    ensure!(number(&end, "left")? == 3 * BLOCK, "unplug: {end}");
    machine.audit()?;
    // It may have again what it was asked to give back.
    let end = machine.control()?.do_whole("plug stub 64M", COMMAND)?;
    ensure!(number(&end, "plugged")? == 64 * MIB + 3 * BLOCK, "plug: {end}");
    machine.ask("off stub")?;
    machine.control()?.event("off", COMMAND)?;
    let after = machine.owners_at_rest()?;
    ensure!(after.guest("stub") == 0, "it is off and owns {} bytes", after.guest("stub"));
    ensure!(after.accounted() == after.total, "lost: {after:?}");
    Ok(())
}

/// The same with the TLB maintenance left out: the hammering must notice.
#[test]
fn without_the_tlbi_stale_translations_are_caught() -> Outcome {
    let report = match run("stub-no-tlbi", "sluice-no-tlbi", "test=hammer", 4, "cortex-a72") {
        Ok(report) => report,
        // It may as well be the hypervisor that notices, or the guest that breaks.
        Err(error) if error.to_string().contains("panic") => return Ok(()),
        Err(error) => return Err(error),
    };
    if report.failed.is_empty() {
        return Err(Failure::new(format!("unnoticed; passed: {:?}", report.passed)));
    }
    Ok(())
}
