//! The audit: do the frame table and the guests' tables tell the same story?
//!
//! Two walks, both without a lock, in bounded pieces, while guests run and memory moves:
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
//! While an edit is under way the two sides may differ. So a difference is only *suspected*, and
//! looked at once more under the writer lock of its space, when no edit is under way: records and
//! tables change together under that lock. One thing goes on outside of it: what hangs below a
//! detached table is retired in steps, and until then recorded as the guest's. A space says which
//! range that is (asked *before* the record is read again), and a suspicion
//! in it is counted as unsettled, no more. The counters are compared only if the space was not
//! edited from before its walk to after it and nothing was on its way out, which its edition number
//! tells.

use crate::addr::{Frame, Ipa, Pa};
use crate::mem::{Cover, GuestId, Memory, Order, Owner};
use crate::stage2::{IPA_BITS, Leaf, Level, Space, Table};

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
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Pages and blocks in guests' tables.
    pub leaves: u64,
    /// Guests' tables.
    pub tables: u64,
    /// Blocks in the frame table that are guests'.
    pub blocks: u64,
    /// Differences that were looked at again.
    pub suspected: u64,
    /// Differences in what is being removed, which may be in order.
    pub unsettled: u64,
    /// Guests whose counters were compared; of the others something was changing all the time.
    pub counted: u64,
    /// How many findings there are.
    pub findings: u64,
    /// The first of them.
    pub first: [Option<Finding>; KEPT],
}

impl Report {
    /// Says whether nothing is wrong.
    pub const fn is_clean(&self) -> bool {
        self.findings == 0
    }

    fn add(&mut self, finding: Finding) {
        self.findings += 1;
        if let Some(place) = self.first.iter_mut().find(|place| place.is_none()) {
            *place = Some(finding);
        }
    }
}

/// How many entries are read under one pin.
const CHUNK: usize = 64;

/// How often the walk of a space is repeated until nothing was edited meanwhile.
const ATTEMPTS: usize = 3;

/// Audits `memory` and all `spaces` that own any of it. Stops nobody; takes as long as there is
/// memory in use, and holds up a grace period for 64 entries at most.
pub fn audit(memory: &Memory, spaces: &[&Space<'_>]) -> Report {
    let mut report = Report::default();
    for space in spaces {
        audit_tables(memory, space, &mut report);
    }
    audit_records(memory, spaces, &mut report);
    report
}

/// What a walk counted, in frames.
#[derive(Copy, Clone, Default, PartialEq, Eq)]
struct Count {
    frames: u64,
    tables: u64,
    leaves: u64,
}

fn audit_tables(memory: &Memory, space: &Space<'_>, report: &mut Report) {
    for attempt in 1..=ATTEMPTS {
        let before = space.edition();
        // The same suspicions come up again when the walk is repeated: report them once.
        let mut again = Report::default();
        let count = walk_tables(memory, space, if attempt == 1 { report } else { &mut again });
        let counted = memory.counts().guest(space.guest());
        let settled = before.is_some() && before == space.edition();
        if settled {
            if (count.frames, count.tables) != (counted.frames, counted.tables) {
                report.add(Finding::Counts {
                    guest: space.guest(),
                    frames: (count.frames, counted.frames),
                    tables: (count.tables, counted.tables),
                });
            }
            report.counted += 1;
        }
        if settled || attempt == ATTEMPTS {
            report.leaves += count.leaves;
            report.tables += count.tables;
            return;
        }
    }
}

/// The first of the two walks, of one space, in steps of [`CHUNK`] entries.
pub(crate) struct TableWalk {
    at: Ipa,
    count: Count,
}

impl TableWalk {
    pub(crate) fn new() -> Self {
        // The root is a table, too.
        Self { at: Ipa::new(0), count: Count { tables: 1, ..Count::default() } }
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
            let finding =
                space.settled(|root| Seen::at(root, suspect).check(memory, space.guest()));
            if let Some(finding) = finding {
                report.add(finding);
            }
        }
        self.at < end
    }
}

fn walk_tables(memory: &Memory, space: &Space<'_>, report: &mut Report) -> Count {
    let mut walk = TableWalk::new();
    while walk.step(memory, space, report) {}
    walk.count
}

/// The end of a walk: what an address is mapped to, and the tables that begin at this address.
struct Seen<'p> {
    /// Where the entry begins that maps the address: below it, if pages that were walked before
    /// have become one block since.
    start: Ipa,
    leaf: Option<Leaf<'p>>,
    tables: [Option<Pa>; 2],
    end: Ipa,
}

impl<'p> Seen<'p> {
    /// Walks to `ipa`.
    fn at(root: Table<'p>, ipa: Ipa) -> Self {
        let place = root.find(ipa);
        // A table is met at the first address that it covers.
        let begins = |level: Level, order: Order| {
            if place.level() < level || !ipa.is_aligned(order.bytes()) {
                return None;
            }
            let table = root.find_at(ipa, level).table;
            (table.level() == level).then(|| table.pa())
        };
        let covered = place.covers(ipa);
        Self {
            start: covered.start,
            leaf: place.leaf(ipa).ok(),
            tables: [begins(Level::Two, Order::BLOCK_1G), begins(Level::Three, Order::BLOCK_2M)],
            end: covered.end,
        }
    }

    /// Compares with the records.
    fn check(&self, memory: &Memory, guest: GuestId) -> Option<Finding> {
        let owner_of = |pa: Pa| Frame::containing(pa).map(|frame| memory.frames().owner_of(frame));
        let not_a_table = |&table: &Pa| {
            let owner = owner_of(table).map_or(Owner::Offline, |cover| cover.owner);
            (owner != Owner::Table(guest)).then_some(Finding::NotATable { guest, table, owner })
        };
        if let Some(finding) = self.tables.iter().flatten().find_map(not_a_table) {
            return Some(finding);
        }
        let leaf = self.leaf?;
        let cover = owner_of(leaf.first());
        let recorded = cover.is_some_and(|cover| {
            cover.owner == Owner::Guest(guest)
                && cover.head.pa() == leaf.first()
                && cover.order == leaf.order()
                && cover.ipa == Some(self.start)
        });
        let owner = cover.map_or(Owner::Offline, |cover| cover.owner);
        let (ipa, pa) = (self.start, leaf.first());
        (!recorded).then_some(Finding::NotRecorded { guest, ipa, pa, owner })
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

fn audit_records(memory: &Memory, spaces: &[&Space<'_>], report: &mut Report) {
    for cover in memory.frames().iter() {
        let Owner::Guest(guest) = cover.owner else { continue };
        report.blocks += 1;
        let Some(space) = spaces.iter().find(|space| space.guest() == guest) else {
            // The list of blocks may have changed while it was read: ask for this one.
            if memory.frames().owner_of(cover.head).owner == Owner::Guest(guest) {
                report.add(Finding::NoSuchGuest { guest, first: cover.head });
            }
            continue;
        };
        if is_mapped(space.root(&memory.pin()), &cover) {
            continue;
        }
        report.suspected += 1;
        space.settled(|root| {
            // First what is being removed, then the record: nothing can begin to be removed now, so
            // a record that outlived its removal is seen as gone.
            let removing = cover.ipa.is_some_and(|ipa| space.is_removing(ipa));
            let now = memory.frames().owner_of(cover.head);
            if now.owner != Owner::Guest(guest) || is_mapped(root, &now) {
                return;
            }
            if removing {
                report.unsettled += 1;
            } else {
                report.add(Finding::NotMapped { guest, first: now.head, ipa: now.ipa });
            }
        });
    }
}

/// Says whether the guest's block `cover` is mapped where its record says, by one entry.
fn is_mapped(root: Table<'_>, cover: &Cover) -> bool {
    cover.ipa.filter(|ipa| ipa.as_u64() >> IPA_BITS == 0).is_some_and(|ipa| {
        let leaf = root.find(ipa).leaf(ipa);
        leaf.is_ok_and(|leaf| leaf.first() == cover.head.pa() && leaf.order() == cover.order)
    })
}
