//! What a vCPU has of its own: its SGIs and PPIs, and which interrupts its list registers hold.

use super::bank::{Bank, Bits, Word};
use super::list::{MAX_LIST_REGISTERS, State};
use super::sgi::Sgis;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use spin::mutex::{SpinMutex, SpinMutexGuard};

/// The configuration of SGIs and PPIs at reset: SGIs are edges, and stay it.
pub(super) const PRIVATE_EDGE: u32 = 0xffff;
/// The PPIs as bits of a bank.
pub(super) const PPIS: u32 = 0xffff_0000;

/// GICR_WAKER.ProcessorSleep and, which follows it at once, ChildrenAsleep.
const ASLEEP: u32 = 0b110;

/// Which interrupts a vCPU's list registers hold, from the first.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) held: [Held; MAX_LIST_REGISTERS],
    pub(super) live: usize,
    /// There are SPIs among it.
    pub(super) spis: bool,
}

/// What one list register was filled with.
#[derive(Copy, Clone, Debug, Default)]
pub(super) struct Held {
    pub(super) intid: u16,
    /// Deactivating it deactivates the physical interrupt.
    pub(super) backed: bool,
}

impl Listing {
    /// The list registers that were filled.
    pub(super) fn held(&self) -> &[Held] {
        self.held.get(..self.live).unwrap_or(&[])
    }
}

/// A vCPU's side of the model.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Redistributor {
    /// The list registers may not show what the model holds.
    ///
    /// Set with release after a change, and taken with acquire before the fill that looks for
    /// changes: a fill that took it sees the change, and a change that comes too late for a fill
    /// leaves it set for the next.
    dirty: AtomicBool,
    /// How many list registers were filled, also for those without the lock.
    live: AtomicU32,
    powered: AtomicBool,
    waker: AtomicU32,
    /// SGIs and PPIs. Changed under the lock.
    pub(super) bank: Bank,
    /// PPIs that stand for a physical one. Changed under the lock.
    pub(super) backed: Word,
    /// The physical PPI behind each PPI of `backed`, from INTID 16 on. Changed under the lock.
    physical: [Word; 16],
    /// Physical PPIs that are to be deactivated by the CPU that the vCPU is loaded on.
    owed: Word,
    /// Who sent the SGIs, with a GICv2. Changed under the lock.
    pub(super) sgis: Sgis,
    listing: SpinMutex<Listing>,
}

impl Redistributor {
    pub(super) fn new(powered: bool) -> Self {
        let new = Self {
            dirty: AtomicBool::new(true),
            live: AtomicU32::new(0),
            powered: AtomicBool::new(powered),
            waker: AtomicU32::new(ASLEEP),
            bank: Bank::default(),
            backed: Word::new(0),
            physical: [const { Word::new(0) }; 16],
            owed: Word::new(0),
            sgis: Sgis::default(),
            listing: SpinMutex::new(Listing::default()),
        };
        new.bank.edge.set(PRIVATE_EDGE);
        new
    }

    /// Takes the vCPU's lock. First in the order: see [the module](super).
    #[inline(always)]
    pub(super) fn lock(&self) -> SpinMutexGuard<'_, Listing> {
        self.listing.lock()
    }

    #[inline(always)]
    pub(super) fn is_dirty(&self) -> bool {
        self.dirty.load(Ordering::Relaxed)
    }

    #[inline(always)]
    pub(super) fn set_dirty(&self) {
        self.dirty.store(true, Ordering::Release);
    }

    #[inline(always)]
    pub(super) fn take_dirty(&self) {
        self.dirty.swap(false, Ordering::AcqRel);
    }

    /// Records how many list registers were filled. Needs the lock.
    pub(super) fn set_live(&self, listing: &mut Listing, live: usize) {
        listing.live = live;
        self.live.store(live as u32, Ordering::Relaxed);
    }

    #[inline(always)]
    pub(super) fn live(&self) -> usize {
        self.live.load(Ordering::Relaxed) as usize
    }

    pub(super) fn is_powered(&self) -> bool {
        self.powered.load(Ordering::Relaxed)
    }

    pub(super) fn set_powered(&self, on: bool) {
        self.powered.store(on, Ordering::Relaxed);
    }

    /// GICR_WAKER. The guest's wish is granted at once, and never holds interrupts back: programs
    /// that do not know of it run on QEMU too.
    pub(super) fn waker(&self) -> u32 {
        self.waker.load(Ordering::Relaxed)
    }

    pub(super) fn set_waker(&self, value: u32) {
        self.waker.store(if value & 0b10 != 0 { ASLEEP } else { 0 }, Ordering::Relaxed);
    }

    /// The physical PPI behind PPI `intid`.
    pub(super) fn physical(&self, intid: u32) -> Option<u32> {
        if intid >= u32::BITS || self.backed.get() & 1 << intid == 0 {
            return None;
        }
        self.physical.get(intid.checked_sub(16)? as usize).map(Word::get)
    }

    /// Puts physical PPI `physical` behind PPI `intid`, or nothing. Needs the lock.
    pub(super) fn set_physical(&self, intid: u32, physical: Option<u32>) {
        let Some(word) = intid.checked_sub(16).and_then(|n| self.physical.get(n as usize)) else {
            return;
        };
        self.backed.remove(1 << intid);
        if let Some(physical) = physical {
            word.set(physical);
            self.backed.insert(1 << intid);
            // The physical distributor has the line: here an interrupt comes once for each time
            // that the physical one was acknowledged.
            self.bank.line.remove(1 << intid);
        }
    }

    /// The PPIs whose physical interrupt must stay active. Needs the lock.
    pub(super) fn physical_wanted(&self) -> u32 {
        let bank = &self.bank;
        self.backed.get() & (bank.latch.get() | bank.lent.get() | bank.active.get())
    }

    /// Notes that the physical interrupts behind `mask` are to be deactivated. Needs the lock.
    pub(super) fn owe(&self, mask: u32) {
        for intid in Bits(mask & self.backed.get()) {
            self.owed.insert(self.physical_bit(intid));
        }
    }

    fn physical_bit(&self, intid: u32) -> u32 {
        self.physical(intid).map_or(0, |physical| 1u32.checked_shl(physical).unwrap_or(0))
    }

    /// Takes the physical PPIs that are to be deactivated. Needs the lock.
    pub(super) fn take_owed(&self) -> u32 {
        let owed = self.owed.get();
        if owed != 0 {
            self.owed.set(0);
        }
        owed
    }

    /// The physical PPIs that are active for the sake of this vCPU.
    pub(super) fn physical_held(&self) -> u32 {
        let wanted = Bits(self.physical_wanted());
        wanted.fold(0, |physical, intid| physical | self.physical_bit(intid))
    }

    /// Takes note of an SGI that comes back from a list register, before its bank does. Needs the lock.
    #[inline(always)]
    pub(super) fn sgi_comes_back(&self, intid: u32, state: State) {
        // What was lent is wanted again, unless the guest has withdrawn it meanwhile.
        if state.pending && self.bank.lent.get() >> intid & 1 != 0 {
            self.sgis.come_back(intid);
        }
    }

    /// Resets what the guest can see of the vCPU. Needs the lock; nothing is listed.
    pub(super) fn reset(&self) {
        self.owe(self.physical_wanted());
        self.bank.reset(PRIVATE_EDGE);
        self.sgis.reset();
        self.waker.store(ASLEEP, Ordering::Relaxed);
    }
}
