//! The epoch scheme: when nobody can still hold what was unlinked.
//!
//! # The protocol
//!
//! A *walker* is software that follows pointers (descriptors of stage-2 tables) without a lock. A
//! *remover* unlinks a table or a page, completes the TLB maintenance, and wants to know when the
//! last walker that may have seen it is gone. Nobody waits for a walker that came later.
//!
//! There is one global epoch, a number, and one record for each CPU. A walker *pins*: it copies
//! the global epoch into its CPU's record, marked active, and then loads. When it is done it marks
//! the record quiescent. A CPU that runs a guest or waits for an interrupt is not pinned, so it
//! takes part in nothing, is asked nothing and is sent nothing.
//!
//! The remover reads the global epoch *after* it unlinked: that is the epoch the thing was retired
//! in. Anyone may advance the epoch from `e` to `e + 1`, if every active record says `e`. Something
//! retired in epoch `e` may be reused when the global epoch is `e + 2` or later.
//!
//! Why two epochs: a walker that can still see a thing pinned before it was retired, so its record
//! says `e` at most (it may say less: between reading the global epoch and announcing it, others
//! may have advanced). With `e` announced, `e` to `e + 1` can happen, `e + 1` to `e + 2` cannot
//! before it unpins. One epoch is not enough for exactly this reason.
//!
//! # The orders that this rests on
//!
//! Three full fences, each a `DMB ISH`, of which any two forbid *store buffering* (both sides
//! store, then load what the other stored, and both see the old value):
//!
//! | fence | stands between | and |
//! |---|---|---|
//! | pin | announcing the CPU active | loading descriptors |
//! | retire | unlinking | reading the epoch to retire in |
//! | advance | reading the epoch | reading the announcements |
//!
//! - *pin with retire*: either the walker sees that the thing is unlinked, or the remover's epoch
//!   is at least the walker's.
//! - *retire with advance*: an advance out of an epoch later than the remover's comes after the
//!   unlinking.
//! - *pin with advance*: hence that advance sees the announcement of every walker that may have
//!   seen the thing.
//!
//! And two release/acquire chains, which forbid *message passing* going wrong (the later event seen,
//! the earlier not): the walker's last load, then its unpinning (or its next pinning), seen by the
//! CPU that advances, then the new epoch, seen by the CPU that reuses.
//!
//! Time is bounded because pins are: a walker unpins after a bounded number of loads, interrupts
//! are masked at EL2, so nothing runs in between. Pins nest by calls and are counted.

use crate::arch::cpu::{CpuId, MAX_CPUS};
use crate::sync::{AtomicU64, Edge, Ordering, fence_for, is_missing, ordering};
use crate::trace;
use core::marker::PhantomData;

#[cfg(all(test, loom))]
pub(crate) mod model;

/// How many records there are. A model has fewer CPUs, so that it can try everything.
const RECORDS: usize = if cfg!(loom) { 3 } else { MAX_CPUS };

/// The bits of a record that count the pins of its CPU; 0 is quiescent. Above them is the epoch.
const PINS: u64 = 0xffff;
/// One epoch, as it stands in the global epoch and in records.
const ONE: u64 = PINS + 1;
/// The global epoch as it is stored in epoch 0: ready to be copied into the record of a CPU that
/// pins once.
const FIRST: u64 = 1;

/// What one CPU announces. A cache line of its own, for it is written twice a walk.
#[repr(align(64))]
struct Record {
    state: AtomicU64,
}

/// The global epoch and what the CPUs have announced.
// The records come first, so that finding one's own takes one addition.
#[repr(C)]
pub struct Epoch {
    cpus: [Record; RECORDS],
    /// [`FIRST`] and a multiple of [`ONE`].
    global: AtomicU64,
}

/// The number of an epoch.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Number(u64);

impl Number {
    /// The epoch at boot.
    pub const ZERO: Self = Self(0);

    /// Returns the epoch in a record, or in the global epoch.
    const fn of(word: u64) -> Self {
        Self(word & !PINS)
    }

    /// Returns the number, counted from 0 at boot.
    pub const fn get(self) -> u64 {
        self.0 / ONE
    }

    /// Returns the number of epochs from `earlier` to this one; 0 where `earlier` is not earlier.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0) / ONE
    }
}

/// Shows that this CPU is pinned: what was reachable when the pin was made will not be reused
/// before it is dropped.
///
/// Keep it for a bounded number of loads, and not across anything that waits: a grace period waits
/// for it.
#[must_use = "dropping the pin ends it"]
pub struct Pin<'a> {
    own: &'a Record,
    /// A pin is of the CPU that it was made on.
    not_send: PhantomData<*const ()>,
}

/// What one CPU announces, see [`Epoch::snapshot`].
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuState {
    /// The epoch it announced when it last pinned.
    pub announced: Number,
    /// How many pins it holds; 0 is quiescent.
    pub pins: u16,
}

/// The state of the scheme, for inspection; each part was true at some moment of the call.
#[derive(Copy, Clone, Debug)]
pub struct Snapshot {
    /// The global epoch.
    pub epoch: Number,
    /// What each CPU announces, by its number. One whose `announced` stays behind `epoch` while
    /// `pins` is not 0 holds up reuse.
    pub cpus: [CpuState; RECORDS],
}

impl Epoch {
    /// Makes the scheme in epoch 0 with all CPUs quiescent.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self {
            cpus: [const { Record { state: AtomicU64::new(0) } }; RECORDS],
            global: AtomicU64::new(FIRST),
        }
    }

    /// Makes the scheme in epoch 0 with all CPUs quiescent.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self {
            cpus: core::array::from_fn(|_| Record { state: AtomicU64::new(0) }),
            global: AtomicU64::new(FIRST),
        }
    }

    /// Pins `cpu`, which must be the one that this runs on.
    #[inline]
    pub fn pin(&self, cpu: CpuId) -> Pin<'_> {
        let own = self.record(cpu);
        if cfg!(feature = "no-pin") {
            return Pin { own, not_send: PhantomData };
        }
        let state = own.state.load(Ordering::Relaxed);
        if state & PINS != 0 {
            // Nested: the outer pin's announcement is older, and so protects more.
            own.state.store(state + 1, Ordering::Relaxed);
        } else {
            let global = self.global.load(Ordering::Relaxed);
            // Release, with the acquire fence of `try_advance`: an advance that sees this pin and
            // not the unpinning before it must still come after the walk before it.
            own.state.store(global, ordering(Edge::PinRelease, Ordering::Release));
            // Pairs with the fences of `retiring` and `try_advance`. Forbids store buffering: this
            // CPU loads a descriptor from before it was unlinked, and the advance that ends the
            // grace period loads the record from before it was active.
            fence_for(Edge::PinFence, Ordering::SeqCst);
            trace::pin();
        }
        Pin { own, not_send: PhantomData }
    }

    /// Says whether `cpu` holds a pin. It must not wait for a grace period then.
    pub fn is_pinned(&self, cpu: CpuId) -> bool {
        self.record(cpu).state.load(Ordering::Relaxed) & PINS != 0
    }

    #[inline(always)]
    fn record(&self, cpu: CpuId) -> &Record {
        // The remainder is the index, and spares a check.
        &self.cpus[cpu.index() % RECORDS]
    }

    /// Returns the epoch in which what the caller has unlinked, by then, is retired.
    pub(crate) fn retiring(&self) -> Number {
        // Pairs with the fence of `pin`. Forbids store buffering: a walker loads a descriptor from
        // before it was unlinked, and this load returns an epoch from before the one that the
        // walker announced. Pairs with the fence of `try_advance` too, see there.
        fence_for(Edge::RetireFence, Ordering::SeqCst);
        Number::of(self.global.load(Ordering::Relaxed))
    }

    /// Goes to the next epoch, if every pinned CPU has announced the current one. Says whether the
    /// epoch is a later one now, by this call or another's.
    pub fn try_advance(&self) -> bool {
        let global = self.global.load(Ordering::Relaxed);
        // Pairs with the fence of `pin`. Forbids store buffering: a walker loads a descriptor from
        // before it was unlinked, and this CPU loads the walker's record from before it was
        // active. With the fence of `retiring` it forbids that an epoch later than a remover's is
        // read here, and the remover's unlinking is not yet before what follows.
        fence_for(Edge::AdvanceFence, Ordering::SeqCst);
        for cpu in &self.cpus {
            let state = cpu.state.load(Ordering::Relaxed);
            let behind = state & PINS != 0 && Number::of(state) != Number::of(global);
            if behind && !is_missing(Edge::Announcements) {
                return false;
            }
        }
        // Pairs with the releases of `pin` and of dropping a pin. Forbids that the message is seen
        // (the walker is gone) and what came before it is not (its last load).
        fence_for(Edge::AdvanceAcquire, Ordering::Acquire);
        // Release: pairs with the acquire of `has_passed`, and passes the same on to whoever
        // reuses. It fails where another CPU advanced meanwhile, which is as good.
        let advanced = self.global.compare_exchange(
            global,
            global + ONE,
            ordering(Edge::AdvanceRelease, Ordering::Release),
            Ordering::Relaxed,
        );
        if cfg!(feature = "trace") && advanced.is_ok() {
            trace::grace(Number::of(global + ONE).get());
        }
        true
    }

    /// Says whether the grace period of what was retired in `epoch` has passed, so that it may be
    /// reused.
    pub fn has_passed(&self, epoch: Number) -> bool {
        let grace = if cfg!(feature = "no-grace") || is_missing(Edge::GracePeriod) {
            0
        } else if is_missing(Edge::SecondEpoch) {
            ONE
        } else {
            2 * ONE
        };
        // Acquire: pairs with the release in `try_advance`. Forbids that the new epoch is seen, and
        // the last load of a walker that it waited for still returns what the reuse stores.
        let global = self.global.load(ordering(Edge::PassedAcquire, Ordering::Acquire));
        Number::of(global).0 >= epoch.0 + grace
    }

    /// Returns the current epoch, for inspection.
    pub fn current(&self) -> Number {
        Number::of(self.global.load(Ordering::Relaxed))
    }

    /// Returns the state of every CPU. Waits for nobody.
    pub fn snapshot(&self) -> Snapshot {
        let mut cpus = [CpuState::default(); RECORDS];
        for (state, cpu) in cpus.iter_mut().zip(&self.cpus) {
            let word = cpu.state.load(Ordering::Relaxed);
            *state = CpuState { announced: Number::of(word), pins: (word & PINS) as u16 };
        }
        Snapshot { epoch: self.current(), cpus }
    }
}

impl Default for Epoch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Pin<'_> {
    #[inline]
    fn drop(&mut self) {
        if cfg!(feature = "no-pin") {
            return;
        }
        let state = self.own.state.load(Ordering::Relaxed);
        if cfg!(feature = "trace") && state & PINS == 1 {
            trace::unpin();
        }
        // Release: pairs with the acquire fence of `try_advance`.
        self.own.state.store(state - 1, ordering(Edge::UnpinRelease, Ordering::Release));
    }
}
