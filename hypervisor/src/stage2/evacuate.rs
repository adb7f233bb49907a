//! Moving what a guest has to other frames, while it runs and without its help.
//!
//! # The protocol
//!
//! A page or block goes through three states, each change one store under the writer lock:
//!
//! 1. *Leaf*, at its old frames.
//! 2. *Moving*: not valid, so that the hardware faults, but with the old address in it. The TLBs forget it, then a
//!    grace period passes. A vCPU that touches it faults and tries again. Software reads go on at the old frames.
//!    Software that would write there calls [`Space::stay`], which makes it a leaf again: nobody waits for a move,
//!    the move comes to nothing and is tried again later.
//! 3. *Leaf*, at the new frames. The old ones are retired.
//!
//! Bytes are copied in the second state, after the grace period. Nobody writes to the old frames then: the guest
//! cannot, for no TLB leads there; and a writer in software pinned, found a leaf and wrote before it unpinned, hence
//! before the grace period ended. Without the grace period it could still be writing behind the copy, and what it
//! wrote would be lost (`tests/evacuate.rs` shows it).
//!
//! Between the steps no lock is held, so other edits go on. One that removes or splits what is moving treats it as
//! the leaf that it is. When the move comes back and does not find its mark, it is over. There is one move at a time
//! ([`crate::mem::Memory::isolate`] sees to it), so a mark that is found is its own.
#![expect(unsafe_code, reason = "copies frames in the window")]

use super::descriptor::{self, Entry, Level, Mark};
use super::edit::{Edit, write};
use super::space::Space;
use super::walk::Place;
use crate::addr::{BLOCK_1G, Frame, Ipa, PAGE_SIZE, PaRange};
use crate::arch;
use crate::mem::{Cover, Flushed, GracePeriod, GuestId, Memory, Order, OutOfMemory, Unclean};
use crate::spec::Operation;
use crate::sync::{Edge, is_missing};

/// How many pages are moved together at most, and copied in one step: 32 KiB.
pub const BATCH: usize = 8;

/// One page or block on its way.
struct Item {
    ipa: Ipa,
    old: Frame,
    new: Unclean,
}

/// Up to [`BATCH`] pages, or a block, on their way to other frames.
#[must_use = "what is moving must be finished or cancelled"]
pub struct Move {
    guest: GuestId,
    items: [Option<Item>; BATCH],
    grace: GracePeriod,
    /// Pages that are copied.
    copied: u32,
}

/// Why nothing is moved.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum MoveError {
    /// There is no free block of this size.
    OutOfMemory(Order),
    /// None of the blocks is mapped as it was recorded: they have been removed or split meanwhile.
    Gone,
}

/// What [`Space::finish_move`] did.
#[must_use = "the old frames are lost unless they are retired"]
pub struct Moved<'s> {
    /// How many frames were moved; what was removed or written to meanwhile was not.
    pub frames: u64,
    /// The old frames, to be retired.
    pub flushed: Flushed<'s>,
}

/// What [`Space::move_tables`] did.
#[must_use = "the old tables are lost unless they are retired"]
pub struct TablesMoved<'s> {
    /// How many tables were replaced.
    pub tables: usize,
    /// Where the next call goes on; `None` where all were looked at.
    pub next: Option<Ipa>,
    /// The old tables, to be retired.
    pub flushed: Flushed<'s>,
}

impl Move {
    /// Returns whose it is.
    pub const fn guest(&self) -> GuestId {
        self.guest
    }

    /// Gives back the new frames, of a guest that is gone with all that it had.
    pub fn abandon(self, memory: &Memory) {
        self.items.into_iter().flatten().for_each(|item| memory.give_back_unclean(item.new));
    }

    fn pages(&self) -> u32 {
        self.items.iter().flatten().map(|item| item.new.order().frames()).sum()
    }

    /// Returns the item that page number `page` of all is in, and its number there.
    fn item(&self, mut page: u32) -> Option<(&Item, u32)> {
        for item in self.items.iter().flatten() {
            let pages = item.new.order().frames();
            if page < pages {
                return Some((item, page));
            }
            page -= pages;
        }
        None
    }
}

impl<'m> Space<'m> {
    /// Begins to move `blocks`, which the frame table says are this guest's: up to [`BATCH`] pages, or one block.
    /// What is not mapped there any more is left out. On an error nothing has changed.
    pub fn begin_move(&self, blocks: &[Cover]) -> Result<Move, MoveError> {
        let mut items = [const { None }; BATCH];
        let mut short = None;
        for (place, cover) in items.iter_mut().zip(blocks) {
            let Some(ipa) = cover.ipa else { continue };
            match self.memory.allocate_unclean(cover.order) {
                Ok(new) => *place = Some(Item { ipa, old: cover.head, new }),
                Err(OutOfMemory { order }) => {
                    short = Some(order);
                    break;
                }
            }
        }
        let mut edit = self.edit();
        for place in &mut items {
            if let Some(item) = place.take() {
                match edit.set_moving(&item) {
                    true => *place = Some(item),
                    false => self.memory.give_back_unclean(item.new),
                }
            }
        }
        let grace = edit.finish().retire();
        if items.iter().all(Option::is_none) {
            return Err(short.map_or(MoveError::Gone, MoveError::OutOfMemory));
        }
        Ok(Move { guest: self.guest, items, grace, copied: 0 })
    }

    /// Copies some of what is moving, 32 KiB at most. Says whether there is more to do: the grace period that comes
    /// before may not be over.
    pub fn copy_some(&self, moving: &mut Move) -> bool {
        let epoch = self.memory.epoch();
        if !epoch.has_passed(moving.grace.epoch()) && !is_missing(Edge::CopyLater) {
            epoch.try_advance();
            return true;
        }
        for _ in 0..BATCH {
            let Some((item, page)) = moving.item(moving.copied) else { return false };
            let order = item.new.order();
            let pages = (order.frames() - page).min(BATCH as u32);
            // What was removed meanwhile needs no copy, and its old frames may be somebody else's soon.
            let pin = self.memory.pin();
            if is_moving(&self.root(&pin).find(item.ipa), item) {
                copy_piece(item.old, &item.new, page, pages);
            }
            moving.copied += pages;
            if pages > 1 {
                break;
            }
        }
        moving.copied < moving.pages()
    }

    /// Maps what was copied at its new frames. Of what was removed, split or written to meanwhile nothing changes.
    pub fn finish_move(&self, moving: Move) -> Moved<'_> {
        arch::memory::finish_copies();
        let mut frames = 0;
        let mut edit = self.edit();
        for item in moving.items.into_iter().flatten() {
            let order = item.new.order();
            match edit.set_moved(item) {
                Ok(()) => frames += u64::from(order.frames()),
                Err(new) => self.memory.give_back_unclean(new),
            }
        }
        // Seen by every table walker before the guest tries again.
        arch::barrier::dsb_ishst();
        Moved { frames, flushed: edit.finish() }
    }

    /// Has what is moving stay where it is.
    pub fn cancel_move(&self, moving: Move) {
        for item in moving.items.into_iter().flatten() {
            self.stay(item.ipa);
            self.memory.give_back_unclean(item.new);
        }
    }

    /// Has what is at `ipa` stay where it is, if it is being moved.
    pub(super) fn stay(&self, ipa: Ipa) {
        let writing = self.lock_writer();
        let place = writing.root().find(ipa);
        if matches!(place.entry(), Entry::Moving(_)) && !is_missing(Edge::Stay) {
            write(place.slot, descriptor::not_moving(place.bits));
            arch::barrier::dsb_ishst();
        }
    }

    /// Splits the block around `ipa` into blocks of the next smaller size, if there is one.
    pub fn split_block(&self, ipa: Ipa) -> Result<(), OutOfMemory> {
        let mut edit = self.edit();
        edit.reserve(1)?;
        let place = edit.root().find(ipa);
        edit.split(&place, ipa);
        let _ = edit.finish().retire();
        Ok(())
    }

    /// Takes the page at `ipa` away for good, if it is at `page`: the guest gets an external abort when it touches it.
    /// Says whether it was. On an error nothing has changed.
    pub fn poison(&self, ipa: Ipa, page: Frame) -> Result<bool, OutOfMemory> {
        let mut edit = self.edit();
        let leaf = edit.root().find(ipa).leaf(ipa).ok().filter(|leaf| leaf.frame() == Some(page));
        if leaf.is_none() {
            return Ok(false);
        }
        edit.reserve(2)?;
        let place = edit.split_down_to(ipa);
        edit.unlink(&place, ipa, Mark::Poisoned);
        edit.did(&Operation::Poison(ipa, page));
        let _ = edit.finish().retire();
        Ok(true)
    }

    /// Replaces the tables of this space that lie in `range` by copies elsewhere, from that for `from` on; all but the
    /// root. A bounded step, see [`TablesMoved::next`]. On an error this step has changed nothing.
    ///
    /// Under break-before-make: the hardware sees no table until the TLBs have forgotten the old one. Software walkers
    /// go on in whichever they have found; nobody edits either meanwhile.
    pub fn move_tables(&self, range: &PaRange, from: Ipa) -> Result<TablesMoved<'_>, OutOfMemory> {
        let mut edit = self.edit();
        let upper = Place::load(edit.root(), from);
        let lies_within = |place: &Place<'_>| match place.entry() {
            Entry::Table(table) => range.contains(&table),
            _ => false,
        };
        let mut found = [None; super::regime::STOCK];
        let mut more = false;
        if lies_within(&upper) {
            found[0] = Some(from);
            more = true;
        } else if let Some(table) = upper.table.below(upper.entry()) {
            let start = from.align_down(BLOCK_1G);
            let order = table.level().order();
            let entries = (0..descriptor::ENTRIES as u64)
                .map(|index| Ipa::new(start.as_u64() + index * order.bytes()));
            let mut inside = entries.filter(|&ipa| lies_within(&Place::load(table, ipa)));
            for (place, ipa) in found.iter_mut().zip(&mut inside) {
                *place = Some(ipa);
            }
            more = inside.next().is_some();
        }
        let tables = found.iter().flatten().count();
        edit.reserve(tables)?;
        for ipa in found.into_iter().flatten() {
            let place =
                if lies_within(&upper) { upper } else { edit.root().find_at(ipa, Level::Two) };
            edit.replace_table(&place, ipa);
        }
        let next = from.align_down(BLOCK_1G).checked_add(BLOCK_1G);
        let next = if more { Some(from) } else { next.filter(|&next| next < self.extent.end) };
        Ok(TablesMoved { tables, next, flushed: edit.finish() })
    }
}

/// Says whether `place` is that of `item`, moving.
fn is_moving(place: &Place<'_>, item: &Item) -> bool {
    place.entry() == Entry::Moving(item.old.pa()) && place.level().order() == item.new.order()
}

impl Edit<'_, '_> {
    /// Marks `item` as moving, if it is mapped as it says.
    fn set_moving(&mut self, item: &Item) -> bool {
        let place = self.find(item.ipa);
        let mapped = place.entry() == Entry::Leaf(item.old.pa())
            && place.level().order() == item.new.order()
            && place.covers(item.ipa).start == item.ipa;
        if mapped {
            write(place.slot, descriptor::moving(place.bits));
            if !is_missing(Edge::Hide) {
                self.break_later(&place, item.ipa);
            }
        }
        mapped
    }

    /// Maps `item` at its new frames, if it is moving still; else gives these back.
    fn set_moved(&mut self, item: Item) -> Result<(), Unclean> {
        let place = self.find(item.ipa);
        if !is_moving(&place, &item) && !is_missing(Edge::StillMoving) {
            return Err(item.new);
        }
        let order = item.new.order();
        let space = self.space();
        let new = space.memory.assign_copied(item.new, space.guest, item.ipa);
        write(place.slot, descriptor::leaf_at(place.bits, new.first.pa()));
        self.moved_away(item.old.pa(), order);
        let range = item.ipa..Ipa::new(item.ipa.as_u64() + order.bytes());
        self.did(&Operation::Move { range, from: item.old, to: new.first });
        Ok(())
    }
}

/// Copies `pages` pages from page `first` of the block at `old` on to those of `new`, a block of the same size. Nobody
/// else writes to either.
pub fn copy_piece(old: Frame, new: &Unclean, first: u32, pages: u32) {
    let order = new.order();
    // The part that the window takes, and where in it to begin.
    let (block, size) = match order >= Order::BLOCK_2M {
        true => (first & !(Order::BLOCK_2M.frames() - 1), Order::BLOCK_2M),
        false => (first, Order::PAGE),
    };
    let part = |frame: Frame| Frame::new(frame.number() + block);
    let offset = (first - block) as usize * PAGE_SIZE as usize;
    let bytes = pages as usize * PAGE_SIZE as usize;
    arch::window::with_frames(part(old), size, |from| {
        arch::window::with_frames(part(new.first()), size, |to| {
            // SAFETY:
            // - the window maps both blocks while this runs, and the bytes are within them
            // - the new frames are in hand: nobody else accesses them
            // - nobody writes to the old ones any more, see the head of this file
            unsafe { arch::memory::copy(to.add(offset), from.add(offset), bytes) }
        });
    });
}
