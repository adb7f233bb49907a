//! Allocations that fail on purpose, for tests.

use super::Memory;
use crate::sync::{AtomicU64, Ordering};

/// When allocations fail.
pub(super) struct Injection {
    /// How many more succeed.
    successes: AtomicU64,
    /// How many of those after them fail.
    failures: AtomicU64,
    /// How many have failed.
    failed: AtomicU64,
}

impl Default for Injection {
    fn default() -> Self {
        Self {
            successes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }
}

impl Injection {
    /// Counts an allocation and says whether it is to fail.
    pub(super) fn fails(&self) -> bool {
        let relaxed = Ordering::Relaxed;
        let count_down = |n: u64| n.checked_sub(1);
        let fails = self.failures.load(relaxed) > 0
            && self.successes.fetch_update(relaxed, relaxed, count_down).is_err()
            && self.failures.fetch_update(relaxed, relaxed, count_down).is_ok();
        self.failed.fetch_add(u64::from(fails), relaxed);
        fails
    }

    fn set(&self, successes: u64, failures: u64) {
        self.failures.store(0, Ordering::Relaxed);
        self.failed.store(0, Ordering::Relaxed);
        self.successes.store(successes, Ordering::Relaxed);
        self.failures.store(failures, Ordering::Relaxed);
    }
}

impl Memory {
    /// Lets the next `successes` allocations (of blocks, tables and the hypervisor's frames
    /// together) succeed and all after them fail.
    pub fn fail_after(&self, successes: u64) {
        self.faults.set(successes, u64::MAX);
    }

    /// Lets the next `successes` allocations succeed, the one after them fail, and the rest succeed.
    pub fn fail_once_after(&self, successes: u64) {
        self.faults.set(successes, 1);
    }

    /// Lets no allocation fail on purpose any more. Returns how many have since the last call of
    /// this kind: 0 means that a test has tried every point of failure.
    pub fn fail_never(&self) -> u64 {
        let failed = self.faults.failed.load(Ordering::Relaxed);
        self.faults.set(0, 0);
        failed
    }
}
