//! For benchmarks only: how many descriptors are written, TLB entries invalidated and barriers waited for.
//!
//! Without the feature `tally` there are no counters, and counting is nothing.

#[cfg(feature = "tally")]
use core::sync::atomic::{AtomicU64, Ordering};

/// What is counted.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A descriptor of a guest's stage 2 was written.
    Write,
    /// A TLBI instruction was run.
    Tlbi,
    /// A DSB or ISB was run.
    Barrier,
}

/// The names of what is counted.
pub const EVENTS: [Event; 3] = [Event::Write, Event::Tlbi, Event::Barrier];

#[cfg(feature = "tally")]
static COUNTS: [AtomicU64; EVENTS.len()] = [const { AtomicU64::new(0) }; EVENTS.len()];

/// Counts `times` of `event`.
#[inline(always)]
pub fn count(event: Event, times: u64) {
    #[cfg(feature = "tally")]
    COUNTS[event as usize].fetch_add(times, Ordering::Relaxed);
    #[cfg(not(feature = "tally"))]
    let _ = (event, times);
}

/// Returns how often each of [`EVENTS`] was since boot; `None` where they are not counted.
pub fn counts() -> Option<[u64; EVENTS.len()]> {
    #[cfg(feature = "tally")]
    return Some([0, 1, 2].map(|event: usize| COUNTS[event].load(Ordering::Relaxed)));
    #[cfg(not(feature = "tally"))]
    None
}
