//! Atomics and locks, in one place, so that a model checker can stand in for them.
//!
//! Compiled with `--cfg loom` the names below are loom's, which tries every order in which the threads of a model can run
//! and every value that a load may return. With `--cfg shuttle` each of them is a place where another thread may come in,
//! chosen at random from a seed: for what is too large to try everything, and without the reorderings of a memory model.
//! Otherwise they are core's atomics and a spin lock.
//!
//! Locks are taken with interrupts masked (EL2 always runs so), hence never from an interrupt
//! handler that found its own CPU holding them.

mod edge;
mod edits;
mod link;
#[cfg(any(loom, shuttle))]
pub mod mutant;
#[cfg(shuttle)]
mod scheduled;

pub use edge::{Edge, fence_for, is_missing, ordering};
pub use edits::Edits;
pub use link::{follow, publish};
#[cfg(shuttle)]
pub use scheduled::{AtomicBool, AtomicU32, AtomicU64, Guard, Lock, fence, point};

#[cfg(not(any(loom, shuttle)))]
pub use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, fence};
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, fence};

pub use core::sync::atomic::Ordering;

#[cfg(not(any(loom, shuttle)))]
use spin::mutex::{SpinMutex as Mutex, SpinMutexGuard as MutexGuard};

#[cfg(loom)]
use loom::sync::{Mutex, MutexGuard};

/// What a [`Lock`] gives while it is held.
#[cfg(not(shuttle))]
pub type Guard<'a, T> = MutexGuard<'a, T>;

/// A lock, which whoever comes first gets when it is free.
///
/// Not by ticket: where Sluice's CPUs are threads of an emulator, or of another hypervisor, on fewer CPUs, the next in
/// line is often not running, and all behind it wait for its host. (Four CPUs that add and remove memory, on two of the
/// host, were 40 times slower by ticket.) What is done under a lock is short and followed by other work, so nobody is
/// kept out for long.
#[cfg(not(shuttle))]
pub struct Lock<T>(Mutex<T>);

#[cfg(not(shuttle))]
impl<T> Lock<T> {
    /// Makes an open lock around `value`. `_name` says which it is.
    #[cfg(not(loom))]
    pub const fn new(_name: Edge, value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// Makes an open lock around `value`. `_name` says which it is.
    #[cfg(loom)]
    pub fn new(_name: Edge, value: T) -> Self {
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
