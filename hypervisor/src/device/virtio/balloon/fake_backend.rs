//! A memory manager for tests: it keeps the set of pages in the balloon, checks what the device
//! promises it, and can be slow, busy, or out of memory.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::{BATCH, BalloonBackend, Mistake, Outcome, RANGES};
use crate::addr::{BLOCK_1G, Ipa, IpaRange, PAGE_SIZE};
use crate::device::fake_memory::FakeMemory;
use crate::device::virtio::Progress;

/// See the module.
pub(crate) struct FakeBackend {
    /// The guest's pages, by number.
    pub(crate) ram: core::ops::Range<u32>,
    /// What is in the balloon.
    pub(crate) ballooned: BTreeSet<u32>,
    /// What was reported, in order.
    pub(crate) reported: Vec<IpaRange>,
    /// How many elements one call deals with; 0: busy.
    pub(crate) pace: usize,
    /// How many bytes of a range one call deals with.
    pub(crate) piece: u64,
    /// How many calls of `release_all` have something left to do.
    pub(crate) releases_left: u32,
    /// Inflating finds no table frame.
    pub(crate) exhausted: bool,
    /// How many batches came.
    pub(crate) calls: u32,
    /// Pages that are inflated vanish from here too.
    pub(crate) memory: Option<Rc<FakeMemory>>,
}

impl Default for FakeBackend {
    fn default() -> Self {
        let first = FakeMemory::START.page() as u32;
        Self {
            ram: first..first + (4 * BLOCK_1G / PAGE_SIZE) as u32,
            ballooned: BTreeSet::new(),
            reported: Vec::new(),
            pace: usize::MAX,
            piece: u64::MAX,
            releases_left: 0,
            exhausted: false,
            calls: 0,
            memory: None,
        }
    }
}

impl FakeBackend {
    fn each(&mut self, pages: &[u32], mut change: impl FnMut(&mut Self, u32) -> bool) -> Outcome {
        assert!(!pages.is_empty() && pages.len() <= BATCH);
        self.calls += 1;
        let mut outcome = Outcome { handled: pages.len().min(self.pace), ..Outcome::default() };
        for page in &pages[..outcome.handled] {
            let ipa = Ipa::from_page((*page).into());
            if !self.ram.contains(page) {
                outcome.mistake(ipa, Mistake::Outside);
            } else if self.exhausted {
                outcome.no_memory += 1;
            } else if change(self, *page) {
                outcome.pages += 1;
            } else {
                outcome.mistake(ipa, Mistake::Repeated);
            }
        }
        outcome
    }
}

impl BalloonBackend for FakeBackend {
    fn inflate(&mut self, pages: &[u32]) -> Outcome {
        self.each(pages, |this, page| {
            if let Some(memory) = &this.memory {
                memory.take(Ipa::from_page(page.into()));
            }
            this.ballooned.insert(page)
        })
    }

    fn deflate(&mut self, pages: &[u32]) -> Outcome {
        self.each(pages, |this, page| {
            if let Some(memory) = &this.memory {
                memory.give_back(Ipa::from_page(page.into()));
            }
            this.ballooned.remove(&page)
        })
    }

    fn report(&mut self, ranges: &[IpaRange]) -> Outcome {
        assert!(!ranges.is_empty() && ranges.len() <= RANGES);
        self.calls += 1;
        let mut outcome = Outcome::default();
        for range in ranges.iter().take(self.pace) {
            assert!(range.start < range.end);
            assert!(range.start.is_aligned(PAGE_SIZE) && range.end.is_aligned(PAGE_SIZE));
            let last = Ipa::new(range.end.as_u64() - 1);
            assert_eq!(range.start.align_down(BLOCK_1G), last.align_down(BLOCK_1G));
            let inside = |ipa: Ipa| u32::try_from(ipa.page()).is_ok_and(|p| self.ram.contains(&p));
            if inside(range.start) && inside(last) {
                let end = Ipa::new(range.start.as_u64().saturating_add(self.piece)).min(range.end);
                outcome.pages += end.page() - range.start.page();
                self.reported.push(range.start..end);
                if end < range.end {
                    outcome.goes_on = Some(end);
                    return outcome;
                }
            } else {
                outcome.mistake(range.start, Mistake::Outside);
            }
            outcome.handled += 1;
        }
        outcome
    }

    fn release_all(&mut self) -> Progress {
        if let Some(left) = self.releases_left.checked_sub(1) {
            self.releases_left = left;
            return Progress::MoreWork;
        }
        for page in core::mem::take(&mut self.ballooned) {
            if let Some(memory) = &self.memory {
                memory.give_back(Ipa::from_page(page.into()));
            }
        }
        Progress::Done
    }
}
