//! What the code relies on, by name, so that a checker can take it away and show that it was needed.

use super::{Ordering, fence};

macro_rules! edges {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Something that the code relies on: an order between CPUs, a step of a protocol, a lock. The comment at
        /// each use says what it is for, or what it pairs with. For each there is a model or a schedule that fails
        /// without it, see `docs/mutations.md`.
        #[derive(Copy, Clone, Debug, PartialEq, Eq)]
        pub enum Edge {
            $($(#[$doc])* $name,)*
        }

        impl Edge {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

edges! {
    /// The full fence of `Epoch::pin`.
    PinFence,
    /// The release of the announcement in `Epoch::pin`.
    PinRelease,
    /// The release in the drop of a pin.
    UnpinRelease,
    /// The full fence of `Epoch::retiring`.
    RetireFence,
    /// The full fence of `Epoch::try_advance`.
    AdvanceFence,
    /// The acquire fence of `Epoch::try_advance`.
    AdvanceAcquire,
    /// The release of the new epoch in `Epoch::try_advance`.
    AdvanceRelease,
    /// The acquire in `Epoch::has_passed`.
    PassedAcquire,
    /// The release of a head in the frame table.
    HeadRelease,
    /// The acquire of a head in the frame table.
    HeadAcquire,
    /// The release of a descriptor.
    LinkRelease,
    /// The acquire of a descriptor.
    LinkAcquire,
    /// The release of a root table's frame.
    RootsRelease,
    /// The acquire of a root table's frame.
    RootsAcquire,
    /// The release fence when an edit begins.
    EditBegins,
    /// The release of the number of edits when one ends.
    EditEnds,
    /// The acquire fence before the number of edits is read.
    EditsFence,
    /// The acquire of the number of edits.
    EditsAcquire,
    /// The release when what an edit removed is retired.
    RemovalEnds,
    /// The acquire before it is taken that it is.
    RemovalsAcquire,
    /// A step: that a split writes the parts before it shortens the whole.
    PartsFirst,
    /// A step: the second epoch of the grace period.
    SecondEpoch,
    /// A step: the grace period.
    GracePeriod,
    /// A step: that an epoch advances only when every pinned CPU has announced it.
    Announcements,
    /// A step: that what is removed is taken out of its entry.
    Unlink,
    /// A step: the TLB maintenance of an edit.
    Flush,
    /// A step: that a table is hidden from the hardware until the TLBs have forgotten the block that it replaces.
    Break,
    /// A step: zeroing what others had.
    Scrub,
    /// A step: that a fault looks again under the writer lock at what it found without.
    LookAgain,
    /// A step: that the TLBs forget what is to be moved before it is copied.
    Hide,
    /// A step: the grace period between hiding and copying.
    CopyLater,
    /// A step: that a move looks whether what it copied is still what it was.
    StillMoving,
    /// A step: that software which writes to what is being moved has it stay.
    Stay,
    /// A step: that a new generation of VMIDs begins with the invalidation of all.
    Generation,
    /// A step: that a CPU says that it goes to sleep before it looks once more for what is retired.
    SleepFirst,
    /// The lock of a space's tables.
    WriterLock,
    /// The lock of the free lists.
    FreeLock,
    /// The lock of the table pool.
    PoolLock,
    /// The lock of what is retired.
    GarbageLock,
    /// The lock of what is being emptied.
    EmptyingLock,
    /// The lock of what memory is known.
    KnownLock,
    /// The lock of the VMIDs.
    VmidLock,
}

/// Says whether the checker that runs has taken `edge` away. Never, outside of checkers.
#[cfg(not(any(loom, shuttle)))]
#[inline(always)]
pub const fn is_missing(_edge: Edge) -> bool {
    false
}

#[cfg(any(loom, shuttle))]
pub use super::mutant::is_missing;

/// Returns `order`, the ordering of an access that makes `edge`.
#[inline(always)]
pub fn ordering(edge: Edge, order: Ordering) -> Ordering {
    if is_missing(edge) { Ordering::Relaxed } else { order }
}

/// Executes the fence that makes `edge`.
#[inline(always)]
pub fn fence_for(edge: Edge, order: Ordering) {
    if !is_missing(edge) {
        fence(order);
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    /// The table is written by `make mutations`, from what the checkers caught.
    #[test]
    fn each_has_a_row_in_the_table_of_mutants() {
        let table = include_str!("../../../docs/mutations.md");
        for edge in Edge::ALL {
            let row = format!("| `{edge:?}` |");
            assert!(table.contains(&row), "{edge:?} has no row: run make mutations");
        }
    }
}
