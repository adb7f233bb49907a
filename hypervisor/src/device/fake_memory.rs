//! A guest's memory for tests: with holes, and with a guest that writes behind the device's back.

use core::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use super::{GuestMemory, MemoryFault, MemoryFaultReason};
use crate::addr::{Ipa, PAGE_SIZE};

/// What the guest does between two accesses of the device: gets all of its memory and the number
/// of the access.
type Adversary = Box<dyn FnMut(&mut [u8], u64)>;

/// A run of bytes from [`FakeMemory::START`], of which single pages can be taken away.
pub(crate) struct FakeMemory {
    bytes: RefCell<Vec<u8>>,
    gone: RefCell<BTreeSet<u64>>,
    adversary: RefCell<Option<Adversary>>,
    accesses: Cell<u64>,
}

impl FakeMemory {
    /// Where the memory begins, as on QEMU's `virt`.
    pub(crate) const START: Ipa = Ipa::new(0x4000_0000);

    /// Makes `pages` pages of zeroes.
    pub(crate) fn new(pages: u64) -> Self {
        Self {
            bytes: RefCell::new(vec![0; (pages * PAGE_SIZE) as usize]),
            gone: RefCell::default(),
            adversary: RefCell::new(None),
            accesses: Cell::new(0),
        }
    }

    /// Returns the address `offset` bytes into the memory.
    pub(crate) fn at(offset: u64) -> Ipa {
        Self::START.checked_add(offset).unwrap()
    }

    /// Takes the page of `ipa` away.
    pub(crate) fn take(&self, ipa: Ipa) {
        self.gone.borrow_mut().insert(ipa.page());
    }

    /// Gives the page of `ipa` back.
    pub(crate) fn give_back(&self, ipa: Ipa) {
        self.gone.borrow_mut().remove(&ipa.page());
    }

    /// Lets `adversary` change any byte after each access of the device.
    pub(crate) fn set_adversary(&self, adversary: impl FnMut(&mut [u8], u64) + 'static) {
        *self.adversary.borrow_mut() = Some(Box::new(adversary));
    }

    /// Returns how many accesses there were.
    pub(crate) fn accesses(&self) -> u64 {
        self.accesses.get()
    }

    /// Finds the bytes, page by page as the real walk does.
    fn locate(&self, ipa: Ipa, length: usize) -> Result<usize, MemoryFault> {
        let fault = |ipa, reason| MemoryFault { ipa, reason };
        let outside = fault(ipa, MemoryFaultReason::Outside);
        let offset = ipa.checked_sub(Self::START).ok_or(outside)?;
        let end = offset.checked_add(length as u64).ok_or(outside)?;
        if end > self.bytes.borrow().len() as u64 {
            return Err(outside);
        }
        for page in ipa.page()..=Self::at(end.saturating_sub(1).max(offset)).page() {
            if self.gone.borrow().contains(&page) {
                return Err(fault(Ipa::from_page(page), MemoryFaultReason::GivenAway));
            }
        }
        Ok(offset as usize)
    }

    fn accessed(&self) {
        self.accesses.set(self.accesses.get() + 1);
        if let Some(adversary) = self.adversary.borrow_mut().as_mut() {
            adversary(&mut self.bytes.borrow_mut(), self.accesses.get());
        }
    }
}

impl GuestMemory for FakeMemory {
    fn read(&self, ipa: Ipa, bytes: &mut [u8]) -> Result<(), MemoryFault> {
        let offset = self.locate(ipa, bytes.len())?;
        bytes.copy_from_slice(&self.bytes.borrow()[offset..offset + bytes.len()]);
        self.accessed();
        Ok(())
    }

    fn write(&self, ipa: Ipa, bytes: &[u8]) -> Result<(), MemoryFault> {
        let offset = self.locate(ipa, bytes.len())?;
        self.bytes.borrow_mut()[offset..offset + bytes.len()].copy_from_slice(bytes);
        self.accessed();
        Ok(())
    }
}
