//! Taking memory away from a guest: hot-remove, straight down.

use super::descriptor::{Entry, Level, Mark};
use super::edit::Edit;
use super::regime::STOCK;
use super::space::Space;
use super::walk::{Place, Table};
use crate::addr::{Ipa, IpaRange};
use crate::mem::{Flushed, GracePeriod, Order, OutOfMemory};
use crate::spec::Operation;
use crate::sync::{AtomicU64, Ordering};

/// What [`Space::take_pages`] did.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    /// How many of the pages were dealt with, from the first on. The rest needs another batch.
    pub done: usize,
    /// How many of these had a frame, which the guest has lost.
    pub taken: usize,
    /// How many had none, and are marked now.
    pub marked: usize,
    /// How many were marked already: the guest named them twice.
    pub repeated: usize,
    /// How many are not the guest's RAM, or unplugged.
    pub outside: usize,
}

/// Why nothing was taken or returned.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum TakeError {
    /// There is no frame for a table that says which part of a block is left.
    OutOfMemory,
    /// The range is not of whole pages of the guest's RAM.
    Outside,
}

impl From<OutOfMemory> for TakeError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// How far [`Space::take_range`] or [`Space::return_range`] got.
#[must_use]
pub struct Taken<'s> {
    /// What was taken; to be retired.
    pub flushed: Flushed<'s>,
    /// Where the next call goes on; `None` where all of the range is done.
    pub next: Option<Ipa>,
}

impl<'m> Space<'m> {
    /// Takes the pages at `pages`, in any order, out of the space and marks them as ballooned.
    ///
    /// One batch, one flush: a block of which a page is taken is broken, and its table shown after
    /// the flush with the pages missing already. At most 8 tables are made, so the batch
    /// may end early: see [`Pages::done`], which is at least 1. On an error nothing has changed.
    pub fn take_pages(&self, pages: &[Ipa]) -> Result<(Pages, Flushed<'_>), TakeError> {
        let mut edit = self.edit();
        let plan = self.plan(edit.root(), pages, Mark::Ballooned);
        edit.reserve(plan.tables)?;
        let mut pages_done = Pages { done: plan.pages, ..Pages::default() };
        let batch = pages.get(..plan.pages).unwrap_or(pages);
        let mut unplugged = 0;
        for page in self.in_ram(batch, &mut pages_done.outside) {
            match edit.take_page(page) {
                Was::Mapped => pages_done.taken += 1,
                Was::Empty => pages_done.marked += 1,
                Was::Ballooned => pages_done.repeated += 1,
                Was::Unplugged => unplugged += 1,
            }
        }
        pages_done.outside += unplugged;
        edit.collapse_around(batch);
        let (lost, marked) = (pages_done.taken, pages_done.marked);
        edit.did(&Operation::TakePages { pages: batch, lost, marked });
        Ok((pages_done, edit.finish()))
    }

    /// Takes all that is mapped in `range` out of the space and leaves `mark`: each block, and each
    /// table that lies within, by one store.
    ///
    /// May end early, after a bounded number of tables: see [`Taken::next`]. On an error nothing
    /// has changed.
    pub fn take_range(&self, range: IpaRange, mark: Mark) -> Result<Taken<'_>, TakeError> {
        self.check(&range)?;
        let last = Ipa::from_page(range.end.page().saturating_sub(1)).max(range.start);
        let mut taken = self.take(self.widen(range, mark), Leave::Mark(mark))?;
        // Of what lies beyond its end nobody can ask for the rest. Who asks for the last page again comes to it.
        taken.next = taken.next.map(|next| next.min(last));
        Ok(taken)
    }

    /// Takes all that is mapped in `range` out of the space, for a guest that says it is free: what is
    /// ballooned or unplugged there stays so, the rest is populated by the next touch.
    ///
    /// May end early, after a bounded number of entries: see [`Taken::next`]. What is reported is a
    /// hint, and the rest may be left. On an error nothing has changed.
    pub fn take_reported(&self, range: IpaRange) -> Result<Taken<'_>, TakeError> {
        self.check(&range)?;
        self.take(range, Leave::Absent)
    }

    fn take(&self, range: IpaRange, leave: Leave) -> Result<Taken<'_>, TakeError> {
        let mut edit = self.edit();
        edit.reserve(tables_for_ends(edit.root(), &range, |now| leave.keeps(now)))?;
        let root = edit.root();
        let mut left = MOST_LOOKED_AT;
        let reached = edit.take_in(root, range.clone(), leave, &mut left);
        for end in [range.start, reached] {
            if !end.is_aligned(Order::BLOCK_2M.bytes()) {
                edit.collapse(end);
            } else if !end.is_aligned(Order::BLOCK_1G.bytes()) {
                edit.collapse_below(end, Level::One);
            }
        }
        edit.did(&match leave {
            Leave::Mark(mark) => Operation::TakeRange(range.start..reached, mark),
            Leave::Absent => Operation::TakeReported(range.start..reached),
        });
        let flushed = edit.finish();
        Ok(Taken { flushed, next: Some(reached).filter(|&reached| reached < range.end) })
    }

    /// Takes everything out of the space, which is as it was when it was made; returns when all of
    /// it is retired. Takes as long as there are tables.
    pub fn clear(&self) -> Result<GracePeriod, TakeError> {
        let mut range = self.extent();
        loop {
            let taken = self.take_range(range.clone(), Mark::Empty)?;
            let next = taken.next;
            let grace = taken.flushed.retire();
            match next {
                Some(next) => range.start = next,
                None => return Ok(grace),
            }
        }
    }

    /// Widens a range that reaches to an end of RAM over what lies beyond, where nothing is mapped:
    /// then the tables that RAM does not fill leave with it.
    fn widen(&self, range: IpaRange, mark: Mark) -> IpaRange {
        let block = Order::BLOCK_1G.bytes();
        if mark == Mark::Ballooned || range.is_empty() {
            return range;
        }
        let start = if range.start == self.extent.start {
            range.start.align_down(block)
        } else {
            range.start
        };
        let above = range.end.align_up(block).filter(|_| range.end == self.extent.end);
        start..above.unwrap_or(range.end)
    }

    pub(super) fn check(&self, range: &IpaRange) -> Result<(), TakeError> {
        let page = Order::PAGE.bytes();
        let whole = range.start.is_aligned(page) && range.end.is_aligned(page);
        let inside = self.extent.start <= range.start && range.end <= self.extent.end;
        if whole && inside && range.start <= range.end { Ok(()) } else { Err(TakeError::Outside) }
    }

    /// Returns the pages of `pages` that are RAM, by their first byte, and counts the others.
    pub(super) fn in_ram(&self, pages: &[Ipa], outside: &mut usize) -> impl Iterator<Item = Ipa> {
        let extent = self.extent.clone();
        pages.iter().map(|page| page.align_down(Order::PAGE.bytes())).filter(move |page| {
            let inside = extent.contains(page);
            *outside += usize::from(!inside);
            inside
        })
    }

    /// Plans a batch that leaves `mark`: how many of `pages` can be dealt with, and how many tables
    /// that takes at most.
    pub(super) fn plan(&self, root: Table<'_>, pages: &[Ipa], mark: Mark) -> Plan {
        let mut tables = 0;
        let mut before = None;
        for (index, &page) in pages.iter().enumerate() {
            let region = page.align_down(Order::BLOCK_2M.bytes());
            // A table that was made for the page before serves this one too.
            if before == Some(region) || !self.covers(page) {
                continue;
            }
            before = Some(region);
            let needed = tables_for_page(root, page, mark);
            if tables + needed > STOCK {
                return Plan { pages: index, tables };
            }
            tables += needed;
        }
        Plan { pages: pages.len(), tables }
    }
}

pub(super) struct Plan {
    pub(super) pages: usize,
    pub(super) tables: usize,
}

/// Returns how many tables it takes to write `mark` for the page at `ipa` alone.
fn tables_for_page(root: Table<'_>, ipa: Ipa, mark: Mark) -> usize {
    let place = root.find(ipa);
    let nothing_to_do = match place.entry() {
        Entry::Absent(now) => now == mark || matches!(now, Mark::Unplugged | Mark::Poisoned),
        Entry::Leaf(_) | Entry::Moving(_) => mark == Mark::Empty,
        Entry::Table(_) | Entry::Pending(_) => true,
    };
    if nothing_to_do { 0 } else { Level::Three as usize - place.level() as usize }
}

/// Returns how many tables it takes at most to change `range` alone, whose ends may lie within
/// blocks. What is absent by a mark that `keeps` names is not changed.
pub(super) fn tables_for_ends(
    root: Table<'_>,
    range: &IpaRange,
    keeps: impl Fn(Mark) -> bool,
) -> usize {
    let for_end = |end: Ipa| {
        // The entry that must be a table, for one below it to begin here.
        let above = if end.is_aligned(Order::BLOCK_1G.bytes()) {
            return 0;
        } else if end.is_aligned(Order::BLOCK_2M.bytes()) {
            Level::One
        } else {
            Level::Two
        };
        let place = root.find_at(end, above);
        match place.entry() {
            Entry::Table(_) | Entry::Pending(_) => 0,
            Entry::Absent(now) if keeps(now) => 0,
            _ => above as usize + 1 - place.level() as usize,
        }
    };
    for_end(range.start) + for_end(range.end)
}

/// What a removal leaves behind.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Leave {
    /// This, whatever was there.
    Mark(Mark),
    /// What was absent already.
    Absent,
}

impl Leave {
    /// Returns the mark for what was mapped.
    const fn mark(self) -> Mark {
        match self {
            Self::Mark(mark) => mark,
            Self::Absent => Mark::Empty,
        }
    }

    /// Says whether what is absent by `now` stays as it is.
    fn keeps(self, now: Mark) -> bool {
        self == Self::Absent || self == Self::Mark(now)
    }

    /// Says whether `table` can leave with all that is in it.
    fn takes_whole(self, table: Table<'_>) -> bool {
        let marked = |slot: &AtomicU64| {
            let bits = slot.load(Ordering::Relaxed);
            [Mark::Ballooned, Mark::Unplugged, Mark::Poisoned]
                .iter()
                .any(|mark| mark.bits() == bits)
        };
        match self {
            Self::Mark(_) => true,
            Self::Absent => table.level() == Level::Three && !table.slots().iter().any(marked),
        }
    }
}

/// What a page was before it was taken or returned.
pub(super) enum Was {
    Mapped,
    Empty,
    Ballooned,
    Unplugged,
}

impl<'s> Edit<'s, '_> {
    /// Removes the page at `ipa` and marks it as ballooned.
    fn take_page(&mut self, ipa: Ipa) -> Was {
        let place = self.split_down_to(ipa);
        match place.entry() {
            Entry::Absent(Mark::Ballooned) => Was::Ballooned,
            Entry::Absent(Mark::Unplugged) => Was::Unplugged,
            // It stays poisoned, whoever gives it up.
            Entry::Absent(Mark::Poisoned) => Was::Ballooned,
            Entry::Absent(Mark::Empty) if place.level() < Level::Three => {
                self.mark(ipa, Order::PAGE, Mark::Ballooned);
                Was::Empty
            }
            Entry::Absent(Mark::Empty) => {
                self.unlink(&place, ipa, Mark::Ballooned);
                Was::Empty
            }
            _ => {
                // For a test only: what the specification must notice.
                let wrong = cfg!(feature = "seeded-difference") && ipa.page() % 512 == 511;
                self.unlink(&place, ipa, if wrong { Mark::Empty } else { Mark::Ballooned });
                Was::Mapped
            }
        }
    }

    /// Removes all that `table` and the tables below it map in `range`, looking at no more than `left`
    /// entries; returns where it stopped.
    fn take_in(
        &mut self,
        table: Table<'s>,
        range: IpaRange,
        leave: Leave,
        left: &mut usize,
    ) -> Ipa {
        let mut at = range.start;
        while at < range.end {
            let mut place = Place::load(table, at);
            let covers = place.covers(at);
            let part = at..covers.end.min(range.end);
            let below = table.below(place.entry());
            let whole = part == covers && below.is_none_or(|below| leave.takes_whole(below));
            if *left == 0 || (whole && below.is_some() && !self.has_room_for_tree()) {
                return at;
            }
            *left -= 1;
            let mut rest = part.clone();
            match place.entry() {
                Entry::Absent(now) if leave.keeps(now) => {}
                _ if whole => {
                    self.unlink(&place, at, leave.mark());
                    *left = left.saturating_sub(REMOVAL);
                }
                Entry::Leaf(_) | Entry::Moving(_) => _ = self.split(&place, at),
                Entry::Absent(_) => {
                    let order = largest_within(&part);
                    self.mark(at, order, leave.mark());
                    // Done, whether what follows is reached or not.
                    rest.start = Ipa::new(at.as_u64() + order.bytes());
                }
                Entry::Table(_) | Entry::Pending(_) => {}
            }
            place = Place::load(table, at);
            if let Some(below) = table.below(place.entry()) {
                let reached = self.take_in(below, rest, leave, left);
                if reached < part.end {
                    return reached;
                }
                if leave == Leave::Absent && below.level() == Level::Three {
                    *left = left.saturating_sub(self.collapse(at));
                }
            }
            at = part.end;
        }
        at
    }

    /// Splits blocks until nothing larger than a page maps `ipa`; returns its entry.
    pub(super) fn split_down_to(&mut self, ipa: Ipa) -> Place<'s> {
        loop {
            let place = self.find(ipa);
            let mapped = matches!(place.entry(), Entry::Leaf(_) | Entry::Moving(_));
            let too_large = mapped && place.level() < Level::Three;
            if !too_large || self.split(&place, ipa).is_none() {
                return place;
            }
        }
    }

    /// Collapses the tables of `pages`, as far as a bounded look at them tells.
    pub(super) fn collapse_around(&mut self, pages: &[Ipa]) {
        let mut before = None;
        let mut left = MOST_LOOKED_AT;
        for page in pages {
            let region = page.align_down(Order::BLOCK_2M.bytes());
            if before != Some(region) && self.space().covers(*page) && left > 0 {
                left = left.saturating_sub(self.collapse(region));
            }
            before = Some(region);
        }
    }
}

/// How many entries a batch looks at to find tables that have become empty. A guest that names
/// pages so that more would be needed keeps its tables.
pub(super) const MOST_LOOKED_AT: usize = 1024;
/// What the removal of an entry counts for, in entries that are looked at and left alone.
const REMOVAL: usize = 10;

/// Returns the order of the largest entry below level 1 that begins where `range` begins and lies
/// within it.
pub(super) fn largest_within(range: &IpaRange) -> Order {
    let block = Order::BLOCK_2M;
    let end = range.start.checked_add(block.bytes());
    let fits = range.start.is_aligned(block.bytes()) && end.is_some_and(|end| end <= range.end);
    if fits { block } else { Order::PAGE }
}
