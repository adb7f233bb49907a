//! What left the guests' tables and waits for its grace period.
//!
//! Three bags, one for each epoch that can have something waiting: what is retired in epoch `e`
//! may be reused in `e + 2`, so when the bag of `e` is needed again, for `e + 3`, its grace period
//! has passed. From its bag it goes to the *expired* chain, all at once, and from there, a few
//! blocks at a time, back to the free lists. Everything leaves in the order in which it came, so
//! two running totals tell whether a certain thing has left.
//!
//! Lock order: this lock, then those of the free lists and of the table pool.

use super::frame_table::{FrameTable, Head, Kind};
use super::stall::Watch;
use super::{Chain, Memory, buddy::Content};
use crate::addr::Frame;
use crate::arch;
use crate::epoch::{Epoch, Number};
use crate::sync::Ordering;
use crate::trace;

/// How many blocks are recycled at most while the lock is held.
const BATCH: usize = 8;

/// How many times as many who retires something recycles where more is retired than free: as many blocks as one step of
/// removing pages retires.
const BATCHES_WHEN_SHORT: usize = 8;

/// The frames that wait together in one epoch.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// The epoch they were retired in.
    pub epoch: Number,
    /// Frames of guests' memory and tables.
    pub frames: u64,
    /// Those of them that are tables.
    pub tables: u64,
    /// When the first of them was retired, by the clock of [`Memory::set_clock`].
    pub since: u64,
}

/// What is retired, for inspection.
#[derive(Copy, Clone, Debug, Default)]
pub struct RetiredCounts {
    /// What waits for a grace period, by the epoch modulo 3. One without frames is empty.
    pub waiting: [Waiting; 3],
    /// Frames whose grace period has passed and that are about to become free.
    pub expired: u64,
    /// All frames that were ever retired.
    pub total: u64,
    /// The longest grace period so far, by the clock of [`Memory::set_clock`].
    pub longest: u64,
    /// The CPUs that hold up the epoch for longer than [`Memory::set_patience`] allows, a bit each.
    pub stalled: u32,
    /// How often a CPU did.
    pub stalled_ever: u64,
    /// The most frames that were retired at one time.
    pub most: u64,
}

/// Shows that frames were retired, and which: see [`Memory::quiesce`].
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct GracePeriod {
    epoch: Number,
    /// The total of retired frames with these.
    through: u64,
}

impl GracePeriod {
    /// Returns the epoch in which the frames were retired.
    pub const fn epoch(&self) -> Number {
        self.epoch
    }
}

struct Bag {
    epoch: Number,
    since: u64,
    chain: Chain,
}

/// The bags and the expired chain.
pub(super) struct Garbage {
    bags: [Bag; 3],
    expired: Chain,
    retired: u64,
    recycled: u64,
    longest: u64,
    most: u64,
    pub(super) watch: Watch,
}

impl Garbage {
    pub(super) const fn new() -> Self {
        const EMPTY: Bag = Bag { epoch: Number::ZERO, since: 0, chain: Chain::new() };
        Self {
            bags: [EMPTY; 3],
            expired: Chain::new(),
            retired: 0,
            recycled: 0,
            longest: 0,
            most: 0,
            watch: Watch::new(),
        }
    }

    /// Puts `chain`, which is unlinked and flushed, in the bag of the current epoch.
    pub(super) fn retire(
        &mut self,
        epoch: &Epoch,
        table: &FrameTable,
        chain: Chain,
        now: u64,
    ) -> GracePeriod {
        if cfg!(feature = "trace") {
            chain.each(table, trace::retire);
        }
        // Under the lock, so that what comes later never has an earlier epoch.
        let number = epoch.retiring();
        trace::retired_in(number.get());
        // Whatever is in the bag of this epoch from three epochs ago leaves it.
        self.expire(epoch, table, now);
        self.retired += chain.frames();
        self.most = self.most.max(self.frames());
        let Some(bag) = self.bags.get_mut((number.get() % 3) as usize) else {
            unreachable!("a remainder of 3")
        };
        bag.epoch = number;
        if bag.chain.is_empty() {
            bag.since = now;
        }
        bag.chain.splice(table, chain);
        GracePeriod { epoch: number, through: self.retired }
    }

    /// Moves what is past its grace period to the expired chain.
    pub(super) fn expire(&mut self, epoch: &Epoch, table: &FrameTable, now: u64) {
        // Oldest first, so that the order is kept.
        while let Some(bag) = self.oldest().filter(|bag| epoch.has_passed(bag.epoch)) {
            let (age, chain) = (bag.age(now), core::mem::take(&mut bag.chain));
            self.longest = self.longest.max(age);
            self.expired.splice(table, chain);
        }
    }

    /// Takes a block that may be reused.
    pub(super) fn pop(&mut self, table: &FrameTable) -> Option<(Frame, Head)> {
        let (first, head) = self.expired.pop(table)?;
        self.recycled += u64::from(head.order().frames());
        Some((first, head))
    }

    /// Returns the number of frames that are retired and not recycled.
    pub(super) const fn frames(&self) -> u64 {
        self.retired - self.recycled
    }

    pub(super) fn counts(&self) -> RetiredCounts {
        RetiredCounts {
            waiting: [0, 1, 2].map(|index: usize| {
                self.bags.get(index).map_or(Waiting::default(), |bag| Waiting {
                    epoch: bag.epoch,
                    frames: bag.chain.frames(),
                    tables: bag.chain.table_frames(),
                    since: bag.since,
                })
            }),
            expired: self.expired.frames(),
            total: self.retired,
            longest: self.longest,
            stalled: if self.frames() > 0 { self.watch.said() } else { 0 },
            stalled_ever: self.watch.ever(),
            most: self.most,
        }
    }

    fn oldest(&mut self) -> Option<&mut Bag> {
        self.bags.iter_mut().filter(|bag| !bag.chain.is_empty()).min_by_key(|bag| bag.epoch)
    }
}

impl Bag {
    /// Returns for how long the first in the bag has waited.
    fn age(&self, now: u64) -> u64 {
        if self.chain.is_empty() { 0 } else { now.saturating_sub(self.since) }
    }
}

/// What a freed table is filled with where the grace period is compiled out (`no-grace`), so that a
/// walker that comes too late can be told from one that does not: as a descriptor it is a valid
/// table, at an address where no machine has memory.
pub const POISON: u64 = 0x5a5a_f4ee_7ab1_e003;

impl Memory {
    /// Retires what `chain` holds: it becomes free after a grace period. The caller has unlinked it
    /// and completed the TLB maintenance.
    ///
    /// Allocates nothing and cannot fail. If more than [`Memory::set_retired_bound`] would be retired, it
    /// helps to end grace periods and waits for it before, unless this CPU is pinned itself.
    #[allow(dead_code, reason = "mem/teardown.rs is the caller")]
    pub(in crate::mem) fn retire_chain(&self, chain: Chain) -> GracePeriod {
        if let Some(guest) = chain.guest()
            && let Some(of) = self.guests.get(guest.index())
        {
            of.frames.fetch_sub(chain.guest_frames(), Ordering::Relaxed);
            of.tables.fetch_sub(chain.table_frames(), Ordering::Relaxed);
        }
        let now = self.now();
        let bound = self.retired_bound.load(Ordering::Relaxed);
        let may_wait = !self.epoch.is_pinned(arch::cpu::current());
        let (grace, mut retired) = loop {
            let mut garbage = self.garbage.lock();
            let before = garbage.frames();
            // What is more than the bound by itself goes alone.
            if before == 0 || before.saturating_add(chain.frames()) <= bound || !may_wait {
                let grace = garbage.retire(&self.epoch, &self.table, chain, now);
                break (grace, garbage.frames());
            }
            drop(garbage);
            self.help();
        };
        self.rouse_sleeper();
        while cfg!(feature = "no-grace") && retired > 0 || retired > bound && may_wait {
            retired = self.help();
        }
        if retired > self.free.lock().frames() {
            // No CPU is idle, or it would have been recycled: who takes away does so before memory runs short.
            let _ = self.epoch.try_advance();
            for _ in 0..BATCHES_WHEN_SHORT {
                if self.recycle() < BATCH {
                    break;
                }
            }
        }
        grace
    }

    /// Returns when the frames of `grace` are reusable, having helped towards it. What they hold is
    /// zeroed later.
    ///
    /// Waits for other CPUs' pins, and nothing else. This CPU must not be pinned; if it is, which is
    /// a mistake of the caller, it returns at once and the frames become reusable later.
    pub fn quiesce(&self, grace: GracePeriod) {
        let pinned = self.epoch.is_pinned(arch::cpu::current());
        debug_assert!(!pinned, "waiting for a grace period that waits for this CPU");
        while !pinned && self.garbage.lock().recycled < grace.through {
            self.help();
        }
    }

    /// Says whether the frames of `grace` are reusable.
    pub fn is_over(&self, grace: GracePeriod) -> bool {
        self.garbage.lock().recycled >= grace.through
    }

    /// Advances the epoch, if that is possible, and recycles a few blocks. Returns how many frames
    /// are still retired.
    pub(super) fn help(&self) -> u64 {
        let advanced = self.epoch.try_advance();
        let recycled = self.recycle();
        if !advanced {
            self.look_for_stalled();
        }
        if !advanced && recycled == 0 {
            arch::cpu::relax();
        }
        self.garbage.lock().frames()
    }

    /// Makes a few blocks whose grace period has passed free. Returns how many.
    pub(super) fn recycle(&self) -> usize {
        let now = self.now();
        let mut garbage = self.garbage.lock();
        garbage.expire(&self.epoch, &self.table, now);
        for done in 0..BATCH {
            let Some((first, head)) = garbage.pop(&self.table) else { return done };
            if cfg!(feature = "trace") {
                trace::free(first, head.order(), self.epoch.current().get());
            }
            match head.kind() {
                Kind::RetiredTable => self.recycle_table(first),
                _ => self.free.lock().insert(&self.table, first, head.order(), Content::Dirty),
            }
        }
        BATCH
    }
}
