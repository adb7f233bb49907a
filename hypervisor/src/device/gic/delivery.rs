//! From the model into the list registers and back.

use super::choice::{Best, Chosen, intid_of, key};
use super::intid::{FIRST_PPI, PRIVATE};
use super::list::{ListRegister, ListRegisters, MAX_LIST_REGISTERS, hcr, vmcr};
use super::redistributor::{Held, Listing, Redistributor};
use super::{Gic, Kick, Version};

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
        let spis = eois != 0 || listing.spis || (fill.is_some() && distributor.has_work_for(vcpu));
        let spi_lock = spis.then(|| distributor.lock());
        let was_live = listing.live;
        let mut concerned = 0;
        if eois != 0 {
            concerned |= self.deactivate_unlisted(vcpu, own, eois);
        }
        concerned |= self.take_listed_back(vcpu, own, &listing, registers);
        if was_live != 0 {
            own.set_live(&mut listing, 0);
            distributor.settle(vcpu);
        }
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
            if intid < PRIVATE {
                let mask = 1 << intid;
                own.sgi_comes_back(intid, state);
                own.bank.take_back(mask, state);
                // Hardware has deactivated the physical interrupt only where it could.
                let done = held.backed && state.is_invalid();
                if !done && own.backed.get() & mask & !own.physical_wanted() != 0 {
                    own.owe(mask);
                }
                continue;
            }
            let Some((word, bank, mask)) = self.distributor.spi(intid) else { continue };
            bank.take_back(mask, state);
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
        self.each_active(vcpu, own, true, |intid, bank| active.add(key(intid, bank)));
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

    /// Fills list registers, all of which are empty. Needs the vCPU's lock, and for SPIs the
    /// distributor's.
    #[inline(always)]
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
        let mut chosen = Chosen::default();
        self.choose(vcpu, own, spis, registers.vmcr, count, &mut chosen);
        let slots = listing.held.iter_mut().zip(&mut registers.lr);
        let mut highest = 0;
        for ((held, register), &intid) in slots.zip(chosen.intids()) {
            highest = highest.max(intid);
            *held = Held { intid, backed: false };
            *register = if u32::from(intid) < PRIVATE {
                self.list_private(own, held, chosen.left_waiting)
            } else {
                self.list_spi(vcpu, u32::from(intid), chosen.left_waiting)
            };
        }
        listing.spis = u32::from(highest) >= PRIVATE;
        own.set_live(listing, chosen.intids().len());
        registers.hcr = control(registers.vmcr, chosen.left_active, chosen.left_waiting);
    }

    /// Puts an SGI or PPI into a list register; `left_waiting` says that others found no room, so
    /// that hardware is to tell when nothing in the list registers is pending any more. Then none
    /// is made "active and pending": that would count as pending though it cannot be acknowledged.
    #[inline(always)]
    fn list_private(
        &self,
        own: &Redistributor,
        held: &mut Held,
        left_waiting: bool,
    ) -> ListRegister {
        let intid = u32::from(held.intid);
        let mask = 1u32.checked_shl(intid).unwrap_or(0);
        let bank = &own.bank;
        let backed = own.backed.get() & mask != 0;
        // An SGI of a GICv2 that is active and one that is pending may be of different senders.
        let of_sender = self.version == Version::V2 && intid < FIRST_PPI;
        let merges = !backed && !left_waiting && !of_sender;
        let (state, mut again) = bank.lend(mask, self.distributor.groups(), merges);
        let group1 = bank.group1.get() & mask != 0;
        let mut register = ListRegister::of(intid, bank.priority(intid), group1, state);
        if of_sender {
            if state.pending && own.sgis.lend(intid) {
                bank.latch.insert(mask);
                again = true;
            }
            register = register.sent_by(own.sgis.lent(intid));
        }
        // The maintenance interrupt and the physical deactivation share their bits: if the former
        // is needed, the fold sees to the latter.
        match own.physical(intid) {
            _ if again => register.notifying(),
            Some(physical) => {
                held.backed = true;
                register.backed_by(physical)
            }
            None => register,
        }
    }

    /// Puts an SPI into a list register; `left_waiting` as in `list_private`. Needs the
    /// distributor's lock.
    #[inline]
    fn list_spi(&self, vcpu: usize, intid: u32, left_waiting: bool) -> ListRegister {
        let distributor = &self.distributor;
        let Some((word, bank, mask)) = distributor.spi(intid) else {
            return ListRegister::default();
        };
        let bit = intid % 32;
        distributor.set_holder(word, bit, vcpu);
        // A second interrupt of an SPI that goes elsewhere by now is that vCPU's.
        let merges = !left_waiting && distributor.target(word, bit) == Some(vcpu);
        let (state, again) = bank.lend(mask, distributor.groups(), merges);
        let group1 = bank.group1.get() & mask != 0;
        let register = ListRegister::of(intid, bank.priority(bit), group1, state);
        if again { register.notifying() } else { register }
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
