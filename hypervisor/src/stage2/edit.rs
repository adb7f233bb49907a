//! Editing a guest's tables: one writer, no reader waits.
//!
//! # The protocol
//!
//! 1. *Reserve.* What an edit needs (frames, tables) is taken first; whatever can fail, fails here.
//! 2. *Edit*, under the writer lock. To take something away is one store into the highest entry that
//!    covers nothing else; what hung below is detached with it and is not changed any more. A block
//!    of which a part must stay gives way to a *pending* table (see [`super::descriptor`]).
//! 3. *Flush*, still under the lock: nothing new is mapped where a TLB may hold something old, so
//!    break-before-make needs no thought elsewhere. One flush serves all that the edit removed and
//!    all blocks that it broke.
//! 4. *Publish* the pending tables to the hardware. A vCPU that touched one of their pages meanwhile
//!    has faulted; the fault handler finds the page mapped and lets it try again.
//! 5. *Retire*, after the lock: frames and tables become free after a grace period.
//!
//! [`Edit::finish`] is steps 3 and 4.

use super::descriptor::{self, ENTRIES, Entry, Level, Mark};
use super::regime::STOCK;
use super::space::{Space, Writer};
use super::walk::{Place, Table};
use crate::addr::{Frame, Ipa, PAGE_SIZE, Pa};
use crate::arch;
use crate::mem::{Clean, Flushed, Order, OutOfMemory, Unlinked};
use crate::sync::{AtomicU64, Guard, Ordering};

/// The right to write a space's tables: holds the writer lock.
pub(super) struct Writing<'s, 'm> {
    space: &'s Space<'m>,
    writer: Guard<'s, Writer<'m>>,
}

/// An edit that may remove something.
pub(super) struct Edit<'s, 'm> {
    writing: Writing<'s, 'm>,
    unlinked: Unlinked<'s>,
    /// Entries that hold pending tables, and what they will say after the flush.
    pending: [Option<(&'s AtomicU64, u64)>; STOCK],
}

impl<'m> Space<'m> {
    /// Waits for the writer lock, to map something.
    ///
    /// Not while this CPU is pinned: the edit that is under way may be waiting for a grace period.
    pub(super) fn lock_writer(&self) -> Writing<'_, 'm> {
        debug_assert!(!self.memory.epoch().is_pinned(arch::cpu::current()), "edits while pinned");
        let writer = self.writer.lock();
        self.edits.fetch_add(1, Ordering::SeqCst);
        Writing { space: self, writer }
    }

    /// Waits for the writer lock, to remove something. Not while this CPU is pinned, as for [`Space::lock_writer`].
    pub(super) fn edit(&self) -> Edit<'_, 'm> {
        let writing = self.lock_writer();
        Edit { writing, unlinked: Unlinked::new(self.memory), pending: [None; STOCK] }
    }
}

impl<'s> Writing<'s, '_> {
    /// Returns the root table.
    pub(super) fn root(&self) -> Table<'s> {
        self.space.root_for_edit()
    }

    /// Takes `tables` table frames for this edit, all or none.
    pub(super) fn reserve(&self, tables: usize) -> Result<(), OutOfMemory> {
        let taken = self.reserve_some(tables);
        if taken.is_err() {
            self.writer.stock().clear();
        }
        taken
    }

    fn reserve_some(&self, tables: usize) -> Result<(), OutOfMemory> {
        for _ in 0..tables {
            self.writer.stock().put(self.space.memory.table_frame(self.space.guest)?);
        }
        Ok(())
    }

    /// Maps `block` at `ipa`, where nothing is.
    pub(super) fn map(&mut self, ipa: Ipa, block: Clean) {
        let order = block.order();
        let assigned = self.space.memory.assign(block, self.space.guest, ipa);
        self.writer.map(ipa, assigned.first.pa(), order);
    }

    /// Writes `mark` for the page or block of `order` at `ipa`, which lies in something larger that is
    /// absent.
    pub(super) fn mark(&mut self, ipa: Ipa, order: Order, mark: Mark) {
        self.writer.mark(ipa, order, mark);
    }
}

impl Drop for Writing<'_, '_> {
    /// Ends the edit: gives back the tables that it did not use.
    fn drop(&mut self) {
        self.writer.stock().clear();
        // What was mapped must be seen by every table walker before the guest tries again.
        arch::barrier::dsb_ishst();
        self.space.edits.fetch_add(1, Ordering::SeqCst);
    }
}

impl<'s, 'm> Edit<'s, 'm> {
    /// Returns the root table.
    pub(super) fn root(&self) -> Table<'s> {
        self.writing.root()
    }

    /// Takes `tables` table frames for this edit, all or none.
    pub(super) fn reserve(&self, tables: usize) -> Result<(), OutOfMemory> {
        self.writing.reserve(tables)
    }

    /// Writes `mark` for the page or block of `order` at `ipa`, which lies in something larger that is
    /// absent.
    pub(super) fn mark(&mut self, ipa: Ipa, order: Order, mark: Mark) {
        self.writing.mark(ipa, order, mark);
    }

    /// Returns the space that is edited.
    pub(super) fn space(&self) -> &'s Space<'m> {
        self.writing.space
    }

    /// Says whether another table with something in it can be removed.
    pub(super) fn has_room_for_tree(&self) -> bool {
        self.unlinked.has_room_for_tree()
    }

    /// Removes all that `place` covers, by one store, leaving `mark`.
    pub(super) fn unlink(&mut self, place: &Place<'s>, ipa: Ipa, mark: Mark) {
        // Release: pairs with the acquire of a walk. What was there stays as it is for those who
        // are still in it.
        place.slot.store(mark.bits(), Ordering::Release);
        let range = place.covers(ipa);
        match place.entry {
            Entry::Absent(_) => {}
            Entry::Leaf(first) => self.unlinked.block(first, place.level().order(), range),
            Entry::Table(_) | Entry::Pending(_) => {
                if let Some(table) = place.table.below(place.entry) {
                    self.unlinked.tree(table.pa(), table.level(), range);
                }
            }
        }
    }

    /// Breaks the block at `place` into a pending table of its parts, which is returned.
    pub(super) fn split(&mut self, place: &Place<'s>, ipa: Ipa) -> Option<Table<'s>> {
        let (Entry::Leaf(first), Some(level)) = (place.entry, place.level().below()) else {
            return None;
        };
        let table = self.writing.writer.stock().take();
        let entry = Entry::Pending(table);
        let parts = place.table.below(entry)?;
        for index in 0..ENTRIES {
            let part = Pa::new(first.as_u64() + index * level.order().bytes());
            let bits = descriptor::leaf_like(place.bits, part, level);
            // Relaxed: the release below publishes them all.
            parts.slot(index as usize).store(bits, Ordering::Relaxed);
        }
        if let Some(frame) = Frame::containing(first) {
            self.writing.space.memory.split_assigned(frame, place.level().order(), level.order());
        }
        // Release: pairs with the acquire of a walk, which goes on through the table.
        place.slot.store(descriptor::pending(table), Ordering::Release);
        self.unlinked.broken(place.covers(ipa));
        self.publish_later(place.slot, descriptor::table(table));
        Some(parts)
    }

    /// Replaces the table of pages of the 2 MiB around `ipa` by one absent entry, if all its pages are absent for the
    /// same reason: so the next touch maps a block again. Returns how many entries it looked at.
    pub(super) fn collapse(&mut self, ipa: Ipa) -> u64 {
        let place = self.root().find_at(ipa, Level::Two);
        let Some(table) = place.table.below(place.entry).filter(|t| t.level() == Level::Three)
        else {
            return 1;
        };
        let first = table.slot(0).load(Ordering::Relaxed);
        let Entry::Absent(mark) = Entry::decode(first, Level::Three) else { return 1 };
        let other =
            (1..ENTRIES).find(|&index| table.slot(index as usize).load(Ordering::Relaxed) != first);
        if let Some(other) = other {
            return other;
        }
        place.slot.store(mark.bits(), Ordering::Release);
        self.unlinked.empty_table(table.pa(), place.covers(ipa));
        ENTRIES
    }

    /// Makes a block of the table of pages around `ipa`, if its pages are those of one block in
    /// order. Says whether they were. The block takes its place in [`Edit::finish`].
    pub(super) fn join(&mut self, ipa: Ipa) -> bool {
        let place = self.root().find_at(ipa, Level::Two);
        let Some(table) = place.table.below(place.entry).filter(|t| t.level() == Level::Three)
        else {
            return false;
        };
        let page = table.slot(0).load(Ordering::Relaxed);
        let Entry::Leaf(first) = Entry::decode(page, Level::Three) else { return false };
        let in_order = (0..ENTRIES).all(|index| {
            let part = Pa::new(first.as_u64() + index * PAGE_SIZE);
            let expected = descriptor::leaf_like(page, part, Level::Three);
            table.slot(index as usize).load(Ordering::Relaxed) == expected
        });
        let Some(frame) = Frame::containing(first) else { return false };
        if !first.is_aligned(Order::BLOCK_2M.bytes()) || !in_order {
            return false;
        }
        // Break: the hardware sees nothing, walkers go on through the table.
        place.slot.store(descriptor::pending(table.pa()), Ordering::Release);
        let merged = self.writing.space.memory.merge_assigned(frame, Order::PAGE, Order::BLOCK_2M);
        debug_assert_eq!(merged, Ok(()), "records and tables agree");
        self.unlinked.full_table(table.pa(), place.covers(ipa));
        self.publish_later(place.slot, descriptor::leaf_like(page, first, Level::Two));
        true
    }

    /// Flushes what was removed or broken, shows the pending tables to the hardware and ends the
    /// edit. What was removed is left to retire.
    pub(super) fn finish(self) -> Flushed<'s> {
        let Self { writing, unlinked, pending } = self;
        let space = writing.space;
        let flushed = unlinked.flush(space.vttbr(), &space.removing);
        for (slot, bits) in pending.into_iter().flatten() {
            // A table may have been emptied since, and its place be absent now.
            let now = Entry::decode(slot.load(Ordering::Relaxed), Level::Two);
            if matches!(now, Entry::Pending(_)) {
                // Release: pairs with the acquire of a walk.
                slot.store(bits, Ordering::Release);
            }
        }
        flushed
    }

    fn publish_later(&mut self, slot: &'s AtomicU64, bits: u64) {
        if let Some(place) = self.pending.iter_mut().find(|place| place.is_none()) {
            *place = Some((slot, bits));
        }
    }
}
