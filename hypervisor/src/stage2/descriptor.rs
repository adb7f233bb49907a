//! One stage-2 descriptor, as software reads and writes it.
//!
//! The hardware looks at bits 1:0 first (Arm ARM, D8.3): with bit 0 clear the rest is ignored,
//! which is where Sluice keeps what it knows about an absent page:
//!
//! | bits | meaning |
//! |---|---|
//! | 0 | empty: populated by the first touch |
//! | `SWFLAG_0` (55) alone | ballooned: the guest gave it up, touching it is the guest's mistake |
//! | `SWFLAG_2` (57) alone | unplugged: there is no memory, until some is added |
//! | both of these | poisoned: what was there is lost, touching it is an external abort |
//! | `SWFLAG_1` (56) and a table's address | pending: a block was broken, its table comes |
//! | `SWFLAG_3` (58) and the rest of a leaf | moving: the page or block is being copied elsewhere |
//!
//! *Pending* is how break-before-make looks to software: the hardware sees nothing, the walkers of
//! Sluice go on through the table that will be there in a moment, so that they never wait for it. *Moving* is the
//! same for a leaf: the hardware sees nothing, software reads go on where the page was, see `evacuate.rs`.

use crate::addr::{Ipa, PAGE_SHIFT, Pa};
use crate::arch;
use crate::mem::Order;
use aarch64_paging::descriptor::Stage2Attributes;

/// The bits of a descriptor that hold an address (4 KiB granule, 48 bits).
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

const VALID: u64 = Stage2Attributes::VALID.bits() as u64;
/// Says that the page or block was used since the bit was cleared; an access to one without it faults, unless the
/// CPU sets it itself (FEAT_HAFDBS).
pub const ACCESS_FLAG: u64 = Stage2Attributes::ACCESS_FLAG.bits() as u64;
const TABLE_OR_PAGE: u64 = Stage2Attributes::TABLE_OR_PAGE.bits() as u64;
const BALLOONED: u64 = Stage2Attributes::SWFLAG_0.bits() as u64;
const UNPLUGGED: u64 = Stage2Attributes::SWFLAG_2.bits() as u64;
const PENDING: u64 = Stage2Attributes::SWFLAG_1.bits() as u64;
const MOVING: u64 = Stage2Attributes::SWFLAG_3.bits() as u64;

/// The number of descriptors in a table.
pub const ENTRIES: usize = 512;

/// The level of a table, and of the descriptors in it. Sluice's stage 2 starts at level 1 (39 bits
/// of IPA).
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// The root: an entry covers 1 GiB.
    One = 1,
    /// An entry covers 2 MiB.
    Two = 2,
    /// An entry covers a page of 4 KiB.
    Three = 3,
}

impl Level {
    /// Returns the size of what one entry covers.
    pub const fn order(self) -> Order {
        match self {
            Self::One => Order::BLOCK_1G,
            Self::Two => Order::BLOCK_2M,
            Self::Three => Order::PAGE,
        }
    }

    /// Returns the level whose entries map blocks of `order`, or that of the next smaller block.
    pub const fn of(order: Order) -> Self {
        if order.get() >= Order::BLOCK_1G.get() {
            Self::One
        } else if order.get() >= Order::BLOCK_2M.get() {
            Self::Two
        } else {
            Self::Three
        }
    }

    /// Returns the level of the tables that entries of this level point to.
    pub const fn below(self) -> Option<Self> {
        match self {
            Self::One => Some(Self::Two),
            Self::Two => Some(Self::Three),
            Self::Three => None,
        }
    }

    /// Returns which entry of a table of this level covers `ipa`, 0 to 511.
    #[inline]
    pub const fn index(self, ipa: Ipa) -> usize {
        let shift = PAGE_SHIFT + 9 * (Self::Three as u32 - self as u32);
        (ipa.as_u64() >> shift) as usize % ENTRIES
    }
}

/// What an edit leaves where it removed something.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The next touch populates it with zeroes.
    Empty,
    /// Touching it is an error, until it is returned.
    Ballooned,
    /// There is no memory: touching it is an error, until some is added.
    Unplugged,
    /// The memory failed: touching it is an error, until the guest starts anew.
    Poisoned,
}

impl Mark {
    /// Returns the descriptor that says so.
    pub const fn bits(self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Ballooned => BALLOONED,
            Self::Unplugged => UNPLUGGED,
            Self::Poisoned => BALLOONED | UNPLUGGED,
        }
    }
}

/// What a descriptor says.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Nothing there.
    Absent(Mark),
    /// A page or block, from its first byte.
    Leaf(Pa),
    /// A page or block that the hardware does not see while it is being copied elsewhere: where it is still.
    Moving(Pa),
    /// A table of the next level.
    Table(Pa),
    /// A table of the next level that the hardware does not see yet.
    Pending(Pa),
}

impl Entry {
    /// Reads the descriptor `bits` of a table of `level`.
    #[inline]
    pub const fn decode(bits: u64, level: Level) -> Self {
        let address = address(bits);
        if bits & VALID != 0 {
            if matches!(level, Level::Three) || bits & TABLE_OR_PAGE == 0 {
                Self::Leaf(address)
            } else {
                Self::Table(address)
            }
        } else if bits & PENDING != 0 {
            Self::Pending(address)
        } else if bits & MOVING != 0 {
            Self::Moving(address)
        } else if bits & (BALLOONED | UNPLUGGED) == BALLOONED | UNPLUGGED {
            Self::Absent(Mark::Poisoned)
        } else if bits & BALLOONED != 0 {
            Self::Absent(Mark::Ballooned)
        } else if bits & UNPLUGGED != 0 {
            Self::Absent(Mark::Unplugged)
        } else {
            Self::Absent(Mark::Empty)
        }
    }
}

/// Says whether the descriptor `bits` of level 1 or 2 leads to a table, which the hardware may not see
/// yet.
#[inline]
pub const fn is_table(bits: u64) -> bool {
    bits & (VALID | TABLE_OR_PAGE) == VALID | TABLE_OR_PAGE || bits & (VALID | PENDING) == PENDING
}

/// Returns the address in the descriptor `bits`.
#[inline]
pub const fn address(bits: u64) -> Pa {
    Pa::new(bits & ADDRESS)
}

/// Returns what all guest memory is mapped with: Normal, write-back, inner shareable, read, write
/// and execute.
///
/// With FEAT_S2FWB and HCR_EL2.FWB the memory attribute field means something else: 0b0110 forces
/// write-back whatever the guest asks for (Arm ARM, D8.6.6).
pub fn guest_attributes() -> Stage2Attributes {
    let memory = if arch::features().s2fwb {
        Stage2Attributes::MEMATTR_NORMAL_INNER_WT | Stage2Attributes::MEMATTR_NORMAL_OUTER_NC
    } else {
        Stage2Attributes::MEMATTR_NORMAL_INNER_WB | Stage2Attributes::MEMATTR_NORMAL_OUTER_WB
    };
    memory
        | Stage2Attributes::VALID
        | Stage2Attributes::ACCESS_FLAG
        | Stage2Attributes::S2AP_ACCESS_RW
        | Stage2Attributes::SH_INNER
}

/// Returns the attributes in `bits`, as the crate names them.
pub fn attributes(bits: u64) -> Stage2Attributes {
    Stage2Attributes::from_bits_retain((bits & !ADDRESS) as usize)
}

/// Makes the descriptor that maps the block of `level` at `first` for a guest.
pub fn leaf(first: Pa, level: Level) -> u64 {
    leaf_like(guest_attributes().bits() as u64, first, level)
}

/// Makes the descriptor that maps the block of `level` at `first` with the attributes of `model`,
/// a leaf of any level.
pub const fn leaf_like(model: u64, first: Pa, level: Level) -> u64 {
    let flags = model & !ADDRESS & !TABLE_OR_PAGE;
    let page = if matches!(level, Level::Three) { TABLE_OR_PAGE } else { 0 };
    (first.as_u64() & ADDRESS) | flags | page
}

/// Makes the descriptor `leaf` one that only software sees, until it is copied.
pub const fn moving(leaf: u64) -> u64 {
    leaf & !VALID | MOVING
}

/// Makes a leaf again of a descriptor that [`moving`] made, or of a leaf.
pub const fn not_moving(bits: u64) -> u64 {
    bits & !MOVING | VALID
}

/// Makes the descriptor `leaf`, which may be moving, lead to `first` instead.
pub const fn leaf_at(leaf: u64, first: Pa) -> u64 {
    (not_moving(leaf) & !ADDRESS) | (first.as_u64() & ADDRESS)
}

/// Makes the descriptor that points the hardware to `table`.
pub const fn table(table: Pa) -> u64 {
    (table.as_u64() & ADDRESS) | TABLE_OR_PAGE | VALID
}

/// Makes the descriptor that points only software to `table`.
pub const fn pending(table: Pa) -> u64 {
    (table.as_u64() & ADDRESS) | PENDING
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_read_back_as_what_was_written() {
        let model = guest_attributes().bits() as u64;
        let pa = Pa::new(0x40_4020_0000);
        for level in [Level::One, Level::Two, Level::Three] {
            let leaf = leaf_like(model, pa, level);
            assert_eq!(Entry::decode(leaf, level), Entry::Leaf(pa));
            assert_eq!(leaf & TABLE_OR_PAGE != 0, level == Level::Three);
            let moving = moving(leaf);
            assert_eq!(Entry::decode(moving, level), Entry::Moving(pa));
            assert_eq!(moving & VALID, 0, "the hardware must fault");
            assert!(!is_table(moving));
            assert_eq!(not_moving(moving), leaf);
            let elsewhere = Pa::new(0x40_8000_0000);
            assert_eq!(leaf_at(moving, elsewhere), leaf_like(model, elsewhere, level));
            for mark in [Mark::Empty, Mark::Ballooned, Mark::Unplugged, Mark::Poisoned] {
                assert_eq!(Entry::decode(mark.bits(), level), Entry::Absent(mark));
                assert_eq!(mark.bits() & 3, 0, "the hardware must fault");
            }
        }
        assert_eq!(Entry::decode(table(pa), Level::Two), Entry::Table(pa));
        assert_eq!(Entry::decode(pending(pa), Level::Two), Entry::Pending(pa));
        assert_eq!(pending(pa) & VALID, 0, "the hardware must fault");
    }

    #[test]
    fn a_page_of_a_split_block_keeps_the_attributes_of_the_block() {
        let block = leaf_like(guest_attributes().bits() as u64, Pa::new(0x20_0000), Level::Two);
        let page = leaf_like(block, Pa::new(0x20_1000), Level::Three);
        assert_eq!(attributes(page) - Stage2Attributes::TABLE_OR_PAGE, attributes(block));
    }

    #[test]
    fn indices_take_nine_bits_a_level() {
        let ipa = Ipa::new((3 << 30) | (5 << 21) | (7 << 12) | 9);
        assert_eq!(Level::One.index(ipa), 3);
        assert_eq!(Level::Two.index(ipa), 5);
        assert_eq!(Level::Three.index(ipa), 7);
    }
}
