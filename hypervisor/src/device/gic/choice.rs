//! What list registers are to hold: everything, or else the best of it.

use super::Gic;
use super::bank::{Bank, Bits};
use super::list::{MAX_LIST_REGISTERS, vmcr};
use super::redistributor::Redistributor;

/// What list registers are to hold.
#[derive(Default)]
pub(super) struct Chosen {
    intids: [u16; MAX_LIST_REGISTERS],
    /// How many there were, which may be more than were kept.
    total: usize,
    /// Something active is left out.
    pub(super) left_active: bool,
    /// Something pending is left out.
    pub(super) left_waiting: bool,
}

impl Chosen {
    #[inline(always)]
    pub(super) fn add(&mut self, intid: u32) {
        if let Some(place) = self.intids.get_mut(self.total) {
            *place = intid as u16;
        }
        self.total += 1;
    }

    #[inline(always)]
    pub(super) fn intids(&self) -> &[u16] {
        self.intids.get(..self.total).unwrap_or(&self.intids)
    }
}

/// The best candidates for list registers, in order, and how many there were.
pub(super) struct Best {
    keys: [u32; MAX_LIST_REGISTERS],
    kept: usize,
    /// The last of those kept.
    worst: u32,
    limit: usize,
    total: usize,
}

/// What a candidate is compared by: whether the guest has its group disabled, then its priority,
/// then its INTID.
pub(super) fn key(intid: u32, bank: &Bank) -> u32 {
    u32::from(bank.priority(intid % 32)) << 16 | intid
}

const DISABLED: u32 = 1 << 24;

pub(super) const fn intid_of(key: u32) -> u32 {
    key & 0xffff
}

impl Best {
    /// Keeps the best `limit`.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            keys: [0; MAX_LIST_REGISTERS],
            kept: 0,
            worst: 0,
            limit: limit.min(MAX_LIST_REGISTERS),
            total: 0,
        }
    }

    #[inline]
    pub(super) fn add(&mut self, mut key: u32) {
        self.total += 1;
        if self.kept == self.limit && self.worst <= key {
            return;
        }
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
        self.worst = self.first(self.kept).last().copied().unwrap_or(0);
    }

    pub(super) fn first(&self, count: usize) -> &[u32] {
        self.keys.get(..count.min(self.kept)).unwrap_or(&[])
    }
}

impl Gic {
    /// Hands `found` what is active on the vCPU and in no list register.
    #[inline(always)]
    pub(super) fn each_active(
        &self,
        vcpu: usize,
        own: &Redistributor,
        spis: bool,
        mut found: impl FnMut(u32, &Bank),
    ) {
        let private = &own.bank;
        for bit in Bits(private.active.get() & !private.listed.get()) {
            found(bit, private);
        }
        let banks = if spis { self.distributor.banks() } else { &[] };
        for (word, bank) in banks.iter().enumerate() {
            for bit in Bits(bank.active.get() & !bank.listed.get()) {
                if self.distributor.holder(word, bit) == Some(vcpu) {
                    found(word as u32 * 32 + 32 + bit, bank);
                }
            }
        }
    }

    /// Hands `found` what waits for the vCPU.
    #[inline(always)]
    fn each_waiting(
        &self,
        vcpu: usize,
        own: &Redistributor,
        spis: bool,
        mut found: impl FnMut(u32, &Bank),
    ) {
        let groups = self.distributor.groups();
        for bit in Bits(own.bank.deliverable(groups)) {
            found(bit, &own.bank);
        }
        let banks = if spis { self.distributor.banks() } else { &[] };
        for (word, bank) in banks.iter().enumerate() {
            if bank.is_idle() {
                continue;
            }
            for bit in Bits(bank.deliverable(groups) & self.distributor.routed(vcpu, word)) {
                found(word as u32 * 32 + 32 + bit, bank);
            }
        }
    }

    /// Says what the first `count` list registers are to hold, when all are empty: all that there
    /// is, if it fits.
    #[inline(always)]
    pub(super) fn choose(
        &self,
        vcpu: usize,
        own: &Redistributor,
        spis: bool,
        vmcr: u64,
        count: usize,
        chosen: &mut Chosen,
    ) {
        self.each_active(vcpu, own, spis, |intid, _| chosen.add(intid));
        self.each_waiting(vcpu, own, spis, |intid, _| chosen.add(intid));
        if chosen.total > count {
            self.choose_best(vcpu, own, spis, vmcr, count, chosen);
        }
    }

    /// Chooses where there are more than fit.
    ///
    /// What is active comes first, so that the guest's deactivation finds it, and then what is
    /// pending by priority; but if anything is pending, the best of it gets a list register.
    #[cold]
    fn choose_best(
        &self,
        vcpu: usize,
        own: &Redistributor,
        spis: bool,
        vmcr: u64,
        count: usize,
        chosen: &mut Chosen,
    ) {
        let mut active = Best::new(count);
        let mut waiting = Best::new(count);
        self.each_active(vcpu, own, spis, |intid, bank| active.add(key(intid, bank)));
        self.each_waiting(vcpu, own, spis, |intid, bank| {
            let group1 = bank.group1.get() >> (intid % 32) & 1 != 0;
            let group = if group1 { vmcr::VENG1 } else { vmcr::VENG0 };
            let disabled = if vmcr & group == 0 { DISABLED } else { 0 };
            waiting.add(disabled | key(intid, bank));
        });
        let reserved = usize::from(waiting.total != 0);
        let first = active.first(count.saturating_sub(reserved));
        let second = waiting.first(count - first.len());
        *chosen = Chosen {
            left_active: active.total > first.len(),
            left_waiting: waiting.total > second.len(),
            ..Chosen::default()
        };
        for &key in first.iter().chain(second) {
            chosen.add(intid_of(key));
        }
    }
}
