//! Zeroing: the background step that idle CPUs repeat, and what an allocation does that found
//! nothing zeroed.
//!
//! Dirty blocks below 2 MiB are always zeroed, so that they can merge with zeroed neighbours; those
//! of 2 MiB and more only until there is enough zeroed memory in hand (the watermark). A step
//! splits off at most 128 KiB, zeroes it and puts it among the clean ones. The rest of a 2 MiB
//! block, being small now, is next. So a step leaves nothing half done, and any number of CPUs can
//! do steps at the same time.
#![expect(unsafe_code, reason = "zeroes frames in the window")]

use super::buddy::Content;
use super::{Clean, Memory, Order, OutOfMemory};
use crate::addr::Frame;
use crate::arch;
use crate::sync::{Edge, Ordering, is_missing};
use crate::trace;

/// The most that is zeroed in one step: 128 KiB, order 5. With its cleaning to the point of coherency
/// this is about 7,000 instructions, well below the longest stretch that EL2 allows itself.
const STEP: u8 = 5;
/// How many steps an allocation makes at most to bring together a block that a fault may ask for.
const EFFORT: usize = 16;
/// The same for a larger block, which only boot and the monitor ask for.
const LARGE_EFFORT: usize = 128;

impl Memory {
    /// Ends a grace period if that is possible, and recycles a few blocks that are past theirs. For one who waits for
    /// frames to come back, where no CPU is idle.
    /// Says whether it did either.
    pub fn reclaim_step(&self) -> bool {
        if self.garbage.lock().frames() == 0 {
            return false;
        }
        let advanced = self.epoch.try_advance();
        if !advanced {
            self.look_for_stalled();
        }
        (self.recycle() > 0) | advanced
    }

    /// Makes one bounded step of what is to be done in the background: ends grace periods, recycles
    /// what is past its own, keeps the table pool filled, zeroes at most 128 KiB. Says whether there
    /// is more to do. For idle CPUs, any number at a time.
    pub fn idle_step(&self) -> bool {
        // Where some CPU is pinned, there may be other things to do.
        self.reclaim_step()
            || self.grow_pool_early()
            || self.end_step()
            || self.scrub_pool()
            || self.scrub_step()
    }

    /// Says whether some memory is free, having looked for what no longer is retired. For one who waits for memory.
    pub fn some_is_free(&self) -> bool {
        let is_free = || {
            let free = self.free.lock();
            free.frames() > 0
        };
        is_free() || self.reclaim_step() && is_free()
    }

    /// Makes one bounded step towards a zeroed block of 2 MiB, for one who needs it now and can come again: zeroes at
    /// most 128 KiB. Says whether there was one to make.
    pub fn prepare_block(&self) -> bool {
        let order = Order::new(STEP).unwrap_or(Order::PAGE);
        // What was split off last is on top of its list: the rest of the same block comes first.
        let dirty = self.free.lock().take(&self.table, order, Content::Dirty);
        if let Some(first) = dirty {
            self.scrub(first, order);
            return true;
        }
        // What is retired may be what is missing.
        self.reclaim_step()
    }

    /// Zeroes up to 128 KiB of free memory, if there is need. Says whether there was.
    fn scrub_step(&self) -> bool {
        let most = Order::new(STEP).unwrap_or(Order::PAGE);
        let taken = {
            let mut free = self.free.lock();
            let enough = free.clean_large_frames() >= self.watermark.load(Ordering::Relaxed);
            free.smallest(Order::PAGE, Content::Dirty)
                .filter(|&order| order < Order::BLOCK_2M || !enough)
                .map(|order| order.min(most))
                .and_then(|order| Some((free.take(&self.table, order, Content::Dirty)?, order)))
        };
        let Some((first, order)) = taken else { return false };
        self.scrub(first, order);
        true
    }

    /// Zeroes a dirty block that is in hand, and puts it among the clean ones.
    fn scrub(&self, first: Frame, order: Order) {
        zero(first, order);
        self.free.lock().insert(&self.table, first, order, Content::Clean);
    }

    /// Allocates where no zeroed block was ready: zeroes one, having brought it together from
    /// smaller ones if need be, as far as a bounded effort goes.
    #[cold]
    pub(super) fn allocate_dirty(&self, order: Order) -> Result<Clean, OutOfMemory> {
        let effort = if order > Order::BLOCK_2M { LARGE_EFFORT } else { EFFORT };
        for _ in 0..effort {
            let dirty = self.free.lock().take(&self.table, order, Content::Dirty);
            if let Some(first) = dirty {
                zero(first, order);
                return Ok(Clean::new(first, order));
            }
            if !self.gather_step(order) {
                break;
            }
            let clean = self.free.lock().take(&self.table, order, Content::Clean);
            if let Some(first) = clean {
                return Ok(Clean::new(first, order));
            }
        }
        Err(OutOfMemory { order })
    }

    /// Makes a step towards a block of `order`. Says whether there was one to make.
    fn gather_step(&self, order: Order) -> bool {
        // What is retired may be what is missing.
        if self.reclaim_step() || self.end_step() {
            return true;
        }
        let fragment = self.free.lock().smallest(Order::PAGE, Content::Dirty);
        if fragment.is_some_and(|fragment| fragment < order.min(Order::BLOCK_2M)) {
            return self.scrub_step();
        }
        // Large zeroed blocks may lie beside large dirty ones: what is to be zeroed as a whole can
        // be dirty as a whole.
        let mut free = self.free.lock();
        let demoted = free.take_largest(&self.table, Order::BLOCK_2M, order, Content::Clean);
        if let Some((first, order)) = demoted {
            free.insert(&self.table, first, order, Content::Dirty);
        }
        demoted.is_some()
    }
}

/// Zeroes the block of `order` from `first`, which is in hand.
fn zero(first: Frame, order: Order) {
    if cfg!(feature = "no-scrub") || is_missing(Edge::Scrub) {
        return;
    }
    let step = Order::new(STEP).unwrap_or(Order::PAGE);
    // What the window takes at once.
    let piece = if order >= Order::BLOCK_2M { Order::BLOCK_2M } else { order.min(step) };
    for index in 0..order.frames() / piece.frames() {
        let first = Frame::new(first.number() + index * piece.frames());
        arch::window::with_frames(first, piece, |start| {
            // SAFETY:
            // - the window maps the piece while this runs
            // - it is in hand: nobody else accesses it
            unsafe { arch::memory::zero(start, piece.bytes() as usize) }
        });
        trace::zero(first, piece);
    }
}
