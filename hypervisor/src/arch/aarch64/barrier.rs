//! Barriers.

use crate::tally::{Event, count};
use crate::trace::{self, Barrier};
use aarch64_cpu::asm::barrier;

/// Waits until earlier stores are visible to the table walkers of all CPUs.
#[inline(always)]
pub fn dsb_ishst() {
    count(Event::Barrier, 1);
    barrier::dsb(barrier::ISHST);
    trace::barrier(Barrier::DsbIshst);
}

/// Waits until earlier accesses and TLB maintenance have completed on all CPUs.
#[inline(always)]
pub fn dsb_ish() {
    count(Event::Barrier, 1);
    barrier::dsb(barrier::ISH);
    trace::barrier(Barrier::DsbIsh);
}

/// Discards what was fetched under the old context.
#[inline(always)]
pub fn isb() {
    count(Event::Barrier, 1);
    barrier::isb(barrier::SY);
    trace::barrier(Barrier::Isb);
}

/// Orders all earlier accesses before all later ones, for all CPUs.
#[inline(always)]
pub fn dmb_ish() {
    barrier::dmb(barrier::ISH);
}
