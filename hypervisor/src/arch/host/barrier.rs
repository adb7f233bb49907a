//! Barriers: on the host each is a sequentially consistent fence.

use crate::trace::{self, Barrier};
use core::sync::atomic::{Ordering, fence};

/// Waits until earlier stores are visible to the table walkers of all CPUs.
pub fn dsb_ishst() {
    fence(Ordering::SeqCst);
    trace::barrier(Barrier::DsbIshst);
}

/// Waits until earlier accesses and TLB maintenance have completed on all CPUs.
pub fn dsb_ish() {
    fence(Ordering::SeqCst);
    trace::barrier(Barrier::DsbIsh);
}

/// Discards what was fetched under the old context.
pub fn isb() {
    fence(Ordering::SeqCst);
    trace::barrier(Barrier::Isb);
}

/// Orders all earlier accesses before all later ones, for all CPUs.
pub fn dmb_ish() {
    fence(Ordering::SeqCst);
}
