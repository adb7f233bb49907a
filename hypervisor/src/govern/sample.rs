//! How one guest is at one moment: what it says of itself, and what the hypervisor sees of it.

use crate::device::virtio::balloon::{Statistics, Tag};

const MIB: u64 = 1 << 20;

/// What a guest's balloon driver says, as far as it says it: allegations, every one.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// How often it has said something: a new number is a new report.
    pub updates: u64,
    /// Bytes that nobody uses.
    pub free: Option<u64>,
    /// Bytes that programs could have without swapping.
    pub available: Option<u64>,
    /// Page faults that had to wait for a device, since its start.
    pub major_faults: Option<u64>,
    /// Bytes swapped out since its start.
    pub swapped_out: Option<u64>,
    /// Pages that who wanted memory had to reclaim itself, since its start.
    pub reclaimed: Option<u64>,
    /// Allocations that stalled, and kills for want of memory, since its start.
    pub stalls: Option<u64>,
}

impl Told {
    /// Reads a report.
    pub fn of(statistics: &Statistics) -> Self {
        let get = |tag| statistics.get(tag);
        let stalls = match (get(Tag::AllocationStalls), get(Tag::OomKills)) {
            (None, None) => None,
            (stalls, kills) => Some(stalls.unwrap_or(0).saturating_add(kills.unwrap_or(0))),
        };
        Self {
            updates: statistics.updates,
            free: get(Tag::FreeMemory),
            available: get(Tag::AvailableMemory),
            major_faults: get(Tag::MajorFaults),
            swapped_out: get(Tag::SwapOut),
            reclaimed: get(Tag::DirectReclaims),
            stalls,
        }
    }

    /// Returns what the guest could do without, by its own word: old drivers say only what is free.
    pub fn spare(&self) -> Option<u64> {
        self.available.or(self.free)
    }
}

/// A guest at one moment.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Its number.
    pub guest: usize,
    /// What it has by its own account, in bytes.
    pub memory: u64,
    /// What it keeps in any case, in bytes.
    pub floor: u64,
    /// The most that it can have, in bytes.
    pub ceiling: u64,
    /// What of it was used between the last two passes over its access flags, in bytes; `None` before there were two.
    pub used: Option<u64>,
    /// What it said last; `None` where it has no driver that says anything, or has not for too long.
    pub told: Option<Told>,
}

impl Sample {
    /// Returns how much must be available in it, in bytes: with less it is in need.
    pub fn low_mark(&self) -> u64 {
        (self.memory / 8).clamp(24 * MIB, 256 * MIB)
    }

    /// Returns how much is available in it when it is well, in bytes: nobody takes it below, and who is in need is
    /// helped up to it. That this is twice the low mark is what keeps memory from going to and fro.
    pub fn high_mark(&self) -> u64 {
        self.low_mark() * 2
    }

    /// Returns what it could do without, in bytes, if `kept` is to stay available; never below its floor, and of
    /// what it uses nothing, whatever it says. Zero where it says nothing.
    pub fn could_spare(&self, kept: u64) -> u64 {
        let Some(spare) = self.told.and_then(|told| told.spare()) else { return 0 };
        let idle = self.memory.saturating_sub(self.used.unwrap_or(0));
        // A part of what was idle in one pass is used in the next.
        let idle = if self.used.is_some() { idle / 4 * 3 } else { idle };
        spare.saturating_sub(kept).min(self.memory.saturating_sub(self.floor)).min(idle)
    }
}
