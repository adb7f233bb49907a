//! Other CPUs, called to walk a guest's tables at EL2 while the first one measures.

use super::turns::{self, Turns};
use crate::addr::{BLOCK_2M, Ipa, PAGE_SIZE};
use crate::arch::cpu::{self, CpuId};
use crate::guest::Guest;
use crate::stage2::ReadWriteLock;
use crate::system::System;
use alloc::sync::Arc;
use core::hint::black_box;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use spin::Mutex;

/// What keeps what a walker sees from being reused.
#[derive(Copy, Clone, PartialEq, Eq)]
pub(super) enum Guard {
    /// The epoch scheme.
    Pin,
    /// [`LOCK`].
    Lock,
}

/// What walkers do.
#[derive(Clone)]
pub(super) struct Walk {
    pub(super) guest: Arc<Guest>,
    /// Addresses are taken at random from so many blocks of 2 MiB from here on.
    pub(super) start: Ipa,
    pub(super) blocks: u64,
    pub(super) guard: Guard,
    /// How many addresses are translated under one guard.
    pub(super) translations: u64,
}

/// What walkers have done, together.
#[derive(Copy, Clone, Default)]
pub(super) struct Done {
    /// How many addresses they translated.
    pub(super) translations: u64,
    /// The longest that one took to get its guard, in ticks.
    pub(super) longest_entry: u64,
}

/// The lock that walkers hold instead of a pin.
pub(super) static LOCK: ReadWriteLock = ReadWriteLock::new();

/// How much later each begins than the one before, in ticks.
const STAGGER: u64 = 613;

/// The CPUs from 1 to this are called.
static CALLED: AtomicUsize = AtomicUsize::new(0);
static WALK: Mutex<Option<Walk>> = Mutex::new(None);
static BEGUN: AtomicBool = AtomicBool::new(false);
static TRANSLATIONS: AtomicU64 = AtomicU64::new(0);
static LONGEST_ENTRY: AtomicU64 = AtomicU64::new(0);

/// CPUs 1 and on, walking until they are [dismissed](Crowd::dismiss).
#[must_use = "they go on until they are dismissed"]
pub(super) struct Crowd {
    walkers: usize,
    /// The CPU that called them.
    pub(super) own: Turns,
}

/// Says which CPUs `walkers` of them are.
fn called(walkers: usize) -> impl Iterator<Item = CpuId> + Clone {
    (1..=walkers).filter_map(CpuId::new)
}

impl Crowd {
    /// Has so many idle CPUs walk, and returns when all do so.
    pub(super) fn call(system: &'static System, walkers: usize, walk: &Walk) -> Self {
        *WALK.lock() = Some(walk.clone());
        CALLED.store(walkers, Ordering::Release);
        for cpu in called(walkers) {
            system.kick(cpu);
        }
        while !called(walkers).all(turns::is_here) {
            cpu::give_turn();
        }
        let own = Turns::enter();
        BEGUN.store(true, Ordering::Release);
        own.rest(STAGGER * (walkers as u64 + 1));
        TRANSLATIONS.store(0, Ordering::Relaxed);
        LONGEST_ENTRY.store(0, Ordering::Relaxed);
        Self { walkers, own }
    }

    /// Lets the walkers go, and returns when all have gone, what they did from the call on.
    pub(super) fn dismiss(self) -> Done {
        CALLED.store(0, Ordering::Release);
        BEGUN.store(false, Ordering::Release);
        drop(self.own);
        while called(self.walkers).any(turns::is_here) {
            cpu::give_turn();
        }
        *WALK.lock() = None;
        Done {
            translations: TRANSLATIONS.load(Ordering::Relaxed),
            longest_entry: LONGEST_ENTRY.load(Ordering::Relaxed),
        }
    }
}

/// Has `cpu`, which is idle, walk if it is called.
pub fn join(cpu: CpuId) {
    let index = cpu.index();
    if index == 0 || index > CALLED.load(Ordering::Acquire) {
        return;
    }
    let Some(walk) = WALK.lock().clone() else { return };
    let own = Turns::enter();
    while !BEGUN.load(Ordering::Acquire) {
        if CALLED.load(Ordering::Acquire) == 0 {
            return;
        }
        cpu::give_turn();
    }
    // In step, they would all unpin at the same time.
    own.rest(index as u64 * STAGGER);
    let mut random = index as u64;
    while BEGUN.load(Ordering::Acquire) {
        let asked = own.spent();
        let got = match walk.guard {
            Guard::Pin => walk.pinned(&own, &mut random),
            Guard::Lock => walk.locked(&own, &mut random),
        };
        LONGEST_ENTRY.fetch_max(got - asked, Ordering::Relaxed);
    }
}

/// Counts a translation, unless the walkers have been dismissed meanwhile. Says whether it did.
fn count() -> bool {
    let counts = BEGUN.load(Ordering::Acquire);
    if counts {
        TRANSLATIONS.fetch_add(1, Ordering::Relaxed);
    }
    counts
}

impl Walk {
    /// Returns an address at random.
    fn address(&self, random: &mut u64) -> Ipa {
        *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let page = (*random >> 33) % (self.blocks * (BLOCK_2M / PAGE_SIZE));
        Ipa::new(self.start.as_u64() + page * PAGE_SIZE)
    }

    /// Translates under a pin. Returns when that was made, on `own` account.
    fn pinned(&self, own: &Turns, random: &mut u64) -> u64 {
        let space = &self.guest.space;
        let pin = own.spend(|| space.memory().pin());
        let got = own.spent();
        for _ in 0..self.translations {
            let at = self.address(random);
            own.spend(|| _ = black_box(space.translate(&pin, at)));
            if !count() {
                break;
            }
        }
        own.spend(|| drop(pin));
        got
    }

    /// Translates under the lock. Returns when that was taken, on `own` account.
    fn locked(&self, own: &Turns, random: &mut u64) -> u64 {
        let space = &self.guest.space;
        let reading = loop {
            if let Some(reading) = own.spend(|| LOCK.try_read()) {
                break reading;
            }
        };
        let got = own.spent();
        for _ in 0..self.translations {
            let at = self.address(random);
            own.spend(|| _ = black_box(space.translate_locked(&reading, at)));
            if !count() {
                break;
            }
        }
        own.spend(|| drop(reading));
        got
    }
}
