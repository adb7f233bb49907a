//! What the devices and the calls of a guest know of it: no more than its memory.

use crate::addr::{Ipa, IpaRange};
use crate::stage2::{Mark, Space};
use core::sync::atomic::AtomicU64;

/// Whose memory is given and taken.
pub trait Holder {
    /// Its name, for the log.
    fn name(&self) -> &str;

    /// What its physical addresses lead to.
    fn space(&self) -> &Space<'static>;

    /// Where the release of all that is in the balloon goes on.
    fn release_from(&self) -> &AtomicU64;

    /// What it was refused, for the log.
    fn faults(&self) -> &AtomicU64;
}

/// Takes what a guest has at the beginning of `range`: a bounded piece, which none of its CPUs reaches when this
/// returns. Returns where to go on, if anywhere; `None` where there is no frame for a table.
pub fn remove_step(space: &Space<'_>, range: IpaRange) -> Option<Option<Ipa>> {
    let taken = space.take_range(range, Mark::Unplugged).ok()?;
    let next = taken.next;
    taken.flushed.retire();
    Some(next)
}
