//! Registers that guests reach without an exit: the virtual CPU interface of a GICv2 (GICV).
//!
//! They are mapped by tables of the hypervisor's own, made once at boot, which the root tables of all guests lead to.
//! They lie below all memory, in the first GiB of a space, so no edit of memory comes there, nothing in them ever
//! changes, and nothing in them has an owner: the audit and the specification begin behind them.

use super::descriptor::{self, Level};
use super::edit;
use crate::addr::{Ipa, PAGE_SIZE, Pa};
use crate::mem::{HypervisorFrame, Memory, Order, OutOfMemory};
use crate::sync::AtomicU64;
use aarch64_paging::descriptor::Stage2Attributes;

/// Pages of devices, the same for all guests.
pub struct Devices {
    /// The table of level 2 for the first GiB.
    top: HypervisorFrame,
    /// The table of level 3 below it.
    _pages: HypervisorFrame,
}

impl Devices {
    /// Where the part of a space ends that is theirs.
    pub const END: Ipa = Ipa::new(Order::BLOCK_1G.bytes());

    /// Maps each page at `ipa` to the registers at `pa`, whole pages below [`Devices::END`] that one table of level 3
    /// covers; what lies elsewhere is left out. It stays for good.
    ///
    /// # Errors
    ///
    /// There is no frame for one of the two tables.
    pub fn new(memory: &Memory, pages: &[(Ipa, Pa)]) -> Result<Self, OutOfMemory> {
        let top = memory.hypervisor_frame()?;
        let below = match memory.hypervisor_frame() {
            Ok(below) => below,
            Err(error) => {
                memory.give_back_hypervisor(top);
                return Err(error);
            }
        };
        let Some(&(first, _)) = pages.first() else { return Ok(Self { top, _pages: below }) };
        for &(ipa, pa) in pages {
            let here = ipa.align_down(Order::BLOCK_2M.bytes())
                == first.align_down(Order::BLOCK_2M.bytes());
            debug_assert!(ipa < Self::END && ipa.is_aligned(PAGE_SIZE) && here);
            if here {
                edit::write(slot(&below, Level::Three, ipa), leaf(pa));
            }
        }
        edit::write(slot(&top, Level::Two, first), descriptor::table(below.pa()));
        Ok(Self { top, _pages: below })
    }

    /// Returns the descriptor of level 1 that leads to them.
    pub(super) fn entry(&self) -> u64 {
        descriptor::table(self.top.pa())
    }
}

/// Returns the descriptor for `ipa` in the table of `level` in `frame`.
#[expect(unsafe_code, reason = "a table that nobody walks yet")]
fn slot(frame: &HypervisorFrame, level: Level, ipa: Ipa) -> &AtomicU64 {
    let table = frame.pointer().cast::<AtomicU64>();
    // SAFETY: a frame is 512 words, zeroed, that nobody else knows of yet; the index is below 512.
    unsafe { table.add(level.index(ipa)).as_ref() }
}

/// Makes the descriptor of a page of registers: Device-nGnRE, which FEAT_S2FWB has at the same value; no execution.
fn leaf(pa: Pa) -> u64 {
    let attributes = Stage2Attributes::VALID
        | Stage2Attributes::ACCESS_FLAG
        | Stage2Attributes::MEMATTR_DEVICE_nGnRE
        | Stage2Attributes::S2AP_ACCESS_RW
        | Stage2Attributes::XN;
    descriptor::leaf_like(attributes.bits() as u64, pa, Level::Three)
}
