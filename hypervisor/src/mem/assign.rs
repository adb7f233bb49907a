//! Blocks become a guest's, are split and merged while they are.

use super::frame_table::{Head, Kind};
use super::{Clean, FrameTable, GuestId, Memory, Order, Unclean};
use crate::addr::{Frame, Ipa};
use crate::sync::{Edge, Ordering, is_missing};
use crate::trace;

/// A block that the frame table now says is a guest's. It is for the caller to map it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// The block's first frame.
    pub first: Frame,
    /// Its size.
    pub order: Order,
}

/// The parts are not all of one guest, of one size, and consecutive.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct NotMergeable;

impl Memory {
    /// Makes `block` the guest's, which will see it at `ipa`. Cannot fail; the caller maps it then.
    pub fn assign(&self, block: Clean, guest: GuestId, ipa: Ipa) -> Assigned {
        trace::allocate(block.first(), block.order(), guest, ipa, false);
        self.assign_block(block.first(), block.order(), guest, ipa)
    }

    /// Makes `block`, to which the guest's bytes were copied, the guest's as [`Memory::assign`] does.
    pub(crate) fn assign_copied(&self, block: Unclean, guest: GuestId, ipa: Ipa) -> Assigned {
        trace::allocate(block.first(), block.order(), guest, ipa, true);
        self.assign_block(block.first(), block.order(), guest, ipa)
    }

    fn assign_block(&self, first: Frame, order: Order, guest: GuestId, ipa: Ipa) -> Assigned {
        self.table.assign(first, order, guest, ipa);
        if let Some(of) = self.guests.get(guest.index()) {
            of.frames.fetch_add(u64::from(order.frames()), Ordering::Relaxed);
        }
        Assigned { first, order }
    }

    /// Splits a guest's block of order `from` into blocks of order `to`, so that they can be
    /// retired each for itself. Writes a record for each part.
    ///
    /// The caller holds the guest's writer lock, as for [`Memory::merge_assigned`].
    pub fn split_assigned(&self, first: Frame, from: Order, to: Order) {
        self.table.split(first, from, to);
    }

    /// Makes one block of order `to` of the guest's blocks of order `from` that begin at `first`, if
    /// they are consecutive in memory and in the guest, and aligned in both.
    pub fn merge_assigned(&self, first: Frame, from: Order, to: Order) -> Result<(), NotMergeable> {
        self.table.merge(first, from, to)
    }
}

impl FrameTable {
    pub(super) fn assign(&self, first: Frame, order: Order, guest: GuestId, ipa: Ipa) {
        self.at(first).set_head(Head::of_guest(Kind::Guest, order, guest).at(ipa));
    }

    pub(super) fn split(&self, first: Frame, from: Order, to: Order) {
        let head = self.at(first).head();
        debug_assert_eq!((head.kind(), head.order()), (Kind::Guest, from));
        let (Some(guest), Some(ipa)) = (head.guest(), head.ipa()) else { return };
        let write = |index: u32| {
            let distance = index * to.frames();
            let frame = Frame::new(first.number() + distance);
            self.assign(frame, to, guest, Ipa::from_page(ipa.page() + u64::from(distance)));
        };
        // The parts first, the shorter head last: lookups go on meanwhile.
        if is_missing(Edge::PartsFirst) {
            write(0);
        }
        (1..from.frames() / to.frames()).for_each(write);
        write(0);
    }

    pub(super) fn merge(&self, first: Frame, from: Order, to: Order) -> Result<(), NotMergeable> {
        let head = self.at(first).head();
        let (Kind::Guest, Some(guest), Some(ipa)) = (head.kind(), head.guest(), head.ipa()) else {
            return Err(NotMergeable);
        };
        if !first.pa().is_aligned(to.bytes()) || !ipa.is_aligned(to.bytes()) || from > to {
            return Err(NotMergeable);
        }
        for index in 0..to.frames() / from.frames() {
            let distance = index * from.frames();
            let expected = Head::of_guest(Kind::Guest, from, guest)
                .at(Ipa::from_page(ipa.page() + u64::from(distance)));
            let part = self.get(Frame::new(first.number() + distance));
            if part.is_none_or(|part| part.head() != expected) {
                return Err(NotMergeable);
            }
        }
        // The other heads stay where they are: this one is longer and found before them.
        self.assign(first, to, guest, ipa);
        Ok(())
    }
}
