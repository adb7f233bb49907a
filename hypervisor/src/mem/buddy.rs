//! Free blocks, by size and by whether they are zeroed.
//!
//! A buddy allocator whose lists are threaded through the frame table. There are two sets of
//! lists, *clean* (every byte is zero) and *dirty*; a block merges with its buddy only if both are
//! of the same set. Background zeroing moves small dirty blocks to the clean set, so that what
//! could not merge for that reason soon can.
//!
//! Two instances exist: one for the memory that guests get, one for the frames that the hypervisor
//! keeps for tables. Their blocks have different [`Kind`]s, so they never merge with each other,
//! even where they are neighbours.
//!
//! Why it is enough to look at the buddy's record: if the buddy lay inside of a larger block, that
//! block would contain this one too. So its record is a head.

use super::frame_table::{FrameTable, Head, Kind};
use super::offline::{Isolation, Part};
use super::{Order, frame_table::Record};
use crate::addr::Frame;

/// What a free block holds.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Zeroes, visible to a guest whose caches are off too.
    Clean,
    /// Left-over bytes.
    Dirty,
}

/// What the blocks of one allocator are called in the frame table.
pub(super) struct Kinds {
    clean: Kind,
    dirty: Kind,
    in_hand: Kind,
}

/// The names of the blocks that are free for guests.
pub(super) const FREE: Kinds =
    Kinds { clean: Kind::FreeClean, dirty: Kind::FreeDirty, in_hand: Kind::InHand };
/// The names of the blocks in the table pool.
pub(super) const POOL: Kinds =
    Kinds { clean: Kind::PoolClean, dirty: Kind::PoolDirty, in_hand: Kind::PoolInHand };

/// The free blocks of one kind of content.
struct Set {
    kind: Kind,
    /// The first block of the list of each order.
    first: [Option<Frame>; Order::COUNT],
    /// A bit for each order whose list is not empty.
    occupied: u32,
    /// All frames on the lists.
    frames: u64,
    /// Those in blocks of 2 MiB and more.
    large: u64,
}

/// The lists of one allocator. The lock around it is held for at most one walk over the orders.
pub(super) struct Buddy {
    clean: Set,
    dirty: Set,
    in_hand: Kind,
    /// What of it is withheld, see offline.rs.
    pub(super) isolation: Isolation,
}

impl Buddy {
    pub(super) const fn new(kinds: Kinds) -> Self {
        Self {
            clean: Set::new(kinds.clean),
            dirty: Set::new(kinds.dirty),
            in_hand: kinds.in_hand,
            isolation: Isolation::none(matches!(kinds.in_hand, Kind::PoolInHand)),
        }
    }

    /// Takes a block of `order`, splitting the smallest that is large enough.
    pub(super) fn take(
        &mut self,
        table: &FrameTable,
        order: Order,
        content: Content,
    ) -> Option<Frame> {
        let in_hand = self.in_hand;
        let set = self.set(content);
        let mut found = set.smallest(order)?;
        let first = set.pop(table, found)?;
        while found > order {
            found = found.halved();
            let half = Frame::new(first.number() + found.frames());
            set.link(table, half, found);
        }
        table.at(first).set_head(Head::new(in_hand, order));
        Some(first)
    }

    /// Takes the largest block that is smaller than `below` and at least as large as `least`.
    pub(super) fn take_largest(
        &mut self,
        table: &FrameTable,
        least: Order,
        below: Order,
        content: Content,
    ) -> Option<(Frame, Order)> {
        let in_hand = self.in_hand;
        let set = self.set(content);
        let candidates = set.occupied & (below.frames() - 1) & !(least.frames() - 1);
        let order = Order::new(candidates.checked_ilog2()? as u8)?;
        let first = set.pop(table, order)?;
        table.at(first).set_head(Head::new(in_hand, order));
        Some((first, order))
    }

    /// Takes a block without regard to what it holds: a dirty one, if there is one of this size, else
    /// a clean one.
    pub(super) fn take_any(&mut self, table: &FrameTable, order: Order) -> Option<Frame> {
        self.take(table, order, Content::Dirty).or_else(|| self.take(table, order, Content::Clean))
    }

    /// Puts the block of `order` from `first`, which is nobody's and on no list, among the free
    /// ones, merged with its buddies. What of it is isolated is withheld.
    pub(super) fn insert(
        &mut self,
        table: &FrameTable,
        first: Frame,
        order: Order,
        content: Content,
    ) {
        match self.isolation.part(first, order) {
            Part::Outside => self.insert_free(table, first, order, content),
            Part::Inside => self.isolation.withhold(table, first, order),
            Part::Across => {
                let half = order.halved();
                let upper = Frame::new(first.number() + half.frames());
                // The upper part first, the shorter head of the lower one last: lookups go on meanwhile.
                table.at(upper).set_head(Head::new(self.in_hand, half));
                table.at(first).set_head(Head::new(self.in_hand, half));
                self.insert(table, upper, half, content);
                self.insert(table, first, half, content);
            }
        }
    }

    /// Takes the block that `frame` is in off its list, if it is on one of these, and puts it back, so that what of it
    /// is isolated is withheld. Returns whether it was on a list, and the block's end as a frame number.
    pub(super) fn carve(&mut self, table: &FrameTable, frame: Frame) -> (bool, u32) {
        let cover = table.owner_of(frame);
        let end = cover.head.number().saturating_add(cover.order.frames());
        let head = match table.get(cover.head) {
            Some(record) => record.head(),
            None => return (false, end),
        };
        let content = match head.kind() {
            kind if kind == self.clean.kind => Content::Clean,
            kind if kind == self.dirty.kind => Content::Dirty,
            _ => return (false, end),
        };
        let in_hand = self.in_hand;
        self.set(content).unlink(table, cover.head, head.order());
        table.at(cover.head).set_head(Head::new(in_hand, head.order()));
        self.insert(table, cover.head, head.order(), content);
        (true, end)
    }

    fn insert_free(
        &mut self,
        table: &FrameTable,
        mut first: Frame,
        mut order: Order,
        content: Content,
    ) {
        let set = self.set(content);
        while order < Order::MAX {
            let buddy = Frame::new(first.number() ^ order.frames());
            let Some(record) = table.get(buddy) else { break };
            if record.head() != Head::new(set.kind, order) {
                break;
            }
            set.unlink(table, buddy, order);
            first = first.min(buddy);
            order = order.doubled();
        }
        set.link(table, first, order);
    }

    /// Returns the order of the smallest block of at least `least`.
    pub(super) fn smallest(&self, least: Order, content: Content) -> Option<Order> {
        match content {
            Content::Clean => self.clean.smallest(least),
            Content::Dirty => self.dirty.smallest(least),
        }
    }

    /// Returns the number of frames on the lists.
    pub(super) fn frames(&self) -> u64 {
        self.clean.frames + self.dirty.frames
    }

    /// Returns the number of zeroed frames.
    pub(super) fn clean_frames(&self) -> u64 {
        self.clean.frames
    }

    /// Returns the number of zeroed frames in blocks of 2 MiB and more.
    pub(super) fn clean_large_frames(&self) -> u64 {
        self.clean.large
    }

    /// Returns the number of frames that are not zeroed.
    pub(super) fn dirty_frames(&self) -> u64 {
        self.dirty.frames
    }

    fn set(&mut self, content: Content) -> &mut Set {
        match content {
            Content::Clean => &mut self.clean,
            Content::Dirty => &mut self.dirty,
        }
    }
}

impl Set {
    const fn new(kind: Kind) -> Self {
        Self { kind, first: [None; Order::COUNT], occupied: 0, frames: 0, large: 0 }
    }

    fn smallest(&self, least: Order) -> Option<Order> {
        let large_enough = self.occupied & !(least.frames() - 1);
        if large_enough == 0 { None } else { Order::new(large_enough.trailing_zeros() as u8) }
    }

    fn link(&mut self, table: &FrameTable, first: Frame, order: Order) {
        let next = self.first[order.index()].replace(first);
        if let Some(next) = next {
            table.at(next).set_previous(Some(first));
        }
        let record: &Record = table.at(first);
        record.set_links(None, next);
        record.set_head(Head::new(self.kind, order));
        self.occupied |= order.frames();
        self.count(order, u64::wrapping_add);
    }

    /// Takes the first block off the list of `order`.
    #[inline(always)]
    fn pop(&mut self, table: &FrameTable, order: Order) -> Option<Frame> {
        let list = self.first.get_mut(order.index())?;
        let first = (*list)?;
        *list = table.at(first).next();
        match *list {
            Some(next) => table.at(next).set_previous(None),
            None => self.occupied &= !order.frames(),
        }
        self.count(order, u64::wrapping_sub);
        Some(first)
    }

    fn unlink(&mut self, table: &FrameTable, first: Frame, order: Order) {
        let record = table.at(first);
        let (previous, next) = (record.previous(), record.next());
        if let Some(next) = next {
            table.at(next).set_previous(previous);
        }
        match previous {
            Some(previous) => table.at(previous).set_next(next),
            None => {
                self.first[order.index()] = next;
                if next.is_none() {
                    self.occupied &= !order.frames();
                }
            }
        }
        self.count(order, u64::wrapping_sub);
    }

    fn count(&mut self, order: Order, change: fn(u64, u64) -> u64) {
        let frames = u64::from(order.frames());
        self.frames = change(self.frames, frames);
        if order >= Order::BLOCK_2M {
            self.large = change(self.large, frames);
        }
    }
}
