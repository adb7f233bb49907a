//! Taking a physical range away from everybody, as far as the frame table is concerned.
//!
//! 1. *Isolate*: the range is named to the free lists and to the table pool. From then on whatever is freed in it
//!    is withheld instead ([`Isolation`]), split where it reaches beyond.
//! 2. *Carve*: what is free in it already leaves the lists, a few blocks at a time. From then on nothing in it can
//!    be had by anybody: what is in somebody's hand meanwhile is withheld when it is given back.
//! 3. Somebody moves what is in use (see [`crate::evacuation`]); what left is retired, recycled, and then withheld.
//! 4. *Settle*, when all of it is withheld: it is offline. Or *release*: all of it is free again. Either goes on in
//!    the background ([`Memory::end_step`]).
//!
//! One range at a time is emptied. Blocks of the table pool stay the pool's, being mapped at EL2: they return there.

use super::buddy::{Buddy, Content};
use super::frame_table::{FrameTable, Head, Kind};
use super::{Memory, Order, Owner, RangeError};
use crate::addr::{Frame, Pa, PaRange};
use crate::sync::Ordering;

/// How many blocks a step deals with.
const STEP: usize = 16;

/// How a block lies to the range that is isolated.
pub(super) enum Part {
    Outside,
    Inside,
    Across,
}

/// What one allocator withholds: free blocks of a range that is being emptied.
pub(super) struct Isolation {
    /// Frame numbers; empty where nothing is isolated.
    first: u32,
    end: u32,
    /// How many frames are withheld.
    frames: u64,
    /// Whether it is the table pool's.
    pool: bool,
}

impl Isolation {
    pub(super) const fn none(pool: bool) -> Self {
        Self { first: 0, end: 0, frames: 0, pool }
    }

    fn set(&mut self, range: &PaRange) {
        // Memory lies below 16 TiB, where frame numbers end.
        (self.first, self.end) = (range.start.page() as u32, range.end.page() as u32);
    }

    /// Ends it; returns how many frames were withheld.
    fn clear(&mut self) -> u64 {
        (self.first, self.end) = (0, 0);
        core::mem::take(&mut self.frames)
    }

    pub(super) const fn frames(&self) -> u64 {
        self.frames
    }

    #[inline(always)]
    pub(super) fn part(&self, first: Frame, order: Order) -> Part {
        let (start, end) = (first.number(), first.number().saturating_add(order.frames()));
        if end <= self.first || self.end <= start {
            Part::Outside
        } else if self.first <= start && end <= self.end {
            Part::Inside
        } else {
            Part::Across
        }
    }

    /// Withholds a block that is nobody's and lies within the range.
    #[cold]
    pub(super) fn withhold(&mut self, table: &FrameTable, first: Frame, order: Order) {
        table.at(first).set_head(Head::new(Kind::Isolated, order).of_pool(self.pool));
        self.frames += u64::from(order.frames());
    }
}

/// A block in hand that holds left-over bytes: to be filled with others at once, or given back.
#[must_use = "a block that is dropped is lost: assign it or give it back"]
#[derive(Debug, PartialEq, Eq)]
pub struct Unclean {
    first: Frame,
    order: Order,
}

impl Unclean {
    /// Returns the first frame.
    pub const fn first(&self) -> Frame {
        self.first
    }

    /// Returns the size.
    pub const fn order(&self) -> Order {
        self.order
    }
}

/// A range that is being emptied. There is one at a time.
#[must_use = "the range stays isolated until it is settled or released"]
#[derive(Debug, PartialEq, Eq)]
pub struct Isolated {
    range: PaRange,
    /// Where carving goes on, and what follows, as a frame number.
    at: u32,
}

/// What is being emptied.
pub(super) enum Emptying {
    Nothing,
    /// A range is isolated; somebody has [`Isolated`].
    Isolated(PaRange),
    /// The isolation has ended, and what was withheld becomes this, or free.
    Ending(Isolated, Option<Use>),
}

impl Emptying {
    fn range(&self) -> Option<PaRange> {
        match self {
            Self::Nothing => None,
            Self::Isolated(range) | Self::Ending(Isolated { range, .. }, _) => Some(range.clone()),
        }
    }
}

/// Why a range cannot be isolated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IsolateError {
    /// Another range is being emptied.
    Busy(PaRange),
    /// It is not of whole frames, or not all of it is memory.
    NotMemory(PaRange),
}

/// Why a range cannot be brought online.
pub type OnlineError = IsolateError;

/// What a range that has been emptied is to be.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Use {
    /// Offline: it can be brought online again.
    Offline,
    /// Bad: it is never used again.
    Never,
}

impl Isolated {
    /// Returns the range.
    pub fn range(&self) -> PaRange {
        self.range.clone()
    }

    fn first(&self) -> u32 {
        self.range.start.page() as u32
    }

    fn end(&self) -> u32 {
        self.range.end.page() as u32
    }
}

impl Memory {
    /// Takes a block whatever it holds, for what is to be copied there. It fails where
    /// [`Memory::allocate_ready`] would, or where blocks would have to be brought together.
    pub fn allocate_unclean(&self, order: Order) -> Result<Unclean, super::OutOfMemory> {
        self.injected_failure(order)?;
        let taken = self.free.lock().take_any(&self.table, order);
        taken.map(|first| Unclean { first, order }).ok_or(super::OutOfMemory { order })
    }

    /// Takes back a block, whatever it holds now.
    pub fn give_back_unclean(&self, block: Unclean) {
        self.free.lock().insert(&self.table, block.first, block.order, Content::Dirty);
    }

    /// Begins to empty `range`, of whole frames of memory: what is freed in it from now on is withheld.
    pub fn isolate(&self, range: PaRange) -> Result<Isolated, IsolateError> {
        self.check_memory(&range)?;
        let mut emptying = self.emptying.lock();
        if let Some(other) = emptying.range() {
            return Err(IsolateError::Busy(other));
        }
        *emptying = Emptying::Isolated(range.clone());
        self.free.lock().isolation.set(&range);
        self.pool.lock().isolation.set(&range);
        let at = range.start.page() as u32;
        Ok(Isolated { range, at })
    }

    /// Withholds a few blocks of the range that are free. Says whether there may be more.
    pub fn carve_some(&self, isolated: &mut Isolated) -> bool {
        for _ in 0..STEP {
            if isolated.at >= isolated.end() {
                return false;
            }
            let frame = Frame::new(isolated.at);
            let carve = |buddy: &mut Buddy| buddy.carve(&self.table, frame);
            let cover = self.table.block_after(frame, Frame::new(isolated.first()));
            let end = match cover.owner {
                Owner::Free | Owner::Hypervisor => {
                    // One lock after the other, never both.
                    let (free, end) = carve(&mut self.free.lock());
                    if free {
                        end
                    } else {
                        let (pool, other) = carve(&mut self.pool.lock());
                        if pool { other } else { end.min(other) }
                    }
                }
                // Whatever becomes of it, it is not free before it was withheld.
                _ => cover.head.number().saturating_add(cover.order.frames()),
            };
            isolated.at = end.max(isolated.at.saturating_add(1));
        }
        true
    }

    /// Ends the isolation: all that is withheld in the range becomes what it is to be, in the background, see
    /// [`Memory::end_step`]. All of the range is withheld, offline or bad by now.
    pub fn settle(&self, isolated: Isolated, purpose: Use) {
        self.end(isolated, Some(purpose));
    }

    /// Ends the isolation: all that is withheld in the range becomes free, in the background, see
    /// [`Memory::end_step`].
    pub fn release(&self, isolated: Isolated) {
        self.end(isolated, None);
    }

    fn end(&self, isolated: Isolated, purpose: Option<Use>) {
        let mut emptying = self.emptying.lock();
        // What comes back from here on is free; what was withheld waits in the frame table.
        let withheld = self.end_isolation(&self.free) + self.end_isolation(&self.pool);
        self.offline.fetch_add(withheld, Ordering::Relaxed);
        let at = isolated.first();
        *emptying = Emptying::Ending(Isolated { at, ..isolated }, purpose);
    }

    /// Deals with a few blocks of a range whose isolation has ended. Says whether there were any: if not, another
    /// range can be isolated.
    pub fn end_step(&self) -> bool {
        let mut emptying = self.emptying.lock();
        let Emptying::Ending(isolated, purpose) = &mut *emptying else { return false };
        for _ in 0..STEP {
            if isolated.at >= isolated.end() {
                *emptying = Emptying::Nothing;
                return true;
            }
            let first = Frame::new(isolated.first());
            let cover = self.table.block_after(Frame::new(isolated.at), first);
            let head = self.table.at(cover.head).head();
            isolated.at = cover.head.number().saturating_add(cover.order.frames());
            if head.kind() == Kind::Isolated {
                self.end_block(cover.head, head, *purpose);
            }
        }
        true
    }

    fn end_block(&self, first: Frame, head: Head, purpose: Option<Use>) {
        match purpose {
            Some(Use::Offline) => self.table.at(first).set_head(head.become_kind(Kind::Offline)),
            Some(Use::Never) => {
                let frames = u64::from(head.order().frames());
                self.table.at(first).set_head(Head::new(Kind::Bad, head.order()));
                self.offline.fetch_sub(frames, Ordering::Relaxed);
                self.bad.fetch_add(frames, Ordering::Relaxed);
            }
            None => self.free_offline(first, head),
        }
    }

    fn end_isolation(&self, buddy: &crate::sync::Lock<Buddy>) -> u64 {
        buddy.lock().isolation.clear()
    }

    /// Frees a block that was isolated or offline, to where it came from.
    fn free_offline(&self, first: Frame, head: Head) {
        self.offline.fetch_sub(u64::from(head.order().frames()), Ordering::Relaxed);
        let buddy = if head.is_of_pool() { &self.pool } else { &self.free };
        buddy.lock().insert(&self.table, first, head.order(), Content::Dirty);
    }

    /// Brings what is offline in `range` back, from `from` on, a few blocks at a time: it is free, and to be zeroed.
    /// Returns where the next call goes on and how many frames came back; the rest of the range is left alone.
    pub fn online_some(&self, range: &PaRange, from: Pa) -> Result<(Option<Pa>, u64), OnlineError> {
        self.check_memory(range)?;
        let emptying = self.emptying.lock();
        if let Some(other) = emptying.range() {
            return Err(IsolateError::Busy(other));
        }
        let (mut at, end) = (from.max(range.start).page() as u32, range.end.page() as u32);
        let mut frames = 0;
        for _ in 0..STEP {
            if at >= end {
                break;
            }
            let cover = self.table.owner_of(Frame::new(at));
            let record = self.table.at(cover.head);
            let head = record.head();
            let next = cover.head.number().saturating_add(cover.order.frames());
            if head.kind() != Kind::Offline {
                at = next;
            } else if cover.head.number() < at || next > end {
                // Only a part of the block.
                let half = head.order().halved();
                let upper = Frame::new(cover.head.number() + half.frames());
                let part = Head::new(Kind::Offline, half).of_pool(head.is_of_pool());
                self.table.at(upper).set_head(part);
                record.set_head(part);
            } else {
                frames += u64::from(head.order().frames());
                self.free_offline(cover.head, head);
                at = next;
            }
        }
        Ok((Some(Pa::from_page(at.into())).filter(|_| at < end), frames))
    }

    /// Says whether `range` is of whole frames of memory, all of it in one piece.
    pub fn is_memory(&self, range: &PaRange) -> bool {
        self.check(range).is_ok()
    }

    /// Says whether the hypervisor's block at `head` is in the table pool, so that it need not stay where it is.
    pub fn is_in_pool(&self, head: Frame) -> bool {
        let kind = self.table.get(head).map(|record| record.head().kind());
        matches!(kind, Some(Kind::PoolClean | Kind::PoolDirty | Kind::PoolInHand))
    }

    fn check_memory(&self, range: &PaRange) -> Result<(), IsolateError> {
        match self.check(range) {
            Ok(()) => Ok(()),
            Err(RangeError::NotMemory(range)) => Err(IsolateError::NotMemory(range)),
            Err(_) => Err(IsolateError::NotMemory(range.clone())),
        }
    }
}
