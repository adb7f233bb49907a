//! Walking a guest's tables in software, without a lock.
//!
//! A walk loads one descriptor a level with *acquire* and follows it. It pairs with the *release*
//! with which an edit stores a descriptor: whoever sees a table's address sees the table's contents
//! (the litmus shape MP). Nothing else is needed against edits that only change leaves.
//!
//! Against edits that take tables away there is the epoch: a [`Table`] lives as long as the pin (or
//! the writer lock) that it was made under, and a table that an edit unlinks is not reused before
//! every pin of that time is gone. A walk that already stood in such a table reads what was there
//! when it was unlinked, since nobody changes a table that is no longer linked. No reference to the
//! crate's `PageTable` is ever made here, only to the one word that is being read.
#![expect(unsafe_code, reason = "reads table memory through raw pointers")]

use super::descriptor::{self, ENTRIES, Entry, Level, Mark};
use crate::addr::{Frame, Ipa, IpaRange, Pa};
use crate::arch;
use crate::mem::Order;
use crate::sync::{AtomicU64, follow};
use core::marker::PhantomData;

/// A table that stays readable for as long as `'p`, the time of a pin or of the writer lock.
#[derive(Copy, Clone)]
pub(crate) struct Table<'p> {
    pa: Pa,
    level: Level,
    _pin: PhantomData<&'p ()>,
}

impl<'p> Table<'p> {
    /// Names the table of `level` at `pa`.
    ///
    /// # Safety
    ///
    /// For all of `'p` the frame at `pa` holds a table, or nobody else can reach it, or its grace
    /// period cannot pass.
    pub(super) const unsafe fn new(pa: Pa, level: Level) -> Self {
        Self { pa, level, _pin: PhantomData }
    }

    pub(crate) const fn pa(self) -> Pa {
        self.pa
    }

    pub(crate) const fn level(self) -> Level {
        self.level
    }

    /// Returns the descriptors.
    #[inline]
    pub(crate) fn slots(self) -> &'p [AtomicU64; ENTRIES] {
        let table = arch::memory::pointer(self.pa).cast::<[AtomicU64; ENTRIES]>();
        // SAFETY: a table is 512 aligned words that are only ever accessed atomically while they
        // can be reached, and the maker of `self` promised that it stays one for `'p`.
        unsafe { table.as_ref() }
    }

    /// Returns descriptor number `index`, taken modulo 512.
    #[inline]
    pub(crate) fn slot(self, index: usize) -> &'p AtomicU64 {
        &self.slots()[index % ENTRIES]
    }

    /// Returns the table that `entry`, just loaded from this table, leads to.
    #[inline]
    pub(crate) fn below(self, entry: Entry) -> Option<Table<'p>> {
        match entry {
            Entry::Table(pa) | Entry::Pending(pa) => {
                let level = self.level.below()?;
                // SAFETY: the descriptor was read within `'p`, so the table could be reached within
                // it and cannot be reused before its end.
                Some(unsafe { Table::new(pa, level) })
            }
            Entry::Absent(_) | Entry::Leaf(_) | Entry::Moving(_) => None,
        }
    }

    /// Returns the deepest descriptor for `ipa`, in at most three loads.
    #[inline]
    pub(crate) fn find(self, ipa: Ipa) -> Place<'p> {
        self.find_at(ipa, Level::Three)
    }

    /// Returns the descriptor for `ipa` in the table of `level`, or the one above that ends the
    /// walk.
    #[inline]
    pub(crate) fn find_at(self, ipa: Ipa, level: Level) -> Place<'p> {
        let mut table = self;
        loop {
            let place = Place::load(table, ipa);
            match table.level.below() {
                Some(below) if table.level < level && descriptor::is_table(place.bits) => {
                    // SAFETY: as in `below`.
                    table = unsafe { Table::new(descriptor::address(place.bits), below) };
                }
                _ => return place,
            }
        }
    }
}

/// A descriptor: where it stands and what it said when it was loaded.
#[derive(Copy, Clone)]
pub(crate) struct Place<'p> {
    pub(crate) table: Table<'p>,
    pub(crate) slot: &'p AtomicU64,
    pub(crate) bits: u64,
}

impl<'p> Place<'p> {
    /// Loads the descriptor for `ipa` in `table`.
    #[inline]
    pub(crate) fn load(table: Table<'p>, ipa: Ipa) -> Self {
        let slot = table.slot(table.level.index(ipa));
        let bits = follow(slot);
        Self { table, slot, bits }
    }

    /// Returns what the descriptor says.
    #[inline]
    pub(crate) const fn entry(&self) -> Entry {
        Entry::decode(self.bits, self.table.level)
    }

    pub(crate) const fn level(&self) -> Level {
        self.table.level
    }

    /// Returns the table that the descriptor leads to, if that is a table of pages.
    pub(crate) fn page_table(&self) -> Option<Table<'p>> {
        self.table.below(self.entry()).filter(|table| table.level == Level::Three)
    }

    /// Returns what the descriptor covers, of which `ipa` is a part.
    pub(crate) fn covers(&self, ipa: Ipa) -> IpaRange {
        let bytes = self.level().order().bytes();
        let start = ipa.align_down(bytes);
        start..Ipa::new(start.as_u64().saturating_add(bytes))
    }

    /// Returns what `ipa` is mapped to, if it is.
    #[inline]
    pub(crate) fn leaf(&self, ipa: Ipa) -> Result<Leaf<'p>, Absent> {
        let level = self.table.level;
        match self.entry() {
            Entry::Leaf(first) | Entry::Moving(first) => {
                Ok(Leaf { first, level, bits: self.bits, ipa, _pin: PhantomData })
            }
            Entry::Absent(mark) => Err(Absent { mark, level }),
            // Tables below level 3 do not exist; read as nothing, the audit reports it.
            Entry::Table(_) | Entry::Pending(_) => Err(Absent { mark: Mark::Empty, level }),
        }
    }
}

/// A page or block that an IPA is mapped to; its frames are not reused within `'p`.
#[derive(Copy, Clone, Debug)]
pub struct Leaf<'p> {
    first: Pa,
    level: Level,
    bits: u64,
    ipa: Ipa,
    _pin: PhantomData<&'p ()>,
}

impl Leaf<'_> {
    /// Returns the address of the byte that was asked for.
    pub fn pa(&self) -> Pa {
        let offset = self.ipa.as_u64() & (self.order().bytes() - 1);
        Pa::new(self.first.as_u64() | offset)
    }

    /// Returns the frame of the byte that was asked for; `None` above 16 TiB.
    pub fn frame(&self) -> Option<Frame> {
        Frame::containing(self.pa())
    }

    /// Returns the first byte of the page or block.
    pub const fn first(&self) -> Pa {
        self.first
    }

    /// Returns the size of the page or block.
    pub const fn order(&self) -> Order {
        self.level.order()
    }

    /// Returns the level of the descriptor, 1 to 3.
    pub const fn level(&self) -> Level {
        self.level
    }

    /// Says whether it is being copied elsewhere: what is written there now may be lost.
    pub const fn is_moving(&self) -> bool {
        matches!(Entry::decode(self.bits, self.level), Entry::Moving(_))
    }

    /// Returns the descriptor.
    pub const fn bits(&self) -> u64 {
        self.bits
    }
}

/// Says that an IPA is not mapped, and why.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Absent {
    /// Whether it was never populated or given up.
    pub mark: Mark,
    /// The level of the descriptor that says so: how much is absent with it.
    pub level: Level,
}
