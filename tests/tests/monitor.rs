//! The monitor as a person and as a program uses it.

use std::time::Duration;

use sluice_tests::artefacts::{KERNEL, linux};
use sluice_tests::ensure;
use sluice_tests::failure::Outcome;
use sluice_tests::machine::{COMMAND, Machine, Plan};
use sluice_tests::monitor::{number, rows, text};

/// Ctrl-], which goes from console to console.
const ESCAPE: &str = "\x1d";

fn booted(name: &str) -> Outcome<Machine> {
    let mut machine = Plan::new(name, &[linux(KERNEL)?])?.start()?;
    machine.shell()?;
    Ok(machine)
}

#[test]
fn the_banner_says_what_was_found() -> Outcome {
    let mut machine = Plan::new("banner", &[linux(KERNEL)?])?.start()?;
    machine.expect(r"2 CPUs, 2048 MiB", COMMAND)?;
    machine.expect("GICv3", COMMAND)?;
    machine.expect("console of guest linux; Ctrl-]", COMMAND)?;
    Ok(())
}

#[test]
fn the_escape_key_goes_to_the_monitor_and_back() -> Outcome {
    let mut machine = booted("monitor-keys")?;
    machine.type_text(ESCAPE)?;
    machine.expect("-- monitor", COMMAND)?;
    machine.expect("sluice> ", COMMAND)?;
    machine.type_text("help\r")?;
    for command in
        ["guests", "memory", "balloon", "stats", "tables", "epoch", "audit", "log", "quit"]
    {
        machine.expect(&format!(r"\n{command} "), COMMAND)?;
    }
    machine.type_text("balloon linux\r")?;
    machine.expect(r"usage: balloon <guest> <size>", COMMAND)?;
    machine.type_text("balloon linux 512M\r")?;
    machine.expect(r"target +512 MiB", COMMAND)?;
    machine.type_text("ballon linux 1G\r")?;
    machine.expect("did you mean 'balloon'", COMMAND)?;
    machine.type_text("memorx\x7fy\r")?;
    machine.expect(r"free, zeroed +\d+", COMMAND)?;
    machine.type_text("audit\r")?;
    machine.expect(r"clean +yes", COMMAND)?;
    machine.type_text("guests --json\r")?;
    machine.expect(r#"\{"guests":\[\{"guest":"linux""#, COMMAND)?;
    machine.type_text(ESCAPE)?;
    machine.expect(r"-- console of guest linux; .* --\s*\n", COMMAND)?;
    let said = machine.command("echo back", COMMAND)?;
    ensure!(said == "back", "{said}");
    Ok(())
}

#[test]
fn every_command_answers_programs_with_one_object() -> Outcome {
    let mut machine = booted("monitor-json")?;
    let dump = machine.ask("tables linux")?;
    let runs = rows(&dump, "runs")?;
    ensure!(!runs.is_empty(), "no runs");
    let mut end = 0;
    for run in runs {
        ensure!(number(run, "from")? >= end, "runs overlap: {dump}");
        end = number(run, "to")?;
    }
    let part = machine.ask("tables linux 0x40000000+2M")?;
    ensure!(rows(&part, "runs")?.len() <= runs.len(), "a part is larger than the whole");

    let epoch = machine.ask("epoch")?;
    ensure!(rows(&epoch, "cpus")?.len() == 2, "not two CPUs: {epoch}");
    let log = machine.ask("log 5")?;
    ensure!((1..=5).contains(&rows(&log, "lines")?.len()), "not up to five lines: {log}");
    let level = machine.ask("log level debug")?;
    ensure!(text(&level, "level")?.eq_ignore_ascii_case("debug"), "{level}");
    let help = machine.ask("help")?;
    ensure!(rows(&help, "commands")?.len() >= 10, "{help}");
    machine.ask("counters")?;

    for (wrong, word) in [
        ("ballon", "balloon"),
        ("balloon linux", "size"),
        ("balloon linux 99G", "1 GiB"),
        ("balloon nobody 1G", "nobody"),
        ("tables linux 5-4", "5-4"),
        ("memory please", "please"),
    ] {
        let answer = machine.control()?.ask_any(wrong)?;
        let said = text(&answer, "error")?;
        ensure!(said.contains(word), "{wrong}: no {word:?} in {said:?}");
    }
    let long = "x".repeat(5000);
    text(&machine.control()?.ask_any(&long)?, "error")?;
    machine.ask("audit")?;
    Ok(())
}

#[test]
fn the_log_level_is_set_by_the_command_line() -> Outcome {
    let mut machine = Plan::new("loglevel", &[linux(KERNEL)?])?.append("loglevel=error").start()?;
    machine.shell()?;
    let log = machine.ask("log 50")?;
    for line in rows(&log, "lines")? {
        ensure!(text(line, "level")? == "ERROR", "{line}");
    }
    ensure!(!machine.console.all().contains("MiB of memory"), "the banner was shown");
    Ok(())
}

/// Text that comes faster than the guest reads is kept until it does.
#[test]
fn a_long_line_is_typed_whole() -> Outcome {
    let mut machine = booted("typing")?;
    let text = "0123456789abcdef".repeat(12);
    let said = machine.command(&format!("echo {text}"), Duration::from_secs(60))?;
    ensure!(said == text, "it became {said}");
    Ok(())
}

/// A job's answers come between those of other commands, and it can be ended early.
#[test]
fn a_job_goes_on_while_other_commands_are_answered() -> Outcome {
    let mut machine = booted("monitor-jobs")?;
    machine.resize("linux", 512 << 20, COMMAND)?;
    let control = machine.control()?;
    let job = control.begin("quiesce")?;
    control.ask("memory")?;
    let end = control.end_of(job, COMMAND)?;
    ensure!(end.get("quiet").is_some(), "{end}");
    ensure!(control.ask_any("cancel")?.get("error").is_some(), "there was nothing to cancel");
    let end = control.do_whole("quiesce", COMMAND)?;
    ensure!(end.get("quiet").is_some(), "{end}");
    Ok(())
}
