//! `audit`, once and for ever.

use super::report::{Column, Report, Value};
use crate::addr::PAGE_SIZE;
use crate::arch::time;
use crate::audit::{self, switch};
use crate::guest::Guest;
use crate::spec;
use crate::stage2::Space;
use crate::system::System;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Compares the frame table with all tables of all guests.
pub(super) fn audit(system: &'static System, report: &mut Report<'_>) {
    let guests: Vec<Arc<Guest>> = system.guests().collect();
    let spaces: Vec<&Space<'_>> = guests.iter().map(|guest| &guest.space).collect();
    let found = audit::audit(system.memory(), &spaces);
    spaces.iter().for_each(|space| spec::compare_whole(space));
    let lost = system.memory().counts().in_hand();
    report.value("clean", Value::Flag(found.is_clean()));
    say(&found, report);
    report.value("in_hand", Value::Number(lost));
    findings(&found, report);
}

/// Turns the continuous audit on or off, if that is asked for, and says how it is.
pub(super) fn continuous(system: &'static System, on: Option<bool>, report: &mut Report<'_>) {
    if let Some(on) = on {
        switch::set_on(system, on);
    }
    let Some(status) = switch::status() else {
        report.value("on", Value::Flag(false));
        return;
    };
    let a_second = |count: u64| {
        let frequency = u128::from(time::frequency());
        (u128::from(count) * frequency / u128::from(status.ticks.max(1))) as u64
    };
    report.value("on", Value::Flag(status.on));
    report.value("clean", Value::Flag(status.report.is_clean()));
    report.value("rounds", Value::Number(status.rounds));
    report.value("frames", Value::Number(status.frames));
    report.value("frames_a_second", Value::Number(a_second(status.frames)));
    report.value("bytes_a_second", Value::Size(a_second(status.frames).saturating_mul(PAGE_SIZE)));
    say(&status.report, report);
    findings(&status.report, report);
}

fn say(found: &audit::Report, report: &mut Report<'_>) {
    report.value("leaves", Value::Number(found.leaves));
    report.value("tables", Value::Number(found.tables));
    report.value("blocks", Value::Number(found.blocks));
    report.value("suspected", Value::Number(found.suspected));
    report.value("unsettled", Value::Number(found.unsettled));
    report.value("guests_counted", Value::Number(found.counted));
}

fn findings(found: &audit::Report, report: &mut Report<'_>) {
    const FINDINGS: &[Column] = &[("finding", 0)];
    report.value("findings", Value::Number(found.findings));
    report.table("first", FINDINGS);
    for finding in found.first.iter().flatten() {
        let text = alloc::format!("{finding:?}");
        report.row(&[Value::Text(&text)]);
    }
}
