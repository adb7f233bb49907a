//! The audit that never ends: round after round, a bounded step at a time.

use super::walk::{Asked, RecordWalk, SpaceOf, TableWalk};
use super::{Finding, Report};
use crate::mem::{GuestId, MAX_GUESTS, Memory};

/// Where a round is.
enum At {
    /// In the tables of the guest of this number.
    Tables(usize, Option<TableWalk>),
    /// In the frame table.
    Records(RecordWalk),
}

/// An audit in rounds: each walks the tables of all guests, then the frame table. Guests may come and go meanwhile.
pub struct Continuous {
    at: At,
    rounds: u64,
    frames: u64,
    report: Report,
}

impl Default for Continuous {
    fn default() -> Self {
        Self::new()
    }
}

impl Continuous {
    /// Begins the first round.
    pub const fn new() -> Self {
        Self { at: At::Tables(0, None), rounds: 0, frames: 0, report: Report::NOTHING }
    }

    /// Goes on by one bounded step: 64 entries or records, and what is suspected of them. Returns what it found wrong
    /// that was not known, as far as it is kept.
    pub fn step(
        &mut self,
        memory: &Memory,
        space_of: &SpaceOf<'_>,
    ) -> impl Iterator<Item = Finding> + '_ {
        let known = self.report.first.iter().flatten().count();
        match &mut self.at {
            At::Tables(number, walk) => {
                let report = &mut self.report;
                let mut more = false;
                let looked = GuestId::new(*number).map(|guest| {
                    space_of(guest, &mut |space| {
                        let walk = walk.get_or_insert_with(|| TableWalk::new(space));
                        let before = walk.frames();
                        more = walk.step(memory, space, report);
                        self.frames += walk.frames() - before;
                        if !more {
                            let _ = walk.compare_counts(memory, space, report);
                            walk.report_size(report);
                        }
                    })
                });
                if looked != Some(Asked::Looked) || !more {
                    self.at = match *number + 1 {
                        MAX_GUESTS => At::Records(RecordWalk::new()),
                        next => At::Tables(next, None),
                    };
                }
            }
            At::Records(walk) => {
                let before = walk.frames();
                let more = walk.step(memory, space_of, &mut self.report);
                self.frames += walk.frames() - before;
                if !more {
                    self.rounds += 1;
                    self.at = At::Tables(0, None);
                }
            }
        }
        self.report.first.iter().skip(known).flatten().copied()
    }

    /// Returns how many rounds are complete.
    pub const fn rounds(&self) -> u64 {
        self.rounds
    }

    /// Returns how many frames it has looked at: as often as they were met, in tables and in the frame table.
    pub const fn frames(&self) -> u64 {
        self.frames
    }

    /// Returns what it saw, in all rounds together. What is kept of what was found wrong is counted once, the rest in
    /// each round.
    pub const fn report(&self) -> &Report {
        &self.report
    }
}
