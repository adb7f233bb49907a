//! Allocations that fail on purpose, for tests.

use super::Memory;
use crate::sync::{AtomicU64, Ordering};

/// When allocations fail.
pub(super) struct Injection {
    /// How many more succeed.
    left: AtomicU64,
    /// How many fail then.
    failing: AtomicU64,
}

impl Default for Injection {
    fn default() -> Self {
        Self { left: AtomicU64::new(u64::MAX), failing: AtomicU64::new(0) }
    }
}

impl Injection {
    /// Counts an allocation and says whether it is to fail.
    pub(super) fn fails(&self) -> bool {
        let count = |n: u64| if n == u64::MAX { None } else { n.checked_sub(1) };
        let relaxed = Ordering::Relaxed;
        if self.left.load(relaxed) == u64::MAX
            || self.left.fetch_update(relaxed, relaxed, count).is_ok()
        {
            return false;
        }
        let forever = self.failing.load(relaxed) == u64::MAX;
        forever || self.failing.fetch_update(relaxed, relaxed, count).is_ok()
    }
}

impl Memory {
    /// Lets the next `successes` allocations (of blocks, tables and hypervisor frames together)
    /// succeed and all after them fail.
    pub fn fail_after(&self, successes: u64) {
        self.faults.failing.store(u64::MAX, Ordering::Relaxed);
        self.faults.left.store(successes, Ordering::Relaxed);
    }

    /// Lets the next `successes` allocations succeed, the one after them fail, and the rest succeed.
    pub fn fail_once_after(&self, successes: u64) {
        self.faults.failing.store(1, Ordering::Relaxed);
        self.faults.left.store(successes, Ordering::Relaxed);
    }

    /// Lets no allocation fail on purpose any more. Says whether one would have by now.
    pub fn fail_never(&self) -> bool {
        let reached = self.faults.left.swap(u64::MAX, Ordering::Relaxed) == 0;
        reached && self.faults.failing.load(Ordering::Relaxed) != 1
    }
}
