//! Who a frame can belong to.

use core::fmt;

/// The largest number of guests.
pub const MAX_GUESTS: usize = 32;

/// A guest's number, 0 to [`MAX_GUESTS`] - 1.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct GuestId(u8);

impl GuestId {
    /// Makes a guest's number; `None` where there cannot be such a guest.
    pub const fn new(index: usize) -> Option<Self> {
        if index < MAX_GUESTS { Some(Self(index as u8)) } else { None }
    }

    /// Returns the number as an index into an array of [`MAX_GUESTS`].
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for GuestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whose a frame is. Each has exactly one owner at any time, and can be reached from the tables of
/// this owner only.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// Nobody's: on a free list, or in hand between there and an owner.
    Free,
    /// Sluice's own: its image, its pages, and the frames it keeps for tables.
    Hypervisor,
    /// A stage-2 table of a guest.
    Table(GuestId),
    /// A guest's memory.
    Guest(GuestId),
    /// It left a guest's tables; walkers may still reach it, nobody else may have it yet.
    Retired,
    /// Not memory, or memory that was taken offline: nobody's, and not to be had.
    Offline,
    /// Memory that must not be used.
    Bad,
}
