//! Frames: who owns each, which are free, and how one that left a table becomes free again.
//!
//! ```text
//!           allocate               assign                    retire
//!   clean ------------> in hand ------------> guest --+---------------> retired
//!     ^                   |                           |                    |
//!     |     give_back     |       table_frame         |                    | grace period
//!     +-------------------+   pool ----------> table -+                    |
//!     |                        ^                                           |
//!     |  zeroed                | tables                                    |
//!   dirty <--------------------+-------------------------------------------+
//! ```
//!
//! [`Memory`] holds all of it, and every part is reached by shared reference. Lock order: the
//! retired (retire.rs), then the table pool (tables.rs) or the free lists (buddy.rs), never both of
//! these; `known` (boot.rs) and `emptying` (offline.rs) before the free lists. Lookups in the frame table take no lock.

mod assign;
mod boot;
mod buddy;
mod chain;
mod counts;
#[cfg(any(test, feature = "fault-injection"))]
mod fault;
mod frame_table;
#[cfg(not(target_os = "none"))]
pub mod host;
#[cfg(all(test, loom))]
pub(crate) mod model;
mod offline;
mod order;
mod owner;
mod retire;
mod scrub;
mod sleepers;
mod stall;
mod tables;
#[cfg(not(loom))]
mod teardown;
#[cfg(all(test, not(loom)))]
mod tests;

pub use assign::{Assigned, NotMergeable};
pub use boot::{MAX_RANGES, RangeError};
pub use chain::Chain;
pub use counts::{Counts, GuestCounts};
pub use frame_table::{Cover, Covers, FrameTable, LayoutError, MAX_REGIONS, Record};
pub use offline::{IsolateError, Isolated, OnlineError, Unclean, Use};
pub use order::Order;
pub use owner::{GuestId, MAX_GUESTS, Owner};
pub use retire::{GracePeriod, POISON, RetiredCounts, Waiting};
pub use stall::Stalled;
pub use tables::{HypervisorFrame, TableFrame};
#[cfg(not(loom))]
pub use teardown::{Flushed, Retiring, Unlinked};

use crate::addr::{Frame, PAGE_SIZE};
use crate::arch;
use crate::epoch::{self, Epoch};
use crate::sync::{AtomicBool, AtomicU64, Edge, Lock, Ordering};
use buddy::{Buddy, Content};

/// How much zeroed memory in blocks of 2 MiB and more is kept ready, in frames: 64 MiB.
const DEFAULT_WATERMARK: u64 = (64 << 20) / PAGE_SIZE;
/// How much may be retired before the remover waits, in frames: 1 GiB.
const DEFAULT_RETIRED_BOUND: u64 = (1 << 30) / PAGE_SIZE;

/// All memory, whoever owns it.
pub struct Memory {
    table: FrameTable,
    epoch: Epoch,
    /// Blocks for guests.
    free: Lock<Buddy>,
    /// Frames for tables and for the hypervisor's own use.
    pool: Lock<Buddy>,
    growing: AtomicBool,
    roots: tables::Roots,
    garbage: Lock<retire::Garbage>,
    sleepers: sleepers::Sleepers,
    known: Lock<boot::Ranges>,
    guests: [counts::OfGuest; MAX_GUESTS],
    /// Frames of the hypervisor outside of the pool.
    own: AtomicU64,
    bad: AtomicU64,
    /// What is offline, without what is isolated.
    offline: AtomicU64,
    total: AtomicU64,
    /// What is being emptied; its lock before the locks of the free lists and of the pool.
    emptying: Lock<offline::Emptying>,
    watermark: AtomicU64,
    retired_bound: AtomicU64,
    clock: fn() -> u64,
    patience: Option<stall::Patience>,
    #[cfg(any(test, feature = "fault-injection"))]
    faults: fault::Injection,
}

/// There is no free block of this order. A smaller one may still be had.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct OutOfMemory {
    /// What was asked for.
    pub order: Order,
}

/// A block of zeroes in hand: nobody owns it, and no table leads to it.
#[must_use = "a block that is dropped is lost: assign it or give it back"]
#[derive(Debug, PartialEq, Eq)]
pub struct Clean {
    first: Frame,
    order: Order,
}

impl Clean {
    const fn new(first: Frame, order: Order) -> Self {
        Self { first, order }
    }

    /// Returns the first frame.
    pub const fn first(&self) -> Frame {
        self.first
    }

    /// Returns the size.
    pub const fn order(&self) -> Order {
        self.order
    }
}

impl Memory {
    /// Makes a manager of the memory that `table` is for. None of it is known yet: boot claims what
    /// is taken and adds the rest.
    pub fn new(table: FrameTable) -> Self {
        Self {
            table,
            epoch: Epoch::new(),
            free: Lock::new(Edge::FreeLock, Buddy::new(buddy::FREE)),
            pool: Lock::new(Edge::PoolLock, Buddy::new(buddy::POOL)),
            growing: AtomicBool::new(false),
            roots: tables::Roots::new(),
            garbage: Lock::new(Edge::GarbageLock, retire::Garbage::new()),
            sleepers: sleepers::Sleepers::new(),
            known: Lock::new(Edge::KnownLock, boot::Ranges::new()),
            guests: core::array::from_fn(|_| counts::OfGuest::default()),
            own: AtomicU64::new(0),
            bad: AtomicU64::new(0),
            offline: AtomicU64::new(0),
            total: AtomicU64::new(0),
            emptying: Lock::new(Edge::EmptyingLock, offline::Emptying::Nothing),
            watermark: AtomicU64::new(DEFAULT_WATERMARK),
            retired_bound: AtomicU64::new(DEFAULT_RETIRED_BOUND),
            clock: || 0,
            patience: None,
            #[cfg(any(test, feature = "fault-injection"))]
            faults: fault::Injection::default(),
        }
    }

    /// Sets the clock by which the age of what is retired is told, in units of its own.
    pub fn set_clock(&mut self, clock: fn() -> u64) {
        self.clock = clock;
    }

    /// Sets how many zeroed frames in blocks of 2 MiB and more are kept ready (64 MiB at first).
    pub fn set_clean_watermark(&self, frames: u64) {
        self.watermark.store(frames, Ordering::Relaxed);
    }

    /// Sets how many frames may be retired before a remover helps and waits (1 GiB at first).
    pub fn set_retired_bound(&self, frames: u64) {
        self.retired_bound.store(frames, Ordering::Relaxed);
    }

    /// Returns how many frames may be retired before a remover helps and waits.
    pub fn retired_bound(&self) -> u64 {
        self.retired_bound.load(Ordering::Relaxed)
    }

    /// Returns the frame table.
    pub fn frames(&self) -> &FrameTable {
        &self.table
    }

    /// Returns the epoch scheme that guards what is taken out of tables.
    pub fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// Pins this CPU: no table or frame that can be reached now is reused before the pin is
    /// dropped.
    #[inline]
    pub fn pin(&self) -> epoch::Pin<'_> {
        self.epoch.pin(arch::cpu::current())
    }

    /// Takes a block of zeroes.
    ///
    /// Takes one that is ready if there is one, some tens of instructions. Otherwise it zeroes one
    /// now, and that takes as long as it takes: not for orders above [`Order::BLOCK_2M`] on behalf of
    /// a running guest. See [`Memory::allocate_ready`].
    pub fn allocate(&self, order: Order) -> Result<Clean, OutOfMemory> {
        self.injected_failure(order)?;
        self.allocate_any(order)
    }

    /// Takes a block of zeroes if one is ready; never zeroes, and never waits.
    pub fn allocate_ready(&self, order: Order) -> Result<Clean, OutOfMemory> {
        self.injected_failure(order)?;
        self.take_ready(order)
    }

    /// As [`Memory::allocate`], for callers within this module: no failure is injected.
    fn allocate_any(&self, order: Order) -> Result<Clean, OutOfMemory> {
        self.take_ready(order).or_else(|_| self.allocate_dirty(order))
    }

    fn take_ready(&self, order: Order) -> Result<Clean, OutOfMemory> {
        match self.free.lock().take(&self.table, order, Content::Clean) {
            Some(first) => Ok(Clean::new(first, order)),
            None => Err(OutOfMemory { order }),
        }
    }

    /// Takes back a block that was not used, and is still all zeroes.
    pub fn give_back(&self, unused: Clean) {
        self.free.lock().insert(&self.table, unused.first, unused.order, Content::Clean);
    }

    fn now(&self) -> u64 {
        (self.clock)()
    }

    #[cfg(any(test, feature = "fault-injection"))]
    fn injected_failure(&self, order: Order) -> Result<(), OutOfMemory> {
        if self.faults.fails() { Err(OutOfMemory { order }) } else { Ok(()) }
    }

    #[cfg(not(any(test, feature = "fault-injection")))]
    #[inline(always)]
    fn injected_failure(&self, _order: Order) -> Result<(), OutOfMemory> {
        Ok(())
    }
}
