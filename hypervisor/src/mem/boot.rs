//! What boot tells the memory manager: which memory there is, and what of it is taken.

use super::buddy::Content;
use super::frame_table::{Head, Kind};
use super::{Memory, Order, Owner};
use crate::addr::{Frame, PAGE_SIZE, Pa, PaRange};
use crate::sync::Ordering;

/// The largest number of ranges that boot can claim and add: each that is reserved may have memory on both sides.
pub const MAX_RANGES: usize = 128;

/// Why a range cannot be claimed or added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RangeError {
    /// It is not of whole frames, or not all of it is memory that the frame table was made for.
    NotMemory(PaRange),
    /// A part of it is claimed already.
    Claimed(PaRange),
    /// More than [`MAX_RANGES`] ranges.
    TooMany,
}

/// What has been claimed or added, so that nothing is added twice.
pub(super) struct Ranges {
    ranges: [(u64, u64); MAX_RANGES],
    /// What each is.
    names: [&'static str; MAX_RANGES],
    count: usize,
}

impl Ranges {
    pub(super) const fn new() -> Self {
        Self { ranges: [(0, 0); MAX_RANGES], names: [""; MAX_RANGES], count: 0 }
    }

    fn push(&mut self, start: u64, end: u64, name: &'static str) -> Result<(), RangeError> {
        let slot = self.ranges.get_mut(self.count).ok_or(RangeError::TooMany)?;
        *slot = (start, end);
        if let Some(slot) = self.names.get_mut(self.count) {
            *slot = name;
        }
        self.count += 1;
        Ok(())
    }

    fn all(&self) -> &[(u64, u64)] {
        self.ranges.get(..self.count).unwrap_or(&[])
    }

    fn overlaps(&self, start: u64, end: u64) -> bool {
        self.all().iter().any(|&(s, e)| s < end && start < e)
    }

    /// Returns the first run of pages from `from` and below `end` that is in no range.
    fn gap(&self, mut from: u64, end: u64) -> Option<(u64, u64)> {
        while let Some(&(_, e)) = self.all().iter().find(|&&(s, e)| s <= from && from < e) {
            from = e;
        }
        let next = self.all().iter().map(|&(s, _)| s).filter(|&s| s > from).min();
        let to = next.unwrap_or(end).min(end);
        (from < to).then_some((from, to))
    }
}

impl Memory {
    /// Claims `range` for the hypervisor: its image, its stacks, its frame table, what the loader
    /// left. To be called before [`Memory::add_free`] for memory around it.
    pub fn claim_hypervisor(&self, range: PaRange) -> Result<(), RangeError> {
        self.claim_named(range, "the hypervisor's own")
    }

    /// Claims `range` as [`Memory::claim_hypervisor`] does, and says what it is for.
    pub fn claim_named(&self, range: PaRange, name: &'static str) -> Result<(), RangeError> {
        self.claim(&range, Kind::Hypervisor, name)?;
        self.own.fetch_add(range.end.page() - range.start.page(), Ordering::Relaxed);
        Ok(())
    }

    /// Returns what `frame` was claimed for; nothing where it was not.
    pub fn name_of(&self, frame: Frame) -> &'static str {
        let page = u64::from(frame.number());
        let known = self.known.lock();
        let mut all = known.all().iter().zip(&known.names);
        all.find(|((start, end), _)| (*start..*end).contains(&page)).map_or("", |(_, name)| name)
    }

    /// Claims `range` as memory that must not be used.
    pub fn claim_bad(&self, range: PaRange) -> Result<(), RangeError> {
        self.claim(&range, Kind::Bad, "")?;
        self.bad.fetch_add(range.end.page() - range.start.page(), Ordering::Relaxed);
        Ok(())
    }

    /// Calls `claim` with each part of `range` that is not claimed yet: loaders reserve what overlaps, and put the
    /// end of one thing and the beginning of another into one page.
    ///
    /// # Errors
    ///
    /// What `claim` says.
    pub fn each_unclaimed(
        &self,
        range: &PaRange,
        claim: &dyn Fn(PaRange) -> Result<(), RangeError>,
    ) -> Result<(), RangeError> {
        let mut from = range.start.page();
        loop {
            let gap = self.known.lock().gap(from, range.end.page());
            let Some((start, to)) = gap else { return Ok(()) };
            claim(Pa::from_page(start)..Pa::from_page(to))?;
            from = to;
        }
    }

    /// Claims what of `range` is not claimed yet as memory that is offline from the start, until it is brought
    /// [online](Memory::online_some).
    pub fn claim_offline(&self, range: PaRange) -> Result<(), RangeError> {
        self.check(&range)?;
        let mut known = self.known.lock();
        let mut from = range.start.page();
        while let Some((start, to)) = known.gap(from, range.end.page()) {
            known.push(start, to, "")?;
            for (first, order) in blocks(&(Pa::from_page(start)..Pa::from_page(to)), Order::MAX) {
                self.table.at(first).set_head(Head::new(Kind::Offline, order));
            }
            self.total.fetch_add(to - start, Ordering::Relaxed);
            self.offline.fetch_add(to - start, Ordering::Relaxed);
            from = to;
        }
        Ok(())
    }

    /// Adds what of `range` is not claimed or added yet to the free memory. What it holds does not
    /// matter.
    pub fn add_free(&self, range: PaRange) -> Result<(), RangeError> {
        self.check(&range)?;
        let mut known = self.known.lock();
        let end = range.end.page();
        let mut from = range.start.page();
        while let Some((start, to)) = known.gap(from, end) {
            known.push(start, to, "")?;
            for (first, order) in blocks(&(Pa::from_page(start)..Pa::from_page(to)), Order::MAX) {
                self.free.lock().insert(&self.table, first, order, Content::Dirty);
            }
            self.total.fetch_add(to - start, Ordering::Relaxed);
            from = to;
        }
        Ok(())
    }

    /// Frees `range`, which [`Memory::claim_hypervisor`] claimed and which is not used or mapped at
    /// EL2 any more: the guests' bundle after they are loaded.
    pub fn release_hypervisor(&self, range: PaRange) -> Result<(), RangeError> {
        self.unclaim(&range)?;
        for (first, order) in blocks(&range, Order::MAX) {
            self.free.lock().insert(&self.table, first, order, Content::Dirty);
        }
        Ok(())
    }

    /// Gives `chunk` to the table pool: memory that [`Memory::claim_hypervisor`] claimed, that nobody
    /// uses and that EL2 reaches. What it holds does not matter.
    pub fn claim_table_chunk(&self, chunk: PaRange) -> Result<(), RangeError> {
        self.unclaim(&chunk)?;
        for (first, order) in blocks(&chunk, Order::MAX) {
            self.pool.lock().insert(&self.table, first, order, Content::Dirty);
        }
        Ok(())
    }

    /// Makes the blocks of `range`, a part of what the hypervisor claimed, end where the range does.
    fn unclaim(&self, range: &PaRange) -> Result<(), RangeError> {
        self.check(range)?;
        for page in [range.start.page(), range.end.page()] {
            if let Some(frame) = Frame::containing(Pa::from_page(page)) {
                self.split_at(frame);
            }
        }
        self.own.fetch_sub(range.end.page() - range.start.page(), Ordering::Relaxed);
        Ok(())
    }

    /// Halves the hypervisor's block that `frame` is in until `frame` is the first of one.
    fn split_at(&self, frame: Frame) {
        loop {
            let cover = self.table.owner_of(frame);
            if cover.head == frame || cover.owner != Owner::Hypervisor {
                return;
            }
            let half = cover.order.halved();
            let middle = Frame::new(cover.head.number() + half.frames());
            self.table.at(middle).set_head(Head::new(Kind::Hypervisor, half));
            self.table.at(cover.head).set_head(Head::new(Kind::Hypervisor, half));
        }
    }

    fn claim(&self, range: &PaRange, kind: Kind, name: &'static str) -> Result<(), RangeError> {
        self.check(range)?;
        let (start, end) = (range.start.page(), range.end.page());
        let mut known = self.known.lock();
        if known.overlaps(start, end) {
            return Err(RangeError::Claimed(range.clone()));
        }
        known.push(start, end, name)?;
        for (first, order) in blocks(range, Order::MAX) {
            self.table.at(first).set_head(Head::new(kind, order));
        }
        self.total.fetch_add(end - start, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn check(&self, range: &PaRange) -> Result<(), RangeError> {
        let whole = range.start.is_aligned(PAGE_SIZE) && range.end.is_aligned(PAGE_SIZE);
        if whole && range.start < range.end && self.table.contains(range) {
            Ok(())
        } else {
            Err(RangeError::NotMemory(range.clone()))
        }
    }
}

/// Splits `range`, of whole frames, into the fewest naturally aligned blocks of at most `largest`.
pub(super) fn blocks(range: &PaRange, largest: Order) -> impl Iterator<Item = (Frame, Order)> {
    let (mut page, end) = (range.start.page(), range.end.page());
    core::iter::from_fn(move || {
        let left = end.checked_sub(page).filter(|&left| left > 0)?;
        let order = page.trailing_zeros().min(left.ilog2()).min(u32::from(largest.get()));
        let order = Order::new(order as u8)?;
        let first = Frame::containing(Pa::from_page(page))?;
        page += u64::from(order.frames());
        Some((first, order))
    })
}
