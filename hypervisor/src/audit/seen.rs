//! One look: what an address is mapped to, beside what the records say.

use super::Finding;
use crate::addr::{Frame, Ipa, Pa};
use crate::mem::{Cover, GuestId, Memory, Order, Owner};
use crate::stage2::{IPA_BITS, Leaf, Level, Table};

/// The end of a walk: what an address is mapped to, and the tables that begin at this address.
pub(super) struct Seen<'p> {
    /// Where the entry begins that maps the address: below it, if pages that were walked before
    /// have become one block since.
    start: Ipa,
    pub(super) leaf: Option<Leaf<'p>>,
    pub(super) tables: [Option<Pa>; 2],
    /// Where the next entry begins.
    pub(super) end: Ipa,
}

impl<'p> Seen<'p> {
    /// Walks to `ipa`.
    pub(super) fn at(root: Table<'p>, ipa: Ipa) -> Self {
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
    pub(super) fn check(&self, memory: &Memory, guest: GuestId) -> Option<Finding> {
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

/// Says whether the guest's block `cover` is mapped where its record says, by one entry.
pub(super) fn is_mapped(root: Table<'_>, cover: &Cover) -> bool {
    cover.ipa.filter(|ipa| ipa.as_u64() >> IPA_BITS == 0).is_some_and(|ipa| {
        let leaf = root.find(ipa).leaf(ipa);
        leaf.is_ok_and(|leaf| leaf.first() == cover.head.pa() && leaf.order() == cover.order)
    })
}
