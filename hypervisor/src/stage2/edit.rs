//! Editing a guest's tables: one writer, no reader waits.
//!
//! # The protocol
//!
//! 1. *Reserve.* What an edit needs (frames, tables) is taken first; whatever can fail, fails here.
//! 2. *Edit*, under the writer lock. To take something away is one store into the highest entry
//!    that covers nothing else; what hung below is detached with it and is not changed any more. A
//!    block of which a part must stay gives way to a *pending* table (see [`super::descriptor`]).
//! 3. *Flush*, still under the lock: nothing new is mapped where a TLB may hold something old, so
//!    break-before-make needs no thought elsewhere. One flush serves all that the edit removed and
//!    all blocks that it broke.
//! 4. *Publish* the pending tables to the hardware. A vCPU that touched one of their pages
//!    meanwhile has faulted; the fault handler finds the page mapped and lets it try again.
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
use crate::spec::Operation;
#[cfg(feature = "checking")]
use crate::spec::Shadow;
use crate::sync::{AtomicU64, Edge, Guard, Ordering, is_missing, publish};
use crate::tally::{Event, count};
use crate::trace;

/// Writes a descriptor.
pub(super) fn write(slot: &AtomicU64, bits: u64) {
    count(Event::Write, 1);
    publish(slot, bits);
    trace::table_write(slot, bits);
}

/// Returns the descriptor of the table at `table`, as the hardware does not see it until the flush is over.
fn hidden(table: Pa) -> u64 {
    if is_missing(Edge::Break) { descriptor::table(table) } else { descriptor::pending(table) }
}

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
    /// The table of pages that [`Edit::find`] came to last, and the block of addresses that it is
    /// for.
    last: Option<(Ipa, Table<'s>)>,
}

impl<'m> Space<'m> {
    /// Waits for the writer lock, to map something.
    ///
    /// Not while this CPU is pinned: the edit that is under way may be waiting for a grace period.
    pub(super) fn lock_writer(&self) -> Writing<'_, 'm> {
        debug_assert!(!self.memory.epoch().is_pinned(arch::cpu::current()), "edits while pinned");
        let writer = self.writer.lock();
        trace::lock(self.root_pa());
        self.edits.begin();
        Writing { space: self, writer }
    }

    /// Waits for the writer lock, to remove something. Not while this CPU is pinned, as for
    /// [`Space::lock_writer`].
    pub(super) fn edit(&self) -> Edit<'_, 'm> {
        let writing = self.lock_writer();
        let unlinked = Unlinked::new(self.memory);
        Edit { writing, unlinked, pending: [None; STOCK], last: None }
    }
}

impl<'s> Writing<'s, '_> {
    /// Returns the root table.
    pub(super) fn root(&self) -> Table<'s> {
        self.space.root_for_edit()
    }

    /// Returns what the tables should say.
    #[cfg(feature = "checking")]
    pub(super) fn shadow(&self) -> &Shadow {
        &self.writer.shadow
    }

    /// Tells the specification what this edit has done.
    #[inline(always)]
    pub(super) fn did(&mut self, operation: &Operation<'_>) {
        self.writer.shadow.did(operation, self.space);
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

    /// Maps `block` at `ipa`, where `place` says that nothing is.
    pub(super) fn map(&mut self, place: &Place<'s>, ipa: Ipa, block: Clean) {
        self.map_later(place, ipa, block);
        // Seen by every table walker before the guest tries again.
        arch::barrier::dsb_ishst();
    }

    /// Maps as [`Writing::map`] does; the caller ends a batch with a barrier.
    pub(super) fn map_later(&mut self, place: &Place<'s>, ipa: Ipa, block: Clean) {
        let level = Level::of(block.order());
        let first = self.space.memory.assign(block, self.space.guest, ipa).first.pa();
        if place.level() == level {
            write(place.slot, descriptor::leaf(first, level));
        } else {
            let above = self.deepen(ipa, level);
            count(Event::Write, 1 + level as u64 - place.level() as u64);
            self.writer.map(ipa, first, level.order());
            self.trace_path(ipa, above, level);
        }
    }

    /// Makes tables of the absent entries around `ipa` down to those of `level` that say the same, where that
    /// is more than nothing: the crate would write each entry with care, at ten times the cost. Returns the
    /// level that it came to.
    fn deepen(&mut self, ipa: Ipa, level: Level) -> Level {
        loop {
            let place = self.root().find(ipa);
            if place.level() >= level || place.bits == 0 {
                return place.level();
            }
            let table = self.writer.stock().take();
            let Some(parts) = place.table.below(Entry::Table(table)) else { return place.level() };
            for part in parts.slots() {
                // Relaxed: the release below publishes them all.
                part.store(place.bits, Ordering::Relaxed);
            }
            trace::table_run(parts.slots(), place.bits, 0);
            count(Event::Write, ENTRIES as u64);
            write(place.slot, descriptor::table(table));
        }
    }

    /// Writes `mark` into the absent entry at `place`.
    pub(super) fn set_mark(&mut self, place: &Place<'s>, mark: Mark) {
        write(place.slot, mark.bits());
    }

    /// Writes `mark` for the page or block of `order` at `ipa`, which lies in something larger that
    /// is absent.
    pub(super) fn mark(&mut self, ipa: Ipa, order: Order, mark: Mark) {
        let above = self.deepen(ipa, Level::of(order));
        count(Event::Write, 1);
        self.writer.mark(ipa, order, mark);
        self.trace_path(ipa, above, Level::of(order));
    }

    /// Records what the crate has written for `ipa`: the tables that it made, from the entry of level `from` on and
    /// from above, and the entry of level `to`.
    fn trace_path(&self, ipa: Ipa, from: Level, to: Level) {
        if cfg!(feature = "trace") {
            let mut at = Some(from);
            while let Some(level) = at.filter(|level| *level <= to) {
                let place = self.root().find_at(ipa, level);
                trace::table_write(place.slot, place.bits);
                at = level.below();
            }
        }
    }
}

impl Drop for Writing<'_, '_> {
    /// Ends the edit: gives back the tables that it did not use.
    fn drop(&mut self) {
        self.writer.stock().clear();
        let root = self.root();
        self.writer.shadow.check(self.space, root);
        self.space.edits.end();
        trace::unlock(self.space.root_pa());
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

    /// Writes `mark` for the page or block of `order` at `ipa`, which lies in something larger that
    /// is absent.
    pub(super) fn mark(&mut self, ipa: Ipa, order: Order, mark: Mark) {
        self.writing.mark(ipa, order, mark);
    }

    /// Tells the specification what this edit has done.
    #[inline(always)]
    pub(super) fn did(&mut self, operation: &Operation<'_>) {
        self.writing.did(operation);
    }

    /// Returns the space that is edited.
    pub(super) fn space(&self) -> &'s Space<'m> {
        self.writing.space
    }

    /// Says whether another table with something in it can be removed.
    pub(super) fn has_room_for_tree(&self) -> bool {
        self.unlinked.has_room_for_tree()
    }

    /// Returns the deepest descriptor for `ipa`, without a walk where the page before it was in the
    /// same table.
    pub(super) fn find(&mut self, ipa: Ipa) -> Place<'s> {
        let region = ipa.align_down(Order::BLOCK_2M.bytes());
        if let Some((of, table)) = self.last
            && of == region
        {
            return Place::load(table, ipa);
        }
        let place = self.root().find(ipa);
        self.last = (place.level() == Level::Three).then_some((region, place.table));
        place
    }

    /// Removes all that `place` covers, by one store, leaving `mark`.
    pub(super) fn unlink(&mut self, place: &Place<'s>, ipa: Ipa, mark: Mark) {
        // What was there stays as it is for those who are still in it.
        if !is_missing(Edge::Unlink) {
            write(place.slot, mark.bits());
        }
        let range = place.covers(ipa);
        match place.entry() {
            Entry::Absent(_) => {}
            Entry::Leaf(first) | Entry::Moving(first) => {
                self.unlinked.block(first, place.level().order(), range)
            }
            Entry::Table(_) | Entry::Pending(_) => {
                if let Some(table) = place.table.below(place.entry()) {
                    self.unlinked.tree(table.pa(), table.level(), range);
                }
            }
        }
    }

    /// Breaks the block at `place` into a pending table of its parts, which is returned. Where the block is being
    /// moved, that has come to nothing.
    pub(super) fn split(&mut self, place: &Place<'s>, ipa: Ipa) -> Option<Table<'s>> {
        let (Entry::Leaf(first) | Entry::Moving(first), Some(level)) =
            (place.entry(), place.level().below())
        else {
            return None;
        };
        let table = self.writing.writer.stock().take();
        let entry = Entry::Pending(table);
        let parts = place.table.below(entry)?;
        let mut bits = descriptor::leaf_like(descriptor::not_moving(place.bits), first, level);
        count(Event::Write, ENTRIES as u64);
        for part in parts.slots() {
            // Relaxed: the release below publishes them all.
            part.store(bits, Ordering::Relaxed);
            bits += level.order().bytes();
        }
        let block = descriptor::leaf_like(descriptor::not_moving(place.bits), first, level);
        trace::table_run(parts.slots(), block, level.order().bytes());
        if let Some(frame) = Frame::containing(first) {
            self.writing.space.memory.split_assigned(frame, place.level().order(), level.order());
        }
        // Walkers go on through the table.
        write(place.slot, hidden(table));
        self.unlinked.broken(place.covers(ipa));
        self.publish_later(place.slot, descriptor::table(table));
        Some(parts)
    }

    /// Replaces the table of pages of the 2 MiB around `ipa` by one absent entry, if all its pages
    /// are absent for the same reason: so the next touch maps a block again. Does the same to the table
    /// above then, where all of that is unplugged. Returns how many entries it looked at.
    pub(super) fn collapse(&mut self, ipa: Ipa) -> usize {
        let looked_at = self.collapse_below(ipa, Level::Two);
        if looked_at < ENTRIES {
            return looked_at;
        }
        looked_at + self.collapse_below(ipa, Level::One)
    }

    /// Replaces the table that the entry of `level` around `ipa` leads to by one absent entry, if all that
    /// is in it is absent for the same reason, which for the 1 GiB of a table of level 2 is that it is unplugged.
    /// Returns how many entries it looked at: all 512 if so.
    pub(super) fn collapse_below(&mut self, ipa: Ipa, level: Level) -> usize {
        let place = self.root().find_at(ipa, level);
        if place.level() != level {
            return 1;
        }
        let Some(table) = place.table.below(place.entry()) else { return 1 };
        let first = table.slot(0).load(Ordering::Relaxed);
        let Entry::Absent(mark) = Entry::decode(first, table.level()) else { return 1 };
        if level == Level::One && mark != Mark::Unplugged {
            // The next touch maps 2 MiB at most, and would want the table back.
            return 1;
        }
        let differs = |slot: &AtomicU64| slot.load(Ordering::Relaxed) != first;
        if let Some(other) = table.slots().iter().position(differs) {
            return other;
        }
        write(place.slot, mark.bits());
        self.last = None;
        self.unlinked.empty_table(table.pa(), place.covers(ipa));
        ENTRIES
    }

    /// Makes a block of the table of pages around `ipa`, if its pages are those of one block in
    /// order. Says whether they were. The block takes its place in [`Edit::finish`].
    pub(super) fn join(&mut self, ipa: Ipa) -> bool {
        let place = self.root().find_at(ipa, Level::Two);
        let Some(table) = place.page_table() else { return false };
        let page = table.slot(0).load(Ordering::Relaxed) | descriptor::ACCESS_FLAG;
        let Entry::Leaf(first) = Entry::decode(page, Level::Three) else { return false };
        let mut pages = table.slots().iter().zip((page..).step_by(PAGE_SIZE as usize));
        // Whichever of them were used since somebody looked, of the block it is not known.
        let same = |bits: u64, other: u64| (bits ^ other) & !descriptor::ACCESS_FLAG == 0;
        let in_order = pages.all(|(slot, expected)| same(slot.load(Ordering::Relaxed), expected));
        let Some(frame) = Frame::containing(first) else { return false };
        if !first.is_aligned(Order::BLOCK_2M.bytes()) || !in_order {
            return false;
        }
        // Break: the hardware sees nothing, walkers go on through the table.
        write(place.slot, hidden(table.pa()));
        let merged = self.writing.space.memory.merge_assigned(frame, Order::PAGE, Order::BLOCK_2M);
        debug_assert_eq!(merged, Ok(()), "records and tables agree");
        self.unlinked.full_table(table.pa(), place.covers(ipa));
        self.publish_later(place.slot, descriptor::leaf_like(page, first, Level::Two));
        true
    }

    /// Has the TLBs forget what `place`, the entry of `ipa`, said; its frames stay the guest's.
    pub(super) fn break_later(&mut self, place: &Place<'s>, ipa: Ipa) {
        self.unlinked.broken(place.covers(ipa));
    }

    /// Retires the block of `order` at `first`, which no TLB knows any more and no entry leads to.
    pub(super) fn moved_away(&mut self, first: Pa, order: Order) {
        self.unlinked.flushed_block(first, order);
    }

    /// Puts a copy elsewhere in the place of the table that `place`, the entry of `ipa`, leads to. The hardware sees
    /// it after [`Edit::finish`].
    pub(super) fn replace_table(&mut self, place: &Place<'s>, ipa: Ipa) {
        let Some(old) = place.table.below(place.entry()) else { return };
        let new = self.writing.writer.stock().take();
        let Some(copy) = place.table.below(Entry::Pending(new)) else { return };
        for (to, from) in copy.slots().iter().zip(old.slots()) {
            // Relaxed: the release below publishes them all.
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        trace::table_copy(new, old.pa());
        count(Event::Write, ENTRIES as u64);
        // Walkers go on in the copy.
        write(place.slot, hidden(new));
        self.last = None;
        self.unlinked.full_table(old.pa(), place.covers(ipa));
        self.publish_later(place.slot, descriptor::table(new));
    }

    /// Flushes what was removed or broken, shows the pending tables to the hardware and ends the
    /// edit. What was removed is left to retire.
    pub(super) fn finish(self) -> Flushed<'s> {
        let Self { writing, unlinked, pending, last: _ } = self;
        let space = writing.space;
        let flushed = unlinked.flush(space.vttbr(), &space.edits);
        let mut published = false;
        for (slot, bits) in pending.into_iter().flatten() {
            // A table may have been emptied since, and its place be absent now.
            let now = Entry::decode(slot.load(Ordering::Relaxed), Level::Two);
            if matches!(now, Entry::Pending(_)) || is_missing(Edge::Break) {
                write(slot, bits);
                published = true;
            }
        }
        if published {
            // Seen by every table walker before the guest tries again.
            arch::barrier::dsb_ishst();
        }
        flushed
    }

    fn publish_later(&mut self, slot: &'s AtomicU64, bits: u64) {
        if let Some(place) = self.pending.iter_mut().find(|place| place.is_none()) {
            *place = Some((slot, bits));
        }
    }
}
