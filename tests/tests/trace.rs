//! Whole runs, traced and checked; and runs of builds with a mistake, whose traces must not pass.

use std::path::PathBuf;

use sluice_tests::artefacts::{build, stub};
use sluice_tests::ensure;
use sluice_tests::failure::Outcome;
use sluice_tests::machine::BOOT;
use sluice_tests::trace::check::{Report, Rule, check};
use sluice_tests::trace::{Trace, casemate, run};

fn file(name: &str) -> PathBuf {
    build().join("trace").join(format!("{name}.trace"))
}

fn checked(name: &str) -> Outcome<Report> {
    Ok(check(&Trace::read(&file(name))?))
}

/// The main job: everything that is done to a Linux guest, by both ways of invalidating.
#[test]
fn a_whole_life_of_a_linux_guest_keeps_every_rule() -> Outcome {
    for cpu in ["cortex-a72", "max"] {
        let name = format!("life-{cpu}");
        run::whole_life(&format!("trace-{name}"), cpu, &file(&name))?;
        let report = checked(&name)?;
        println!("{cpu}: {report}");
        ensure!(report.violations.is_empty(), "{cpu}: {:#?}", report.violations);
        ensure!(report.flushed > 1000 && report.frames[2] > 100_000, "{cpu}: {report}");
        rendering_is_whole(&Trace::read(&file(&name))?)?;
    }
    Ok(())
}

/// The rendering for Casemate has every kind of transition, one a line.
fn rendering_is_whole(trace: &Trace) -> Outcome {
    let mut out = Vec::new();
    let rendered = casemate::render(trace, &mut out)?;
    let text = String::from_utf8_lossy(&out);
    ensure!(rendered.transitions == text.lines().count() as u64, "one a line");
    for wanted in [
        "(mem-init ",
        "(mem-write ",
        "(mem-free ",
        "(barrier ",
        "(tlbi ",
        "(sysreg-write ",
        "(lock ",
        "(unlock ",
        "(kind set_root_lock)",
        "(kind set_owner_root)",
        "(kind release_table)",
    ] {
        ensure!(text.contains(wanted), "there is no {wanted}");
    }
    Ok(())
}

/// What host tests of tables and frames, threads for CPUs, have done to the arch twin.
#[test]
fn the_host_keeps_every_rule() -> Outcome {
    for name in ["host-operations", "host-threads"] {
        let report = checked(name)?;
        println!("{name}: {report}");
        ensure!(report.violations.is_empty(), "{name}: {:#?}", report.violations);
        ensure!(report.flushed > 100 && report.frames[2] > 1000, "{name}: {report}");
    }
    Ok(())
}

/// A build without TLBIs, grace periods and zeroing: its trace tells of each.
#[test]
fn a_build_with_mistakes_is_caught() -> Outcome {
    let (name, guest) = ("wrong", stub("test=balloon")?);
    let plan = run::traced("trace-wrong", "sluice-trace-wrong", &[guest], &file(name))?;
    let mut machine = plan.start()?;
    // How the guest fares does not matter.
    machine.wait_for_end(BOOT)?;
    let report = checked(name)?;
    for rule in [Rule::FlushedBeforeUnlock, Rule::TwoEpochs, Rule::Zeroed] {
        let found = report.violations.iter().any(|one| one.rule == rule);
        ensure!(found, "{rule:?} is not broken: {report} {:#?}", report.violations);
    }
    Ok(())
}
