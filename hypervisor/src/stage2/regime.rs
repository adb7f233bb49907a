//! What aarch64-paging needs to write a guest's tables for us.
//!
//! The crate's own TLB maintenance goes to whichever VMID is loaded, so it is not used:
//! [`RootTable`](aarch64_paging::paging::RootTable) does none, and [`super::flush`] does it all.
//! Its `allocate_table` cannot fail, so it takes from a stock that is filled before the edit
//! writes anything. It would hand tables that it takes out to `deallocate_table`, but no call that Sluice
//! makes takes any out, for they could not be freed there: somebody may be walking them.

use crate::addr::Pa;
use crate::arch;
use crate::mem::{Memory, TableFrame};
use aarch64_paging::descriptor::{PhysicalAddress, Stage2Attributes};
use aarch64_paging::paging::{PageTable, Translation, TranslationRegime};
use core::cell::Cell;
use core::ptr::NonNull;

/// Stage 2 of the EL1&0 translation regime, maintained by Sluice.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct GuestStage2;

impl TranslationRegime for GuestStage2 {
    type Attributes = Stage2Attributes;
    type Asid = ();
    type VaRange = ();

    fn invalidate_va(_: aarch64_paging::descriptor::VirtualAddress) {}

    #[expect(unsafe_code, reason = "the trait's signature")]
    unsafe fn activate(_: PhysicalAddress, (): (), (): ()) -> usize {
        // Guest entry loads VTTBR_EL2 with the VMID, which the crate does not know.
        0
    }

    #[expect(unsafe_code, reason = "the trait's signature")]
    unsafe fn deactivate(_: usize, (): (), (): ()) {}
}

/// The most tables that one edit makes: a removal splits a 1 GiB block and one of its parts at
/// either end, a batch of pages gets as far as the tables go.
pub(super) const STOCK: usize = 8;

/// Where the tables of one guest come from: a stock that is filled before an edit and emptied after
/// it.
pub(super) struct Tables<'m> {
    memory: &'m Memory,
    /// The first `count` are full. Cells, for the crate lends out its translation by shared
    /// reference only.
    stock: [Cell<Option<TableFrame>>; STOCK],
    count: Cell<usize>,
}

impl<'m> Tables<'m> {
    pub(super) fn new(memory: &'m Memory) -> Self {
        Self { memory, stock: [const { Cell::new(None) }; STOCK], count: Cell::new(0) }
    }

    /// Puts `frame` in the stock; gives it back where the stock is full.
    pub(super) fn put(&self, frame: TableFrame) {
        match self.stock.get(self.count.get()) {
            Some(place) => {
                place.set(Some(frame));
                self.count.set(self.count.get() + 1);
            }
            None => self.memory.give_back_table(frame),
        }
    }

    fn pop(&self) -> Option<TableFrame> {
        let last = self.count.get().checked_sub(1)?;
        self.count.set(last);
        self.stock.get(last)?.take()
    }

    /// Takes a table frame from the stock.
    ///
    /// # Panics
    ///
    /// Panics where an edit needs more tables than it planned, which is a mistake in its plan; a
    /// plan counts what the tables need and nothing that a guest says.
    pub(super) fn take(&self) -> Pa {
        self.pop().expect("an edit reserves its tables").pa()
    }

    /// Gives back what an edit did not use.
    pub(super) fn clear(&self) {
        while let Some(frame) = self.pop() {
            self.memory.give_back_table(frame);
        }
    }
}

impl Translation<Stage2Attributes> for Tables<'_> {
    fn allocate_table(&mut self) -> (NonNull<PageTable<Stage2Attributes>>, PhysicalAddress) {
        let pa = self.take();
        (arch::memory::pointer(pa).cast(), PhysicalAddress(pa.as_u64() as usize))
    }

    #[expect(unsafe_code, reason = "the trait's signature")]
    unsafe fn deallocate_table(&mut self, _: NonNull<PageTable<Stage2Attributes>>) {
        // The frame stays its guest's table in the frame table, and the audit misses it there.
        log::error!("aarch64-paging took a table out on its own");
    }

    fn physical_to_virtual(&self, pa: PhysicalAddress) -> NonNull<PageTable<Stage2Attributes>> {
        arch::memory::pointer(Pa::new(pa.0 as u64)).cast()
    }
}
