//! What left a guest's tables, on its way to being free: one type a step, and no way around one.
//!
//! [`Unlinked`] (no table leads there; TLBs may) `-- flush -->` [`Flushed`] (no guest can reach it;
//! software walkers may) `-- retire -->` [`GracePeriod`] (nobody can, when it is over). Frames
//! whose grace period is over become free by themselves, and are zeroed before anybody gets them. Only [`Unlinked::flush`]
//! makes a `Flushed`, and only a `Flushed` reaches the epoch's retire lists.
//!
//! Frames are threaded through the frame table, tables that were detached with all that hangs below
//! them are remembered by their roots and taken apart when they are retired, in bounded steps.

use super::{Chain, GracePeriod, Memory, Order};
use crate::addr::{Frame, IpaRange, Pa};
use crate::stage2::{FlushSet, Harvest, Level};
use crate::sync::Edits;

/// The most tables with something in them that one edit detaches.
const MAX_TREES: usize = 16;

/// Detached tables, each with all below it, as their addresses with their levels in the low bits.
#[derive(Clone, Debug)]
struct Trees {
    tables: [u64; MAX_TREES],
    count: usize,
}

impl Trees {
    const fn new() -> Self {
        Self { tables: [0; MAX_TREES], count: 0 }
    }

    fn push(&mut self, table: Pa, level: Level) {
        if let Some(place) = self.tables.get_mut(self.count) {
            *place = table.as_u64() | level as u64;
            self.count += 1;
        }
    }

    fn pop(&mut self) -> Option<Harvest> {
        self.count = self.count.checked_sub(1)?;
        let tree = Pa::new(*self.tables.get(self.count)?);
        let level = if tree.page_offset() == Level::Two as u64 { Level::Two } else { Level::Three };
        Some(Harvest::of(Pa::from_page(tree.page()), level))
    }
}

/// Frames and tables that no entry leads to any more, but perhaps a TLB's.
#[must_use = "the frames are lost, and TLBs still lead to them"]
pub struct Unlinked<'s> {
    memory: &'s Memory,
    frames: Chain,
    trees: Trees,
    flush: FlushSet,
}

impl<'s> Unlinked<'s> {
    /// Makes an empty one.
    pub(crate) fn new(memory: &'s Memory) -> Self {
        let flush = FlushSet::new();
        Self { memory, frames: Chain::new(), trees: Trees::new(), flush }
    }

    /// Adds the page or block of `order` at `first`, which one entry mapped at `at`.
    pub(crate) fn block(&mut self, first: Pa, order: Order, at: IpaRange) {
        push(self.memory, &mut self.frames, first, order);
        self.flush.add_entry(at);
    }

    /// Adds a table without a valid entry, which covered `at`.
    pub(crate) fn empty_table(&mut self, table: Pa, at: IpaRange) {
        push(self.memory, &mut self.frames, table, Order::PAGE);
        // One entry: the one that led to the table, cached as a step of walks.
        self.flush.add_entry(at);
    }

    /// Adds a table that is to be flushed with what it mapped at `at`, and given up; its pages
    /// stay.
    pub(crate) fn full_table(&mut self, table: Pa, at: IpaRange) {
        push(self.memory, &mut self.frames, table, Order::PAGE);
        self.flush.add_table(at);
    }

    /// Says whether another tree can be added.
    pub(crate) fn has_room_for_tree(&self) -> bool {
        self.trees.count < MAX_TREES
    }

    /// Adds the table at `table` with all below it, which covered `at`.
    pub(crate) fn tree(&mut self, table: Pa, level: Level, at: IpaRange) {
        debug_assert!(self.has_room_for_tree(), "the edit looks before it unlinks a tree");
        self.trees.push(table, level);
        self.flush.add_table(at);
    }

    /// Adds the page or block of `order` at `first`, which no TLB knows: it was broken and flushed before.
    pub(crate) fn flushed_block(&mut self, first: Pa, order: Order) {
        push(self.memory, &mut self.frames, first, order);
    }

    /// Adds a block that was broken at `at` and stays the guest's: TLBs must forget it.
    pub(crate) fn broken(&mut self, at: IpaRange) {
        self.flush.add_entry(at);
    }

    /// Says whether there is nothing to flush or to retire.
    pub fn is_empty(&self) -> bool {
        self.flush.is_empty() && self.frames.is_empty()
    }

    /// Removes all of it from the TLBs, for the guest that `vttbr` names. When this returns, no CPU
    /// reads or writes any of it for the guest. Between now and when all of it is retired, `edits` has no number.
    pub(crate) fn flush(self, vttbr: u64, edits: &'s Edits) -> Flushed<'s> {
        let Self { memory, frames, trees, flush } = self;
        edits.begin_removal();
        flush.flush(vttbr);
        Flushed { memory, frames, trees, harvest: None, edits }
    }
}

/// Frames and tables that no guest can reach any more.
#[must_use = "the frames are lost unless they are retired"]
pub struct Flushed<'s> {
    memory: &'s Memory,
    frames: Chain,
    trees: Trees,
    harvest: Option<Harvest>,
    edits: &'s Edits,
}

/// How far [`Flushed::retire_some`] got.
#[must_use = "what is left is lost unless it is retired"]
#[expect(clippy::large_enum_variant, reason = "nothing is allocated on the way out of a guest")]
pub enum Retiring<'s> {
    /// There is more to retire.
    More(Flushed<'s>),
    /// All of it is retired.
    Done(GracePeriod),
}

/// How many entries of detached tables [`Flushed::retire`] reads between two visits of the epoch.
const STEP: usize = 512;

impl<'s> Flushed<'s> {
    /// Retires it all. Takes as long as there are entries in detached tables; see
    /// [`Flushed::retire_some`] for a bounded time.
    pub fn retire(mut self) -> GracePeriod {
        loop {
            if let Some(grace) = self.step(STEP) {
                return grace;
            }
        }
    }

    /// Retires what was unlinked by itself, and what is found in `entries` entries of detached
    /// tables.
    pub fn retire_some(mut self, entries: usize) -> Retiring<'s> {
        match self.step(entries) {
            Some(grace) => Retiring::Done(grace),
            None => Retiring::More(self),
        }
    }

    fn step(&mut self, entries: usize) -> Option<GracePeriod> {
        let memory = self.memory;
        let mut left = entries;
        while left > 0 {
            let Some(mut harvest) = self.harvest.take().or_else(|| self.trees.pop()) else { break };
            let (read, more) = harvest.step(left, |first, order| {
                push(memory, &mut self.frames, first, order);
            });
            left = left.saturating_sub(read);
            self.harvest = more.then_some(harvest);
        }
        let grace = memory.retire_chain(core::mem::take(&mut self.frames));
        if self.harvest.is_some() || self.trees.count > 0 {
            return None;
        }
        self.edits.end_removal();
        Some(grace)
    }
}

fn push(memory: &Memory, chain: &mut Chain, first: Pa, order: Order) {
    // What stands in our tables lies in the frame table; were it otherwise, the audit would miss
    // the frames.
    if let Some(frame) = Frame::containing(first) {
        chain.push(memory.frames(), frame, order);
    }
}
