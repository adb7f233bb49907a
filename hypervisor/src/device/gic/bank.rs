//! The state of 32 interrupts, a bit each, and how it moves into a list register and back.
//!
//! A bank is changed under one lock only (its vCPU's for SGIs and PPIs, the distributor's for
//! SPIs) and read by anybody without it; so the words are atomic, but no change is an atomic
//! read-modify-write.
//!
//! While an interrupt is *listed* it is in a list register of one vCPU, whose hardware alone knows
//! how far it got. What the guest's acknowledging would use up, the latch, is then *lent*: it
//! comes back with the list register if that is still pending, and is gone otherwise. What others
//! do to a listed interrupt in the meantime is kept beside it and wins when it comes back.

use super::list::State;
use core::sync::atomic::{AtomicU32, Ordering};

/// 32 bits that are read without a lock and changed under one.
#[derive(Debug, Default)]
pub(super) struct Word(AtomicU32);

impl Word {
    pub(super) const fn new(value: u32) -> Self {
        Self(AtomicU32::new(value))
    }

    #[inline(always)]
    pub(super) fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    #[inline(always)]
    pub(super) fn set(&self, value: u32) {
        self.0.store(value, Ordering::Relaxed);
    }

    #[inline(always)]
    pub(super) fn insert(&self, mask: u32) {
        self.set(self.get() | mask);
    }

    #[inline(always)]
    pub(super) fn remove(&self, mask: u32) {
        self.set(self.get() & !mask);
    }
}

/// Which groups the distributor forwards: GICD_CTLR.EnableGrp0 and EnableGrp1.
#[derive(Copy, Clone)]
pub(super) struct Groups(pub(super) u32);

impl Groups {
    #[inline(always)]
    fn of(self, group1: u32) -> u32 {
        let zero = 0u32.wrapping_sub(self.0 & 1);
        let one = 0u32.wrapping_sub(self.0 >> 1 & 1);
        (group1 & one) | (!group1 & zero)
    }
}

/// 32 interrupts.
#[derive(Debug, Default)]
pub(super) struct Bank {
    /// GICx_ISENABLER.
    pub(super) enabled: Word,
    /// GICx_IGROUPR.
    pub(super) group1: Word,
    /// Edge-triggered by GICx_ICFGR; level-sensitive otherwise.
    pub(super) edge: Word,
    /// Pending by an edge, by a write of GICx_ISPENDR or by an SGI.
    pub(super) latch: Word,
    /// What the device drives.
    pub(super) line: Word,
    /// Active; of a listed interrupt, as last known.
    pub(super) active: Word,
    /// In a list register.
    pub(super) listed: Word,
    /// The latch of a listed interrupt.
    pub(super) lent: Word,
    /// Made active while listed.
    activated: Word,
    /// Made inactive while listed.
    deactivated: Word,
    /// GICx_IPRIORITYR, four interrupts a word.
    priority: [Word; 8],
}

/// The bits of a priority that are implemented, as in the CPUs' own interfaces.
const PRIORITY_BITS: u32 = 0xf8f8_f8f8;

impl Bank {
    /// Wants to be acknowledged.
    #[inline(always)]
    pub(super) fn waiting(&self) -> u32 {
        self.latch.get() | (self.line.get() & !self.edge.get())
    }

    /// Nothing is pending or active, and so there is nothing to do.
    #[inline(always)]
    pub(super) fn is_idle(&self) -> bool {
        self.latch.get() | self.line.get() | self.active.get() == 0
    }

    /// Pending as GICx_ISPENDR shows it; of a listed interrupt, as last known.
    #[inline(always)]
    pub(super) fn pending(&self) -> u32 {
        self.waiting() | self.lent.get()
    }

    /// Enabled, and its group too.
    #[inline(always)]
    pub(super) fn forwarded(&self, groups: Groups) -> u32 {
        self.enabled.get() & groups.of(self.group1.get())
    }

    /// What a vCPU would be interrupted by, or might be by now: pending, forwarded, not active.
    #[inline(always)]
    pub(super) fn deliverable(&self, groups: Groups) -> u32 {
        self.waiting() & self.forwarded(groups) & !self.active.get() & !self.listed.get()
    }

    /// The four priorities of word `index`, 0 to 7.
    pub(super) fn priorities(&self, index: usize) -> u32 {
        self.priority.get(index).map_or(0, Word::get)
    }

    /// Replaces those bits of word `index` that `mask` has. Returns the interrupts that changed.
    pub(super) fn set_priorities(&self, index: usize, value: u32, mask: u32) -> u32 {
        let Some(word) = self.priority.get(index) else { return 0 };
        let old = word.get();
        let new = (old & !mask) | (value & mask & PRIORITY_BITS);
        word.set(new);
        let changed = old ^ new;
        let mut bits = 0;
        for lane in 0..4 {
            if changed >> (8 * lane) & 0xff != 0 {
                bits |= 1 << (4 * index + lane);
            }
        }
        bits
    }

    /// The priority of interrupt `bit`, 0 to 31.
    pub(super) fn priority(&self, bit: u32) -> u8 {
        (self.priorities(bit as usize / 4) >> (8 * (bit % 4))) as u8
    }

    /// Changes the line. Returns the interrupts for which that is news.
    pub(super) fn drive(&self, mask: u32, high: bool) -> u32 {
        let changed = if high { mask & !self.line.get() } else { mask & self.line.get() };
        self.line.set(self.line.get() ^ changed);
        let edges = changed & self.edge.get();
        if high {
            let news = edges & !self.latch.get();
            self.latch.insert(edges);
            news | (changed & !edges)
        } else {
            changed & !edges
        }
    }

    /// Forgets that the interrupts are pending, but not that their lines are high.
    pub(super) fn clear_pending(&self, mask: u32) {
        self.latch.remove(mask);
        self.lent.remove(mask);
    }

    /// Makes the interrupts active.
    pub(super) fn activate(&self, mask: u32) {
        self.active.insert(mask);
        self.activated.insert(mask & self.listed.get());
        self.deactivated.remove(mask);
    }

    /// Makes the interrupts inactive.
    pub(super) fn deactivate(&self, mask: u32) {
        self.active.remove(mask);
        self.deactivated.insert(mask & self.listed.get());
        self.activated.remove(mask);
    }

    /// Puts an interrupt into a list register, as `mask`, its one bit. Returns what the list
    /// register is to say, and whether the model wants to hear of the deactivation, because the
    /// interrupt waits again by then.
    ///
    /// `merges` allows "active and pending", which is for edges only: a level may fall in between.
    /// Nor is it for a physical interrupt, which cannot be pending as long as it is active.
    #[inline(always)]
    pub(super) fn lend(&self, mask: u32, groups: Groups, merges: bool) -> (State, bool) {
        let forwarded = self.forwarded(groups) & mask;
        let (latch, edge) = (self.latch.get(), self.edge.get());
        let level = self.line.get() & !edge & forwarded != 0;
        let waiting = level || latch & forwarded != 0;
        let active = self.active.get() & mask != 0;
        let pending = waiting && (!active || (merges && edge & mask != 0));
        if pending {
            self.lent.insert(latch & mask);
            self.latch.set(latch & !mask);
        }
        self.listed.insert(mask);
        (State { pending, active }, if pending { level } else { waiting })
    }

    /// Takes an interrupt back from a list register that now says `state`.
    #[inline(always)]
    pub(super) fn take_back(&self, mask: u32, state: State) {
        let lent = self.lent.get();
        if state.pending {
            self.latch.insert(lent & mask);
        }
        self.lent.set(lent & !mask);
        self.listed.remove(mask);
        let active = self.active.get() & !mask;
        self.active.set(if state.active { active | mask } else { active });
        if (self.activated.get() | self.deactivated.get()) & mask != 0 {
            self.override_back(mask);
        }
    }

    /// Lets what was done to a listed interrupt win.
    #[cold]
    fn override_back(&self, mask: u32) {
        self.active.remove(mask & self.deactivated.get());
        self.active.insert(mask & self.activated.get());
        self.activated.remove(mask);
        self.deactivated.remove(mask);
    }

    /// Resets all 32 interrupts, with `edge` as their configuration.
    pub(super) fn reset(&self, edge: u32) {
        for word in [
            &self.enabled,
            &self.group1,
            &self.latch,
            &self.line,
            &self.active,
            &self.listed,
            &self.lent,
            &self.activated,
            &self.deactivated,
        ] {
            word.set(0);
        }
        self.edge.set(edge);
        for word in &self.priority {
            word.set(0);
        }
    }
}

/// Iterates over the numbers of the bits that are set in a word.
#[derive(Copy, Clone)]
pub(super) struct Bits(pub(super) u32);

impl Iterator for Bits {
    type Item = u32;

    #[inline(always)]
    fn next(&mut self) -> Option<u32> {
        let bit = self.0.trailing_zeros();
        self.0 &= self.0.wrapping_sub(1);
        (bit < u32::BITS).then_some(bit)
    }
}
