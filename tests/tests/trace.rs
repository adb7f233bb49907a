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

/// The run of a build with a mistake must break this rule.
fn is_caught(image: &str, rule: Rule) -> Outcome {
    let plan = run::traced(image, image, &[stub("test=balloon")?], &file(image))?;
    let mut machine = plan.start()?;
    // How the guest fares does not matter.
    machine.wait_for_end(BOOT)?;
    let report = checked(image)?;
    let found = report.violations.iter().any(|one| one.rule == rule);
    ensure!(found, "{image}: {rule:?} is not broken: {report} {:#?}", report.violations);
    Ok(())
}

#[test]
fn a_build_without_tlbis_is_caught() -> Outcome {
    is_caught("sluice-trace-no-tlbi", Rule::FlushedBeforeUnlock)
}

#[test]
fn a_build_without_grace_periods_is_caught() -> Outcome {
    is_caught("sluice-trace-no-grace", Rule::TwoEpochs)
}

#[test]
fn a_build_without_zeroing_is_caught() -> Outcome {
    is_caught("sluice-trace-no-scrub", Rule::Zeroed)
}
