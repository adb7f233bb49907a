//! Writes of the memory-mapped registers. Each takes one lock.

use super::bank::{Bank, Bits};
use super::place::{self, Banked, Frame, Place};
use super::read::{gather, routed_spi, word_of};
use super::redistributor::PPIS;
use super::{Gic, Kick};
use crate::device::Width;

/// GICD_CTLR.EnableGrp0 and EnableGrp1.
const CTLR_GROUPS: u32 = 0b11;

/// What a write did to the 32 interrupts of a bank.
#[derive(Copy, Clone, Default)]
pub(super) struct Change {
    /// Those whose state is another now, or whose list register is out of date.
    pub(super) changed: u32,
    /// Those of them that must not be delivered any more: the write is not complete as long as
    /// they are in list registers.
    pub(super) withdrawn: u32,
}

impl Gic {
    /// Writes a register on behalf of `vcpu`. What cannot be written, in this width or at all, is
    /// ignored. Returns the other vCPUs that must notice.
    pub fn write(&self, vcpu: usize, place: Place, width: Width, value: u64) -> Kick {
        let written = match place.frame {
            Frame::Distributor => self.write_distributor(vcpu, place.offset, width, value),
            Frame::Private(owner) => {
                self.write_private(vcpu, usize::from(owner), place.offset, width, value)
            }
            Frame::Control(owner) => {
                self.write_control(usize::from(owner), place.offset, width, value)
            }
            Frame::Banked(owner) => self.write_v2(usize::from(owner), place.offset, width, value),
        };
        match written {
            Some(concerned) => self.marked(concerned).without(vcpu),
            None => {
                self.ignore("write of", place);
                Kick::NONE
            }
        }
    }

    /// Deactivates an interrupt on behalf of `vcpu`, which wrote ICC_DIR_EL1.
    pub fn deactivate(&self, vcpu: usize, intid: u32) -> Kick {
        let Some((word, bank, mask)) = self.interrupt(vcpu, intid) else { return Kick::NONE };
        let concerned = match word {
            None => self.change_private(vcpu, vcpu, |bank| Change::deactivate(bank, mask)),
            Some(word) => self.change_spis(vcpu, word, bank, |bank| Change::deactivate(bank, mask)),
        };
        self.marked(concerned).without(vcpu)
    }

    fn write_distributor(&self, vcpu: usize, offset: u32, width: Width, value: u64) -> Option<u32> {
        if let Some(kind) = Banked::at(offset) {
            let access = Access::new(kind, offset, width, value)?;
            let word = word_of(kind, offset).checked_sub(1);
            let Some((word, bank)) =
                word.and_then(|word| Some((word, self.distributor.banks().get(word)?)))
            else {
                return Some(0);
            };
            return Some(self.change_spis(vcpu, word, bank, |bank| access.apply(bank, u32::MAX)));
        }
        match (offset, width) {
            (place::GICD_CTLR, Width::Word) => Some(self.write_groups(vcpu, value as u32)),
            (place::GICD_TYPER | place::GICD_IIDR | place::GICD_STATUSR, Width::Word) => Some(0),
            (place::GICD_IROUTER..place::GICD_IROUTER_END, Width::Word | Width::Double) => {
                let (word, bit) = routed_spi(offset);
                let low = 0xffff_ffff;
                match (offset % 8, width) {
                    (0, Width::Double) => Some(self.write_router(word, bit, |_| value)),
                    (0, _) => Some(self.write_router(word, bit, |old| old & !low | value & low)),
                    (4, Width::Word) => {
                        Some(self.write_router(word, bit, |old| old & low | value << 32))
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    }

    fn write_private(
        &self,
        vcpu: usize,
        owner: usize,
        offset: u32,
        width: Width,
        value: u64,
    ) -> Option<u32> {
        self.own(owner)?;
        let kind = Banked::at(offset)?;
        let access = Access::new(kind, offset, width, value)?;
        if word_of(kind, offset) != 0 {
            return Some(0);
        }
        Some(self.change_private(vcpu, owner, |bank| access.apply(bank, PPIS)))
    }

    fn write_control(&self, owner: usize, offset: u32, width: Width, value: u64) -> Option<u32> {
        let own = self.own(owner)?;
        match (offset, width) {
            (place::GICR_WAKER, Width::Word) => own.set_waker(value as u32),
            // Nothing in it can be written without LPIs.
            (place::GICR_CTLR | place::GICR_STATUSR, Width::Word) => {}
            _ => return None,
        }
        Some(0)
    }

    /// Enables and disables groups: everybody's business.
    pub(super) fn write_groups(&self, vcpu: usize, value: u32) -> u32 {
        let value = value & CTLR_GROUPS;
        let distributor = &self.distributor;
        let old = {
            let _lock = distributor.lock();
            let old = distributor.control.get();
            distributor.control.set(value);
            old
        };
        if old == value {
            return 0;
        }
        let withdrawn = old & !value != 0;
        let mut concerned = 0;
        for (other, own) in self.redistributors.iter().enumerate() {
            concerned |= 1 << other;
            // A fill under the lock either was before, and is seen here, or sees the new value.
            let _listing = own.lock();
            if withdrawn && other != vcpu && own.live() != 0 {
                distributor.unsettle(1 << other);
            }
        }
        concerned
    }

    fn write_router(&self, word: usize, bit: u32, value: impl FnOnce(u64) -> u64) -> u32 {
        let distributor = &self.distributor;
        if word >= distributor.banks().len() {
            return 0;
        }
        let any = self.any_vcpu();
        let _lock = distributor.lock();
        let value = value(distributor.router(word, bit));
        if distributor.set_router(word, bit, value, self.vcpus(), any) {
            distributor.concerned(word, 1 << bit)
        } else {
            0
        }
    }

    /// Changes SPIs under the distributor's lock. Returns the vCPUs concerned.
    pub(super) fn change_spis(
        &self,
        vcpu: usize,
        word: usize,
        bank: &Bank,
        change: impl FnOnce(&Bank) -> Change,
    ) -> u32 {
        let distributor = &self.distributor;
        let _lock = distributor.lock();
        let before = bank.active.get();
        let Change { changed, withdrawn } = change(bank);
        if changed == 0 {
            return 0;
        }
        // Made active by a write: whoever it would have gone to holds it.
        for bit in Bits(bank.active.get() & !before & !bank.listed.get()) {
            distributor.set_holder(word, bit, distributor.target(word, bit).unwrap_or(vcpu));
        }
        if withdrawn != 0 {
            distributor.unsettle(distributor.listing(word, withdrawn) & !Kick::one(vcpu).bits());
        }
        distributor.concerned(word, changed)
    }

    /// Changes SGIs and PPIs under their vCPU's lock. Returns the vCPUs concerned.
    pub(super) fn change_private(
        &self,
        vcpu: usize,
        owner: usize,
        change: impl FnOnce(&Bank) -> Change,
    ) -> u32 {
        let Some(own) = self.own(owner) else { return 0 };
        let bank = &own.bank;
        let _listing = own.lock();
        let before = own.physical_wanted();
        let Change { changed, withdrawn } = change(bank);
        if changed == 0 {
            return 0;
        }
        let over = before & !own.physical_wanted() & !bank.listed.get();
        own.owe(over);
        if owner != vcpu && withdrawn & bank.listed.get() != 0 {
            self.distributor.unsettle(1 << owner);
        }
        let waiting = bank.waiting() & bank.forwarded(self.distributor.groups());
        let interesting = changed & (bank.listed.get() | bank.active.get() | waiting);
        if interesting | over != 0 { 1 << owner } else { 0 }
    }
}

impl Change {
    /// Says that `changed` are another now, and no more.
    pub(super) const fn to(changed: u32) -> Self {
        Self { changed, withdrawn: 0 }
    }

    /// Deactivates interrupts: those of `mask` that are active, as far as is known, or in a list
    /// register, where they may have become so.
    fn deactivate(bank: &Bank, mask: u32) -> Self {
        let changed = mask & (bank.active.get() | bank.listed.get());
        bank.deactivate(changed);
        Self::to(changed)
    }
}

/// A write of a register that is about the interrupts of a bank.
pub(super) struct Access {
    kind: Banked,
    offset: u32,
    value: u32,
    /// The bits that are written; fewer than all only for priorities.
    mask: u32,
}

impl Access {
    /// Checks width and alignment.
    pub(super) fn new(kind: Banked, offset: u32, width: Width, value: u64) -> Option<Self> {
        let shift = 8 * (offset % 4);
        let (value, mask) = match (width, kind) {
            (Width::Word, _) if offset.is_multiple_of(4) => (value as u32, u32::MAX),
            (Width::Byte, Banked::Priority | Banked::Zero) => {
                ((value as u32 & 0xff) << shift, 0xff << shift)
            }
            _ => return None,
        };
        Some(Self { kind, offset, value, mask })
    }

    /// Leaves out the interrupts `of` of a register of one bit each.
    pub(super) fn without(self, of: u32) -> Self {
        Self { value: self.value & !of, ..self }
    }

    /// Writes. `configurable` are the interrupts whose configuration can be changed.
    pub(super) fn apply(&self, bank: &Bank, configurable: u32) -> Change {
        let bits = self.value;
        match self.kind {
            Banked::Group => {
                let changed = bank.group1.get() ^ bits;
                bank.group1.set(bits);
                Change::to(changed)
            }
            Banked::SetEnable => {
                let changed = bits & !bank.enabled.get();
                bank.enabled.insert(changed);
                Change::to(changed)
            }
            Banked::ClearEnable => {
                let changed = bits & bank.enabled.get();
                bank.enabled.remove(changed);
                Change { changed, withdrawn: changed }
            }
            Banked::SetPending => {
                let changed = bits & !bank.latch.get();
                bank.latch.insert(changed);
                Change::to(changed)
            }
            Banked::ClearPending => {
                let changed = bits & (bank.latch.get() | bank.lent.get());
                bank.clear_pending(changed);
                Change::to(changed)
            }
            Banked::SetActive => {
                let changed = bits & (!bank.active.get() | bank.listed.get());
                bank.activate(changed);
                Change::to(changed)
            }
            Banked::ClearActive => Change::deactivate(bank, bits),
            Banked::Priority => {
                let index = self.offset as usize % 32 / 4;
                Change::to(bank.set_priorities(index, bits, self.mask))
            }
            Banked::Configuration => {
                let shift = 16 * (self.offset / 4 % 2);
                let mask = 0xffff << shift & configurable;
                let old = bank.edge.get();
                let new = old & !mask | gather(bits) << shift & mask;
                bank.edge.set(new);
                Change::to(old ^ new)
            }
            Banked::Zero => Change::default(),
        }
    }
}
