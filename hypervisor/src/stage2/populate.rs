//! Populating: zeroed memory for an address that a guest touched.

use super::descriptor::{Level, Mark};
use super::space::Space;
use crate::addr::Ipa;
use crate::mem::{Clean, Order, OutOfMemory};

/// What [`Space::populate`] did.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Populated {
    /// It mapped a zeroed block of this size.
    Mapped(Order),
    /// Another CPU had mapped the address, or it was never absent: the access can be tried again.
    Already,
}

/// Why an address cannot be populated.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum PopulateError {
    /// It is not the guest's RAM.
    Outside,
    /// The guest gave the page up and has not asked for it back: its mistake.
    Ballooned,
    /// There is no frame left for it, or none for a table.
    OutOfMemory,
}

impl From<OutOfMemory> for PopulateError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// The most tables between the root and a page.
const TABLES_TO_A_PAGE: usize = 2;

impl Space<'_> {
    /// Maps zeroed memory at `ipa`: a block of at most `largest` where there is one, it lies in the
    /// guest's RAM and nothing of it is mapped yet, else a page.
    ///
    /// Everything is reserved before the writer lock is taken. The lock may show that another CPU
    /// was here meanwhile; then what does not fit is given back, and the second attempt asks for
    /// what fits in any case.
    pub fn populate(&self, ipa: Ipa, largest: Order) -> Result<Populated, PopulateError> {
        if !self.ram.contains(&ipa) {
            return Err(PopulateError::Outside);
        }
        let Some(level) = self.absent_level(ipa)? else { return Ok(Populated::Already) };
        let block = self.allocate(self.largest_fit(ipa, level, largest))?;
        let tables = Level::of(block.order()) as usize - level as usize;
        match self.commit(ipa, block, tables) {
            Commit::DoesNotFit => {
                let page = self.memory.allocate(Order::PAGE)?;
                self.commit(ipa, page, TABLES_TO_A_PAGE).into()
            }
            done => done.into(),
        }
    }

    /// Returns the level at which `ipa` is absent and may be populated; `None` where it is mapped.
    fn absent_level(&self, ipa: Ipa) -> Result<Option<Level>, PopulateError> {
        match self.translate(&self.memory.pin(), ipa) {
            Ok(_) => Ok(None),
            Err(absent) => match absent.mark {
                Mark::Empty => Ok(Some(absent.level)),
                Mark::Ballooned => Err(PopulateError::Ballooned),
            },
        }
    }

    /// Returns the largest order that an entry of `level` or below can map around `ipa` within RAM.
    fn largest_fit(&self, ipa: Ipa, level: Level, largest: Order) -> Order {
        let fits = |order: Order| {
            let start = ipa.align_down(order.bytes());
            let end = start.checked_add(order.bytes());
            self.ram.start <= start && end.is_some_and(|end| end <= self.ram.end)
        };
        let largest = Level::of(largest).max(level).order();
        [Order::BLOCK_1G, Order::BLOCK_2M]
            .into_iter()
            .find(|&order| order <= largest && fits(order))
            .unwrap_or(Order::PAGE)
    }

    /// Allocates a block of `largest`, or the largest that there is.
    fn allocate(&self, largest: Order) -> Result<Clean, OutOfMemory> {
        self.memory.allocate(largest).or_else(|out| {
            let smaller = [Order::BLOCK_2M, Order::PAGE].into_iter();
            let mut smaller = smaller.filter(|&order| order < largest);
            smaller.find_map(|order| self.memory.allocate(order).ok()).ok_or(out)
        })
    }

    /// Maps `block` around `ipa` with at most `tables` new tables, or gives it back.
    fn commit(&self, ipa: Ipa, block: Clean, tables: usize) -> Commit {
        let mut writing = self.lock_writer();
        if let Err(out) = writing.reserve(tables) {
            self.memory.give_back(block);
            return Commit::OutOfMemory(out);
        }
        let place = writing.root().find(ipa);
        let order = block.order();
        let done = match place.leaf(ipa) {
            Ok(_) => Commit::Already,
            Err(absent) if absent.mark == Mark::Ballooned => Commit::Ballooned,
            Err(absent) => match (Level::of(order) as usize).checked_sub(absent.level as usize) {
                Some(needed) if needed <= tables => Commit::Mapped(order),
                _ => Commit::DoesNotFit,
            },
        };
        if matches!(done, Commit::Mapped(_)) {
            writing.map(&place, ipa.align_down(order.bytes()), block);
        } else {
            self.memory.give_back(block);
        }
        done
    }
}

/// What an attempt came to.
enum Commit {
    Mapped(Order),
    Already,
    Ballooned,
    OutOfMemory(OutOfMemory),
    DoesNotFit,
}

impl From<Commit> for Result<Populated, PopulateError> {
    fn from(commit: Commit) -> Self {
        match commit {
            Commit::Mapped(order) => Ok(Populated::Mapped(order)),
            // A page fits with two tables wherever it is absent.
            Commit::Already | Commit::DoesNotFit => Ok(Populated::Already),
            Commit::Ballooned => Err(PopulateError::Ballooned),
            Commit::OutOfMemory(out) => Err(out.into()),
        }
    }
}
