//! What each operation does to the abstract state: the definition.
//!
//! Each is a pure function: the state before and what was asked, with the frames that the implementation chose, give
//! the state after. An operation that may end early is told how far it got. Everything else that an edit does to the
//! tables (splitting and joining blocks, collapsing and moving tables, announcing a move) does nothing here.

use super::state::{Page, State};
use crate::addr::{Frame, Ipa, IpaRange, PAGE_SIZE};
use crate::stage2::Mark;
use core::fmt;

/// What was done to one guest's memory.
#[derive(Clone, Debug)]
pub enum Operation<'a> {
    /// Memory was mapped where the guest touched what was empty: `range`, to the frames from `first` on.
    Populate {
        /// A page or a block.
        range: IpaRange,
        /// Its first frame.
        first: Frame,
    },
    /// Memory was added where there was none: `range`, mapped to the frames from `first` on.
    Add {
        /// A page or a block.
        range: IpaRange,
        /// Its first frame.
        first: Frame,
    },
    /// Memory may be populated where there was none.
    AddLazily(IpaRange),
    /// The guest gave up `pages` by its balloon; `lost` of them were mapped, `marked` were empty.
    TakePages {
        /// The pages, in any order.
        pages: &'a [Ipa],
        /// How many are said to have been mapped.
        lost: usize,
        /// How many are said to have been empty.
        marked: usize,
    },
    /// The guest asked for `pages` back; `marked` of them were in its balloon.
    ReturnPages {
        /// The pages, in any order.
        pages: &'a [Ipa],
        /// How many are said to have been in the balloon.
        marked: usize,
    },
    /// All of a range was taken and is absent for this reason.
    TakeRange(IpaRange, Mark),
    /// The guest said that it does not use what it has in a range.
    TakeReported(IpaRange),
    /// All of a range that is in the balloon may be populated again.
    ReturnRange(IpaRange),
    /// What was mapped at `range` lies in other frames now.
    Move {
        /// A page or a block.
        range: IpaRange,
        /// The first frame before.
        from: Frame,
        /// The first frame now.
        to: Frame,
    },
    /// The page at `ipa` was lost with the frame that it lay in.
    Poison(Ipa, Frame),
}

/// An operation that the specification does not allow.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Illegal {
    /// At this address it needs something else than what was there.
    At(Ipa, Page),
    /// It says that so many pages were changed, and these were.
    Count {
        /// What it says.
        said: [usize; 2],
        /// What it should say.
        right: [usize; 2],
    },
}

impl fmt::Display for Illegal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(ipa, page) => write!(f, "it may not be done at {ipa}, which was {page}"),
            Self::Count { said, right } => {
                write!(f, "it says that {said:?} pages were mapped and marked; {right:?} were")
            }
        }
    }
}

/// Does `operation` to `state`, in a guest that can have memory in `extent`, whose memory is mapped with `attributes`.
pub fn step(
    state: &mut State,
    operation: &Operation<'_>,
    extent: &IpaRange,
    attributes: u64,
) -> Result<(), Illegal> {
    match operation {
        Operation::Populate { range, first } => {
            map(state, range, Mark::Empty, Page::Mapped { frame: *first, attributes })
        }
        Operation::Add { range, first } => {
            map(state, range, Mark::Unplugged, Page::Mapped { frame: *first, attributes })
        }
        Operation::AddLazily(range) => map(state, range, Mark::Unplugged, Page::EMPTY),
        Operation::TakePages { pages, lost, marked } => {
            count([*lost, *marked], take_pages(state, pages, extent))
        }
        Operation::ReturnPages { pages, marked } => {
            count([0, *marked], [0, return_pages(state, pages, extent)])
        }
        Operation::TakeRange(range, mark) => {
            state.change(range, |_| Page::Absent(*mark));
            Ok(())
        }
        Operation::TakeReported(range) => {
            state.change(range, |was| match was {
                Page::Mapped { .. } => Page::EMPTY,
                absent => absent,
            });
            Ok(())
        }
        Operation::ReturnRange(range) => {
            state.change(range, |was| match was {
                Page::Absent(Mark::Ballooned) => Page::EMPTY,
                other => other,
            });
            Ok(())
        }
        Operation::Move { range, from, to } => relocate(state, range, *from, *to),
        Operation::Poison(ipa, frame) => poison(state, *ipa, *frame),
    }
}

/// All of `range` is absent by `before` and becomes a run that begins with `first`.
fn map(state: &mut State, range: &IpaRange, before: Mark, first: Page) -> Result<(), Illegal> {
    match state.first_other(range, |page| page == Page::Absent(before)) {
        Some((ipa, page)) => Err(Illegal::At(ipa, page)),
        None => {
            state.set(super::state::pages(range), first);
            Ok(())
        }
    }
}

/// Each of `pages` that is mapped or empty becomes ballooned. Returns how many were mapped, and how many empty.
fn take_pages(state: &mut State, pages: &[Ipa], extent: &IpaRange) -> [usize; 2] {
    let (mut lost, mut marked) = (0, 0);
    for page in pages.iter().filter(|page| extent.contains(page)) {
        match at(state, *page) {
            Page::Mapped { .. } => lost += 1,
            Page::EMPTY => marked += 1,
            Page::Absent(_) => continue,
        }
        state.change(&page_of(*page), |_| Page::Absent(Mark::Ballooned));
    }
    [lost, marked]
}

/// Each of `pages` that is ballooned becomes empty. Returns how many were.
fn return_pages(state: &mut State, pages: &[Ipa], extent: &IpaRange) -> usize {
    let mut marked = 0;
    for page in pages.iter().filter(|page| extent.contains(page)) {
        if at(state, *page) == Page::Absent(Mark::Ballooned) {
            state.change(&page_of(*page), |_| Page::EMPTY);
            marked += 1;
        }
    }
    marked
}

/// All of `range` is mapped to the frames from `from` on and becomes mapped to those from `to` on, with the same
/// attributes.
fn relocate(state: &mut State, range: &IpaRange, from: Frame, to: Frame) -> Result<(), Illegal> {
    let was = at(state, range.start);
    let Page::Mapped { frame, attributes } = was else { return Err(Illegal::At(range.start, was)) };
    let (_, end) = state.at(super::state::pages(range).start);
    if frame != from || end < super::state::pages(range).end {
        return Err(Illegal::At(range.start, was));
    }
    state.set(super::state::pages(range), Page::Mapped { frame: to, attributes });
    Ok(())
}

/// The page at `ipa` is mapped to `frame` and becomes poisoned.
fn poison(state: &mut State, ipa: Ipa, lost: Frame) -> Result<(), Illegal> {
    match at(state, ipa) {
        Page::Mapped { frame, .. } if frame == lost => {
            state.change(&page_of(ipa), |_| Page::Absent(Mark::Poisoned));
            Ok(())
        }
        other => Err(Illegal::At(ipa, other)),
    }
}

fn count(said: [usize; 2], right: [usize; 2]) -> Result<(), Illegal> {
    if said == right { Ok(()) } else { Err(Illegal::Count { said, right }) }
}

fn at(state: &State, ipa: Ipa) -> Page {
    state.at(super::state::pages(&page_of(ipa)).start).0
}

/// Returns the range of the page that `ipa` is in.
pub(super) fn page_of(ipa: Ipa) -> IpaRange {
    let start = ipa.align_down(PAGE_SIZE);
    start..Ipa::new(start.as_u64().saturating_add(PAGE_SIZE))
}
