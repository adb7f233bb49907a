//! A guest's abstract state, carried on beside its tables and compared with them.

use super::operation::page_of;
use super::state::pages;
use super::{Illegal, Operation, Page, State, step};
use crate::addr::{Ipa, IpaRange};
use crate::mem::{GuestId, Owner};
use crate::stage2::{IPA_BITS, Space, Table, abstraction, page_attributes};
use crate::sync::{AtomicU64, Ordering};
use alloc::vec::Vec;
use core::fmt;

/// How many descriptors that an edit did not touch are compared as it ends: on the host all that a test has.
const IN_TURN: usize = if cfg!(test) { 4096 } else { 64 };

/// Edits compared, operations done, differences found, of all guests.
static EDITS: AtomicU64 = AtomicU64::new(0);
static OPERATIONS: AtomicU64 = AtomicU64::new(0);
static DIFFERENCES: AtomicU64 = AtomicU64::new(0);

/// How many edits after another the log says how it stands.
const REPORT_EVERY: u64 = 16384;

/// What a guest should have, beside its tables, under their lock.
#[derive(Debug, Default)]
pub struct Shadow {
    state: State,
    /// What this edit has changed.
    touched: Vec<IpaRange>,
    /// What the last operation was, in words.
    last: &'static str,
    /// Which page is next to be compared in turn.
    turn: u64,
}

/// Where the implementation and the specification part.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Difference {
    Illegal(Illegal),
    Page { ipa: Ipa, tables: Page, specification: Page },
    Owner { ipa: Ipa, page: Page, owner: Owner, recorded: Option<Ipa> },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Illegal(illegal) => illegal.fmt(f),
            Self::Page { ipa, tables, specification } => {
                write!(f, "{ipa} is {tables}; by the specification it is {specification}")
            }
            Self::Owner { ipa, page, owner, recorded } => {
                write!(f, "{ipa} is {page}, whose owner is {owner:?}, at {recorded:?}")
            }
        }
    }
}

impl Shadow {
    /// Begins with a guest that has nothing.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Notes what the edit under way has done. Under the writer lock.
    pub(crate) fn did(&mut self, operation: &Operation<'_>, space: &Space<'_>) {
        OPERATIONS.fetch_add(1, Ordering::Relaxed);
        let done = step(&mut self.state, operation, &space.extent(), page_attributes());
        self.last = match operation {
            Operation::Populate { range, .. } => self.touch(range, "memory was populated"),
            Operation::Add { range, .. } => self.touch(range, "memory was added"),
            Operation::AddLazily(range) => self.touch(range, "memory was added lazily"),
            Operation::TakePages { pages, .. } => self.touch_each(pages, "pages were taken"),
            Operation::ReturnPages { pages, .. } => self.touch_each(pages, "pages were returned"),
            Operation::TakeRange(range, _) => self.touch(range, "a range was taken"),
            Operation::TakeReported(range) => self.touch(range, "what was reported was taken"),
            Operation::ReturnRange(range) => self.touch(range, "a range was returned"),
            Operation::Move { range, .. } => self.touch(range, "memory was moved"),
            Operation::Poison(ipa, _) => self.touch(&page_of(*ipa), "a page was poisoned"),
        };
        if let Err(illegal) = done {
            self.tell(space.guest(), Difference::Illegal(illegal));
        }
    }

    fn touch(&mut self, range: &IpaRange, what: &'static str) -> &'static str {
        self.touched.push(range.clone());
        what
    }

    fn touch_each(&mut self, pages: &[Ipa], what: &'static str) -> &'static str {
        self.touched.extend(pages.iter().map(|page| page_of(*page)));
        what
    }

    /// Compares what the edit that ends has changed, and some of what it has not. Under the writer lock.
    pub(crate) fn check(&mut self, space: &Space<'_>, root: Table<'_>) {
        #[cfg(test)]
        if std::thread::panicking() {
            return;
        }
        let mut found = None;
        let mut touched = core::mem::take(&mut self.touched);
        for range in touched.drain(..) {
            let mut at = pages(&range).start;
            while at < pages(&range).end.min(END) && found.is_none() {
                (found, at) = self.compare(space, root, at);
            }
        }
        // Its memory is used again.
        self.touched = touched;
        for _ in 0..IN_TURN {
            if found.is_some() {
                break;
            }
            (found, self.turn) = self.compare(space, root, self.turn);
            if self.turn >= END {
                self.turn = 0;
                break;
            }
        }
        if let Some(difference) = found {
            self.tell(space.guest(), difference);
        }
        let edits = EDITS.fetch_add(1, Ordering::Relaxed) + 1;
        if edits.is_multiple_of(REPORT_EVERY) {
            log::info!(
                "specification: {edits} edits compared, {} operations, {} differences",
                OPERATIONS.load(Ordering::Relaxed),
                DIFFERENCES.load(Ordering::Relaxed)
            );
        }
    }

    /// Compares every page. Under the writer lock.
    #[cfg(feature = "checking")]
    pub(crate) fn check_whole(&self, space: &Space<'_>, root: Table<'_>) {
        let (mut at, mut entries) = (0, 0_u64);
        while at < END {
            let (found, next) = self.compare(space, root, at);
            if let Some(difference) = found {
                return self.tell(space.guest(), difference);
            }
            (at, entries) = (next, entries + 1);
        }
        log::info!(
            "specification: all of guest {} is as specified, {entries} entries",
            space.guest()
        );
    }

    /// Compares page number `at` and those that are the same way; returns where the others begin.
    fn compare(&self, space: &Space<'_>, root: Table<'_>, at: u64) -> (Option<Difference>, u64) {
        let ipa = Ipa::from_page(at);
        if ipa < space.owned_from() {
            return (None, space.owned_from().page());
        }
        let (tables, tables_end) = abstraction(root, ipa);
        let (specification, end) = self.state.at(at);
        if tables != specification {
            return (Some(Difference::Page { ipa, tables, specification }), tables_end);
        }
        if let Page::Mapped { frame, .. } = tables {
            let cover = space.memory().frames().owner_of(frame);
            let recorded = cover.ipa_of(frame);
            if cover.owner != Owner::Guest(space.guest()) || recorded != Some(ipa) {
                let owner = cover.owner;
                return (
                    Some(Difference::Owner { ipa, page: tables, owner, recorded }),
                    tables_end,
                );
            }
        }
        (None, tables_end.min(end).max(at + 1))
    }

    /// Says the first difference in words.
    fn tell(&self, guest: GuestId, difference: Difference) {
        let last = if self.last.is_empty() { "nothing was done" } else { self.last };
        if cfg!(test) {
            panic!("specification: guest {guest}: after {last}: {difference}");
        }
        // What follows from the first is of no use.
        if DIFFERENCES.fetch_add(1, Ordering::Relaxed) == 0 {
            log::error!("specification: guest {guest}: after {last}: {difference}");
        }
    }
}

/// The number of pages of an address space.
const END: u64 = 1 << (IPA_BITS - crate::addr::PAGE_SHIFT);
