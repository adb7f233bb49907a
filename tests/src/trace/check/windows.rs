//! The windows of EL2: tables that one CPU has for itself, whose entries it invalidates by itself alone.

use std::collections::HashMap;

use super::super::record::Barrier;
use super::super::{ADDRESS, Event, PAGE, is_valid};
use super::{Checker, Rule};

/// Where a window hangs in a root, and its first page's number among the addresses of EL2.
const ENTRY: u64 = 511;
const FIRST_PAGE: u64 = ENTRY << 27;

/// How far the maintenance of an entry has come that was removed.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Progress {
    Written,
    Ordered,
    Invalidated,
}

/// All windows.
#[derive(Default)]
pub(super) struct Windows {
    /// The CPUs' roots.
    roots: HashMap<u64, u8>,
    /// Tables of windows: whose, and of which level.
    tables: HashMap<u64, (u8, u32)>,
    /// What CPUs' TLBs may hold, by CPU and number of the page.
    stale: HashMap<(u8, u64), Progress>,
}

impl Windows {
    pub(super) fn root(&mut self, root: u64, cpu: u8) {
        self.roots.insert(root, cpu);
    }
}

impl Checker {
    /// Says whether an entry of EL2's is of a window; if so it was judged.
    pub(super) fn store_in_window(
        &mut self,
        event: &Event,
        address: u64,
        before: u64,
        bits: u64,
    ) -> bool {
        let (table, index) = (address & !(PAGE - 1), address % PAGE / 8);
        if let Some(cpu) = self.windows.roots.get(&table).copied()
            && index == ENTRY
        {
            let mut below = bits & ADDRESS;
            for level in 1..=3 {
                self.windows.tables.insert(below, (cpu, level));
                let words = |table: u64| self.tables.0.get(&table)?.words().first().copied();
                below = words(below).unwrap_or(0) & ADDRESS;
            }
            return true;
        }
        let Some((cpu, level)) = self.windows.tables.get(&table).copied() else { return false };
        if event.cpu != cpu {
            self.breaks(Rule::Window, format!("it is CPU {cpu}'s"));
        }
        let page = FIRST_PAGE + (index << (9 * (3 - level)));
        if is_valid(bits) {
            if is_valid(before) && before != bits {
                self.breaks(Rule::Window, format!("it was {before:#x}, and valid"));
            }
            if self.windows.stale.contains_key(&(cpu, page)) {
                self.breaks(Rule::Window, "the TLB may hold what was there before");
            }
        } else if is_valid(before) {
            self.windows.stale.insert((cpu, page), Progress::Written);
        }
        true
    }

    pub(super) fn barrier_for_windows(&mut self, event: &Event) {
        if event.what == Barrier::Isb as u16 {
            return;
        }
        let complete = event.what == Barrier::DsbNsh as u16 || event.what == Barrier::DsbIsh as u16;
        self.windows.stale.retain(|(cpu, _), progress| {
            if *cpu == event.cpu && *progress == Progress::Written {
                *progress = Progress::Ordered;
            }
            *cpu != event.cpu || *progress != Progress::Invalidated || !complete
        });
    }

    pub(super) fn tlbi_for_windows(&mut self, event: &Event) {
        for page in event.a..event.a + u64::from(event.count) {
            if let Some(progress) = self.windows.stale.get_mut(&(event.cpu, page))
                && *progress == Progress::Ordered
            {
                *progress = Progress::Invalidated;
            }
        }
    }
}
