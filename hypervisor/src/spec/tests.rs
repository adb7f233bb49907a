//! The specification's map against a plainer one; what it refuses; and that a difference is noticed and told.

use super::*;
use crate::addr::{Frame, Ipa, IpaRange};
use crate::stage2::Mark;
use proptest::prelude::*;
use std::collections::HashMap;

fn page() -> impl Strategy<Value = Page> {
    let mapped = |frame| Page::Mapped { frame: Frame::new(frame), attributes: 1 };
    prop_oneof![
        Just(Page::EMPTY),
        Just(Page::Absent(Mark::Ballooned)),
        Just(Page::Absent(Mark::Unplugged)),
        (100u32..140).prop_map(mapped),
    ]
}

proptest! {
    /// Runs are only a shorter way to write a map from pages.
    #[test]
    fn runs_are_a_map_from_pages(sets in prop::collection::vec((0u64..40, 0u64..12, page()), 0..40)) {
        let (mut state, mut plain) = (State::default(), HashMap::new());
        for (start, count, first) in sets {
            state.set(start..start + count, first);
            for offset in 0..count {
                let page = match first {
                    Page::Mapped { frame, attributes } => {
                        Page::Mapped { frame: Frame::new(frame.number() + offset as u32), attributes }
                    }
                    absent => absent,
                };
                plain.insert(start + offset, page);
            }
            for page in 0..60 {
                let (now, end) = state.at(page);
                prop_assert_eq!(now, plain.get(&page).copied().unwrap_or(Page::EMPTY));
                prop_assert!(end > page);
            }
        }
    }
}

fn pages(range: core::ops::Range<u64>) -> IpaRange {
    Ipa::from_page(range.start)..Ipa::from_page(range.end)
}

#[test]
fn what_may_not_be_done_is_refused() {
    let extent = pages(0..64);
    let mut state = State::default();
    let mut step = |operation: Operation<'_>| step(&mut state, &operation, &extent, 1);
    let first = Frame::new(100);
    assert_eq!(step(Operation::Populate { range: pages(0..8), first }), Ok(()));
    let again = step(Operation::Populate { range: pages(4..5), first });
    assert!(matches!(again, Err(Illegal::At(ipa, _)) if ipa == Ipa::from_page(4)));
    assert!(step(Operation::Add { range: pages(9..10), first }).is_err(), "it is not unplugged");
    let page = [Ipa::from_page(3), Ipa::from_page(3), Ipa::from_page(20), Ipa::from_page(99)];
    assert_eq!(step(Operation::TakePages { pages: &page, lost: 1, marked: 1 }), Ok(()));
    let wrong = step(Operation::TakePages { pages: &page, lost: 1, marked: 0 });
    assert_eq!(wrong, Err(Illegal::Count { said: [1, 0], right: [0, 0] }));
    let (from, to) = (Frame::new(100), Frame::new(300));
    assert!(step(Operation::Move { range: pages(0..8), from, to }).is_err(), "a page is missing");
    assert_eq!(step(Operation::Move { range: pages(0..3), from, to }), Ok(()));
    assert!(step(Operation::Poison(Ipa::from_page(1), Frame::new(101))).is_err(), "it was moved");
    assert_eq!(step(Operation::Poison(Ipa::from_page(1), Frame::new(301))), Ok(()));
    assert_eq!(state.at(1).0, Page::Absent(Mark::Poisoned));
    assert_eq!(state.at(2).0, Page::Mapped { frame: Frame::new(302), attributes: 1 });
}
