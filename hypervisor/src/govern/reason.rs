//! Why memory was moved, in words.

use super::sample::Sample;
use crate::monitor::report::Size;
use core::fmt;

/// What somebody is in need of.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// Little is available in the guest.
    Low {
        /// How much, in bytes.
        available: u64,
        /// How much should be, in bytes.
        mark: u64,
    },
    /// Allocations stalled or programs were killed for want of memory.
    Stalled {
        /// How often since the report before.
        times: u64,
    },
    /// Programs reclaim memory themselves.
    Reclaims {
        /// Pages a second.
        a_second: u64,
    },
    /// Programs wait for what was dropped.
    Faults {
        /// Major faults a second.
        a_second: u64,
    },
    /// The guest swaps.
    Swaps {
        /// Bytes a second.
        a_second: u64,
    },
    /// Little is free in the machine, and more is promised.
    Reserve {
        /// How much, in bytes.
        free: u64,
        /// How much should be, in bytes.
        reserve: u64,
    },
    /// A guest found no memory where it was promised some.
    Exhausted {
        /// How much is wanted, in bytes.
        wanted: u64,
    },
}

impl Need {
    /// Returns a number that is greater for who is to be helped first.
    pub(super) const fn urgency(&self) -> (u8, u64) {
        match *self {
            Self::Exhausted { wanted } => (6, wanted),
            Self::Stalled { times } => (5, times),
            Self::Low { available, mark } => (4, mark.saturating_sub(available)),
            Self::Reclaims { a_second } => (3, a_second),
            Self::Faults { a_second } => (2, a_second),
            Self::Swaps { a_second } => (1, a_second),
            Self::Reserve { reserve, free } => (0, reserve.saturating_sub(free)),
        }
    }

    /// Says whether one report is enough.
    pub(super) const fn is_urgent(&self) -> bool {
        matches!(self, Self::Stalled { .. } | Self::Exhausted { .. })
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Low { available, mark } => {
                write!(f, "{} available, low mark {}", Size(available), Size(mark))
            }
            Self::Stalled { times } => write!(f, "allocations stalled {times} times"),
            Self::Reclaims { a_second } => write!(f, "programs reclaim {a_second} pages a second"),
            Self::Faults { a_second } => write!(f, "{a_second} major faults a second"),
            Self::Swaps { a_second } => write!(f, "{} swapped a second", Size(a_second)),
            Self::Reserve { free, reserve } => {
                write!(f, "{} free, reserve {}", Size(free), Size(reserve))
            }
            Self::Exhausted { wanted } => write!(f, "out of memory by {}", Size(wanted)),
        }
    }
}

/// Why the donor was chosen.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Donor {
    /// What is available in it, in bytes.
    pub available: u64,
    /// What of it was in use, in bytes, where that is known.
    pub used: Option<u64>,
}

impl From<&Sample> for Donor {
    fn from(sample: &Sample) -> Self {
        let available = sample.told.and_then(|told| told.spare()).unwrap_or(0);
        Self { available, used: sample.used }
    }
}

/// Why memory was moved.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// What the receiver is in need of, or the machine where there is none.
    pub need: Need,
    /// How the donor is; `None` where free memory was given.
    pub donor: Option<Donor>,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.need)?;
        if let Some(donor) = self.donor {
            write!(f, "; donor {} available", Size(donor.available))?;
            if let Some(used) = donor.used {
                write!(f, ", {} in use", Size(used))?;
            }
        }
        Ok(())
    }
}
