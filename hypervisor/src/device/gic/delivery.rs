//! From the model into the list registers and back.

use super::bank::Bits;
use super::list::{ListRegister, ListRegisters, MAX_LIST_REGISTERS, hcr, vmcr};
use super::redistributor::{Held, Listing, Redistributor};
use super::{Gic, Kick};

/// What is to be done after a fold or a sync.
#[must_use]
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Synced {
    /// Other vCPUs that must notice: an SPI that was in the list registers goes elsewhere now.
    pub kick: Kick,
    /// The physical PPIs, as bits by INTID, that the CPU which the vCPU is loaded on is to
    /// deactivate: the guest withdrew what they back without having handled it.
    pub deactivate: u32,
    /// How many list registers, from the first, are to be written to hardware.
    pub write: usize,
}

/// The best candidates for list registers, in order, and how many there were.
struct Best {
    keys: [u32; MAX_LIST_REGISTERS],
    kept: usize,
    limit: usize,
    total: usize,
}

/// What a candidate is compared by: whether the guest has its group disabled, then its priority,
/// then its INTID.
const DISABLED: u32 = 1 << 24;

const fn key(intid: u32, priority: u8) -> u32 {
    (priority as u32) << 16 | intid
}

const fn intid_of(key: u32) -> u32 {
    key & 0xffff
}

impl Best {
    /// Keeps the best `limit`.
    fn new(limit: usize) -> Self {
        Self {
            keys: [0; MAX_LIST_REGISTERS],
            kept: 0,
            limit: limit.min(MAX_LIST_REGISTERS),
            total: 0,
        }
    }

    #[inline]
    fn add(&mut self, mut key: u32) {
        self.total += 1;
        for slot in self.keys.iter_mut().take(self.kept) {
            if key < *slot {
                core::mem::swap(slot, &mut key);
            }
        }
        if self.kept < self.limit
            && let Some(slot) = self.keys.get_mut(self.kept)
        {
            *slot = key;
            self.kept += 1;
        }
    }

    fn first(&self, count: usize) -> &[u32] {
        self.keys.get(..count.min(self.kept)).unwrap_or(&[])
    }
}

impl Gic {
    /// Takes the list registers of `vcpu` back into the model and fills the first `count` anew:
    /// for a dirty vCPU, before it enters its guest, on the CPU that it is loaded on.
    pub fn sync(&self, vcpu: usize, registers: &mut ListRegisters, count: usize) -> Synced {
        self.exchange(vcpu, registers, Some(count))
    }

    /// Takes the list registers of `vcpu` back into the model and empties them: before it waits
    /// for interrupts, reads [live state](super::Place::shows_live_state) or leaves its CPU. If
    /// there was anything in them, the vCPU is dirty afterwards.
    pub fn fold(&self, vcpu: usize, registers: &mut ListRegisters) -> Synced {
        self.exchange(vcpu, registers, None)
    }

    /// Fills the first `count` list registers of a `vcpu` that were empty.
    pub fn fill(&self, vcpu: usize, registers: &mut ListRegisters, count: usize) -> Synced {
        self.exchange(vcpu, registers, Some(count))
    }

    fn exchange(&self, vcpu: usize, registers: &mut ListRegisters, fill: Option<usize>) -> Synced {
        let Some(own) = self.own(vcpu) else {
            return Synced { kick: Kick::NONE, deactivate: 0, write: 0 };
        };
        if fill.is_some() {
            own.take_dirty();
        }
        let distributor = &self.distributor;
        let eois = registers.take_eoi_count();
        let mut listing = own.lock();
        let spis = eois != 0
            || listing.held().iter().any(|held| held.intid >= 32)
            || (fill.is_some() && distributor.has_work_for(vcpu));
        let spi_lock = spis.then(|| distributor.lock());
        let was_live = listing.live;
        let mut concerned = 0;
        if eois != 0 {
            concerned |= self.deactivate_unlisted(vcpu, own, eois);
        }
        concerned |= self.take_listed_back(vcpu, own, &listing, registers);
        own.set_live(&mut listing, 0);
        distributor.settle(vcpu);
        match fill {
            Some(count) => {
                self.fill_empty(vcpu, own, &mut listing, registers, count, spi_lock.is_some());
            }
            None if was_live != 0 => own.set_dirty(),
            None => {}
        }
        let live = listing.live;
        for unused in registers.lr.iter_mut().take(was_live).skip(live) {
            *unused = ListRegister::default();
        }
        registers.live = live;
        let deactivate = own.take_owed();
        drop(spi_lock);
        drop(listing);
        Synced { kick: self.marked(concerned).without(vcpu), deactivate, write: was_live.max(live) }
    }

    /// Takes back what the list registers hold. Needs the vCPU's lock, and the distributor's if
    /// there are SPIs among it.
    #[inline]
    fn take_listed_back(
        &self,
        vcpu: usize,
        own: &Redistributor,
        listing: &Listing,
        registers: &ListRegisters,
    ) -> u32 {
        let mut concerned = 0;
        for (held, register) in listing.held().iter().zip(&registers.lr) {
            let intid = u32::from(held.intid);
            let state = register.state();
            let Some((word, bank, mask)) = self.interrupt(vcpu, intid) else { continue };
            bank.take_back(mask, state);
            let Some(word) = word else {
                // Hardware has deactivated the physical interrupt only where it could.
                let done = held.backed && state.is_invalid();
                if !done && own.backed.get() & mask & !own.physical_wanted() != 0 {
                    own.owe(mask);
                }
                continue;
            };
            // The SPI may have been given to another vCPU in the meantime.
            if bank.active.get() & mask == 0
                && self.distributor.target(word, intid % 32) != Some(vcpu)
            {
                concerned |= self.distributor.concerned(word, mask);
            }
        }
        concerned
    }

    /// Deactivates what the guest deactivated while it was in no list register: the most urgent
    /// active ones, as the guest cannot have gone on with others. Needs both locks.
    #[cold]
    fn deactivate_unlisted(&self, vcpu: usize, own: &Redistributor, count: u32) -> u32 {
        let mut active = Best::new(count as usize);
        self.add_active(vcpu, own, true, &mut active);
        let mut concerned = 0;
        for &key in active.first(count as usize) {
            let intid = intid_of(key);
            let Some((word, bank, mask)) = self.interrupt(vcpu, intid) else { continue };
            bank.deactivate(mask);
            match word {
                None if own.physical_wanted() & mask == 0 => own.owe(mask),
                None => {}
                Some(word) => concerned |= self.distributor.concerned(word, mask),
            }
        }
        concerned
    }

    /// Collects what is active on the vCPU and in no list register.
    fn add_active(&self, vcpu: usize, own: &Redistributor, spis: bool, best: &mut Best) {
        let private = &own.bank;
        for bit in Bits(private.active.get() & !private.listed.get()) {
            best.add(key(bit, private.priority(bit)));
        }
        let banks = if spis { self.distributor.banks() } else { &[] };
        for (word, bank) in banks.iter().enumerate() {
            for bit in Bits(bank.active.get() & !bank.listed.get()) {
                if self.distributor.holder(word, bit) == Some(vcpu) {
                    best.add(key((word as u32 + 1) * 32 + bit, bank.priority(bit)));
                }
            }
        }
    }

    /// Collects what waits for the vCPU, whose ICH_VMCR_EL2 has the groups in `enabled` on.
    fn add_waiting(
        &self,
        vcpu: usize,
        own: &Redistributor,
        spis: bool,
        enabled: u64,
        best: &mut Best,
    ) {
        let groups = self.distributor.groups();
        let mut add = |first: u32, bank: &super::Bank, bits: u32| {
            for bit in Bits(bits) {
                let group =
                    if bank.group1.get() & 1 << bit != 0 { vmcr::VENG1 } else { vmcr::VENG0 };
                let disabled = if enabled & group == 0 { DISABLED } else { 0 };
                best.add(disabled | key(first + bit, bank.priority(bit)));
            }
        };
        add(0, &own.bank, own.bank.deliverable(groups));
        let banks = if spis { self.distributor.banks() } else { &[] };
        for (word, bank) in banks.iter().enumerate() {
            let bits = bank.deliverable(groups) & self.distributor.routed(vcpu, word);
            add((word as u32 + 1) * 32, bank, bits);
        }
    }

    /// Fills list registers, all of which are empty. Needs the vCPU's lock, and for SPIs the
    /// distributor's.
    ///
    /// What is active comes first, so that the guest's deactivation finds it, and then what is
    /// pending by priority; but if anything is pending, the best of it gets a list register.
    fn fill_empty(
        &self,
        vcpu: usize,
        own: &Redistributor,
        listing: &mut Listing,
        registers: &mut ListRegisters,
        count: usize,
        spis: bool,
    ) {
        let count = count.min(MAX_LIST_REGISTERS);
        let mut active = Best::new(count);
        let mut waiting = Best::new(count);
        self.add_active(vcpu, own, spis, &mut active);
        self.add_waiting(vcpu, own, spis, registers.vmcr, &mut waiting);

        let reserved = usize::from(waiting.total != 0);
        let first = active.first(count.saturating_sub(reserved));
        let second = waiting.first(count - first.len());
        let left_active = active.total > first.len();
        let left_waiting = waiting.total > second.len();
        let slots = listing.held.iter_mut().zip(&mut registers.lr);
        let keys = first.iter().chain(second);
        let mut live = 0;
        for ((held, register), &key) in slots.zip(keys) {
            let intid = intid_of(key);
            *held = Held { intid: intid as u16, backed: false };
            *register = self.list(vcpu, own, held, left_waiting);
            live += 1;
        }
        own.set_live(listing, live);
        registers.hcr = control(registers.vmcr, left_active, left_waiting);
    }

    /// Puts one interrupt into a list register; `left_waiting` says that others found no room, so
    /// that hardware is to tell when nothing in the list registers is pending any more. Then none
    /// is made "active and pending": that would count as pending though it cannot be acknowledged.
    #[inline]
    fn list(
        &self,
        vcpu: usize,
        own: &Redistributor,
        held: &mut Held,
        left_waiting: bool,
    ) -> ListRegister {
        let intid = u32::from(held.intid);
        let Some((word, bank, mask)) = self.interrupt(vcpu, intid) else {
            return ListRegister::default();
        };
        let physical = if word.is_none() { own.physical(intid) } else { None };
        let merges = match word {
            // A second interrupt of an SPI that goes elsewhere by now is that vCPU's.
            Some(word) => {
                self.distributor.set_holder(word, intid % 32, vcpu);
                self.distributor.target(word, intid % 32) == Some(vcpu)
            }
            None => physical.is_none(),
        };
        let groups = self.distributor.groups();
        let (state, again) = bank.lend(mask, groups, merges && !left_waiting);
        let group1 = bank.group1.get() & mask != 0;
        let register = ListRegister::of(intid, bank.priority(intid % 32), group1, state);
        match physical {
            // The maintenance interrupt and the physical deactivation share their bits: if the
            // former is needed, the fold sees to the latter.
            Some(physical) if !again => {
                held.backed = true;
                register.backed_by(physical)
            }
            _ if again => register.notifying(),
            _ => register,
        }
    }
}

/// Says what ICH_HCR_EL2 is to be.
fn control(vmcr: u64, left_active: bool, left_waiting: bool) -> u64 {
    let mut control = hcr::EN;
    if left_active {
        control |= hcr::LRENPIE;
    }
    if left_waiting {
        // What was left out waits until those before it are acknowledged, unless the guest turns
        // a group on or off and so changes which come first.
        control |= hcr::NPIE;
        control |= if vmcr & vmcr::VENG0 == 0 { hcr::VGRP0E } else { hcr::VGRP0D };
        control |= if vmcr & vmcr::VENG1 == 0 { hcr::VGRP1E } else { hcr::VGRP1D };
    }
    if vmcr & vmcr::VEOIM != 0 {
        // The guest may deactivate what is in no list register, or in another vCPU's: by number.
        control |= hcr::TDIR;
    }
    control
}
