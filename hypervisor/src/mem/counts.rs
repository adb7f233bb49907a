//! How many frames each owner has.

use super::{GuestId, MAX_GUESTS, Memory, RetiredCounts};
use crate::sync::{AtomicU64, Ordering};

/// The running counts of one guest.
#[derive(Default)]
pub(super) struct OfGuest {
    pub(super) frames: AtomicU64,
    pub(super) tables: AtomicU64,
}

/// What one guest has, in frames.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestCounts {
    /// Its memory.
    pub frames: u64,
    /// Its tables.
    pub tables: u64,
}

/// Who has how many frames of 4 KiB. The parts are read one after another, so they add up exactly
/// only while nothing changes.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// All frames that boot told of.
    pub total: u64,
    /// Free and zeroed.
    pub clean: u64,
    /// Free and zeroed, in blocks of 2 MiB and more: these are what the watermark is about.
    pub clean_large: u64,
    /// Free and not zeroed.
    pub dirty: u64,
    /// The hypervisor's own, without the pool.
    pub hypervisor: u64,
    /// In the table pool and not in use: the hypervisor's, too.
    pub pool: u64,
    /// What left a guest and is not free yet, memory and tables.
    pub retired: u64,
    /// What is retired, in detail.
    pub retired_detail: RetiredCounts,
    /// Not to be used.
    pub bad: u64,
    /// Nobody's: taken offline, or withheld while its range is being emptied.
    pub offline: u64,
    /// What each guest has, by its number.
    pub guests: [GuestCounts; MAX_GUESTS],
}

impl Counts {
    /// Returns the number of free frames.
    pub const fn free(&self) -> u64 {
        self.clean + self.dirty
    }

    /// Returns what `guest` has.
    pub fn guest(&self, guest: GuestId) -> GuestCounts {
        self.guests.get(guest.index()).copied().unwrap_or_default()
    }

    /// Returns the number of frames of guests' tables.
    pub fn tables(&self) -> u64 {
        self.guests.iter().map(|guest| guest.tables).sum()
    }

    /// Returns the number of frames of guests' memory.
    pub fn guest_frames(&self) -> u64 {
        self.guests.iter().map(|guest| guest.frames).sum()
    }

    /// Returns what is left of the total: blocks in hand, between one owner and the next. While
    /// nothing changes, frames that were lost.
    pub fn in_hand(&self) -> u64 {
        let known = self.free()
            + self.hypervisor
            + self.pool
            + self.retired
            + self.bad
            + self.offline
            + self.tables()
            + self.guest_frames();
        self.total.saturating_sub(known)
    }
}

impl Memory {
    /// Returns who has how many frames.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts {
            total: self.total.load(Ordering::Relaxed),
            hypervisor: self.own.load(Ordering::Relaxed),
            bad: self.bad.load(Ordering::Relaxed),
            offline: self.offline.load(Ordering::Relaxed),
            ..Counts::default()
        };
        {
            let free = self.free.lock();
            counts.clean = free.clean_frames();
            counts.clean_large = free.clean_large_frames();
            counts.dirty = free.dirty_frames();
            counts.offline += free.isolation.frames();
        }
        {
            let pool = self.pool.lock();
            counts.pool = pool.frames();
            counts.offline += pool.isolation.frames();
        }
        {
            let garbage = self.garbage.lock();
            counts.retired = garbage.frames();
            counts.retired_detail = garbage.counts();
        }
        for (to, from) in counts.guests.iter_mut().zip(&self.guests) {
            to.frames = from.frames.load(Ordering::Relaxed);
            to.tables = from.tables.load(Ordering::Relaxed);
        }
        counts
    }
}
