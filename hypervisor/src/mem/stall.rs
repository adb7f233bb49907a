//! Walkers that hold up grace periods for too long, by the CPU that they run on.
//!
//! A pin is bounded (at most 256 entries are read under one, or 32 KiB copied), so nothing waits for one. Should one
//! last after all, memory that guests gave up would come back later and later, and nothing would say why. Whoever
//! tries to end a grace period and cannot looks here.
//!
//! The epoch cannot advance while a CPU is pinned in an earlier one. So a CPU that is behind an epoch that began, as far
//! as was seen, longer ago than the patience has held one pin for all of that time: no chain of short pins is taken for
//! a long one, and no pin is for having been met by chance.

use super::Memory;
use super::retire::Garbage;
use crate::arch::cpu::MAX_CPUS;
use crate::epoch::{Epoch, Number};

/// A CPU that has been pinned for longer than it should.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Stalled {
    /// The CPU's number.
    pub cpu: usize,
    /// How many pins it holds, one within the other.
    pub pins: u16,
    /// The epoch in which it pinned.
    pub announced: Number,
    /// For how long at least, by the clock of [`Memory::set_clock`].
    pub time: u64,
    /// How many frames are retired and cannot be reused.
    pub frames: u64,
}

/// How long a pin may hold up reuse before it is told of, and who is told.
#[derive(Copy, Clone, Debug)]
pub(super) struct Patience {
    time: u64,
    tell: fn(&Stalled),
}

/// What is known of the epoch that does not end.
#[derive(Debug)]
pub(super) struct Watch {
    /// The epoch, and when it was first seen that it could not be ended.
    stuck: Option<(Number, u64)>,
    /// The CPUs of which it was said that they are why, a bit each.
    said: u32,
    /// How often it was said of any.
    ever: u64,
}

const _: () = assert!(MAX_CPUS <= u32::BITS as usize);

impl Watch {
    pub(super) const fn new() -> Self {
        Self { stuck: None, said: 0, ever: 0 }
    }

    /// Looks at who keeps the epoch from advancing. Gives one that has for longer than `patience`, once.
    fn look(&mut self, epoch: &Epoch, now: u64, patience: u64) -> Option<Stalled> {
        let current = epoch.current();
        let since = match self.stuck {
            Some((number, since)) if number == current => since,
            _ => {
                self.stuck = Some((current, now));
                self.said = 0;
                now
            }
        };
        let time = now.saturating_sub(since);
        if time <= patience {
            return None;
        }
        let cpus = epoch.snapshot().cpus;
        let (cpu, state) = cpus.iter().enumerate().find(|(cpu, state)| {
            state.pins != 0 && current.since(state.announced) > 0 && !self.is_said_of(*cpu)
        })?;
        self.said |= 1 << cpu;
        self.ever += 1;
        Some(Stalled { cpu, pins: state.pins, announced: state.announced, time, frames: 0 })
    }

    /// Says whether it was said of `cpu`, in this epoch, that it holds it up.
    const fn is_said_of(&self, cpu: usize) -> bool {
        self.said >> cpu & 1 != 0
    }

    /// Returns the CPUs of which it was said in this epoch, a bit each.
    pub(super) const fn said(&self) -> u32 {
        self.said
    }

    /// Returns how often it was said.
    pub(super) const fn ever(&self) -> u64 {
        self.ever
    }
}

impl Memory {
    /// Has `tell` told, once, of each CPU that is pinned for longer than `patience`, in units of the clock of
    /// [`Memory::set_clock`]. (At first nobody is.) It is told on a CPU that waits for a grace period or is idle, with
    /// no lock held.
    pub fn set_patience(&mut self, patience: u64, tell: fn(&Stalled)) {
        self.patience = Some(Patience { time: patience, tell });
    }

    /// Tells of who has kept the epoch from advancing for too long; for one that just failed to advance it.
    pub(super) fn look_for_stalled(&self) {
        let Some(Patience { time, tell }) = self.patience else { return };
        let now = self.now();
        let look = |garbage: &mut Garbage| {
            let frames = garbage.frames();
            let stalled = garbage.watch.look(&self.epoch, now, time)?;
            Some(Stalled { frames, ..stalled })
        };
        // The lock is let go of before it is told.
        let stalled = look(&mut self.garbage.lock());
        if let Some(stalled) = stalled {
            tell(&stalled);
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::super::{Chain, Order, host};
    use super::*;
    use crate::addr::Ipa;
    use crate::mem::GuestId;
    use core::sync::atomic::{AtomicU64, Ordering};

    static CLOCK: AtomicU64 = AtomicU64::new(0);
    static TOLD: AtomicU64 = AtomicU64::new(0);
    const PATIENCE: u64 = 100;

    fn pass(time: u64) {
        CLOCK.fetch_add(time, Ordering::Relaxed);
    }

    fn settle(memory: &Memory) {
        while memory.idle_step() {}
    }

    fn told(memory: &Memory) -> (u64, u32) {
        let detail = memory.counts().retired_detail;
        assert_eq!(TOLD.load(Ordering::Relaxed), detail.stalled_ever);
        (detail.stalled_ever, detail.stalled)
    }

    #[test]
    #[cfg_attr(any(feature = "no-grace", feature = "no-pin"), ignore = "nobody holds anything up")]
    fn who_holds_up_a_grace_period_for_too_long_is_named_once_and_no_one_else_is() {
        let memory = host::memory_with(16 << 20, |memory| {
            memory.set_clock(|| CLOCK.load(Ordering::Relaxed));
            memory.set_patience(PATIENCE, |stalled| {
                assert_eq!((stalled.cpu, stalled.pins, stalled.frames), (5, 1, 512));
                assert!(stalled.time > PATIENCE);
                TOLD.fetch_add(1, Ordering::Relaxed);
            });
        });
        let retire_block = || {
            let guest = GuestId::new(0).expect("a small number");
            let block = memory.allocate(Order::BLOCK_2M).expect("14 MiB are free");
            let given = memory.assign(block, guest, Ipa::new(0));
            let mut chain = Chain::new();
            chain.push(memory.frames(), given.first, given.order);
            let _ = memory.retire_chain(chain);
        };
        let first = crate::arch::cpu::CpuId::new(5).expect("a small number");
        let other = crate::arch::cpu::CpuId::new(6).expect("a small number");

        // Pins of any number, each short: whoever looks, at whatever time, names nobody.
        let pin = memory.epoch().pin(first);
        retire_block();
        settle(memory);
        drop(pin);
        let pin = memory.epoch().pin(first);
        retire_block();
        pass(50 * PATIENCE);
        settle(memory);
        assert_eq!(told(memory), (0, 0), "this pin is of the epoch that ended only now");

        // The same pin, for longer.
        pass(PATIENCE);
        settle(memory);
        assert_eq!(told(memory), (0, 0), "not longer than the patience");
        let latest = memory.epoch().pin(other);
        pass(1);
        settle(memory);
        settle(memory);
        pass(PATIENCE);
        settle(memory);
        assert_eq!(told(memory), (1, 1 << 5), "once, and not of who pinned later");

        // It ends, and all is as before.
        drop((pin, latest));
        settle(memory);
        assert_eq!(memory.counts().retired, 0);
        assert_eq!(told(memory), (1, 0));
    }
}
