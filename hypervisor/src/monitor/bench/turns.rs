//! CPUs that the emulator runs one after the other, measured as if they ran at once.
//!
//! An emulator that counts instructions runs one CPU at a time, for as long as that CPU has something to do. Who polls
//! would be polling alone, and who holds a lock would never be waited for. So those who take part cut what they do
//! into small pieces, and keep an account of the ticks that these took; after a piece, a CPU gives its turn up until
//! it has spent the least. What a CPU sees of another between two pieces is thus what it would have seen then, had
//! both run at the same speed; and what it takes to take turns is nobody's time.

use crate::arch::cpu::{self, CpuId, MAX_CPUS};
use crate::arch::time;
use core::sync::atomic::{AtomicU64, Ordering};

/// The account of a CPU that takes no part.
const ABSENT: u64 = u64::MAX;

/// What each CPU has spent, in ticks.
static SPENT: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(ABSENT) }; MAX_CPUS];

/// A CPU that takes part, until this is dropped.
pub(super) struct Turns(&'static AtomicU64);

impl Turns {
    /// Has this CPU take part. All that take part begin at once: whoever lets them begin comes last.
    pub(super) fn enter() -> Self {
        let own = &SPENT[cpu::current().index()];
        own.store(0, Ordering::Release);
        Self(own)
    }

    /// Returns how many ticks this CPU has spent since it entered.
    pub(super) fn spent(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Does a piece of work on this CPU's account.
    #[inline(always)]
    pub(super) fn spend<R>(&self, piece: impl FnOnce() -> R) -> R {
        let start = time::now();
        let done = piece();
        self.rest(time::now() - start);
        done
    }

    /// Has so many ticks go by.
    pub(super) fn rest(&self, ticks: u64) {
        let own = self.0.load(Ordering::Relaxed) + ticks;
        // Release, and acquire below: what was done in a piece comes before what others do in later ones.
        self.0.store(own, Ordering::Release);
        while SPENT.iter().any(|other| other.load(Ordering::Acquire) < own) {
            cpu::give_turn();
        }
    }
}

impl Drop for Turns {
    fn drop(&mut self) {
        self.0.store(ABSENT, Ordering::Release);
    }
}

/// Says whether `cpu` takes part.
pub(super) fn is_here(cpu: CpuId) -> bool {
    SPENT.get(cpu.index()).is_some_and(|spent| spent.load(Ordering::Acquire) != ABSENT)
}
