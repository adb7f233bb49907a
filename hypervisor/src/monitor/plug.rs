//! `plug` and `unplug`: a guest's memory device is to have more, or less.

use super::job::{Job, Step};
use super::lifecycle;
use super::report::{Report, Value};
use crate::arch::time;
use crate::guest::Guest;
use crate::system::System;
use alloc::boxed::Box;
use alloc::sync::Arc;

/// How often it is looked at, in parts of a second.
const LOOKS_A_SECOND: u64 = 20;
/// For how long a guest may do nothing before it is taken to refuse, in seconds.
const PATIENCE: u64 = 20;
/// After how many seconds of nothing it is reminded, again and again. A Linux guest that finds what it was to give up in
/// use would try again after 50 seconds only.
const REMINDER: u64 = 6;

/// Moves the size of a guest's plugged memory to a target.
pub(super) struct Plug {
    guest: Arc<Guest>,
    began_at: u64,
    target: u64,
    seen: u64,
    /// When the guest did something last, in ticks.
    moved: u64,
    /// How often it was reminded since.
    reminders: u64,
}

/// Sets the target of `guest` to `bytes` more, or less where `unplug`; returns the job that waits for the guest.
pub(super) fn plug(
    system: &'static System,
    guest: Arc<Guest>,
    bytes: u64,
    unplug: bool,
    report: &mut Report<'_>,
) -> Option<Box<dyn Job>> {
    let usage = if unplug { ("unplug", "<guest> <size>") } else { ("plug", "<guest> <size>") };
    let (now, block, limit) = (guest.plugged(), guest.plug_block(), guest.plug_limit());
    if limit == 0 {
        report.error(
            format_args!(
                "guest {} cannot have more than it starts with: give it a 'maximum-memory' in the manifest",
                guest.name()
            ),
            Some(usage),
        );
        return None;
    }
    let wrong = if bytes == 0 || !bytes.is_multiple_of(block) {
        Some("whole blocks are plugged")
    } else if unplug && bytes > now {
        Some("less is plugged")
    } else if !unplug && bytes > limit - now {
        Some("less can be plugged")
    } else {
        None
    };
    if let Some(why) = wrong {
        report.error(
            format_args!(
                "{why}: guest {} has {} of {} plugged, in blocks of {}",
                guest.name(),
                Value::Size(now),
                Value::Size(limit),
                Value::Size(block)
            ),
            Some(usage),
        );
        return None;
    }
    if !unplug && !lifecycle::may_have(system, &guest, bytes, report) {
        return None;
    }
    let target = if unplug { now - bytes } else { now + bytes };
    let driver = guest.set_plug_target(system, target);
    report.value("target", Value::Size(target));
    report.value("plugged", Value::Size(now));
    report.value("driver", Value::Flag(driver));
    if !driver {
        report.remark(format_args!(
            "the guest has no driver for its memory device yet; it will see the target when it has"
        ));
        return None;
    }
    Some(Box::new(Plug {
        guest,
        began_at: now,
        target,
        seen: now,
        moved: time::now(),
        reminders: 0,
    }))
}

impl Job for Plug {
    fn step(&mut self, system: &'static System, report: &mut Report<'_>) -> Step {
        let (plugged, now) = (self.guest.plugged(), time::now());
        let end = |report: &mut Report<'_>, whole: bool| {
            report.value("plugged", Value::Size(plugged));
            report.value("moved", Value::Size(plugged.abs_diff(self.began_at)));
            report.value("left", Value::Size(plugged.abs_diff(self.target)));
            report.value("whole", Value::Flag(whole));
        };
        if plugged == self.target {
            end(report, true);
            return Step::Done;
        }
        if plugged != self.seen {
            (self.seen, self.moved, self.reminders) = (plugged, now, 0);
            report.value("plugged", Value::Size(plugged));
        } else if !self.guest.is_on() {
            report.error(format_args!("guest {} is off", self.guest.name()), None);
            return Step::Done;
        } else if now.saturating_sub(self.moved) > PATIENCE * time::frequency() {
            end(report, false);
            report.remark(format_args!(
                "the guest has done no more for {PATIENCE} s: it cannot spare the rest, or has no room in its tables; \
                 its target stays, and it goes on when it can"
            ));
            return Step::Done;
        } else if now.saturating_sub(self.moved)
            > (self.reminders + 1) * REMINDER * time::frequency()
        {
            self.reminders += 1;
            self.guest.remind_of_plug_target(system);
        }
        Step::At(now + time::frequency() / LOOKS_A_SECOND)
    }

    fn cancel(&mut self, system: &'static System, report: &mut Report<'_>) {
        // Where it has come to is where it is to stay.
        let plugged = self.guest.plugged();
        self.guest.set_plug_target(system, plugged);
        report.value("plugged", Value::Size(plugged));
        report.value("moved", Value::Size(plugged.abs_diff(self.began_at)));
    }
}
