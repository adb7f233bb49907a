//! Micro-benchmarks, in ticks of CNTVCT_EL0: under `-icount shift=0` a tick of 62.5 MHz is 16 instructions.

pub mod balloon;
pub mod faults;
pub mod traps;
pub mod wakeups;

use crate::arch::time;

/// How long something took.
pub struct Measurement {
    /// How often it was done.
    pub iterations: u64,
    /// How many ticks all that took.
    pub ticks: u64,
}

/// Does something `iterations` times.
#[inline(always)]
pub fn repeat(iterations: u64, mut body: impl FnMut()) -> Measurement {
    let start = time::now();
    for _ in 0..iterations {
        body();
    }
    Measurement { iterations, ticks: time::now() - start }
}
