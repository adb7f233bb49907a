//! A list of blocks that leave a guest's tables together, threaded through the frame table.

use super::frame_table::{FrameTable, Head, Kind};
use super::{GuestId, Order};
use crate::addr::Frame;

/// Blocks of one guest, memory and tables, that are on their way out, in the order in which they
/// were pushed. Takes no memory of its own, however long it is.
#[must_use = "the frames in a chain are lost unless it is retired"]
#[derive(Debug, Default)]
pub struct Chain {
    ends: Option<(Frame, Frame)>,
    guest: Option<GuestId>,
    guest_frames: u64,
    table_frames: u64,
}

impl Chain {
    /// Makes an empty chain.
    pub const fn new() -> Self {
        Self { ends: None, guest: None, guest_frames: 0, table_frames: 0 }
    }

    /// Adds the block of `order` from `first`, a guest's memory or (of order 0) one of its tables,
    /// which the caller has just unlinked. The frame table knows it as a block of this order, or as
    /// smaller ones that follow each other in the guest and in memory: they become one by this.
    /// From here on its owner is [`super::Owner::Retired`].
    pub fn push(&mut self, table: &FrameTable, first: Frame, order: Order) {
        let record = table.at(first);
        let head = record.head();
        debug_assert!(head.order() <= order, "{first:?} is the head of a larger block");
        debug_assert!(first.number().is_multiple_of(order.frames()), "{first:?} begins no block");
        debug_assert!(self.guest.is_none() || self.guest == head.guest(), "two guests' blocks");
        let retired = match head.kind() {
            Kind::Guest => Kind::RetiredGuest,
            Kind::Table => Kind::RetiredTable,
            other => {
                debug_assert!(false, "{first:?} is {other:?}, no guest's");
                return;
            }
        };
        let frames = u64::from(order.frames());
        match retired {
            Kind::RetiredTable => self.table_frames += frames,
            _ => self.guest_frames += frames,
        }
        self.guest = head.guest();
        // The heads of its parts stay where they are: this one is longer and found before them.
        record.set_head(head.become_kind(retired).of_order(order));
        self.append(table, first, first);
    }

    /// Says whether nothing is in the chain.
    pub const fn is_empty(&self) -> bool {
        self.ends.is_none()
    }

    /// Returns the number of frames in the chain, of memory and of tables.
    pub const fn frames(&self) -> u64 {
        self.guest_frames + self.table_frames
    }

    /// Returns the number of frames of the guest's memory in the chain.
    pub const fn guest_frames(&self) -> u64 {
        self.guest_frames
    }

    /// Returns the number of tables in the chain.
    pub const fn table_frames(&self) -> u64 {
        self.table_frames
    }

    /// Returns the guest whose blocks these are; `None` of an empty chain.
    pub(super) const fn guest(&self) -> Option<GuestId> {
        self.guest
    }

    /// Hands each block to `with`, in the order in which they were pushed.
    pub(super) fn each(&self, table: &FrameTable, with: impl Fn(Frame, Order)) {
        let mut at = self.ends;
        while let Some((first, last)) = at {
            let record = table.at(first);
            with(first, record.head().order());
            at = if first == last { None } else { record.next().map(|next| (next, last)) };
        }
    }

    /// Adds `other` at the end.
    pub(super) fn splice(&mut self, table: &FrameTable, other: Self) {
        let Some((first, last)) = other.ends else { return };
        self.append(table, first, last);
        self.guest_frames += other.guest_frames;
        self.table_frames += other.table_frames;
    }

    /// Takes the block that was pushed first.
    pub(super) fn pop(&mut self, table: &FrameTable) -> Option<(Frame, Head)> {
        let (first, last) = self.ends?;
        let record = table.at(first);
        self.ends = if first == last { None } else { record.next().map(|next| (next, last)) };
        let head = record.head();
        let frames = u64::from(head.order().frames());
        match head.kind() {
            Kind::RetiredTable => self.table_frames -= frames,
            _ => self.guest_frames -= frames,
        }
        Some((first, head))
    }

    fn append(&mut self, table: &FrameTable, first: Frame, last: Frame) {
        table.at(last).set_links(None, None);
        self.ends = match self.ends {
            None => Some((first, last)),
            Some((front, back)) => {
                table.at(back).set_next(Some(first));
                Some((front, last))
            }
        };
    }
}
