//! The size of a block of frames.

use crate::addr::PAGE_SIZE;

/// The size of a naturally aligned block: 2 to the power of the order frames, 0 (4 KiB) to 18 (1 GiB).
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Order(u8);

impl Order {
    /// One frame, what a level 3 descriptor maps.
    pub const PAGE: Self = Self(0);
    /// 2 MiB, what a level 2 block descriptor maps.
    pub const BLOCK_2M: Self = Self(9);
    /// 1 GiB, what a level 1 block descriptor maps, and the largest block there is.
    pub const BLOCK_1G: Self = Self(18);
    /// The largest order.
    pub const MAX: Self = Self::BLOCK_1G;
    /// The number of orders.
    pub const COUNT: usize = Self::MAX.0 as usize + 1;

    /// Makes an order; `None` above [`Order::MAX`].
    pub const fn new(order: u8) -> Option<Self> {
        if order <= Self::MAX.0 { Some(Self(order)) } else { None }
    }

    /// Returns the exponent, 0 to 18.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Returns the exponent as an index into an array of [`Order::COUNT`].
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Returns the number of frames in a block.
    pub const fn frames(self) -> u32 {
        1 << self.0
    }

    /// Returns the size of a block in bytes.
    pub const fn bytes(self) -> u64 {
        PAGE_SIZE << self.0
    }

    /// Returns the order of the halves of a block; a frame stays one.
    pub const fn halved(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// Returns the order of two blocks together; at most [`Order::MAX`].
    pub const fn doubled(self) -> Self {
        if self.0 < Self::MAX.0 { Self(self.0 + 1) } else { self }
    }
}
