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
    /// One in how many fails, at random; 0: none.
    one_in: AtomicU64,
    /// The last of the numbers that look random.
    random: AtomicU64,
}

impl Default for Injection {
    fn default() -> Self {
        Self {
            successes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            one_in: AtomicU64::new(0),
            random: AtomicU64::new(0),
        }
    }
}

impl Injection {
    /// Counts an allocation and says whether it is to fail.
    pub(super) fn fails(&self) -> bool {
        let relaxed = Ordering::Relaxed;
        let count_down = |n: u64| n.checked_sub(1);
        let fails = self.fails_at_random()
            || self.failures.load(relaxed) > 0
                && self.successes.fetch_update(relaxed, relaxed, count_down).is_err()
                && self.failures.fetch_update(relaxed, relaxed, count_down).is_ok();
        self.failed.fetch_add(u64::from(fails), relaxed);
        fails
    }

    fn fails_at_random(&self) -> bool {
        let one_in = self.one_in.load(Ordering::Relaxed);
        if one_in == 0 {
            return false;
        }
        let next = |random: u64| {
            Some(
                random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407),
            )
        };
        let random = self.random.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        (random.unwrap_or_default() >> 33).is_multiple_of(one_in)
    }

    fn set(&self, successes: u64, failures: u64) {
        self.failures.store(0, Ordering::Relaxed);
        self.one_in.store(0, Ordering::Relaxed);
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

    /// Lets one allocation in `one_in` fail, at random by `seed`.
    pub fn fail_at_random(&self, one_in: u64, seed: u64) {
        self.faults.set(0, 0);
        self.faults.random.store(seed, Ordering::Relaxed);
        self.faults.one_in.store(one_in, Ordering::Relaxed);
    }

    /// Lets no allocation fail on purpose any more. Returns how many have since the last call of
    /// this kind: 0 means that a test has tried every point of failure.
    pub fn fail_never(&self) -> u64 {
        let failed = self.faults.failed.load(Ordering::Relaxed);
        self.faults.set(0, 0);
        failed
    }
}
