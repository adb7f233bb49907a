//! Atomics and locks that let another thread come in at each use, for shuttle.
//!
//! The atomics are core's, with a point before each access, so that they have core's size and can lie in tables.
#![expect(unsafe_code, reason = "a lock that a checker can take away")]

use super::{Edge, Ordering, is_missing};
use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic;
use shuttle::sync::{Mutex, MutexGuard};

/// Lets another thread come in.
pub fn point() {
    // A load of shuttle's own is such a place; to yield would say that this thread has nothing to do.
    static NOTHING: shuttle::sync::atomic::AtomicBool =
        shuttle::sync::atomic::AtomicBool::new(false);
    let _ = NOTHING.load(Ordering::Relaxed);
}

macro_rules! atomic {
    ($(#[$doc:meta])* $name:ident, $value:ty, $($op:ident),*) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        #[repr(transparent)]
        pub struct $name(atomic::$name);

        #[allow(missing_docs, dead_code, reason = "as core has them; a checker needs a part")]
        impl $name {
            pub const fn new(value: $value) -> Self {
                Self(atomic::$name::new(value))
            }

            pub fn load(&self, order: Ordering) -> $value {
                point();
                self.0.load(order)
            }

            pub fn store(&self, value: $value, order: Ordering) {
                point();
                self.0.store(value, order);
            }

            pub fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                point();
                self.0.compare_exchange(current, new, success, failure)
            }

            pub fn compare_exchange_weak(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(current, new, success, failure)
            }

            pub fn fetch_update(
                &self,
                set: Ordering,
                fetch: Ordering,
                update: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                point();
                self.0.fetch_update(set, fetch, update)
            }

            pub fn into_inner(self) -> $value {
                self.0.into_inner()
            }

            $(
                pub fn $op(&self, value: $value, order: Ordering) -> $value {
                    point();
                    self.0.$op(value, order)
                }
            )*
        }
    };
}

atomic!(
    /// As core's.
    AtomicU64, u64, swap, fetch_add, fetch_sub, fetch_or, fetch_and, fetch_max, fetch_min
);
atomic!(
    /// As core's.
    AtomicU32, u32, swap, fetch_add, fetch_sub, fetch_or, fetch_and
);
atomic!(
    /// As core's.
    AtomicBool, bool, swap, fetch_or, fetch_and
);

/// Lets another thread come in: what fences order, schedules never reorder.
pub fn fence(_order: Ordering) {
    point();
}

/// A lock that can be taken away.
pub struct Lock<T> {
    name: Edge,
    held: Mutex<()>,
    value: UnsafeCell<T>,
}

// SAFETY: threads take turns on one thread of the host, and have the value one at a time; but where the lock is taken
// away on purpose, and then the checker is to see what comes of it.
unsafe impl<T: Send> Sync for Lock<T> {}

/// What a [`Lock`] gives while it is held.
pub struct Guard<'a, T> {
    lock: &'a Lock<T>,
    held: Option<MutexGuard<'a, ()>>,
}

impl<T> Lock<T> {
    /// Makes an open lock around `value`, which `name` names.
    pub const fn new(name: Edge, value: T) -> Self {
        Self { name, held: Mutex::new(()), value: UnsafeCell::new(value) }
    }

    /// Waits for the lock and takes it.
    pub fn lock(&self) -> Guard<'_, T> {
        let held = (!is_missing(self.name))
            .then(|| self.held.lock().expect("a schedule stops at its first panic"));
        Guard { lock: self, held }
    }
}

impl<T> Guard<'_, T> {
    /// Lets another thread come in, where the lock is taken away.
    fn point(&self) {
        if self.held.is_none() {
            point();
        }
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.point();
        // SAFETY: the lock is held, see above.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.point();
        // SAFETY: the lock is held, see above.
        unsafe { &mut *self.lock.value.get() }
    }
}
