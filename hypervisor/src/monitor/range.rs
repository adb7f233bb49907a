//! `add` and `remove`: memory that a guest is given, or loses, by its address.

use super::job::{Job, Step};
use super::lifecycle;
use super::report::{Report, Value};
use crate::addr::{BLOCK_2M, Ipa, IpaRange, PAGE_SIZE, byte_count, ipa_range};
use crate::arch::time;
use crate::guest::Guest;
use crate::service::Wish;
use crate::stage2::{AddError, Fill, Mark, Space, What};
use crate::system::System;
use alloc::boxed::Box;
use alloc::sync::Arc;

const ADD: (&str, &str) = ("add", "<guest> <size> [at <address>]");
const REMOVE: (&str, &str) = ("remove", "<guest> <range> [now]");
/// How often a guest's answer is looked for, in parts of a second.
const LOOKS_A_SECOND: u64 = 100;

/// Returns the first unplugged range of `size` where memory can be added.
fn first_gap(space: &Space<'_>, size: u64) -> Option<IpaRange> {
    let alignment = if size >= BLOCK_2M { BLOCK_2M } else { PAGE_SIZE };
    let region = space.hotplug();
    let mut start = region.start;
    let mut found = None;
    space.dump(region, |run| {
        if run.what != What::Absent(Mark::Unplugged) {
            start = run.range.end.align_up(alignment).unwrap_or(run.range.end);
        } else if found.is_none() {
            found = ipa_range(start, size).filter(|range| range.end <= run.range.end);
        }
    });
    found
}

/// Begins to add `size` bytes to `guest`, at `at` or where there is room.
pub(super) fn add(
    system: &'static System,
    guest: Arc<Guest>,
    size: u64,
    at: Option<Ipa>,
    report: &mut Report<'_>,
) -> Option<Box<dyn Job>> {
    let name = guest.config.name.clone();
    if !guest.is_on() {
        report.error(format_args!("guest {name} is off; 'start' starts it"), None);
        return None;
    }
    if size == 0 || !size.is_multiple_of(PAGE_SIZE) {
        report.error(format_args!("memory is added in whole pages of 4K"), Some(ADD));
        return None;
    }
    let range = match at {
        Some(at) => ipa_range(at, size).filter(|range| guest.space.is_addable(range)),
        None => first_gap(&guest.space, size),
    };
    let Some(range) = range else {
        let region = guest.space.hotplug();
        report.error(
            format_args!(
                "guest {name} has no such room: memory can be added at {} to {}, of which {} is taken; \
                 its 'maximum-memory' in the manifest says how much there is",
                region.start,
                region.end,
                Value::Size(guest.space.present(region.clone()))
            ),
            Some(ADD),
        );
        return None;
    };
    if guest.range_is_taken(&range) {
        report.error(
            format_args!("guest {name} has a virtio-mem driver for that range: use 'plug'"),
            None,
        );
        return None;
    }
    if !lifecycle::may_have(system, &guest, size, report) {
        return None;
    }
    report.value("address", Value::Address(range.start.as_u64()));
    report.value("size", Value::Size(size));
    let offered = guest.service.listens();
    report.value("offered", Value::Flag(offered));
    if offered {
        guest.service.wish(Some(Wish::Offer(range.clone())));
        return Some(Box::new(Asked { guest, range, wanted: true }));
    }
    Some(Box::new(Add { guest, at: range.start, range }))
}

/// Begins to take `range` from `guest`: asks it, if it listens and it need not be `now`.
pub(super) fn remove(
    guest: Arc<Guest>,
    range: IpaRange,
    now: bool,
    report: &mut Report<'_>,
) -> Option<Box<dyn Job>> {
    let name = guest.config.name.clone();
    if !guest.space.is_addable(&range) {
        let (ram, region) = (guest.space.ram(), guest.space.hotplug());
        report.error(
            format_args!(
                "guest {name} has memory at {} to {} and at {} to {}",
                ram.start, ram.end, region.start, region.end
            ),
            Some(REMOVE),
        );
        return None;
    }
    if guest.range_is_taken(&range) {
        report.error(
            format_args!("guest {name} has a virtio-mem driver for that range: use 'unplug'"),
            None,
        );
        return None;
    }
    let asked = guest.service.listens() && !now;
    report.value("present", Value::Size(guest.space.present(range.clone())));
    report.value("asked", Value::Flag(asked));
    if asked {
        guest.service.wish(Some(Wish::Release(range.clone())));
        return Some(Box::new(Asked { guest, range, wanted: false }));
    }
    Some(Box::new(Remove { guest, at: range.start, range }))
}

/// Adds a range without asking.
struct Add {
    guest: Arc<Guest>,
    range: IpaRange,
    at: Ipa,
}

impl Add {
    /// Takes back what was added: a range that is there in part is of no use.
    fn undo(&mut self, report: &mut Report<'_>) {
        let mut from = self.range.start;
        while from < self.at {
            match self.guest.remove_step(from..self.at) {
                Some(Some(next)) => from = next,
                Some(None) => break,
                None => {
                    let left = from..self.at;
                    report.value("added", Value::Size(byte_count(&left)));
                    report.value("address", Value::Address(from.as_u64()));
                    return;
                }
            }
        }
        report.value("added", Value::Size(0));
    }
}

impl Job for Add {
    fn step(&mut self, _system: &'static System, report: &mut Report<'_>) -> Step {
        if !self.guest.is_on() {
            // What was added goes with all that it has.
            report.error(format_args!("guest {} is off", self.guest.name()), None);
            return Step::Done;
        }
        let error = match self.guest.space.add(self.at..self.range.end, Fill::Ready) {
            Ok(added) => {
                self.at = added.next.unwrap_or(self.range.end);
                if self.at < self.range.end {
                    return Step::Again;
                }
                report.value("added", Value::Size(byte_count(&self.range)));
                return Step::Done;
            }
            Err(error) => error,
        };
        match error {
            AddError::Present(ipa) => {
                report.error(format_args!("there is memory at {ipa} already"), Some(ADD));
            }
            AddError::OutOfMemory => report.error(
                format_args!("there is no free memory for the rest; 'memory' says who has it"),
                None,
            ),
            AddError::Outside => report.error(format_args!("it is not in the region"), Some(ADD)),
        }
        self.undo(report);
        Step::Done
    }

    fn cancel(&mut self, _system: &'static System, report: &mut Report<'_>) {
        self.undo(report);
    }
}

/// Removes a range without asking.
struct Remove {
    guest: Arc<Guest>,
    range: IpaRange,
    at: Ipa,
}

impl Remove {
    fn say(&self, report: &mut Report<'_>) {
        report.value("removed", Value::Size(byte_count(&(self.range.start..self.at))));
    }
}

impl Job for Remove {
    fn step(&mut self, _system: &'static System, report: &mut Report<'_>) -> Step {
        match self.guest.remove_step(self.at..self.range.end) {
            Some(Some(next)) => {
                self.at = next;
                return Step::Again;
            }
            Some(None) => {
                self.at = self.range.end;
                self.say(report);
                return Step::Done;
            }
            None => {}
        }
        // Its edges need tables; some frame will be free.
        Step::At(time::now() + time::frequency() / LOOKS_A_SECOND)
    }

    fn cancel(&mut self, _system: &'static System, report: &mut Report<'_>) {
        self.say(report);
    }
}

/// Waits for a guest to do what is wished of it.
struct Asked {
    guest: Arc<Guest>,
    range: IpaRange,
    /// It was offered memory; otherwise it is to release some.
    wanted: bool,
}

impl Asked {
    fn say(&self, report: &mut Report<'_>) -> u64 {
        let present = self.guest.space.present(self.range.clone());
        let (name, done) = if self.wanted {
            ("added", present)
        } else {
            ("removed", byte_count(&self.range).saturating_sub(present))
        };
        report.value(name, Value::Size(done));
        done
    }
}

impl Job for Asked {
    fn step(&mut self, _system: &'static System, report: &mut Report<'_>) -> Step {
        if self.guest.service.wished().is_some() && self.guest.is_on() {
            return Step::At(time::now() + time::frequency() / LOOKS_A_SECOND);
        }
        if self.say(report) < byte_count(&self.range) {
            report.error(format_args!("guest {} has not done all of it", self.guest.name()), None);
        }
        Step::Done
    }

    fn cancel(&mut self, _system: &'static System, report: &mut Report<'_>) {
        self.guest.service.wish(None);
        self.say(report);
    }
}
