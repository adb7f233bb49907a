//! The frame table: who owns each frame of memory, 16 bytes a frame.
//!
//! # Heads cover their blocks
//!
//! Frames are owned in blocks of 2^order frames, naturally aligned, that never overlap: at any time
//! the blocks are a partition of memory. Only the record at a block's first frame, its head,
//! counts; records inside of a block are left over from when there were smaller blocks, and mean
//! nothing. So a block of 1 GiB changes hands by one store.
//!
//! To find the block that a frame is in, look at each place where its head may be, from the largest
//! order down: the first record whose block reaches the frame is it. A left-over record is never
//! found, because the block that it lies in is larger and found first.
//!
//! # What a lookup sees while blocks split and merge
//!
//! Lookups take no lock. Splitting writes the heads of the parts first and shortens the old head
//! last (a release store; lookups load with acquire), so a lookup that sees the short head sees
//! the parts. Merging lengthens the first head and leaves the others where they are, so a lookup
//! that passed the first head before finds them still. Either way it returns an answer that was
//! true at some moment between its beginning and its end, and it always finds a block where there
//! is memory.

#![cfg_attr(not(loom), expect(unsafe_code, reason = "takes memory from boot for the records"))]

use super::{GuestId, Order, Owner};
use crate::addr::{BLOCK_1G, Frame, Ipa, PAGE_SIZE, PaRange};
use crate::sync::{AtomicU64, Edge, Ordering, ordering};
#[cfg(not(loom))]
use core::ptr::NonNull;

/// The largest number of separate ranges of memory.
pub const MAX_REGIONS: usize = 16;

/// What the frame table keeps for one frame.
pub struct Record {
    /// See [`Head`].
    head: AtomicU64,
    /// The neighbours on the list that the block is on: next in the low half, previous in the
    /// high half, as frame numbers. Whoever owns the list orders the accesses.
    links: AtomicU64,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Record>() == 16);

/// What a block is, as its head's record says it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Never been a head: what a zeroed frame table says.
    None = 0,
    /// On the list of zeroed blocks.
    FreeClean,
    /// On the list of blocks that hold left-over bytes.
    FreeDirty,
    /// Taken off a free list, and not anybody's yet.
    InHand,
    /// The hypervisor's own.
    Hypervisor,
    /// In the table pool, zeroed.
    PoolClean,
    /// In the table pool, not zeroed.
    PoolDirty,
    /// Taken from the table pool, and not anybody's yet.
    PoolInHand,
    /// A guest's table.
    Table,
    /// A guest's memory.
    Guest,
    /// Was a guest's table.
    RetiredTable,
    /// Was a guest's memory.
    RetiredGuest,
    /// Not to be used.
    Bad,
    /// Free, and withheld while its range is being emptied (offline.rs).
    Isolated,
    /// Taken offline.
    Offline,
}

impl Kind {
    const fn from_bits(bits: u64) -> Self {
        match bits & 0xf {
            1 => Self::FreeClean,
            2 => Self::FreeDirty,
            3 => Self::InHand,
            4 => Self::Hypervisor,
            5 => Self::PoolClean,
            6 => Self::PoolDirty,
            7 => Self::PoolInHand,
            8 => Self::Table,
            9 => Self::Guest,
            10 => Self::RetiredTable,
            11 => Self::RetiredGuest,
            12 => Self::Bad,
            13 => Self::Isolated,
            14 => Self::Offline,
            _ => Self::None,
        }
    }
}

/// A block's head: bits 3:0 the kind, 8:4 the order, 16:9 the guest, 17 of an isolated or offline block that it is the
/// table pool's, 63:24 the page number of the IPA at which the guest sees the block.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Head(u64);

impl Head {
    pub(super) const fn new(kind: Kind, order: Order) -> Self {
        Self(kind as u64 | (order.get() as u64) << 4)
    }

    pub(super) const fn of_guest(kind: Kind, order: Order, guest: GuestId) -> Self {
        Self(Self::new(kind, order).0 | (guest.index() as u64) << 9)
    }

    pub(super) const fn at(self, ipa: Ipa) -> Self {
        Self(self.0 & 0xff_ffff | ipa.page() << 24)
    }

    /// Returns the same head for a block that is the table pool's, and reachable at EL2, wherever it is kept.
    pub(super) const fn of_pool(self, pool: bool) -> Self {
        Self(self.0 | (pool as u64) << 17)
    }

    /// Says whether an isolated or offline block is the table pool's.
    pub(super) const fn is_of_pool(self) -> bool {
        self.0 & 1 << 17 != 0
    }

    /// Returns the same head as another kind.
    pub(super) const fn become_kind(self, kind: Kind) -> Self {
        Self(self.0 & !0xf | kind as u64)
    }

    /// Returns the same head as that of a block of another size.
    pub(super) const fn of_order(self, order: Order) -> Self {
        Self(self.0 & !0x1f0 | (order.get() as u64) << 4)
    }

    pub(super) const fn kind(self) -> Kind {
        Kind::from_bits(self.0)
    }

    pub(super) fn order(self) -> Order {
        Order::new((self.0 >> 4 & 0x1f) as u8).unwrap_or(Order::PAGE)
    }

    pub(super) fn guest(self) -> Option<GuestId> {
        match self.kind() {
            Kind::Table | Kind::Guest | Kind::RetiredTable | Kind::RetiredGuest => {
                GuestId::new((self.0 >> 9 & 0xff) as usize)
            }
            _ => None,
        }
    }

    pub(super) fn ipa(self) -> Option<Ipa> {
        match self.kind() {
            Kind::Guest | Kind::RetiredGuest => Some(Ipa::from_page(self.0 >> 24)),
            _ => None,
        }
    }

    fn owner(self) -> Owner {
        match (self.kind(), self.guest()) {
            (Kind::FreeClean | Kind::FreeDirty | Kind::InHand, _) => Owner::Free,
            (Kind::Table, Some(guest)) => Owner::Table(guest),
            (Kind::Guest, Some(guest)) => Owner::Guest(guest),
            (Kind::RetiredTable | Kind::RetiredGuest, _) => Owner::Retired,
            (Kind::Bad, _) => Owner::Bad,
            (Kind::None | Kind::Isolated | Kind::Offline, _) => Owner::Offline,
            _ => Owner::Hypervisor,
        }
    }
}

/// No neighbour on a list.
const NOBODY: u32 = u32::MAX;

impl Record {
    /// Makes a record that says nothing.
    pub fn new() -> Self {
        Self { head: AtomicU64::new(0), links: AtomicU64::new(0) }
    }

    /// Makes `count` records of the memory at `start`.
    ///
    /// # Safety
    ///
    /// - `start` is aligned to 16 bytes, and `count` times 16 bytes from it are mapped as normal
    ///   memory, writable, for ever
    /// - they are zeroed, and nobody else accesses them from now on
    #[cfg(not(loom))]
    pub unsafe fn from_zeroed(start: NonNull<u8>, count: usize) -> &'static [Self] {
        // SAFETY:
        // - all zeroes is a valid record: two atomic words
        // - the rest is the caller's promise
        unsafe { NonNull::slice_from_raw_parts(start.cast(), count).as_ref() }
    }

    pub(super) fn head(&self) -> Head {
        // Acquire: pairs with the release of `set_head`. A lookup that sees a head shortened by a
        // split sees the heads of the parts.
        Head(self.head.load(ordering(Edge::HeadAcquire, Ordering::Acquire)))
    }

    pub(super) fn set_head(&self, head: Head) {
        self.head.store(head.0, ordering(Edge::HeadRelease, Ordering::Release));
    }

    pub(super) fn next(&self) -> Option<Frame> {
        link(self.links.load(Ordering::Relaxed) as u32)
    }

    pub(super) fn previous(&self) -> Option<Frame> {
        link((self.links.load(Ordering::Relaxed) >> 32) as u32)
    }

    pub(super) fn set_links(&self, previous: Option<Frame>, next: Option<Frame>) {
        let previous = previous.map_or(NOBODY, Frame::number) as u64;
        let next = next.map_or(NOBODY, Frame::number) as u64;
        self.links.store(previous << 32 | next, Ordering::Relaxed);
    }

    pub(super) fn set_next(&self, next: Option<Frame>) {
        self.set_links(self.previous(), next);
    }

    pub(super) fn set_previous(&self, previous: Option<Frame>) {
        self.set_links(previous, self.next());
    }
}

impl Default for Record {
    fn default() -> Self {
        Self::new()
    }
}

fn link(number: u32) -> Option<Frame> {
    if number == NOBODY { None } else { Some(Frame::new(number)) }
}

/// A run of memory and its records.
#[derive(Copy, Clone)]
struct Region {
    first: u32,
    records: &'static [Record],
}

/// The records of all frames of memory.
pub struct FrameTable {
    /// Those that are not used have no records and come last.
    regions: [Region; MAX_REGIONS],
}

/// Why a frame table cannot be made.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum LayoutError {
    /// More than [`MAX_REGIONS`] ranges.
    TooManyRegions,
    /// A range is empty, is not of whole frames, is not above the one before, or lies above 16 TiB.
    BadRange,
    /// The storage holds fewer records than there are frames.
    StorageTooSmall,
}

/// The block that a frame is in.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Cover {
    /// The block's first frame.
    pub head: Frame,
    /// Its size.
    pub order: Order,
    /// Whose it is.
    pub owner: Owner,
    /// Where the guest sees the block's first byte (of a guest's or a retired guest's block).
    pub ipa: Option<Ipa>,
}

impl Cover {
    /// Returns where the guest sees `frame`, which is in the block.
    pub fn ipa_of(&self, frame: Frame) -> Option<Ipa> {
        let distance = u64::from(frame.number().checked_sub(self.head.number())?);
        self.ipa?.checked_add(distance * PAGE_SIZE)
    }

    fn of(head: Frame, record: Head) -> Self {
        Self { head, order: record.order(), owner: record.owner(), ipa: record.ipa() }
    }
}

impl FrameTable {
    /// Returns how many records the frames of `regions` take.
    pub fn records_for(regions: &[PaRange]) -> usize {
        let frames = |region: &PaRange| region.end.page().saturating_sub(region.start.page());
        regions.iter().map(frames).sum::<u64>() as usize
    }

    /// Makes the table of the frames of `regions`, which are of whole frames and ascend; all of
    /// them offline. Neighbours that touch should come as one, for no block crosses two of them.
    ///
    /// The first [`FrameTable::records_for`] records of `storage` are taken.
    pub fn new(regions: &[PaRange], storage: &'static [Record]) -> Result<Self, LayoutError> {
        if regions.len() > MAX_REGIONS {
            return Err(LayoutError::TooManyRegions);
        }
        let mut table = Self { regions: [Region { first: 0, records: &[] }; MAX_REGIONS] };
        let mut rest = storage;
        let mut above = 0;
        for (slot, region) in table.regions.iter_mut().zip(regions) {
            let whole = region.start.is_aligned(PAGE_SIZE) && region.end.is_aligned(PAGE_SIZE);
            let (first, end) = (region.start.page(), region.end.page());
            // The frame number NOBODY is not to be used, so the last frame of 16 TiB is not.
            if !whole || first >= end || first < above || end > u64::from(NOBODY) {
                return Err(LayoutError::BadRange);
            }
            above = end;
            let (records, after) = rest
                .split_at_checked((end - first) as usize)
                .ok_or(LayoutError::StorageTooSmall)?;
            *slot = Region { first: first as u32, records };
            rest = after;
        }
        Ok(table)
    }

    /// Returns the block that `frame` is in; an offline block of one frame where there is none.
    /// Takes no lock; see the head of this file for what it sees while blocks change.
    pub fn owner_of(&self, frame: Frame) -> Cover {
        if let Some(region) = self.region(frame) {
            // The heads that may cover the frame: its number with ever more of the low bits kept.
            let mut rest = frame.number() & (Order::MAX.frames() - 1);
            let mut head = Frame::new(frame.number() ^ rest);
            loop {
                if let Some(record) = region.get(head) {
                    let record = record.head();
                    if record.kind() != Kind::None && rest < record.order().frames() {
                        return Cover::of(head, record);
                    }
                }
                let Some(bit) = rest.checked_ilog2() else { break };
                rest ^= 1 << bit;
                head = Frame::new(head.number() | 1 << bit);
            }
        }
        Cover { head: frame, order: Order::PAGE, owner: Owner::Offline, ipa: None }
    }

    /// Returns the block that `frame` is in, as [`FrameTable::owner_of`] does, for one who goes over a range from `first`
    /// on: what follows a block begins with a head, so there is no need to look for one. As with
    /// [`FrameTable::iter`], the block was one at some moment since the one before it was.
    pub fn block_after(&self, frame: Frame, first: Frame) -> Cover {
        let head = self.get(frame).filter(|_| frame != first).map(Record::head);
        match head.filter(|head| head.kind() != Kind::None) {
            Some(head) => Cover::of(frame, head),
            None => self.owner_of(frame),
        }
    }

    /// Goes over all blocks, by ascending address, without a lock. What is offline is left out.
    /// Each block that it gives was one at some moment since it began; none is left out or given
    /// twice.
    pub fn iter(&self) -> Covers<'_> {
        Covers { regions: &self.regions, next: 0 }
    }

    /// Goes on as [`FrameTable::iter`] does, from `frame`: 0, or where a block ended that was given before, however long
    /// ago.
    pub fn iter_from(&self, frame: Frame) -> Covers<'_> {
        let ends_above = |region: &Region| {
            u64::from(region.first) + region.records.len() as u64 > u64::from(frame.number())
        };
        let skipped = self.regions.iter().position(ends_above).unwrap_or(self.regions.len());
        let regions = self.regions.get(skipped..).unwrap_or_default();
        let first = regions.first().map_or(0, |region| region.first);
        Covers { regions, next: frame.number().saturating_sub(first) as usize }
    }

    /// Returns the record of `frame`; `None` where there is no memory.
    #[inline(always)]
    pub(super) fn get(&self, frame: Frame) -> Option<&'static Record> {
        // Most machines have one region, or most of their memory in the first.
        let [first, ..] = &self.regions;
        first.get(frame).or_else(|| self.get_elsewhere(frame))
    }

    #[cold]
    fn get_elsewhere(&self, frame: Frame) -> Option<&'static Record> {
        self.regions.iter().skip(1).find_map(|region| region.get(frame))
    }

    /// Returns the record of `frame`, which came from a list or from a record of this table.
    #[inline(always)]
    pub(super) fn at(&self, frame: Frame) -> &'static Record {
        self.get(frame).expect("the frame table's own links name frames of memory")
    }

    pub(super) fn contains(&self, range: &PaRange) -> bool {
        self.regions.iter().any(|region| {
            let first = u64::from(region.first);
            range.start.page() >= first && range.end.page() <= first + region.records.len() as u64
        })
    }

    fn region(&self, frame: Frame) -> Option<&Region> {
        self.regions.iter().find(|region| region.get(frame).is_some())
    }
}

impl Region {
    #[inline(always)]
    fn get(&self, frame: Frame) -> Option<&'static Record> {
        self.records.get(frame.number().wrapping_sub(self.first) as usize)
    }
}

/// Goes over all blocks; see [`FrameTable::iter`].
pub struct Covers<'a> {
    regions: &'a [Region],
    /// Where the next block of the first region begins, as an index of its records.
    next: usize,
}

impl Iterator for Covers<'_> {
    type Item = Cover;

    fn next(&mut self) -> Option<Cover> {
        while let Some((region, others)) = self.regions.split_first() {
            // What follows a block begins with a head, so there is no need to look for one.
            while let Some(record) = region.records.get(self.next) {
                let frame = Frame::new(region.first + self.next as u32);
                let head = record.head();
                if head.kind() == Kind::None {
                    self.next += 1;
                    continue;
                }
                self.next += head.order().frames() as usize;
                return Some(Cover::of(frame, head));
            }
            (self.regions, self.next) = (others, 0);
        }
        None
    }
}

const _: () = assert!(Order::MAX.bytes() == BLOCK_1G);
