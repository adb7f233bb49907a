//! What was written to EL2's own tables, found by looking at them: the crate that writes them tells nobody.
#![expect(unsafe_code, reason = "reads EL2's tables")]

use super::record::{EL2, Kind};
use super::{emit, physical};
use crate::addr::Pa;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// The tables that were made since [`mapped`] last looked; 0 is none. One call makes two for each end of a range.
static MADE: [AtomicU64; 16] = [const { AtomicU64::new(0) }; 16];
static MADE_COUNT: AtomicUsize = AtomicUsize::new(0);

/// A table was made, with nothing in it. Under the lock on EL2's tables.
pub fn made(table: u64) {
    super::table(EL2, Pa::new(table));
    let index = MADE_COUNT.fetch_add(1, Ordering::Relaxed);
    // Before recording begins there are more than fit, and nobody asks for them.
    if let Some(place) = MADE.get(index) {
        place.store(table, Ordering::Relaxed);
    }
}

/// Says that no table was made before now.
pub fn begin() {
    MADE_COUNT.store(0, Ordering::Relaxed);
}

fn is_new(table: u64) -> bool {
    let count = MADE_COUNT.load(Ordering::Relaxed);
    MADE.iter().take(count).any(|made| made.load(Ordering::Relaxed) == table)
}

fn entries(table: u64) -> &'static [AtomicU64; 512] {
    // SAFETY: EL2's tables are mapped at their physical addresses and stay tables for ever.
    unsafe { &*core::ptr::with_exposed_provenance(table as usize) }
}

/// Says whether `bits`, of a table of `level`, lead to a table.
const fn is_table(bits: u64, level: u32) -> bool {
    level < 3 && bits & 3 == 3
}

/// Records all that is in `table`, of `level` 0 to 3; with `below`, all tables below it as well.
pub fn all(table: u64, level: u32, below: bool) {
    super::table(EL2, Pa::new(table));
    for entry in entries(table) {
        let bits = entry.load(Ordering::Relaxed);
        if bits == 0 {
            continue;
        }
        if below && is_table(bits, level) {
            all(bits & ADDRESS, level + 1, true);
        }
        emit(Kind::Write, 0, 0, physical(entry), bits);
    }
}

/// Records what was written when `start..end` was mapped below `root`.
pub fn mapped(root: u64, start: u64, end: u64) {
    range(root, 0, 0, start..end);
    begin();
}

fn range(table: u64, level: u32, base: u64, mapped: core::ops::Range<u64>) {
    let size = 1 << (12 + 9 * (3 - level));
    for (index, entry) in entries(table).iter().enumerate() {
        let first = base + index as u64 * size;
        if first + size <= mapped.start || first >= mapped.end {
            continue;
        }
        let bits = entry.load(Ordering::Relaxed);
        if is_table(bits, level) {
            // As the crate does: an empty table is linked, then filled.
            if is_new(bits & ADDRESS) {
                emit(Kind::Write, 0, 0, physical(entry), bits);
            }
            range(bits & ADDRESS, level + 1, first, mapped.clone());
        } else if bits != 0 {
            emit(Kind::Write, 0, 0, physical(entry), bits);
        }
    }
}
