//! The two walks, in bounded steps.

use super::seen::{Seen, is_mapped};
use super::{Finding, Report};
use crate::addr::{Frame, Ipa};
use crate::mem::{GuestId, Memory, Owner};
use crate::stage2::{IPA_BITS, Space};

/// How many entries or records one step reads, under one pin.
const CHUNK: usize = 64;

/// What a walk counted, in frames.
#[derive(Copy, Clone, Default)]
struct Count {
    frames: u64,
    tables: u64,
    leaves: u64,
}

/// The walk of one space's tables, from its beginning to its end.
pub(crate) struct TableWalk {
    at: Ipa,
    count: Count,
    /// What the space was when the walk began.
    before: Option<Edition>,
}

/// A space between two edits: whose, and which of the numbers of edits.
#[derive(Copy, Clone, PartialEq, Eq)]
struct Edition {
    vttbr: u64,
    edits: u64,
}

impl Edition {
    fn of(space: &Space<'_>) -> Option<Self> {
        space.edition().map(|edits| Self { vttbr: space.vttbr(), edits })
    }
}

impl TableWalk {
    pub(crate) fn new(space: &Space<'_>) -> Self {
        // The root is a table, too.
        let count = Count { tables: 1, ..Count::default() };
        Self { at: space.owned_from(), count, before: Edition::of(space) }
    }

    /// Walks on, and says whether there is more.
    pub(crate) fn step(&mut self, memory: &Memory, space: &Space<'_>, report: &mut Report) -> bool {
        let end = Ipa::new(1 << IPA_BITS);
        let mut suspect = None;
        let pin = memory.pin();
        for _ in 0..CHUNK {
            if self.at >= end || suspect.is_some() {
                break;
            }
            let seen = Seen::at(space.root(&pin), self.at);
            self.count.add(&seen);
            suspect = seen.check(memory, space.guest()).map(|_| self.at);
            self.at = seen.end;
        }
        drop(pin);
        if let Some(suspect) = suspect {
            report.suspected += 1;
            let found =
                space.between_edits(|root| Seen::at(root, suspect).check(memory, space.guest()));
            report.settle(found);
        }
        self.at < end
    }

    /// Compares what it counted with the counters, if the space is still what it was when the walk began. Says whether
    /// it is.
    pub(super) fn compare_counts(
        &self,
        memory: &Memory,
        space: &Space<'_>,
        report: &mut Report,
    ) -> bool {
        let counted = memory.counts().guest(space.guest());
        if self.before.is_none() || self.before != Edition::of(space) {
            return false;
        }
        if (self.count.frames, self.count.tables) != (counted.frames, counted.tables) {
            report.add(Finding::Counts {
                guest: space.guest(),
                frames: (self.count.frames, counted.frames),
                tables: (self.count.tables, counted.tables),
            });
        }
        report.counted += 1;
        true
    }

    /// Adds the number of entries and tables that it met.
    pub(super) fn report_size(&self, report: &mut Report) {
        report.leaves += self.count.leaves;
        report.tables += self.count.tables;
    }

    /// Returns how many frames it has found mapped.
    pub(super) fn frames(&self) -> u64 {
        self.count.frames
    }
}

impl Count {
    fn add(&mut self, seen: &Seen<'_>) {
        self.tables += seen.tables.iter().flatten().count() as u64;
        if let Some(leaf) = seen.leaf {
            self.leaves += 1;
            self.frames += u64::from(leaf.order().frames());
        }
    }
}

/// How a guest's space was found.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It is there, and was looked at.
    Looked,
    /// The guest is being made or taken apart.
    Changing,
    /// There is no such guest.
    Nobody,
}

/// Shows a guest's space to somebody.
pub type SpaceOf<'a> = dyn Fn(GuestId, &mut dyn FnMut(&Space<'_>)) -> Asked + 'a;

/// The walk of the frame table, from its beginning to its end.
pub(crate) struct RecordWalk {
    at: Frame,
    frames: u64,
}

impl RecordWalk {
    pub(crate) fn new() -> Self {
        Self { at: Frame::new(0), frames: 0 }
    }

    /// Walks on, and says whether there is more.
    pub(crate) fn step(
        &mut self,
        memory: &Memory,
        space_of: &SpaceOf<'_>,
        report: &mut Report,
    ) -> bool {
        for cover in memory.frames().iter_from(self.at).take(CHUNK) {
            let frames = cover.order.frames();
            self.at = Frame::new(cover.head.number() + frames);
            self.frames += u64::from(frames);
            let Owner::Guest(guest) = cover.owner else { continue };
            report.blocks += 1;
            let asked = space_of(guest, &mut |space| {
                if is_mapped(space.root(&memory.pin()), &cover) {
                    return;
                }
                report.suspected += 1;
                let found = space.between_edits(|root| {
                    let now = memory.frames().owner_of(cover.head);
                    let wrong = now.owner == Owner::Guest(guest) && !is_mapped(root, &now);
                    wrong.then_some(Finding::NotMapped { guest, first: now.head, ipa: now.ipa })
                });
                report.settle(found);
            });
            // The record may have changed since it was read.
            let is_still = || memory.frames().owner_of(cover.head).owner == Owner::Guest(guest);
            match asked {
                Asked::Looked => {}
                Asked::Changing => report.unsettled += 1,
                Asked::Nobody if is_still() => {
                    report.add(Finding::NoSuchGuest { guest, first: cover.head });
                }
                Asked::Nobody => {}
            }
        }
        memory.frames().iter_from(self.at).next().is_some()
    }

    /// Returns how many frames it has gone over.
    pub(super) fn frames(&self) -> u64 {
        self.frames
    }
}

impl Report {
    /// Takes what a second look found; `None` where there was no moment for one.
    fn settle(&mut self, found: Option<Option<Finding>>) {
        match found {
            Some(Some(finding)) => self.add(finding),
            Some(None) => {}
            None => self.unsettled += 1,
        }
    }
}
