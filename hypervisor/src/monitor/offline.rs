//! `offline`, `online`, `poison`: physical memory that comes and goes under running guests; `owner`: whose a byte is.

use super::job::{Job, Step};
use super::report::{Report, Value};
use crate::addr::{Frame, PAGE_SIZE, Pa, PaRange};
use crate::arch::time;
use crate::evacuation::{Evacuation, Progress, Refusal, Spaces};
use crate::logger::microseconds;
use crate::mem::{GuestId, OnlineError, Owner, Use};
use crate::stage2::Space;
use crate::system::System;
use core::fmt::{self, Write};

/// How often progress is told of, in parts of a second.
const REPORTS_A_SECOND: u64 = 1;

struct Guests(&'static System);

impl Spaces for Guests {
    fn with(&self, guest: GuestId, with: &mut dyn FnMut(&Space<'_>)) {
        if let Some(guest) = self.0.guests().find(|one| one.id == guest) {
            with(&guest.space);
        }
    }
}

/// Says whose a frame is, in words.
struct Whose(&'static System, Owner, Frame);

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(system, owner, frame) = self;
        let name = |guest: GuestId, f: &mut fmt::Formatter<'_>| match system
            .guests()
            .find(|one| one.id == guest)
        {
            Some(guest) => f.write_str(guest.name()),
            None => write!(f, "guest {guest}"),
        };
        match *owner {
            Owner::Free => f.write_str("free"),
            Owner::Hypervisor => f.write_str(match system.memory().name_of(*frame) {
                "" => "hypervisor",
                name => name,
            }),
            Owner::Table(guest) => {
                f.write_str("table of ")?;
                name(guest, f)
            }
            Owner::Guest(guest) => name(guest, f),
            Owner::Retired => f.write_str("retired"),
            Owner::Offline => f.write_str("offline"),
            Owner::Bad => f.write_str("bad"),
        }
    }
}

/// Says whose the byte at `pa` is.
pub(super) fn owner(system: &'static System, pa: Pa, report: &mut Report<'_>) {
    let Some(frame) = Frame::containing(pa) else {
        return report.error(format_args!("there is nothing at {pa}"), None);
    };
    let cover = system.memory().frames().owner_of(frame);
    let mut text = heapless::String::<64>::new();
    // A name that is too long is cut.
    let _ = write!(text, "{}", Whose(system, cover.owner, frame));
    report.value("owner", Value::Text(&text));
    report.value("from", Value::Address(cover.head.pa().as_u64()));
    report.value("size", Value::Size(cover.order.bytes()));
    if let Some(ipa) = cover.ipa_of(frame) {
        report.value("ipa", Value::Address(ipa.as_u64() + pa.page_offset()));
    }
}

/// Why nothing came of it, in words.
struct Why<'a>(&'static System, &'a Refusal);

impl fmt::Display for Why<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(system, why) = self;
        match why {
            Refusal::Busy(other) => {
                write!(f, "{} to {} is being emptied; one range at a time", other.start, other.end)
            }
            Refusal::NotMemory(_) => f.write_str("not all of the range is memory, in one piece"),
            Refusal::Offline(range) => {
                write!(f, "{} is offline, and so not in use; bring it online first", range.start)
            }
            Refusal::Fixed(range) => {
                let frame = Frame::containing(range.start).unwrap_or(Frame::new(0));
                write!(
                    f,
                    "{} to {} cannot move: {}; nothing has changed",
                    range.start,
                    range.end,
                    Whose(system, Owner::Hypervisor, frame)
                )
            }
            Refusal::Root(guest, table) => {
                let frame = Frame::containing(*table).unwrap_or(Frame::new(0));
                let whose = Whose(system, Owner::Table(*guest), frame);
                write!(f, "{table} cannot move: the root {whose}; nothing has changed")
            }
            Refusal::NoRoom { needed, free } => write!(
                f,
                "{} are to be moved and {} are free elsewhere; balloon a guest to go on",
                Value::Size(*needed),
                Value::Size(*free)
            ),
            Refusal::Cancelled => f.write_str("cancelled"),
        }
    }
}

/// Empties a range, or a frame that is bad, under running guests.
pub(super) struct Offline {
    evacuation: Evacuation,
    purpose: Use,
    began: u64,
    next_report: u64,
}

impl Offline {
    pub(super) fn new(range: PaRange, purpose: Use) -> Self {
        let began = time::now();
        let next_report = began + time::frequency() / REPORTS_A_SECOND;
        Self { evacuation: Evacuation::new(range, purpose), purpose, began, next_report }
    }

    fn tell(&self, report: &mut Report<'_>) {
        let done = self.evacuation.done();
        report.value("moved", Value::Size(done.moved * PAGE_SIZE));
        report.value("tables_moved", Value::Number(done.tables));
        if self.purpose == Use::Never {
            report.value("pages_lost", Value::Number(done.poisoned));
        }
    }

    fn tell_end(&self, report: &mut Report<'_>) {
        let range = self.evacuation.range();
        let name = if self.purpose == Use::Never { "bad" } else { "offline" };
        report.value(name, Value::Size(range.end.as_u64() - range.start.as_u64()));
        self.tell(report);
        report.value("took_us", Value::Number(microseconds(time::now() - self.began)));
        log::info!("{} to {} is {name}", range.start, range.end);
    }
}

impl Job for Offline {
    fn step(&mut self, system: &'static System, report: &mut Report<'_>) -> Step {
        match self.evacuation.step(system.memory(), &Guests(system)) {
            Progress::Working => {}
            Progress::Emptied => {
                self.tell_end(report);
                return Step::Done;
            }
            Progress::Refused(why) => {
                report.error(format_args!("{}", Why(system, &why)), None);
                return Step::Done;
            }
        }
        // Grace periods end, and what has left its guest comes back, also where no CPU is idle.
        system.memory().reclaim_step();
        let now = time::now();
        if now >= self.next_report {
            self.next_report = now + time::frequency() / REPORTS_A_SECOND;
            report.value("looked_at", Value::Size(self.evacuation.done().swept * PAGE_SIZE));
            self.tell(report);
        }
        Step::Again
    }

    fn cancel(&mut self, system: &'static System, report: &mut Report<'_>) {
        self.evacuation.cancel(system.memory(), &Guests(system));
        self.tell(report);
    }
}

/// Brings a range back.
pub(super) struct Online {
    range: PaRange,
    at: Pa,
    frames: u64,
}

impl Online {
    pub(super) fn new(range: PaRange) -> Self {
        Self { at: range.start, range, frames: 0 }
    }
}

impl Job for Online {
    fn step(&mut self, system: &'static System, report: &mut Report<'_>) -> Step {
        match system.memory().online_some(&self.range, self.at) {
            Ok((next, frames)) => {
                self.frames += frames;
                if let Some(next) = next {
                    self.at = next;
                    return Step::Again;
                }
                report.value("online", Value::Size(self.frames * PAGE_SIZE));
                if self.frames == 0 {
                    report.remark(format_args!("nothing of it was offline"));
                }
            }
            Err(OnlineError::Busy(range)) => {
                report.error(format_args!("{}", Why(system, &Refusal::Busy(range))), None);
            }
            Err(OnlineError::NotMemory(range)) => {
                report.error(format_args!("{}", Why(system, &Refusal::NotMemory(range))), None);
            }
        }
        Step::Done
    }

    fn cancel(&mut self, _system: &'static System, report: &mut Report<'_>) {
        report.value("online", Value::Size(self.frames * PAGE_SIZE));
    }
}
