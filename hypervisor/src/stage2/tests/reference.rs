//! Random operations, each compared with a plain model.
//!
//! The model is a map from pages to what they are. After every operation the space must say the
//! same of every page that is looked at, byte for byte where it is mapped; tables, records and
//! counters must agree (the audit); no frame may be lost; and no TLB may hold what the tables do
//! not say. Allocations are made to fail at every point: after an error nothing may have changed at
//! all.

use super::super::{AddError, Fill, Mark, PopulateError, Populated, Run, Space, TakeError};
use super::evacuate::{All, online};
use super::operations::{EXTENT, Op, RAM_BYTES, REGIONS, op};
use super::*;
use crate::addr::{Frame, PAGE_SIZE, PaRange};
use crate::arch::cpu::{self, CpuId};
use crate::arch::tlb;
use crate::epoch::Pin;
use crate::evacuation::{Evacuation, Progress};
use crate::mem::{Order, Owner, Use};
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::HashMap;

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Page {
    Absent(Mark),
    /// Mapped, and its first byte.
    Mapped(u8),
}

/// What a walker holds on to.
struct Watched {
    _pin: Pin<'static>,
    frame: Frame,
    ipa: Ipa,
}

pub(super) struct Test {
    memory: &'static Memory,
    space: Space<'static>,
    model: HashMap<u64, Page>,
    watched: Option<Watched>,
}

/// Returns the offset of every page that is looked at.
fn all_pages() -> impl Iterator<Item = u64> {
    REGIONS.into_iter().flat_map(|region| region_pages(region).into_iter())
}

/// Returns what a page is before anything is done.
fn at_first(page: u64) -> Mark {
    if page < RAM_BYTES { Mark::Empty } else { Mark::Unplugged }
}

fn region_pages(region: u64) -> Vec<u64> {
    (0..512).map(|page| region + page * PAGE_SIZE).collect()
}

thread_local! {
    /// The memory of tests that have passed, by its size, so that not every test needs its own: the
    /// next finds it full of left-over bytes.
    static USED: RefCell<HashMap<u64, &'static Memory>> = RefCell::default();
    /// Where that is. Of a test that failed, nothing else can be used again, and a failure is looked for in hundreds of
    /// shorter tests.
    static RANGES: RefCell<HashMap<u64, PaRange>> = RefCell::default();
}

/// Makes memory of `bytes` where this thread had it before.
fn memory_again(bytes: u64) -> &'static Memory {
    let range = RANGES.with_borrow_mut(|ranges| {
        ranges.entry(bytes).or_insert_with(|| arch::memory::take(bytes, BLOCK_2M)).clone()
    });
    host::memory_in(range)
}

impl Test {
    /// Does all of `ops` in `bytes` of memory.
    pub(super) fn run(bytes: u64, ops: &[(Op, Option<u64>)]) {
        let used = USED.with_borrow_mut(|used| used.remove(&bytes));
        let memory = used.unwrap_or_else(|| memory_again(bytes));
        let mut test = Self::new(memory);
        for (op, successes) in ops {
            test.step(op, *successes);
        }
        drop(test);
        settle(memory);
        assert_sound(memory, &[]);
        USED.with_borrow_mut(|used| used.insert(bytes, memory));
    }

    fn new(memory: &'static Memory) -> Self {
        let space = space_with_hotplug(memory, 0, RAM_BYTES, EXTENT);
        let model = all_pages().map(|page| (page, Page::Absent(at_first(page)))).collect();
        Self { memory, space, model, watched: None }
    }

    /// Does `op`, with the allocations after the first `successes` failing if there is a number.
    fn step(&mut self, op: &Op, successes: Option<u64>) {
        let (before, counts) = (self.snapshot(), self.frames());
        if let Some(successes) = successes {
            self.memory.fail_after(successes);
        }
        let failed = self.perform(op).is_err();
        self.memory.fail_never();
        if failed {
            assert_eq!(self.snapshot(), before, "an error leaves the tables as they were");
            assert_eq!(self.frames(), counts, "an error leaves the frames as they were");
        }
        self.compare();
        let report = audit(self.memory, &[&self.space]);
        assert!(report.is_clean() && report.unsettled == 0 && report.counted == 1, "{report:?}");
        assert_eq!(self.memory.counts().in_hand(), 0, "frames were lost");
        assert_eq!(tlb::check(self.space.vttbr()), Ok(()));
        self.look_at_what_is_watched();
    }

    /// Does `op` to the space and to the model. An error is that of an allocation; any other
    /// outcome that the model does not expect is a panic.
    fn perform(&mut self, op: &Op) -> Result<(), ()> {
        match op {
            Op::Populate(page, order) => self.populate(*page, *order),
            Op::Write(page, byte) => self.write(*page, *byte),
            Op::TakePages(pages) => self.take_pages(pages),
            Op::TakeRegion(region) => self.take_pages(&region_pages(*region)),
            Op::TakeRange(start, end, mark) => self.take_range(*start, *end, *mark),
            Op::Add(start, end, fill) => self.add(*start, *end, *fill),
            Op::Report(start, end) => self.report(*start, *end),
            Op::ReturnPages(pages) => self.return_pages(pages),
            Op::ReturnRegion(region) => self.return_pages(&region_pages(*region)),
            Op::ReturnRange(start, end) => self.return_range(*start, *end),
            Op::Coalesce(page) => {
                if let Some(flushed) = self.space.coalesce(at(*page)) {
                    flushed.retire();
                }
                Ok(())
            }
            Op::Evacuate(page, steps) => {
                self.evacuate(*page, *steps);
                Ok(())
            }
            Op::Poison(page) => self.poison(*page),
            Op::Clear => self.take_back(),
            Op::Access(page) => {
                let seen = tlb::access(self.space.vttbr(), at(*page)).is_some();
                assert_eq!(seen, matches!(self.model[page], Page::Mapped(_)));
                Ok(())
            }
            Op::Settle => {
                self.watched = None;
                settle(self.memory);
                Ok(())
            }
            Op::Watch(page) => {
                self.watch(*page);
                Ok(())
            }
            Op::Unwatch => {
                self.watched = None;
                Ok(())
            }
        }
    }

    fn populate(&mut self, page: u64, order: Order) -> Result<(), ()> {
        match (self.space.populate(at(page), order), self.model[&page]) {
            (Ok(Populated::Mapped(order)), Page::Absent(Mark::Empty)) => {
                self.populated(page, order);
                Ok(())
            }
            (Ok(Populated::Already), Page::Mapped(_))
            | (Err(PopulateError::Ballooned), Page::Absent(Mark::Ballooned))
            | (Err(PopulateError::Poisoned), Page::Absent(Mark::Poisoned))
            | (Err(PopulateError::Unplugged), Page::Absent(Mark::Unplugged)) => Ok(()),
            (Err(PopulateError::OutOfMemory), Page::Absent(Mark::Empty)) => Err(()),
            (other, was) => panic!("{other:?} of a page that was {was:?}"),
        }
    }

    fn write(&mut self, page: u64, byte: u8) -> Result<(), ()> {
        let written = self.space.write(at(page), &[byte]).map_err(|error| error.cause);
        match (written, self.model[&page]) {
            (Ok(()), Page::Mapped(_)) => {}
            (Ok(()), Page::Absent(Mark::Empty)) => {
                let order = self.space.translate(&self.memory.pin(), at(page)).unwrap().order();
                self.populated(page, order);
            }
            (Err(PopulateError::Ballooned), Page::Absent(Mark::Ballooned))
            | (Err(PopulateError::Poisoned), Page::Absent(Mark::Poisoned))
            | (Err(PopulateError::Unplugged), Page::Absent(Mark::Unplugged)) => return Ok(()),
            (Err(PopulateError::OutOfMemory), Page::Absent(Mark::Empty)) => return Err(()),
            (other, was) => panic!("{other:?} of a page that was {was:?}"),
        }
        self.model.insert(page, Page::Mapped(byte));
        Ok(())
    }

    /// Notes that a block around `page` was mapped where all was empty.
    fn populated(&mut self, page: u64, order: Order) {
        let start = page & !(order.bytes() - 1);
        for page in (start..start + order.bytes()).step_by(PAGE_SIZE as usize) {
            if let Some(was) = self.model.insert(page, Page::Mapped(0)) {
                assert_eq!(was, Page::Absent(Mark::Empty), "a block over something, at {page:#x}");
            }
        }
    }

    fn take_pages(&mut self, pages: &[u64]) -> Result<(), ()> {
        let mut left: Vec<_> = pages.iter().map(|&page| at(page)).collect();
        while !left.is_empty() {
            let before = (self.snapshot(), self.frames());
            let (done, flushed) = match self.space.take_pages(&left) {
                Ok(taken) => taken,
                Err(error) => {
                    assert_eq!(error, TakeError::OutOfMemory);
                    // Batches before this one were done: this one must not have changed anything.
                    assert_eq!((self.snapshot(), self.frames()), before);
                    return if left.len() == pages.len() { Err(()) } else { Ok(()) };
                }
            };
            flushed.retire();
            assert!(done.done > 0);
            let mut expected = [0; 4];
            for page in left.drain(..done.done) {
                let was = self.model[&(page.as_u64() - RAM)];
                if ![Mark::Unplugged, Mark::Poisoned].map(Page::Absent).contains(&was) {
                    self.mark(page, Mark::Ballooned);
                }
                expected[match was {
                    Page::Mapped(_) => 0,
                    Page::Absent(Mark::Empty) => 1,
                    Page::Absent(Mark::Ballooned) => 2,
                    Page::Absent(Mark::Unplugged) => 3,
                    Page::Absent(Mark::Poisoned) => 2,
                }] += 1;
            }
            assert_eq!([done.taken, done.marked, done.repeated, done.outside], expected);
        }
        Ok(())
    }

    fn return_pages(&mut self, pages: &[u64]) -> Result<(), ()> {
        let mut left: Vec<_> = pages.iter().map(|&page| at(page)).collect();
        while !left.is_empty() {
            let before = (self.snapshot(), self.frames());
            let (done, flushed) = match self.space.return_pages(&left) {
                Ok(returned) => returned,
                Err(error) => {
                    assert_eq!(error, TakeError::OutOfMemory);
                    assert_eq!((self.snapshot(), self.frames()), before);
                    return if left.len() == pages.len() { Err(()) } else { Ok(()) };
                }
            };
            flushed.retire();
            assert!(done.done > 0 && done.taken == 0);
            let (mut marked, mut outside) = (0, 0);
            for page in left.drain(..done.done) {
                match self.model[&(page.as_u64() - RAM)] {
                    Page::Absent(Mark::Ballooned) => {
                        self.mark(page, Mark::Empty);
                        marked += 1;
                    }
                    Page::Absent(Mark::Unplugged) => outside += 1,
                    _ => {}
                }
            }
            let others = done.done - marked - outside;
            assert_eq!((done.marked, done.repeated, done.outside), (marked, others, outside));
        }
        Ok(())
    }

    fn take_range(&mut self, start: u64, end: u64, mark: Mark) -> Result<(), ()> {
        let mut from = start;
        loop {
            let taken = match self.space.take_range(at(from)..at(end), mark) {
                Ok(taken) => taken,
                Err(error) => {
                    assert_eq!(error, TakeError::OutOfMemory);
                    return if from == start { Err(()) } else { Ok(()) };
                }
            };
            let until = taken.next.map_or(end, |next| next.as_u64() - RAM);
            let last = taken.next.is_none();
            taken.flushed.retire();
            for page in all_pages().filter(|page| (from..until).contains(page)) {
                self.mark(at(page), mark);
            }
            if last {
                return Ok(());
            }
            from = until;
        }
    }

    fn add(&mut self, start: u64, end: u64, fill: Fill) -> Result<(), ()> {
        let mut from = start;
        loop {
            let before = (self.snapshot(), self.frames());
            let added = match self.space.add(at(from)..at(end), fill) {
                Ok(added) => added,
                Err(error) => {
                    let after = (self.snapshot(), self.frames());
                    assert_eq!(after, before, "an error leaves this step undone");
                    let present = |page: &u64| self.model[page] != Page::Absent(Mark::Unplugged);
                    match error {
                        AddError::Outside => assert!(start < RAM_BYTES && end > RAM_BYTES),
                        // Of what the model does not look at, it knows nothing.
                        AddError::Present(ipa) => {
                            let page = ipa.as_u64() - RAM;
                            assert!(self.model.get(&page).is_none_or(|_| present(&page)));
                        }
                        AddError::OutOfMemory if from == start => return Err(()),
                        AddError::OutOfMemory => {}
                    }
                    return Ok(());
                }
            };
            let until = added.next.map_or(end, |next| next.as_u64() - RAM);
            for page in all_pages().filter(|page| (from..until).contains(page)) {
                let now = match fill {
                    Fill::Lazy => Page::Absent(Mark::Empty),
                    Fill::Ready => Page::Mapped(0),
                };
                let was = self.model.insert(page, now);
                assert_eq!(was, Some(Page::Absent(Mark::Unplugged)), "added over {page:#x}");
            }
            from = until;
            if added.next.is_none() {
                return Ok(());
            }
        }
    }

    fn take_back(&mut self) -> Result<(), ()> {
        let mut from = self.space.ram().start;
        loop {
            let taken = match self.space.take_back(from) {
                Ok(taken) => taken,
                Err(error) => {
                    assert_eq!(error, TakeError::OutOfMemory);
                    return if from == self.space.ram().start { Err(()) } else { Ok(()) };
                }
            };
            let next = taken.next;
            let _ = taken.flushed.retire();
            let until = next.unwrap_or(self.space.extent().end);
            for page in all_pages().filter(|&page| (from..until).contains(&at(page))) {
                self.mark(at(page), at_first(page));
            }
            match next {
                Some(next) => from = next,
                None => return Ok(()),
            }
        }
    }

    fn report(&mut self, start: u64, end: u64) -> Result<(), ()> {
        let taken = self.space.take_reported(at(start)..at(end)).map_err(|error| {
            assert_eq!(error, TakeError::OutOfMemory);
        })?;
        let end = taken.next.map_or(end, |next| next.as_u64() - RAM);
        let _ = taken.flushed.retire();
        for page in all_pages().filter(|page| (start..end).contains(page)) {
            let marked = [Mark::Ballooned, Mark::Unplugged, Mark::Poisoned].map(Page::Absent);
            if !marked.contains(&self.model[&page]) {
                self.mark(at(page), Mark::Empty);
            }
        }
        Ok(())
    }

    fn return_range(&mut self, start: u64, end: u64) -> Result<(), ()> {
        let mut range = at(start)..at(end);
        loop {
            let returned = match self.space.return_range(range.clone()) {
                Ok(returned) => returned,
                Err(error) => {
                    assert_eq!(error, TakeError::OutOfMemory);
                    return if range.start == at(start) { Err(()) } else { Ok(()) };
                }
            };
            let next = returned.next;
            let _ = returned.flushed.retire();
            for page in all_pages() {
                let done = range.start <= at(page) && at(page) < next.unwrap_or(range.end);
                if done && self.model[&page] == Page::Absent(Mark::Ballooned) {
                    self.mark(at(page), Mark::Empty);
                }
            }
            match next {
                Some(next) => range.start = next,
                None => return Ok(()),
            }
        }
    }

    /// Whatever comes of it, no page changes; and no frame of the range is anybody's if it is said to be empty.
    fn evacuate(&mut self, page: u64, steps: usize) {
        let pa = self.space.translate(&self.memory.pin(), at(page)).map(|leaf| leaf.pa());
        let Ok(pa) = pa else { return };
        let start = pa.align_down(BLOCK_2M);
        let range = start..Pa::new(start.as_u64() + BLOCK_2M);
        let mut evacuation = Evacuation::new(range.clone(), Use::Offline);
        let spaces = All(core::slice::from_ref(&self.space));
        let mut progress = Progress::Working;
        for _ in 0..steps {
            progress = evacuation.step(self.memory, &spaces);
            self.memory.reclaim_step();
            if progress != Progress::Working {
                break;
            }
        }
        // As when somebody is pinned, and it takes too long.
        evacuation.cancel(self.memory, &spaces);
        while progress == Progress::Working {
            progress = evacuation.step(self.memory, &spaces);
        }
        if progress == Progress::Emptied {
            for page in range.start.page()..range.end.page() {
                let owner = self.memory.frames().owner_of(Frame::new(page as u32)).owner;
                assert_eq!(owner, Owner::Offline);
            }
            online(self.memory, range);
        }
        assert_eq!(self.memory.counts().offline, 0, "{progress:?}");
    }

    fn poison(&mut self, page: u64) -> Result<(), ()> {
        let frame = {
            let pin = self.memory.pin();
            self.space.translate(&pin, at(page)).ok().and_then(|leaf| leaf.frame())
        };
        let Some(frame) = frame else { return Ok(()) };
        let lost = self.space.poison(at(page), frame).map_err(|_| ())?;
        assert!(lost);
        self.mark(at(page), Mark::Poisoned);
        Ok(())
    }

    fn mark(&mut self, page: Ipa, mark: Mark) -> Page {
        self.model.insert(page.as_u64() - RAM, Page::Absent(mark)).unwrap()
    }

    fn watch(&mut self, page: u64) {
        self.watched = None;
        cpu::set_current(CpuId::new(1).unwrap());
        let pin = self.memory.pin();
        let frame = self.space.translate(&pin, at(page)).ok().and_then(|leaf| leaf.frame());
        self.watched = frame.map(|frame| Watched { _pin: pin, frame, ipa: at(page) });
        cpu::set_current(CpuId::new(0).unwrap());
    }

    /// The frame that a walker found must not have become anybody else's.
    fn look_at_what_is_watched(&self) {
        if let Some(watched) = &self.watched {
            let cover = self.memory.frames().owner_of(watched.frame);
            assert!(matches!(cover.owner, Owner::Guest(_) | Owner::Retired), "{cover:?}");
            assert_eq!(cover.ipa_of(watched.frame), Some(watched.ipa), "it is in use elsewhere");
        }
    }

    /// Compares every page with the model.
    fn compare(&self) {
        for page in all_pages() {
            let found = {
                let pin = self.memory.pin();
                self.space.translate(&pin, at(page)).map(|_| ()).map_err(|absent| absent.mark)
            };
            match (found, self.model[&page]) {
                (Ok(()), Page::Mapped(byte)) => {
                    let mut bytes = [0xff; 1];
                    self.space.read(at(page), &mut bytes).unwrap();
                    assert_eq!(bytes, [byte], "at {page:#x}");
                }
                (Err(mark), Page::Absent(expected)) => assert_eq!(mark, expected, "at {page:#x}"),
                (found, expected) => panic!("{found:?}, not {expected:?}, at {page:#x}"),
            }
        }
    }

    fn snapshot(&self) -> Vec<Run> {
        let mut runs = Vec::new();
        self.space.dump(Ipa::new(0)..Ipa::new(1 << 39), |run| runs.push(run.clone()));
        runs
    }

    /// Returns the frames that the guest has not (free, in the pool, or about to be), its memory
    /// and its tables.
    fn frames(&self) -> (u64, u64, u64) {
        let counts = self.memory.counts();
        let of = counts.guest(self.space.guest());
        (counts.free() + counts.pool + counts.retired, of.frames, of.tables)
    }
}

impl Drop for Test {
    fn drop(&mut self) {
        self.watched = None;
    }
}

/// A few seconds' worth, or as many as `PROPTEST_CASES` says.
fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    let cases = cases.unwrap_or(256);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    #[cfg_attr(any(feature = "no-grace", feature = "no-tlbi"), should_panic)]
    fn a_space_does_what_a_plain_map_does(
        ops in prop::collection::vec((op(), prop::option::weighted(0.3, 0..6_u64)), 1..40),
    ) {
        Test::run(64 << 20, &ops);
    }

    #[test]
    #[cfg_attr(any(feature = "no-grace", feature = "no-tlbi"), should_panic)]
    fn a_space_does_so_where_memory_is_short(
        ops in prop::collection::vec((op(), prop::option::weighted(0.1, 0..6_u64)), 1..40),
    ) {
        Test::run(8 << 20, &ops);
    }
}
