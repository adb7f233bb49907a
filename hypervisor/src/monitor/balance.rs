//! `balance`: the governor's switch, and what it decided.

use super::parse::Balance;
use super::report::{Column, Report, Value};
use crate::arch::time;
use crate::govern::{self, journal::Entry};
use crate::logger::microseconds;
use crate::system::System;
use alloc::string::String;

/// Does what is asked of the governor.
pub(super) fn balance(system: &'static System, order: Balance, report: &mut Report<'_>) {
    match order {
        Balance::Switch(on) => {
            govern::set_on(on);
            report.value("on", Value::Flag(on));
        }
        Balance::Show => {
            report.value("on", Value::Flag(govern::is_on()));
            report.value("decisions", Value::Number(govern::journal(0, |_| {})));
        }
        Balance::Log(count) => {
            let made = decisions(system, count, report);
            report.value("on", Value::Flag(govern::is_on()));
            report.value("made", Value::Number(made));
        }
    }
}

/// Shows the last `count` decisions, and returns how many there ever were.
pub(super) fn decisions(system: &'static System, count: usize, report: &mut Report<'_>) -> u64 {
    const DECISIONS: &[Column] = &[
        ("number", 6),
        ("ago_ms", 8),
        ("from", 12),
        ("to", 12),
        ("asked", 10),
        ("given", 10),
        ("taken", 10),
        ("outcome", 12),
        ("reason", 0),
    ];
    report.table("decisions", DECISIONS);
    govern::journal(count, |entry| decision(system, entry, report))
}

fn decision(system: &'static System, entry: &Entry, report: &mut Report<'_>) {
    let name = |number: Option<usize>| {
        let found = system.guests().find(|guest| Some(guest.id.index()) == number);
        found.map_or_else(|| String::from("-"), |guest| String::from(guest.name()))
    };
    let (from, to) = (name(entry.decision.from), name(entry.decision.to));
    let outcome = match (entry.progress.over, entry.short) {
        (_, Some(short)) => alloc::format!("{short}"),
        (true, None) => String::from("done"),
        (false, None) => String::from("under way"),
    };
    let reason = alloc::format!("{}", entry.decision.reason);
    report.row(&[
        Value::Number(entry.number),
        Value::Number(microseconds(time::now().saturating_sub(entry.at)) / 1000),
        Value::Text(&from),
        Value::Text(&to),
        Value::Size(entry.decision.bytes),
        Value::Size(entry.progress.given),
        Value::Size(entry.progress.taken),
        Value::Text(&outcome),
        Value::Text(&reason),
    ]);
}
