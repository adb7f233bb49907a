//! Populating: zeroed memory for an address that a guest touched.

use super::accessed;
use super::descriptor::{Entry, Level, Mark};
use super::space::Space;
use crate::addr::Ipa;
use crate::mem::{Clean, Order, OutOfMemory};
use crate::spec::Operation;
use crate::sync::{Edge, is_missing};

/// What [`Space::populate`] did.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Populated {
    /// It mapped a zeroed block of this size.
    Mapped(Order),
    /// Another CPU had mapped the address, or it was never absent, and its access flag is set now: the access can be
    /// tried again.
    Already,
    /// A piece of memory was zeroed for it; the access can be tried again, and faults again.
    Later,
    /// It is being moved to other frames; the access can be tried again, when others have run.
    Moving,
}

/// Why an address cannot be populated.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum PopulateError {
    /// It is not the guest's RAM.
    Outside,
    /// The guest gave the page up and has not asked for it back: its mistake.
    Ballooned,
    /// There is no memory at this address now.
    Unplugged,
    /// The memory that was there has failed.
    Poisoned,
    /// There is no frame left for it, or none for a table.
    OutOfMemory,
}

impl From<OutOfMemory> for PopulateError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// What is at an address that is to be populated.
enum Found {
    /// Nothing, by an entry of this level.
    Absent(Level),
    Mapped,
    Moving,
}

impl Space<'_> {
    /// Maps zeroed memory at `ipa`: a block of at most `largest` where there is one, it lies in the
    /// guest's RAM and nothing of it is mapped yet, else a page.
    ///
    /// The block is taken before the writer lock is, since it may have to be zeroed. The lock may
    /// show that another CPU was here meanwhile; then a block that does not fit is given back, and
    /// a page, which does, is taken instead. Tables are reserved before anything is written.
    pub fn populate(&self, ipa: Ipa, largest: Order) -> Result<Populated, PopulateError> {
        match self.absent_level(ipa)? {
            Found::Absent(level) => {
                let block = self.allocate(self.largest_fit(ipa, level, largest))?;
                self.commit_or_smaller(ipa, block)
            }
            Found::Mapped => Ok(Populated::Already),
            Found::Moving => Ok(Populated::Moving),
        }
    }

    /// Populates as [`Space::populate`] does, blocks of 2 MiB at most, in bounded time: where no zeroed block is ready,
    /// it does a piece of the work and says [`Populated::Later`]. For a guest's fault, between two of which its
    /// interrupts come in.
    pub fn populate_step(&self, ipa: Ipa) -> Result<Populated, PopulateError> {
        let level = match self.absent_level(ipa)? {
            Found::Absent(level) => level,
            Found::Mapped => return Ok(Populated::Already),
            Found::Moving => return Ok(Populated::Moving),
        };
        let fit = self.largest_fit(ipa, level, Order::BLOCK_2M);
        let block = match self.memory.allocate_ready(fit) {
            Ok(block) => block,
            Err(_) if fit > Order::PAGE && self.memory.prepare_block() => {
                return Ok(Populated::Later);
            }
            Err(_) => self.memory.allocate(Order::PAGE)?,
        };
        self.commit_or_smaller(ipa, block)
    }

    /// Finds out whether `ipa` may be populated.
    fn absent_level(&self, ipa: Ipa) -> Result<Found, PopulateError> {
        if !self.covers(ipa) {
            return Err(PopulateError::Outside);
        }
        let pin = self.memory.pin();
        let place = self.root(&pin).find(ipa);
        match place.leaf(ipa) {
            Ok(leaf) if leaf.is_moving() => Ok(Found::Moving),
            Ok(_) => {
                accessed::note(&place);
                Ok(Found::Mapped)
            }
            Err(absent) => match absent.mark {
                Mark::Empty => Ok(Found::Absent(absent.level)),
                Mark::Ballooned => Err(PopulateError::Ballooned),
                Mark::Unplugged => Err(PopulateError::Unplugged),
                Mark::Poisoned => Err(PopulateError::Poisoned),
            },
        }
    }

    /// Returns the largest order that an entry of `level` or below can map around `ipa` within RAM.
    pub(super) fn largest_fit(&self, ipa: Ipa, level: Level, largest: Order) -> Order {
        let mut level = level.max(Level::of(largest));
        while let Some(below) = level.below() {
            let start = ipa.align_down(level.order().bytes());
            let end = start.checked_add(level.order().bytes());
            if self.extent.start <= start && end.is_some_and(|end| end <= self.extent.end) {
                break;
            }
            level = below;
        }
        level.order()
    }

    /// Allocates a block of `largest`, or the largest that there is.
    fn allocate(&self, largest: Order) -> Result<Clean, OutOfMemory> {
        self.memory.allocate(largest).or_else(|out| {
            let smaller = [Order::BLOCK_2M, Order::PAGE].into_iter();
            let mut smaller = smaller.filter(|&order| order < largest);
            smaller.find_map(|order| self.memory.allocate(order).ok()).ok_or(out)
        })
    }

    /// Maps `block` around `ipa`, or a page where it does not fit any more.
    fn commit_or_smaller(&self, ipa: Ipa, block: Clean) -> Result<Populated, PopulateError> {
        let mut block = block;
        loop {
            if let Some(done) = self.commit(ipa, block) {
                return done;
            }
            block = self.memory.allocate(Order::PAGE)?;
        }
    }

    /// Maps `block` around `ipa`, or gives it back; `None` where it does not fit there any more. (A
    /// page fits wherever it is absent.)
    fn commit(&self, ipa: Ipa, block: Clean) -> Option<Result<Populated, PopulateError>> {
        let order = block.order();
        let mut writing = self.lock_writer();
        let place = writing.root().find(ipa);
        // Others may have been here since it was found absent.
        let now =
            if is_missing(Edge::LookAgain) { Entry::Absent(Mark::Empty) } else { place.entry() };
        let done = match now {
            Entry::Absent(Mark::Empty) => {
                let tables = (Level::of(order) as usize).checked_sub(place.level() as usize);
                match tables.map(|tables| writing.reserve(tables)) {
                    Some(Ok(())) => {
                        let (start, first) = (ipa.align_down(order.bytes()), block.first());
                        writing.map(&place, start, block);
                        let range = start..Ipa::new(start.as_u64() + order.bytes());
                        writing.did(&Operation::Populate { range, first });
                        return Some(Ok(Populated::Mapped(order)));
                    }
                    Some(Err(out)) => Some(Err(out.into())),
                    None => None,
                }
            }
            Entry::Absent(Mark::Ballooned) => Some(Err(PopulateError::Ballooned)),
            Entry::Absent(Mark::Unplugged) => Some(Err(PopulateError::Unplugged)),
            Entry::Absent(Mark::Poisoned) => Some(Err(PopulateError::Poisoned)),
            _ => Some(Ok(Populated::Already)),
        };
        self.memory.give_back(block);
        done
    }
}
