//! The table pool: frames that the hypervisor owns and reaches, kept zeroed for tables.
//!
//! It grows by blocks taken from the free memory, which become the hypervisor's and are mapped at
//! EL2, and does not shrink: the frames of a guest that is gone serve the next one.
#![expect(unsafe_code, reason = "zeroes frames of the pool")]

use super::buddy::Content;
use super::frame_table::{Head, Kind};
use super::{Clean, GuestId, MAX_GUESTS, Memory, Order, OutOfMemory};
use crate::addr::{Frame, PAGE_SIZE, Pa};
use crate::arch;
use crate::sync::{AtomicU32, Edge, Ordering, ordering};
use crate::trace;
use core::ptr::NonNull;

/// The pool grows when it has fewer frames than this: enough for mapping the growth itself.
const RESERVE: u64 = 16;
/// The pool grows by 2 MiB where this many frames (64 MiB) are free and 2 MiB are ready, else by
/// 64 KiB.
const PLENTY: u64 = (64 << 20) / PAGE_SIZE;
/// 64 KiB.
const SMALL_GROWTH: u8 = 4;

/// A zeroed frame for one table, reachable at EL2. Nobody else has it.
#[must_use = "a frame that is dropped is lost"]
#[derive(Debug, PartialEq, Eq)]
pub struct TableFrame {
    frame: Frame,
    guest: GuestId,
}

/// A zeroed frame of the hypervisor's own, reachable at EL2. Nobody else has it.
#[must_use = "a frame that is dropped is lost"]
#[derive(Debug, PartialEq, Eq)]
pub struct HypervisorFrame {
    frame: Frame,
}

/// Frames for root tables, that lie together.
pub(super) struct Roots {
    /// The number of the first; 0 before there are any.
    first: AtomicU32,
    /// A bit for each that is free.
    free: AtomicU32,
}

const _: () = assert!(MAX_GUESTS == u32::BITS as usize);

impl Roots {
    pub(super) fn new() -> Self {
        Self { first: AtomicU32::new(0), free: AtomicU32::new(0) }
    }

    /// Sets `count` frames from `first` aside. Before anybody takes one.
    pub(super) fn set(&self, first: Frame, count: u32) {
        self.first.store(first.number(), Ordering::Relaxed);
        self.free.store(u32::MAX >> (u32::BITS - count), Ordering::Relaxed);
    }

    /// Takes one, if there is one left.
    pub(super) fn take(&self) -> Option<Frame> {
        let relaxed = Ordering::Relaxed;
        let lowest = |free: u32| Some(free & free.wrapping_sub(1)).filter(|_| free != 0);
        // Acquire: pairs with the release of `put_back`. Forbids that what the last guest's walkers read, or what was
        // noted of the frame, comes after what the next one's hypervisor writes.
        let acquire = ordering(Edge::RootsAcquire, Ordering::Acquire);
        let before = self.free.fetch_update(acquire, relaxed, lowest).ok()?;
        Some(Frame::new(self.first.load(relaxed) + before.trailing_zeros()))
    }

    /// Returns which of them `frame` is.
    fn index_of(&self, frame: Frame) -> Option<u32> {
        let first = self.first.load(Ordering::Relaxed);
        let index = frame.number().checked_sub(first).filter(|_| first != 0)?;
        (index < MAX_GUESTS as u32).then_some(index)
    }

    /// Takes back the one at `index`.
    pub(super) fn put_back(&self, index: u32) {
        // Release: pairs with the acquire of `take`.
        self.free.fetch_or(1 << index, ordering(Edge::RootsRelease, Ordering::Release));
    }
}

impl TableFrame {
    /// Returns the frame.
    pub const fn frame(&self) -> Frame {
        self.frame
    }

    /// Returns the frame's address.
    pub const fn pa(&self) -> Pa {
        self.frame.pa()
    }

    /// Returns whose table it is.
    pub const fn guest(&self) -> GuestId {
        self.guest
    }

    /// Returns where EL2 reaches it.
    pub fn pointer(&self) -> NonNull<u8> {
        arch::memory::pointer(self.frame.pa())
    }
}

impl HypervisorFrame {
    /// Returns the frame.
    pub const fn frame(&self) -> Frame {
        self.frame
    }

    /// Returns the frame's address.
    pub const fn pa(&self) -> Pa {
        self.frame.pa()
    }

    /// Returns where EL2 reaches it.
    pub fn pointer(&self) -> NonNull<u8> {
        arch::memory::pointer(self.frame.pa())
    }
}

impl Memory {
    /// Takes a zeroed frame for a table of `guest`.
    pub fn table_frame(&self, guest: GuestId) -> Result<TableFrame, OutOfMemory> {
        self.injected_failure(Order::PAGE)?;
        let frame = self.pool_frame()?;
        Ok(self.table_of(frame, guest))
    }

    fn table_of(&self, frame: Frame, guest: GuestId) -> TableFrame {
        self.table.at(frame).set_head(Head::of_guest(Kind::Table, Order::PAGE, guest));
        if let Some(of) = self.guests.get(guest.index()) {
            of.tables.fetch_add(1, Ordering::Relaxed);
        }
        trace::table(guest.index() as u16, frame.pa());
        TableFrame { frame, guest }
    }

    /// Takes a zeroed frame for the root table of `guest`: of those that were set aside for roots, which need not move,
    /// if there is one.
    pub fn root_frame(&self, guest: GuestId) -> Result<TableFrame, OutOfMemory> {
        self.injected_failure(Order::PAGE)?;
        let frame = match self.roots.take() {
            Some(frame) => {
                self.own.fetch_sub(1, Ordering::Relaxed);
                zero(frame, Order::PAGE);
                frame
            }
            None => self.pool_frame()?,
        };
        Ok(self.table_of(frame, guest))
    }

    /// Sets a frame of the pool aside for each guest's root table, which the hardware is told of and which so cannot
    /// be replaced at will. Best at boot, while the pool lies where other things lie that cannot move. Where there is no
    /// room for them, roots are taken from the pool.
    pub fn set_roots_aside(&self) {
        let order = Order::new(MAX_GUESTS.ilog2() as u8).unwrap_or(Order::PAGE);
        let admitted = self.injected_failure(order).ok();
        let block = admitted.and_then(|()| self.pool.lock().take_any(&self.table, order));
        if let Some(first) = block {
            for index in (0..order.frames()).rev() {
                let frame = Frame::new(first.number() + index);
                self.table.at(frame).set_head(Head::new(Kind::Hypervisor, Order::PAGE));
            }
            self.own.fetch_add(u64::from(order.frames()), Ordering::Relaxed);
            self.roots.set(first, order.frames());
        }
    }

    /// Takes back a frame that was not used for a table, and is still zeroed.
    pub fn give_back_table(&self, unused: TableFrame) {
        if let Some(of) = self.guests.get(unused.guest.index()) {
            of.tables.fetch_sub(1, Ordering::Relaxed);
        }
        trace::table_back(unused.frame.pa());
        if !self.put_back_root(unused.frame) {
            self.pool.lock().insert(&self.table, unused.frame, Order::PAGE, Content::Clean);
        }
    }

    /// Takes back a root table's frame, if it is one of those that were set aside.
    fn put_back_root(&self, frame: Frame) -> bool {
        let Some(index) = self.roots.index_of(frame) else { return false };
        self.table.at(frame).set_head(Head::new(Kind::Hypervisor, Order::PAGE));
        self.own.fetch_add(1, Ordering::Relaxed);
        self.roots.put_back(index);
        true
    }

    /// Takes a zeroed frame for the hypervisor's own use.
    pub fn hypervisor_frame(&self) -> Result<HypervisorFrame, OutOfMemory> {
        self.injected_failure(Order::PAGE)?;
        self.own_frame()
    }

    fn own_frame(&self) -> Result<HypervisorFrame, OutOfMemory> {
        let frame = self.pool_frame()?;
        self.table.at(frame).set_head(Head::new(Kind::Hypervisor, Order::PAGE));
        self.own.fetch_add(1, Ordering::Relaxed);
        trace::own(frame);
        Ok(HypervisorFrame { frame })
    }

    /// Takes back a frame of the hypervisor's own. What it holds does not matter.
    pub fn give_back_hypervisor(&self, frame: HypervisorFrame) {
        self.own.fetch_sub(1, Ordering::Relaxed);
        trace::own_back(frame.frame);
        self.pool.lock().insert(&self.table, frame.frame, Order::PAGE, Content::Dirty);
    }

    /// Takes a table whose grace period has passed back into the pool.
    pub(super) fn recycle_table(&self, frame: Frame) {
        if cfg!(feature = "no-grace") {
            poison(frame);
        }
        if !self.put_back_root(frame) {
            self.pool.lock().insert(&self.table, frame, Order::PAGE, Content::Dirty);
        }
    }

    /// Zeroes some of the pool, at most 64 KiB. Says whether there was anything to do.
    pub(super) fn scrub_pool(&self) -> bool {
        if cfg!(feature = "no-grace") {
            // The poison is to stay for as long as it can.
            return false;
        }
        let most = Order::new(SMALL_GROWTH).unwrap_or(Order::PAGE);
        let taken = {
            let mut pool = self.pool.lock();
            pool.smallest(Order::PAGE, Content::Dirty).and_then(|order| {
                let order = order.min(most);
                Some((pool.take(&self.table, order, Content::Dirty)?, order))
            })
        };
        let Some((first, order)) = taken else { return false };
        zero(first, order);
        self.pool.lock().insert(&self.table, first, order, Content::Clean);
        true
    }

    /// Grows the pool if little is left in it. Says whether it did.
    pub(super) fn grow_pool_early(&self) -> bool {
        let low = {
            let pool = self.pool.lock();
            pool.frames() < 4 * RESERVE
        };
        low && self.grow_pool()
    }

    fn pool_frame(&self) -> Result<Frame, OutOfMemory> {
        let taken = self.pool.lock().take(&self.table, Order::PAGE, Content::Clean);
        if let Some(frame) = taken {
            return Ok(frame);
        }
        self.dirty_pool_frame()
    }

    #[cold]
    fn dirty_pool_frame(&self) -> Result<Frame, OutOfMemory> {
        let left = self.pool.lock().dirty_frames();
        if left < RESERVE {
            self.grow_pool();
        }
        let mut pool = self.pool.lock();
        if let Some(frame) = pool.take(&self.table, Order::PAGE, Content::Clean) {
            return Ok(frame);
        }
        let frame = pool.take(&self.table, Order::PAGE, Content::Dirty);
        drop(pool);
        let frame = frame.ok_or(OutOfMemory { order: Order::PAGE })?;
        zero(frame, Order::PAGE);
        Ok(frame)
    }

    /// Takes a block from the free memory for the pool. Mapping it at EL2 may itself take frames
    /// from the pool, which does not make it grow again.
    #[cold]
    fn grow_pool(&self) -> bool {
        // Relaxed: it guards nothing but itself.
        if self.growing.swap(true, Ordering::Relaxed) {
            return false;
        }
        let plenty = {
            let free = self.free.lock();
            free.frames() >= PLENTY
        };
        // 2 MiB only if they are zeroed: a guest may be waiting for a table.
        let large = if plenty { self.take_ready(Order::BLOCK_2M).ok() } else { None };
        let block = large.or_else(|| {
            let orders = (0..=SMALL_GROWTH).rev().filter_map(Order::new);
            orders.into_iter().find_map(|order| self.allocate_any(order).ok())
        });
        let grown = block.is_some_and(|block| self.add_to_pool(block));
        self.growing.store(false, Ordering::Relaxed);
        grown
    }

    /// Maps `block` at EL2 and makes it the pool's, or gives it back. Says which.
    fn add_to_pool(&self, block: Clean) -> bool {
        let (first, order) = (block.first(), block.order());
        let end = Pa::new(first.pa().as_u64() + order.bytes());
        let table = || Some(self.own_frame().ok()?.pa());
        let mapped = arch::memory::map_hypervisor(first.pa()..end, table);
        if mapped {
            self.table.at(first).set_head(Head::new(Kind::PoolInHand, order));
            self.pool.lock().insert(&self.table, first, order, Content::Clean);
        } else {
            self.give_back(block);
        }
        mapped
    }
}

/// Zeroes a block of the pool.
fn zero(first: Frame, order: Order) {
    // SAFETY:
    // - the block is the pool's, so it is mapped at EL2
    // - it is in hand: nobody else accesses it
    unsafe { arch::memory::zero(arch::memory::pointer(first.pa()), order.bytes() as usize) }
    trace::zero(first, order);
}

/// Fills a freed table with [`super::POISON`].
fn poison(frame: Frame) {
    let words = arch::memory::pointer(frame.pa()).cast::<u64>();
    for index in 0..PAGE_SIZE as usize / size_of::<u64>() {
        // SAFETY:
        // - the frame is the pool's, so it is mapped at EL2, and the index is within it
        // - walkers that are late load it atomically; that they can is what this is for
        unsafe { words.add(index).write_volatile(super::POISON) }
    }
}
