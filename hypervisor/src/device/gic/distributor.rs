//! What all vCPUs share: the SPIs, where they are routed, and GICD_CTLR.

use super::MAX_SPIS;
use super::bank::{Bank, Bits, Groups, Word};
use alloc::boxed::Box;
use core::iter::repeat_with;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use spin::mutex::{SpinMutex, SpinMutexGuard};

pub(super) const WORDS: usize = MAX_SPIS / 32;

/// The vCPU of an SPI that no vCPU can get.
const NOBODY: u8 = 0xff;
/// GICD_IROUTER.Interrupt_Routing_Mode: any vCPU will do.
const ANY: u64 = 1 << 31;
/// The bits of GICD_IROUTER that are kept.
const ROUTER_BITS: u64 = 0xff_80ff_ffff;

/// The distributor. SPIs are numbered by their word, from INTID 32 on, and their bit in it.
#[derive(Debug)]
pub(super) struct Distributor {
    /// GICD_CTLR.EnableGrp0 and EnableGrp1.
    pub(super) control: Word,
    /// vCPUs that may still be interrupted by what was disabled: GICD_CTLR.RWP is read as set
    /// until there are none.
    unsettled: AtomicU32,
    /// A word of SPIs each. These three are as long as the guest needs, and too large for the stack of who makes it.
    banks: Box<[Bank]>,
    /// Which SPIs go to each vCPU.
    routed: Box<[[Word; WORDS]]>,
    routes: Box<[Route]>,
    lock: SpinMutex<()>,
}

#[derive(Debug)]
struct Route {
    /// GICD_IROUTER, or with a GICv2 GICD_ITARGETSR.
    register: AtomicU64,
    /// The vCPU that this comes to.
    target: AtomicU8,
    /// The vCPU whose list registers the SPI is in, or which it is active on.
    holder: AtomicU8,
}

impl Route {
    fn new() -> Self {
        Self {
            register: AtomicU64::new(0),
            target: AtomicU8::new(0),
            holder: AtomicU8::new(NOBODY),
        }
    }
}

impl Distributor {
    /// Makes one of `words` words of SPIs, for so many vCPUs.
    pub(super) fn new(words: usize, vcpus: usize) -> Self {
        let words = words.min(WORDS);
        let new = Self {
            control: Word::new(0),
            unsettled: AtomicU32::new(0),
            banks: repeat_with(Bank::default).take(words).collect(),
            routed: repeat_with(Default::default).take(vcpus).collect(),
            routes: repeat_with(Route::new).take(words * 32).collect(),
            lock: SpinMutex::new(()),
        };
        new.route_all_to_first();
        new
    }

    /// Takes the distributor's lock. Last in the order: see [the module](super).
    #[inline(always)]
    pub(super) fn lock(&self) -> SpinMutexGuard<'_, ()> {
        self.lock.lock()
    }

    #[inline(always)]
    pub(super) fn groups(&self) -> Groups {
        Groups(self.control.get())
    }

    /// The words of SPIs that there are.
    #[inline(always)]
    pub(super) fn banks(&self) -> &[Bank] {
        &self.banks
    }

    /// The bank and bit of an SPI.
    #[inline(always)]
    pub(super) fn spi(&self, intid: u32) -> Option<(usize, &Bank, u32)> {
        let word = (intid / 32).checked_sub(1)? as usize;
        Some((word, self.banks().get(word)?, 1 << (intid % 32)))
    }

    /// The SPIs of `word` that go to `vcpu`.
    #[inline(always)]
    pub(super) fn routed(&self, vcpu: usize, word: usize) -> u32 {
        self.routed.get(vcpu).and_then(|words| words.get(word)).map_or(0, Word::get)
    }

    fn route(&self, word: usize, bit: u32) -> Option<&Route> {
        self.routes.get(word * 32 + bit as usize)
    }

    /// The vCPU that an SPI goes to.
    pub(super) fn target(&self, word: usize, bit: u32) -> Option<usize> {
        let target = self.route(word, bit)?.target.load(Ordering::Relaxed);
        (target != NOBODY).then_some(target as usize)
    }

    /// The vCPU whose list registers an SPI is in, or which it is active on.
    pub(super) fn holder(&self, word: usize, bit: u32) -> Option<usize> {
        let holder = self.route(word, bit)?.holder.load(Ordering::Relaxed);
        (holder != NOBODY).then_some(holder as usize)
    }

    /// Records which vCPU has an SPI in its list registers or active. Needs the lock.
    pub(super) fn set_holder(&self, word: usize, bit: u32, vcpu: usize) {
        if let Some(route) = self.route(word, bit) {
            route.holder.store(u8::try_from(vcpu).unwrap_or(NOBODY), Ordering::Relaxed);
        }
    }

    /// GICD_IROUTER of an SPI.
    pub(super) fn router(&self, word: usize, bit: u32) -> u64 {
        self.route(word, bit).map_or(0, |route| route.register.load(Ordering::Relaxed))
    }

    /// Writes GICD_IROUTER; `any` is the vCPU for SPIs that any vCPU may get. Says whether the SPI
    /// now goes elsewhere. Needs the lock.
    pub(super) fn set_router(
        &self,
        word: usize,
        bit: u32,
        value: u64,
        vcpus: usize,
        any: usize,
    ) -> bool {
        let Some(route) = self.route(word, bit) else { return false };
        let value = value & ROUTER_BITS;
        route.register.store(value, Ordering::Relaxed);
        let target = if value & ANY != 0 {
            any
        } else {
            // Aff0 is the vCPU's number, the other affinities are 0.
            usize::try_from(value).unwrap_or(usize::MAX)
        };
        self.retarget(route, word, bit, if target < vcpus { target as u8 } else { NOBODY })
    }

    /// Writes ITARGETSR, of a GICv2: the vCPUs that may get an SPI, a bit each; it goes to the first. Says whether
    /// that is another than before. Needs the lock.
    pub(super) fn set_targets(&self, word: usize, bit: u32, targets: u32) -> bool {
        let Some(route) = self.route(word, bit) else { return false };
        route.register.store(targets.into(), Ordering::Relaxed);
        let target = if targets == 0 { NOBODY } else { targets.trailing_zeros() as u8 };
        self.retarget(route, word, bit, target)
    }

    /// Has an SPI go to `target`. Says whether it went elsewhere before. Needs the lock.
    fn retarget(&self, route: &Route, word: usize, bit: u32, target: u8) -> bool {
        let old = route.target.load(Ordering::Relaxed);
        if old == target {
            return false;
        }
        route.target.store(target, Ordering::Relaxed);
        if let Some(from) = self.routed.get(old as usize).and_then(|words| words.get(word)) {
            from.remove(1 << bit);
        }
        if let Some(to) = self.routed.get(target as usize).and_then(|words| words.get(word)) {
            to.insert(1 << bit);
        }
        true
    }

    /// Says whether any vCPU may get an SPI.
    pub(super) fn is_for_any(&self, word: usize, bit: u32) -> bool {
        self.router(word, bit) & ANY != 0
    }

    /// The vCPUs that may still be interrupted by what was disabled.
    #[inline(always)]
    pub(super) fn unsettled(&self) -> u32 {
        self.unsettled.load(Ordering::Acquire)
    }

    /// Notes that what was disabled is still in the list registers of `vcpus`. Needs the lock
    /// under which they are filled with it.
    pub(super) fn unsettle(&self, vcpus: u32) {
        if vcpus != 0 {
            self.unsettled.fetch_or(vcpus, Ordering::Relaxed);
        }
    }

    /// Notes that the list registers of `vcpu` were taken back.
    pub(super) fn settle(&self, vcpu: usize) {
        if self.unsettled.load(Ordering::Relaxed) & 1 << vcpu != 0 {
            self.unsettled.fetch_and(!(1 << vcpu), Ordering::Release);
        }
    }

    /// Whether `vcpu` might have SPIs to list: without the lock.
    #[inline(always)]
    pub(super) fn has_work_for(&self, vcpu: usize) -> bool {
        let groups = self.groups();
        self.banks().iter().enumerate().filter(|(_, bank)| !bank.is_idle()).any(|(word, bank)| {
            let unlisted = bank.active.get() & !bank.listed.get();
            (bank.deliverable(groups) & self.routed(vcpu, word)) | unlisted != 0
        })
    }

    /// Whether an SPI waits for `vcpu`: without the lock.
    pub(super) fn is_pending_for(&self, vcpu: usize) -> bool {
        let groups = self.groups();
        let mut banks = self.banks().iter().enumerate().filter(|(_, bank)| !bank.is_idle());
        banks.any(|(word, bank)| bank.deliverable(groups) & self.routed(vcpu, word) != 0)
    }

    fn route_all_to_first(&self) {
        for route in &*self.routes {
            route.register.store(0, Ordering::Relaxed);
            route.target.store(0, Ordering::Relaxed);
            route.holder.store(NOBODY, Ordering::Relaxed);
        }
        for (vcpu, words) in self.routed.iter().enumerate() {
            for word in words {
                word.set(if vcpu == 0 { u32::MAX } else { 0 });
            }
        }
    }

    /// Resets the distributor. Needs the lock; nothing is listed.
    pub(super) fn reset(&self) {
        self.control.set(0);
        self.unsettled.store(0, Ordering::Relaxed);
        for bank in &self.banks {
            bank.reset(0);
        }
        self.route_all_to_first();
    }

    /// Says which vCPUs must notice that the SPIs `changed` of `word` did: those that list them
    /// or have them active, and those that they now wait for. Needs the lock.
    #[inline]
    pub(super) fn concerned(&self, word: usize, changed: u32) -> u32 {
        let Some(bank) = self.banks().get(word) else { return 0 };
        let held = changed & (bank.listed.get() | bank.active.get());
        let waiting = changed & !held & bank.waiting() & bank.forwarded(self.groups());
        let mut vcpus = 0;
        for bit in Bits(held) {
            vcpus |= self.holder(word, bit).map_or(0, |vcpu| 1 << vcpu);
        }
        for bit in Bits(waiting) {
            vcpus |= self.target(word, bit).map_or(0, |vcpu| 1 << vcpu);
        }
        vcpus
    }

    /// The vCPUs whose list registers hold any SPI of `listed` in `word`. Needs the lock.
    pub(super) fn listing(&self, word: usize, listed: u32) -> u32 {
        let Some(bank) = self.banks().get(word) else { return 0 };
        let holders = Bits(listed & bank.listed.get()).filter_map(|bit| self.holder(word, bit));
        holders.fold(0, |vcpus, vcpu| vcpus | 1 << vcpu)
    }
}
