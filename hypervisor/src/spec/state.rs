//! The abstract state: what a guest has at each of its addresses.

use crate::addr::{Frame, Ipa, IpaRange, PAGE_SHIFT};
use crate::stage2::Mark;
use alloc::collections::BTreeMap;
use core::fmt;
use core::ops::Range;

/// What a guest has at one page of its address space.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Page {
    /// Nothing, and why.
    Absent(Mark),
    /// This frame, which is the guest's and no one else's.
    Mapped {
        /// Which frame.
        frame: Frame,
        /// The attributes of the mapping, as the descriptor has them, but for whether it was accessed and for its
        /// size, neither of which the guest sees.
        attributes: u64,
    },
}

impl Page {
    /// What every page is at first.
    pub const EMPTY: Self = Self::Absent(Mark::Empty);

    /// Returns what lies `pages` pages further on in a run that begins with `self`.
    fn further(self, pages: u64) -> Self {
        match self {
            Self::Absent(_) => self,
            Self::Mapped { frame, attributes } => Self::Mapped {
                frame: Frame::new(frame.number().wrapping_add(pages as u32)),
                attributes,
            },
        }
    }
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(Mark::Empty) => f.write_str("empty"),
            Self::Absent(Mark::Ballooned) => f.write_str("ballooned"),
            Self::Absent(Mark::Unplugged) => f.write_str("unplugged"),
            Self::Absent(Mark::Poisoned) => f.write_str("poisoned"),
            Self::Mapped { frame, attributes } => {
                write!(f, "mapped to {} with attributes {attributes:#x}", frame.pa())
            }
        }
    }
}

/// Pages that follow one another: all absent for one reason, or mapped to frames that follow one another.
#[derive(Copy, Clone, Debug)]
struct Run {
    end: u64,
    first: Page,
}

/// A map from each page of one guest to what it has there. The size of blocks and the shape of tables are no part of
/// it: splitting, joining and moving tables change nothing here.
///
/// What is not in the map is empty.
#[derive(Clone, Debug, Default)]
pub struct State {
    runs: BTreeMap<u64, Run>,
}

/// Returns the numbers of the pages of `range`.
pub(super) fn pages(range: &IpaRange) -> Range<u64> {
    range.start.as_u64() >> PAGE_SHIFT..range.end.as_u64() >> PAGE_SHIFT
}

impl State {
    /// Returns what is at page number `page`, and where the run that it is in ends.
    pub fn at(&self, page: u64) -> (Page, u64) {
        if let Some((&start, run)) = self.runs.range(..=page).next_back()
            && page < run.end
        {
            return (run.first.further(page - start), run.end);
        }
        let next = self.runs.range(page..).next();
        (Page::EMPTY, next.map_or(u64::MAX, |(&start, _)| start))
    }

    /// Puts a run that begins with `first` in the place of what is at `range`.
    pub fn set(&mut self, range: Range<u64>, first: Page) {
        if range.is_empty() {
            return;
        }
        let (after, after_end) = self.at(range.end);
        // What began before and reaches into the range ends where it begins.
        if let Some((_, run)) = self.runs.range_mut(..range.start).next_back() {
            run.end = run.end.min(range.start);
        }
        while let Some((&start, _)) = self.runs.range(range.clone()).next() {
            self.runs.remove(&start);
        }
        if after != Page::EMPTY {
            self.runs.insert(range.end, Run { end: after_end, first: after });
        }
        if first == Page::EMPTY {
            return;
        }
        let mut run = Run { end: range.end, first };
        let mut start = range.start;
        if after == first.further(range.end - range.start) {
            self.runs.remove(&range.end);
            run.end = after_end;
        }
        if let Some((&before, other)) = self.runs.range(..start).next_back()
            && other.end == start
            && other.first.further(start - before) == first
        {
            (start, run.first) = (before, other.first);
        }
        self.runs.insert(start, run);
    }

    /// Replaces each page of `range` by what `change` makes of it, a run at a time.
    pub fn change(&mut self, range: &IpaRange, change: impl Fn(Page) -> Page) {
        let Range { start: mut at, end } = pages(range);
        while at < end {
            let (was, until) = self.at(at);
            let until = until.min(end);
            let now = change(was);
            if now != was {
                self.set(at..until, now);
            }
            at = until;
        }
    }

    /// Returns the first page of `range` that is not as `wanted`, and what it is.
    pub fn first_other(
        &self,
        range: &IpaRange,
        wanted: impl Fn(Page) -> bool,
    ) -> Option<(Ipa, Page)> {
        let Range { start: mut at, end } = pages(range);
        while at < end {
            let (page, until) = self.at(at);
            if !wanted(page) {
                return Some((Ipa::from_page(at), page));
            }
            at = until;
        }
        None
    }
}
