//! Giving back what a guest gave up: it may populate it again.

use super::descriptor::{Entry, Level, Mark};
use super::edit::Edit;
use super::space::Space;
use super::take::{MOST_LOOKED_AT, Pages, TakeError, Taken, Was, largest_within, tables_for_ends};
use super::walk::{Place, Table};
use crate::addr::{Ipa, IpaRange};
use crate::mem::{Flushed, Order};
use crate::spec::Operation;

impl<'m> Space<'m> {
    /// Gives back the right to the pages at `pages`, in any order: what was ballooned is empty, and
    /// populated by the next touch. Pages that are not ballooned are left alone and counted as
    /// repeated; ends early as [`Space::take_pages`] does. On an error nothing has changed.
    pub fn return_pages(&self, pages: &[Ipa]) -> Result<(Pages, Flushed<'_>), TakeError> {
        let mut edit = self.edit();
        let plan = self.plan(edit.root(), pages, Mark::Empty);
        edit.reserve(plan.tables)?;
        let mut pages_done = Pages { done: plan.pages, ..Pages::default() };
        let batch = pages.get(..plan.pages).unwrap_or(pages);
        let mut unplugged = 0;
        for page in self.in_ram(batch, &mut pages_done.outside) {
            match edit.return_page(page) {
                Was::Ballooned => pages_done.marked += 1,
                Was::Empty | Was::Mapped => pages_done.repeated += 1,
                Was::Unplugged => unplugged += 1,
            }
        }
        pages_done.outside += unplugged;
        edit.collapse_around(batch);
        edit.did(&Operation::ReturnPages { pages: batch, marked: pages_done.marked });
        Ok((pages_done, edit.finish()))
    }

    /// Gives back the right to all that is ballooned in `range`; what is mapped there stays.
    ///
    /// May end early, after a bounded number of entries: see [`Taken::next`]. On an error nothing
    /// has changed.
    pub fn return_range(&self, range: IpaRange) -> Result<Taken<'_>, TakeError> {
        self.check(&range)?;
        let mut edit = self.edit();
        edit.reserve(tables_for_ends(edit.root(), &range, |now| now != Mark::Ballooned))?;
        let root = edit.root();
        let mut left = MOST_LOOKED_AT;
        let reached = edit.return_in(root, range.clone(), &mut left);
        edit.did(&Operation::ReturnRange(range.start..reached));
        let flushed = edit.finish();
        Ok(Taken { flushed, next: Some(reached).filter(|&reached| reached < range.end) })
    }
}

impl<'s> Edit<'s, '_> {
    /// Marks the page at `ipa` as empty, if it is ballooned.
    fn return_page(&mut self, ipa: Ipa) -> Was {
        let place = self.find(ipa);
        match place.entry() {
            Entry::Absent(Mark::Ballooned) if place.level() < Level::Three => {
                self.mark(ipa, Order::PAGE, Mark::Empty);
                Was::Ballooned
            }
            Entry::Absent(Mark::Ballooned) => {
                self.unlink(&place, ipa, Mark::Empty);
                Was::Ballooned
            }
            Entry::Absent(Mark::Empty) => Was::Empty,
            Entry::Absent(Mark::Unplugged) => Was::Unplugged,
            // What is poisoned stays so.
            _ => Was::Mapped,
        }
    }

    /// Marks all that is ballooned in `range` below `table` as empty, looking at no more than
    /// `left` entries; returns where it stopped.
    fn return_in(&mut self, table: Table<'s>, range: IpaRange, left: &mut usize) -> Ipa {
        let mut at = range.start;
        while at < range.end {
            if *left == 0 {
                return at;
            }
            *left -= 1;
            let mut place = Place::load(table, at);
            let covers = place.covers(at);
            let part = at..covers.end.min(range.end);
            let mut rest = part.clone();
            if place.entry() == Entry::Absent(Mark::Ballooned) {
                if part == covers {
                    self.unlink(&place, at, Mark::Empty);
                } else {
                    let order = largest_within(&part);
                    self.mark(at, order, Mark::Empty);
                    // Done, whether what follows is reached or not.
                    rest.start = Ipa::new(at.as_u64() + order.bytes());
                    place = Place::load(table, at);
                }
            }
            if let Some(below) = table.below(place.entry()) {
                let reached = self.return_in(below, rest, left);
                if below.level() == Level::Three {
                    *left = left.saturating_sub(self.collapse(at));
                }
                if reached < part.end {
                    return reached;
                }
            }
            at = part.end;
        }
        at
    }
}
