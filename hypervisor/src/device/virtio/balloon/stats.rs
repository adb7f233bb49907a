//! The statistics queue (virtio 1.2 §5.5.6.3): what the driver says of the guest's memory.
//!
//! The driver puts in one buffer of statistics; the device keeps it, and gives it back when it
//! wants new ones.

use super::super::reader::Reader;
use super::super::{Progress, Queue, QueueFault};
use crate::device::GuestMemory;

/// A statistic (§5.5.6.4). Sizes are in bytes, the others are counts since the guest's start.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Tag {
    /// Memory swapped in.
    SwapIn,
    /// Memory swapped out to disk.
    SwapOut,
    /// Major page faults.
    MajorFaults,
    /// Minor page faults.
    MinorFaults,
    /// Memory not in use for any purpose.
    FreeMemory,
    /// All the memory available to the guest.
    TotalMemory,
    /// An estimate of what is available for new programs, without swapping.
    AvailableMemory,
    /// Memory in caches that can be reclaimed quickly.
    Caches,
    /// Huge pages allocated.
    HugePagesAllocated,
    /// Huge pages that could not be allocated.
    HugePagesFailed,
    /// Kills by the out-of-memory killer (virtio 1.3, Linux 6.12).
    OomKills,
    /// Stalls of an allocation (virtio 1.3, Linux 6.12).
    AllocationStalls,
    /// Memory scanned in the background (virtio 1.3, Linux 6.12).
    BackgroundScans,
    /// Memory scanned by who wanted some (virtio 1.3, Linux 6.12).
    DirectScans,
    /// Memory reclaimed in the background (virtio 1.3, Linux 6.12).
    BackgroundReclaims,
    /// Memory reclaimed by who wanted some (virtio 1.3, Linux 6.12).
    DirectReclaims,
}

impl Tag {
    /// All tags, in the order of their numbers from 0.
    pub const ALL: [Self; 16] = [
        Self::SwapIn,
        Self::SwapOut,
        Self::MajorFaults,
        Self::MinorFaults,
        Self::FreeMemory,
        Self::TotalMemory,
        Self::AvailableMemory,
        Self::Caches,
        Self::HugePagesAllocated,
        Self::HugePagesFailed,
        Self::OomKills,
        Self::AllocationStalls,
        Self::BackgroundScans,
        Self::DirectScans,
        Self::BackgroundReclaims,
        Self::DirectReclaims,
    ];

    /// Returns the name for people and programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SwapIn => "swap-in",
            Self::SwapOut => "swap-out",
            Self::MajorFaults => "major-faults",
            Self::MinorFaults => "minor-faults",
            Self::FreeMemory => "free",
            Self::TotalMemory => "total",
            Self::AvailableMemory => "available",
            Self::Caches => "caches",
            Self::HugePagesAllocated => "huge-pages-allocated",
            Self::HugePagesFailed => "huge-pages-failed",
            Self::OomKills => "oom-kills",
            Self::AllocationStalls => "allocation-stalls",
            Self::BackgroundScans => "background-scans",
            Self::DirectScans => "direct-scans",
            Self::BackgroundReclaims => "background-reclaims",
            Self::DirectReclaims => "direct-reclaims",
        }
    }

    /// Says whether the value is a size in bytes.
    pub const fn is_bytes(self) -> bool {
        use Tag::{AvailableMemory, Caches, FreeMemory, SwapIn, SwapOut, TotalMemory};
        matches!(self, SwapIn | SwapOut | FreeMemory | TotalMemory | AvailableMemory | Caches)
    }
}

/// What the driver said last: allegations, every one.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    values: [Option<u64>; Tag::ALL.len()],
    /// When, in the unit of [`super::super::Context::now`]; `None` before the first time.
    pub updated: Option<u64>,
    /// How often since the driver was set up.
    pub updates: u64,
}

impl Statistics {
    /// Returns one value, where the driver gave it.
    pub fn get(&self, tag: Tag) -> Option<u64> {
        self.values.get(tag as usize).copied().flatten()
    }

    /// Returns the values that the driver gave, by the number of their tag.
    pub fn iter(&self) -> impl Iterator<Item = (Tag, u64)> + '_ {
        Tag::ALL.into_iter().filter_map(|tag| Some((tag, self.get(tag)?)))
    }

    /// Takes the values of one buffer in the place of the last ones. Unknown tags are passed over;
    /// of a tag that comes twice the last counts.
    fn replace(&mut self, bytes: &[u8], now: u64) {
        self.values = Default::default();
        let (entries, _) = bytes.as_chunks::<ENTRY_BYTES>();
        for [t0, t1, value @ ..] in entries {
            let tag = u16::from_le_bytes([*t0, *t1]);
            if let Some(place) = self.values.get_mut(usize::from(tag)) {
                *place = Some(u64::from_le_bytes(*value));
            }
        }
        self.updated = Some(now);
        self.updates = self.updates.wrapping_add(1);
    }
}

/// Why no statistics can be asked for.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum NoStatistics {
    /// The guest's driver is not set up, or did not accept the feature.
    NotNegotiated,
    /// The driver has not yet answered the last request.
    Outstanding,
}

/// `struct virtio_balloon_stat` is packed: 2 bytes of tag, 8 of value.
const ENTRY_BYTES: usize = 10;
/// How many entries of a buffer are looked at.
const ENTRIES: usize = 64;

/// The queue, and the buffer that the device holds.
#[derive(Debug, Default)]
pub(super) struct StatsQueue {
    held: Option<u16>,
    wanted: bool,
    statistics: Statistics,
}

impl StatsQueue {
    /// Forgets buffer and values.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Forgets the buffer; the values stay.
    pub(super) fn stop(&mut self) {
        self.held = None;
        self.wanted = false;
    }

    pub(super) fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// Notes that the buffer is to be given back when the queue is served next.
    pub(super) fn request(&mut self) -> Result<(), NoStatistics> {
        if self.held.is_none() || self.wanted {
            return Err(NoStatistics::Outstanding);
        }
        self.wanted = true;
        Ok(())
    }

    /// Gives the buffer back where new statistics are wanted, and takes at most one new one.
    pub(super) fn serve<M: GuestMemory + ?Sized>(
        &mut self,
        queue: &mut Queue,
        memory: &M,
        now: u64,
    ) -> Result<Progress, QueueFault> {
        if self.wanted {
            self.give_back(queue, memory)?;
        }
        let Some(chain) = queue.pop(memory)? else {
            return Ok(Progress::Done);
        };
        // A driver that puts in a second buffer gets the first one back: one is held.
        self.give_back(queue, memory)?;
        let mut reader = Reader::new(chain);
        let mut bytes = [0; ENTRIES * ENTRY_BYTES];
        let length = reader.fill(memory, &mut bytes)?;
        self.statistics.replace(bytes.get(..length).unwrap_or_default(), now);
        self.held = Some(reader.head());
        Ok(Progress::MoreWork)
    }

    fn give_back<M: GuestMemory + ?Sized>(
        &mut self,
        queue: &mut Queue,
        memory: &M,
    ) -> Result<(), QueueFault> {
        self.wanted = false;
        match self.held.take() {
            Some(head) => queue.push(memory, head, 0),
            None => Ok(()),
        }
    }
}
