//! Adding memory where there is none: hot-add.

use super::descriptor::{Entry, Level, Mark};
use super::edit::Writing;
use super::space::{Space, SpaceError};
use super::take::{TakeError, Taken, largest_within, tables_for_ends};
use super::walk::{Place, Table};
use crate::addr::{Ipa, IpaRange};
use crate::arch;
use crate::mem::{Clean, Order, OutOfMemory};
use crate::spec::Operation;

/// What added memory is backed by.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Nothing at first: each touch populates it.
    Lazy,
    /// Zeroed frames, at once: the largest blocks that alignment and free memory allow.
    Ready,
}

/// How far [`Space::add`] got.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Added {
    /// Where the next call goes on; `None` where all of the range is added.
    pub next: Option<Ipa>,
    /// How many tables it made.
    pub tables: usize,
    /// How many blocks or pages it mapped.
    pub blocks: usize,
}

/// Why nothing was added.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum AddError {
    /// The range is not of whole pages, or is not of where memory can be.
    Outside,
    /// There is memory at this address already.
    Present(Ipa),
    /// There is no frame for it, or none for a table.
    OutOfMemory,
}

impl From<OutOfMemory> for AddError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// How many blocks one step maps at most: as many as are taken before the lock is.
const BLOCKS: usize = 16;
/// How many entries one step looks at at most.
const ENTRIES_A_STEP: usize = 2048;

impl<'m> Space<'m> {
    /// Adds memory at `range`, all of which is [unplugged](Mark::Unplugged), in whole pages of [`Space::ram`] or
    /// [`Space::hotplug`].
    ///
    /// Nothing was mapped there, so no TLB needs to forget anything: ready frames cost table writes only. Each call
    /// is a bounded step, see [`Added::next`], which may have added nothing but zeroed a piece of memory for the
    /// next. On an error this step has changed nothing, and steps before it stay as they are.
    pub fn add(&self, range: IpaRange, fill: Fill) -> Result<Added, AddError> {
        self.check_addable(&range)?;
        if range.is_empty() {
            return Ok(Added { next: None, tables: 0, blocks: 0 });
        }
        match fill {
            Fill::Lazy => self.add_lazily(range),
            Fill::Ready => self.add_ready(range),
        }
    }

    /// Says whether `range` is of whole pages where the guest can have memory: of its RAM, or of its region for more.
    pub fn is_addable(&self, range: &IpaRange) -> bool {
        self.check_addable(range).is_ok()
    }

    fn check_addable(&self, range: &IpaRange) -> Result<(), AddError> {
        let page = Order::PAGE.bytes();
        let whole = range.start.is_aligned(page) && range.end.is_aligned(page);
        let within = |all: &IpaRange| all.start <= range.start && range.end <= all.end;
        let inside = within(&self.ram()) || within(&self.hotplug());
        if whole && inside && range.start <= range.end { Ok(()) } else { Err(AddError::Outside) }
    }

    /// Returns how far `range` is unplugged, having looked at no more than `left` entries.
    fn unplugged_until(
        table: Table<'_>,
        range: &IpaRange,
        left: &mut usize,
    ) -> Result<Ipa, AddError> {
        let mut at = range.start;
        while at < range.end && *left > 0 {
            *left -= 1;
            let place = table.find(at);
            match place.entry() {
                Entry::Absent(Mark::Unplugged) => at = place.covers(at).end.min(range.end),
                _ => return Err(AddError::Present(at)),
            }
        }
        Ok(at)
    }

    fn add_lazily(&self, range: IpaRange) -> Result<Added, AddError> {
        let mut writing = self.lock_writer();
        let root = writing.root();
        let mut left = ENTRIES_A_STEP;
        let until = Self::unplugged_until(root, &range, &mut left)?;
        let part = range.start..until;
        let tables = tables_for_ends(root, &part, |_| false);
        writing.reserve(tables)?;
        writing.set_marks(part.clone(), Mark::Empty);
        writing.did(&Operation::AddLazily(part));
        Ok(Added { next: Some(until).filter(|&until| until < range.end), tables, blocks: 0 })
    }

    fn add_ready(&self, range: IpaRange) -> Result<Added, AddError> {
        self.unplugged_level(range.start)?;
        let mut blocks = self.take_blocks(&range)?;
        let mut writing = self.lock_writer();
        let planned = Self::plan_blocks(&writing, &blocks, range.start);
        let (count, tables) = match planned.and_then(|plan| {
            writing.reserve(plan.1)?;
            Ok(plan)
        }) {
            Ok(plan) => plan,
            Err(error) => {
                drop(writing);
                blocks.iter_mut().for_each(|block| self.give_back_block(block));
                return Err(error);
            }
        };
        let mut at = range.start;
        for block in blocks.iter_mut().take(count) {
            let Some(block) = block.take() else { break };
            let (order, first) = (block.order(), block.first());
            let place = writing.root().find(at);
            writing.map_later(&place, at, block);
            let end = Ipa::new(at.as_u64() + order.bytes());
            writing.did(&Operation::Add { range: at..end, first });
            at = end;
        }
        // Seen by every table walker before anybody is told of it.
        arch::barrier::dsb_ishst();
        drop(writing);
        // What the tables in stock did not suffice for.
        blocks.iter_mut().for_each(|block| self.give_back_block(block));
        Ok(Added { next: Some(at).filter(|&at| at < range.end), tables, blocks: count })
    }

    fn give_back_block(&self, block: &mut Option<Clean>) {
        if let Some(block) = block.take() {
            self.memory.give_back(block);
        }
    }

    /// Takes zeroed blocks that follow one another from the beginning of `range` on. There may be none: then it has
    /// zeroed a piece of memory, and there will be.
    fn take_blocks(&self, range: &IpaRange) -> Result<[Option<Clean>; BLOCKS], AddError> {
        let mut blocks = [const { None }; BLOCKS];
        let mut at = range.start;
        for (index, place) in blocks.iter_mut().enumerate() {
            if at >= range.end {
                break;
            }
            let Ok(level) = self.unplugged_level(at) else { break };
            let fit = largest_aligned(&(at..range.end)).min(level.order());
            let sizes = [Order::BLOCK_1G, Order::BLOCK_2M, Order::PAGE].into_iter();
            // Pages are no good where blocks can still be had.
            let large =
                sizes.filter(|&order| order <= fit && (order > Order::PAGE || fit == order));
            let ready = large.filter_map(|order| self.memory.allocate_ready(order).ok()).next();
            *place = match ready {
                Some(block) => Some(block),
                None if index > 0 || self.memory.prepare_block() => break,
                None => Some(self.memory.allocate(Order::PAGE)?),
            };
            at = Ipa::new(at.as_u64() + place.as_ref().map_or(0, |block| block.order().bytes()));
        }
        Ok(blocks)
    }

    /// Returns the level of the entry that says that `at` is unplugged.
    fn unplugged_level(&self, at: Ipa) -> Result<Level, AddError> {
        match self.translate(&self.memory.pin(), at) {
            Err(absent) if absent.mark == Mark::Unplugged => Ok(absent.level),
            _ => Err(AddError::Present(at)),
        }
    }

    /// Returns how many of `blocks` can be mapped from `start` on, and how many tables that takes.
    fn plan_blocks(
        writing: &Writing<'_, 'm>,
        blocks: &[Option<Clean>],
        start: Ipa,
    ) -> Result<(usize, usize), AddError> {
        let (mut at, mut tables, mut count) = (start, 0, 0);
        // The tables that blocks before this one make, by what they cover.
        let mut made: [Option<IpaRange>; 2] = [None, None];
        for block in blocks.iter().flatten() {
            let order = block.order();
            let end = Ipa::new(at.as_u64() + order.bytes());
            let mut left = ENTRIES_A_STEP;
            let until = Self::unplugged_until(writing.root(), &(at..end), &mut left)?;
            if until < end {
                break;
            }
            let level = writing.root().find(at).level();
            if level > Level::of(order) {
                // Somebody has made a table here meanwhile.
                break;
            }
            let mut needed = 0;
            for (table, above) in made.iter_mut().zip([Level::One, Level::Two]) {
                let missing = level <= above && above < Level::of(order);
                if missing && !table.as_ref().is_some_and(|range| range.contains(&at)) {
                    let first = at.align_down(above.order().bytes());
                    *table = Some(first..Ipa::new(first.as_u64() + above.order().bytes()));
                    needed += 1;
                }
            }
            if tables + needed > super::regime::STOCK {
                break;
            }
            (tables, count, at) = (tables + needed, count + 1, end);
        }
        Ok((count, tables))
    }

    /// Marks all of the extent but RAM as unplugged, as it is when the space is made.
    pub(super) fn unplug_beyond_ram(&self) -> Result<(), SpaceError> {
        let beyond = self.ram().end..self.extent().end;
        if beyond.is_empty() {
            return Ok(());
        }
        // The end of an address space that is not of whole blocks may be marked as well: nothing is there.
        let above = beyond.end.align_up(Order::BLOCK_1G.bytes()).unwrap_or(beyond.end);
        let beyond = beyond.start..above;
        let mut writing = self.lock_writer();
        writing.reserve(tables_for_ends(writing.root(), &beyond, |_| false))?;
        writing.set_marks(beyond.clone(), Mark::Unplugged);
        writing.did(&Operation::TakeRange(beyond, Mark::Unplugged));
        Ok(())
    }

    /// Takes back what the guest has, from `from` on, and makes the space what it was at first: RAM empty, the rest
    /// unplugged. A bounded step, see [`Taken::next`]. It needs no memory, unless RAM ends within a block of 1 GiB that
    /// was since taken as a whole: then it may want a table, and can be tried again.
    pub fn take_back(&self, from: Ipa) -> Result<Taken<'_>, TakeError> {
        let (ram, extent) = (self.ram(), self.extent());
        if from >= ram.end {
            return self.take_range(from..extent.end, Mark::Unplugged);
        }
        let mut taken = self.take_range(from.max(ram.start)..ram.end, Mark::Empty)?;
        if taken.next.is_none() && ram.end < extent.end {
            taken.next = Some(ram.end);
        }
        Ok(taken)
    }

    /// Returns how many bytes of `range` are not [unplugged](Mark::Unplugged). Takes no lock; what changes meanwhile
    /// may be counted or not.
    pub fn present(&self, range: IpaRange) -> u64 {
        let mut bytes = 0;
        self.dump(range, |run| {
            if run.what != super::What::Absent(Mark::Unplugged) {
                bytes += run.range.end.as_u64() - run.range.start.as_u64();
            }
        });
        bytes
    }
}

impl<'s> Writing<'s, '_> {
    /// Writes `mark` all over `range`, where nothing is mapped; the tables for its ends are reserved.
    fn set_marks(&mut self, range: IpaRange, mark: Mark) {
        let mut at = range.start;
        while at < range.end {
            let place: Place<'s> = self.root().find(at);
            let covers = place.covers(at);
            if at == covers.start && covers.end <= range.end {
                self.set_mark(&place, mark);
                at = covers.end;
            } else {
                // A table is made of the entry, and its entries are next.
                let part = at..covers.end.min(range.end);
                let order = largest_within(&part);
                self.mark(at, order, mark);
                at = Ipa::new(at.as_u64() + order.bytes());
            }
        }
    }
}

/// Returns the order of the largest block that begins where `range` begins and lies within it.
fn largest_aligned(range: &IpaRange) -> Order {
    let block = Order::BLOCK_1G.bytes();
    let end = range.start.checked_add(block);
    if range.start.is_aligned(block) && end.is_some_and(|end| end <= range.end) {
        return Order::BLOCK_1G;
    }
    largest_within(range)
}
