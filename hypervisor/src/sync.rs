//! Atomics and locks, in one place, so that a model checker can stand in for them.
//!
//! Compiled with `--cfg loom` the names below are loom's, which tries every order in which the
//! threads of a model can run and every value that a load may return. Otherwise they are core's
//! atomics and a fair spin lock.
//!
//! Locks are taken with interrupts masked (EL2 always runs so), hence never from an interrupt
//! handler that found its own CPU holding them.

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, fence};
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, fence};

pub use core::sync::atomic::Ordering;

#[cfg(not(loom))]
use spin::mutex::{TicketMutex as Mutex, TicketMutexGuard as MutexGuard};

#[cfg(loom)]
use loom::sync::{Mutex, MutexGuard};

/// What a [`Lock`] gives while it is held.
pub type Guard<'a, T> = MutexGuard<'a, T>;

/// A lock that CPUs get in the order in which they asked for it.
pub struct Lock<T>(Mutex<T>);

impl<T> Lock<T> {
    /// Makes an open lock around `value`.
    #[cfg(not(loom))]
    pub const fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// Makes an open lock around `value`.
    #[cfg(loom)]
    pub fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// Waits for the lock and takes it.
    #[cfg(not(loom))]
    pub fn lock(&self) -> Guard<'_, T> {
        self.0.lock()
    }

    /// Waits for the lock and takes it.
    #[cfg(loom)]
    pub fn lock(&self) -> Guard<'_, T> {
        self.0.lock().expect("a model stops at its first panic")
    }
}

/// An order between CPUs that the code relies on, by name, so that a model can take it away and
/// show that it was needed. The comment at each use says what it pairs with.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Edge {
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
    /// Not a fence: that a split writes the parts before it shortens the whole.
    PartsFirst,
    /// Not a fence: the second epoch of the grace period.
    SecondEpoch,
    /// Not a fence: the grace period.
    GracePeriod,
    /// Not a fence: that an epoch advances only when every pinned CPU has announced it.
    Announcements,
}

/// Says whether the model that runs has taken `edge` away. Never, outside of models.
#[cfg(not(loom))]
#[inline(always)]
pub const fn is_missing(_edge: Edge) -> bool {
    false
}

#[cfg(loom)]
pub use model::is_missing;

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

/// The mistakes that models seed.
#[cfg(loom)]
pub mod model {
    use super::Edge;
    use std::cell::Cell;

    std::thread_local! {
        // Loom runs all threads of a model on the thread that started it.
        static MISSING: Cell<Option<Edge>> = const { Cell::new(None) };
    }

    /// Runs `model` with `edge` taken away.
    pub fn without(edge: Option<Edge>, model: impl FnOnce()) {
        MISSING.set(edge);
        model();
        MISSING.set(None);
    }

    /// Says whether the model that runs has taken `edge` away.
    pub fn is_missing(edge: Edge) -> bool {
        MISSING.get() == Some(edge)
    }
}
