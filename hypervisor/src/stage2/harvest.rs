//! Taking a detached table apart: which frames hang below it.
//!
//! The table is no longer linked, flushed, and owned by the one who harvests it; walkers that came
//! before may still be reading it, so nothing in it is changed. A table is handed over after all
//! that it led to.
#![expect(unsafe_code, reason = "vouches for detached tables")]

use super::descriptor::{ENTRIES, Entry, Level};
use super::walk::Table;
use crate::addr::Pa;
use crate::mem::Order;
use crate::sync::{AtomicU64, follow};

/// The number of levels of tables.
const LEVELS: usize = 3;

/// What a look at a whole table counts for, in entries that are read and given one by one.
const WHOLE: usize = 32;

/// Returns the block that the entries of `table` make up, if they do: the frames of all of them follow one another.
fn whole(table: Table<'_>) -> Option<(Pa, Order)> {
    let order = match table.level() {
        Level::One => return None,
        Level::Two => Order::BLOCK_1G,
        Level::Three => Order::BLOCK_2M,
    };
    let decode = |slot: &AtomicU64| Entry::decode(follow(slot), table.level());
    let Entry::Leaf(first) = decode(table.slot(0)) else { return None };
    if !first.is_aligned(order.bytes()) {
        return None;
    }
    let expected = (first.as_u64()..).step_by(table.level().order().bytes() as usize);
    let mut entries = table.slots().iter().zip(expected);
    entries.all(|(slot, pa)| decode(slot) == Entry::Leaf(Pa::new(pa))).then_some((first, order))
}

/// A walk over all that hangs below a detached table, which can be interrupted.
#[derive(Clone, Debug)]
pub(crate) struct Harvest {
    /// The tables from the root to where the walk stands, each with the entry to read next.
    path: [Option<(Pa, Level, u16)>; LEVELS],
}

impl Harvest {
    /// Begins at the table of `level` at `table`, which the caller has detached.
    pub(crate) const fn of(table: Pa, level: Level) -> Self {
        Self { path: [Some((table, level, 0)), None, None] }
    }

    /// Reads about `entries` entries, gives each page, block and finished table to `give`, and
    /// returns how many it read and whether there is more.
    pub(crate) fn step(
        &mut self,
        entries: usize,
        mut give: impl FnMut(Pa, Order),
    ) -> (usize, bool) {
        let mut read = 0;
        while read < entries {
            let Some(depth) = self.path.iter().rposition(Option::is_some) else {
                return (read, false);
            };
            let Some(Some((pa, level, next))) = self.path.get_mut(depth) else {
                return (read, false);
            };
            // SAFETY: the tree was detached and belongs to this walk; it is retired only by it.
            let table = unsafe { Table::new(*pa, *level) };
            if usize::from(*next) == ENTRIES {
                give(table.pa(), Order::PAGE);
                if let Some(place) = self.path.get_mut(depth) {
                    *place = None;
                }
                continue;
            }
            if *next == 0
                && let Some((first, order)) = whole(table)
            {
                give(first, order);
                *next = ENTRIES as u16;
                read += WHOLE;
                continue;
            }
            let bits = follow(table.slot(usize::from(*next)));
            *next += 1;
            read += 1;
            match Entry::decode(bits, table.level()) {
                Entry::Absent(_) => {}
                Entry::Leaf(first) | Entry::Moving(first) => give(first, table.level().order()),
                entry @ (Entry::Table(_) | Entry::Pending(_)) => {
                    if let Some(below) = table.below(entry)
                        && let Some(place) = self.path.get_mut(depth + 1)
                    {
                        *place = Some((below.pa(), below.level(), 0));
                    }
                }
            }
        }
        (read, self.path.iter().any(Option::is_some))
    }
}
