//! Addresses and ranges: one type for each address space, with checked arithmetic.
//!
//! No bare integer crosses a module boundary as an address. Conversions between address spaces
//! exist only where a translation really takes place: a walk turns an [`Ipa`] into a [`Pa`], the
//! window turns a [`Pa`] into a pointer.

use core::fmt;
use core::ops::Range;

/// Log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;
/// The size of a page and of a frame in bytes: Sluice uses the 4 KiB granule throughout.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;
/// The size in bytes of a level 2 block, 2 MiB.
pub const BLOCK_2M: u64 = 2 << 20;
/// The size in bytes of a level 1 block, 1 GiB.
pub const BLOCK_1G: u64 = 1 << 30;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Copy, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// Makes an address of a bare number: for values that come from hardware, from a
            /// device tree or from a guest, at the place where they enter.
            pub const fn new(address: u64) -> Self {
                Self(address)
            }

            /// Makes the address of the first byte of page number `page`.
            pub const fn from_page(page: u64) -> Self {
                Self(page << PAGE_SHIFT)
            }

            /// Returns the number, for hardware and for printing.
            pub const fn as_u64(self) -> u64 {
                self.0
            }

            /// Returns the number of the page that the address is in.
            pub const fn page(self) -> u64 {
                self.0 >> PAGE_SHIFT
            }

            /// Returns the offset of the address within its page, 0 to 4095 bytes.
            pub const fn page_offset(self) -> u64 {
                self.0 & (PAGE_SIZE - 1)
            }

            /// Adds `bytes`; `None` where the sum leaves the 64-bit address space.
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }

            /// Returns the distance in bytes from `lower`; `None` where `lower` is above.
            pub const fn checked_sub(self, lower: Self) -> Option<u64> {
                self.0.checked_sub(lower.0)
            }

            /// Says whether the address is a multiple of `size`, a power of two in bytes.
            pub const fn is_aligned(self, size: u64) -> bool {
                self.0 & (size - 1) == 0
            }

            /// Rounds down to a multiple of `size`, a power of two in bytes.
            pub const fn align_down(self, size: u64) -> Self {
                Self(self.0 & !(size - 1))
            }

            /// Rounds up to a multiple of `size`, a power of two in bytes; `None` past the end of
            /// the address space.
            pub const fn align_up(self, size: u64) -> Option<Self> {
                match self.0.checked_add(size - 1) {
                    Some(sum) => Some(Self(sum & !(size - 1))),
                    None => None,
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{:#x}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address!(
    /// A physical address: the output of stage 2 and of EL2's stage 1.
    Pa, "pa:"
);
address!(
    /// An intermediate physical address: what a guest takes for physical, the input of stage 2.
    Ipa, "ipa:"
);
address!(
    /// A virtual address of EL2's stage 1.
    HypVa, "va:"
);

/// The number of one 4 KiB frame of physical memory: its [`Pa`] divided by 4096.
///
/// 32 bits reach 16 TiB.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Frame(u32);

impl Frame {
    /// Makes frame number `number`.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Returns the frame that `pa` is in; `None` above 16 TiB.
    pub const fn containing(pa: Pa) -> Option<Self> {
        if pa.page() <= u32::MAX as u64 { Some(Self(pa.page() as u32)) } else { None }
    }

    /// Returns the frame's number.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Returns the address of the frame's first byte.
    pub const fn pa(self) -> Pa {
        Pa::from_page(self.0 as u64)
    }
}

/// A half-open range of addresses of one address space.
pub type PaRange = Range<Pa>;
/// A half-open range of intermediate physical addresses.
pub type IpaRange = Range<Ipa>;

/// Returns the size of `range` in bytes.
pub fn byte_count(range: &IpaRange) -> u64 {
    range.end.as_u64().saturating_sub(range.start.as_u64())
}

/// Returns the range of `size` bytes from `start`; `None` where it leaves the address space.
pub fn ipa_range(start: Ipa, size: u64) -> Option<IpaRange> {
    Some(start..start.checked_add(size)?)
}

/// Returns the range of `size` bytes from `start`; `None` where it leaves the address space.
pub fn pa_range(start: Pa, size: u64) -> Option<PaRange> {
    Some(start..start.checked_add(size)?)
}
