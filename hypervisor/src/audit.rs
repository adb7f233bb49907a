//! The audit: do the frame table and the guests' tables tell the same story?
//!
//! Two walks, both without a lock, in bounded pieces, while guests run and memory moves, once ([`audit`]) or for ever
//! ([`continuous`]):
//!
//! - *tables to records*: every page and block in a guest's tables is, by its record, this guest's,
//!   at this IPA, in one block of this size; every table is, by its record, a table of this guest.
//! - *records to tables*: every block that is a guest's by its record is mapped there.
//!
//! A record names one guest and one IPA, so a frame that was mapped twice would fail the first
//! walk at one place at least; a frame that was lost fails the second. What the walks counted must
//! be what the counters say.
//!
//! # No false alarms
//!
//! While an edit is under way the two sides may differ. So a difference is only *suspected*, and looked at again between
//! edits: a space counts its edits, records and tables change together within one, and what was read between two equal
//! numbers was so at one moment. What a removal detached is retired in steps, and until then recorded as the guest's: a
//! space has no number until that is over. A suspicion for which there was no quiet moment is counted as *unsettled*, no
//! more. The counters are compared only if the number was the same before and after the walk.

pub mod continuous;
mod seen;
#[cfg(target_os = "none")]
pub mod switch;
mod walk;

use crate::addr::{Frame, Ipa, Pa};
use crate::mem::{GuestId, Memory, Owner};
use crate::stage2::Space;
use walk::RecordWalk;
pub(crate) use walk::TableWalk;
pub use walk::{Asked, SpaceOf};

/// Something that is wrong.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A page or block is mapped that is, by its record, not this guest's at this address.
    NotRecorded {
        /// Whose tables.
        guest: GuestId,
        /// Where it is mapped.
        ipa: Ipa,
        /// What is mapped there.
        pa: Pa,
        /// Whose it is.
        owner: Owner,
    },
    /// A block is recorded as a guest's and not mapped there.
    NotMapped {
        /// Whose it is.
        guest: GuestId,
        /// Its first frame.
        first: Frame,
        /// Where it should be mapped.
        ipa: Option<Ipa>,
    },
    /// A block is recorded as belonging to a guest that does not exist.
    NoSuchGuest {
        /// The guest.
        guest: GuestId,
        /// The block's first frame.
        first: Frame,
    },
    /// A frame is used as a table that is, by its record, none of this guest's.
    NotATable {
        /// Whose tables.
        guest: GuestId,
        /// The frame.
        table: Pa,
        /// Whose it is.
        owner: Owner,
    },
    /// A guest's tables have more or fewer frames than are counted.
    Counts {
        /// Whose.
        guest: GuestId,
        /// Frames of memory: found in its tables, and counted.
        frames: (u64, u64),
        /// Frames of tables: found, and counted.
        tables: (u64, u64),
    },
}

/// How many findings a report keeps; more are counted.
pub const KEPT: usize = 8;

/// What the audit saw.
#[derive(Clone, Debug)]
pub struct Report {
    /// Pages and blocks in guests' tables.
    pub leaves: u64,
    /// Guests' tables.
    pub tables: u64,
    /// Blocks in the frame table that are guests'.
    pub blocks: u64,
    /// Differences that were looked at again.
    pub suspected: u64,
    /// Differences for which there was no moment without an edit or a removal: they may be in order.
    pub unsettled: u64,
    /// Guests whose counters were compared; of the others something was changing all the time.
    pub counted: u64,
    /// How many findings there are.
    pub findings: u64,
    /// The first of them.
    pub first: [Option<Finding>; KEPT],
}

impl Report {
    /// A report of nothing.
    pub(crate) const NOTHING: Self = Self {
        leaves: 0,
        tables: 0,
        blocks: 0,
        suspected: 0,
        unsettled: 0,
        counted: 0,
        findings: 0,
        first: [None; KEPT],
    };

    /// Says whether nothing is wrong.
    pub const fn is_clean(&self) -> bool {
        self.findings == 0
    }

    fn add(&mut self, finding: Finding) {
        // Who goes round and round meets it every time.
        if self.first.contains(&Some(finding)) {
            return;
        }
        self.findings += 1;
        if let Some(place) = self.first.iter_mut().find(|place| place.is_none()) {
            *place = Some(finding);
        }
    }
}

/// How often the walk of a space is repeated until nothing was edited meanwhile.
const ATTEMPTS: usize = 3;

/// Audits `memory` and all `spaces` that own any of it. Stops nobody and takes no lock; takes as long as there is memory
/// in use, and holds up a grace period for 64 entries at most.
pub fn audit(memory: &Memory, spaces: &[&Space<'_>]) -> Report {
    let mut report = Report::NOTHING;
    for space in spaces {
        audit_tables(memory, space, &mut report);
    }
    let of = |guest: GuestId, look: &mut dyn FnMut(&Space<'_>)| {
        match spaces.iter().find(|space| space.guest() == guest) {
            Some(space) => look(space),
            None => return Asked::Nobody,
        }
        Asked::Looked
    };
    let mut walk = RecordWalk::new();
    while walk.step(memory, &of, &mut report) {}
    report
}

fn audit_tables(memory: &Memory, space: &Space<'_>, report: &mut Report) {
    for attempt in 1..=ATTEMPTS {
        let mut walk = TableWalk::new(space);
        // The same suspicions come up again when the walk is repeated: report them once.
        let mut again = Report::NOTHING;
        let found = if attempt == 1 { &mut *report } else { &mut again };
        while walk.step(memory, space, found) {}
        if walk.compare_counts(memory, space, report) || attempt == ATTEMPTS {
            walk.report_size(report);
            return;
        }
    }
}
