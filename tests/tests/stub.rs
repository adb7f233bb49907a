//! The guest stub's own tests under Sluice: what Linux cannot show quickly and exactly.

use std::time::Duration;

use sluice_tests::artefacts::stub;
use sluice_tests::ensure;
use sluice_tests::failure::{Failure, Outcome};
use sluice_tests::machine::{COMMAND, Plan};

const PATIENCE: Duration = Duration::from_secs(900);

/// What the stub said of its tests.
struct Report {
    passed: Vec<String>,
    failed: Vec<String>,
}

/// Runs the stub with these orders under an image of Sluice.
fn run(name: &str, image: &str, orders: &str, vcpus: u32, model: &str) -> Outcome<Report> {
    let mut guest = stub(orders)?;
    guest.vcpus = vcpus;
    guest.memory = 512 << 20;
    let mut machine =
        Plan::with_image(name, image, &[guest])?.cpu(model).cpus(vcpus.max(2)).start()?;
    machine.expect(r"stub: ready", PATIENCE)?;
    machine.expect(r"stub: done (\d+) (\d+)", PATIENCE)?;
    machine.wait_for_end(COMMAND)?;
    let said = machine.console.all();
    let lines = |word: &str| -> Vec<String> {
        said.lines().filter_map(|line| line.trim().strip_prefix(word)).map(str::to_owned).collect()
    };
    Ok(Report { passed: lines("pass "), failed: lines("fail ") })
}

fn all_pass(name: &str, orders: &str, vcpus: u32, model: &str) -> Outcome {
    let report = run(name, "sluice", orders, vcpus, model)?;
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
