//! What guests were promised, beside what there is.
//!
//! A guest is entitled to what it starts with, less what is in its balloon and stays there, and to what is plugged or
//! shall be. Memory is given when it is touched, so more can be promised than there is; then a guest may find none when
//! it touches what it was promised, and waits. So it is refused, with figures, unless the guest's manifest allows it.

use crate::addr::PAGE_SIZE;
use crate::mem::Counts;
use crate::monitor::report::Value;
use core::fmt;

/// Of so much memory one part is kept for tables: a table of pages for each 2 MiB.
const TABLES: u64 = 512;

/// The account, in bytes.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Commitment {
    /// What all guests could have together.
    pub available: u64,
    /// What they are entitled to.
    pub promised: u64,
}

/// More would be promised than there is; in bytes.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Exceeds {
    /// What a guest would be entitled to.
    pub wanted: u64,
    /// What the others are.
    pub others: u64,
    /// What there is for all.
    pub available: u64,
}

impl fmt::Display for Exceeds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left = self.available.saturating_sub(self.others);
        write!(
            f,
            "{} of memory are wanted, and {} left: there are {}, of which other guests are promised {}; \
             'overcommit' in its manifest would allow it",
            Value::Size(self.wanted),
            Value::Size(left),
            Value::Size(self.available),
            Value::Size(self.others)
        )
    }
}

/// Returns what guests could have together, in bytes: what is free or will be, and what they have, less a reserve for
/// their tables.
pub fn available(counts: &Counts) -> u64 {
    let theirs: u64 = counts.guests.iter().map(|guest| guest.frames).sum();
    let all = (counts.free() + counts.retired + theirs) * PAGE_SIZE;
    all - all / TABLES
}

impl Commitment {
    /// Says whether a guest that is entitled to `now`, in bytes, may be entitled to `wanted`.
    ///
    /// # Errors
    ///
    /// [`Exceeds`] has the figures. What is no more than before is never refused.
    pub fn admit(&self, now: u64, wanted: u64) -> Result<(), Exceeds> {
        let others = self.promised.saturating_sub(now);
        let Self { available, .. } = *self;
        if wanted <= now || others.saturating_add(wanted) <= available {
            Ok(())
        } else {
            Err(Exceeds { wanted, others, available })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::GuestCounts;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_there_is_is_promised_once() {
        let account = Commitment { available: 1000 * MIB, promised: 600 * MIB };
        assert_eq!(account.admit(0, 400 * MIB), Ok(()));
        let refused = account.admit(0, 402 * MIB);
        let figures = Exceeds { wanted: 402 * MIB, others: 600 * MIB, available: 1000 * MIB };
        assert_eq!(refused, Err(figures));
        let text = figures.to_string();
        assert!(text.contains("402 MiB") && text.contains("400 MiB left"), "{text}");
    }

    #[test]
    fn a_guest_that_grows_is_not_counted_twice() {
        let account = Commitment { available: 1000 * MIB, promised: 900 * MIB };
        assert_eq!(account.admit(500 * MIB, 600 * MIB), Ok(()));
        assert!(account.admit(500 * MIB, 601 * MIB).is_err());
    }

    #[test]
    fn who_wants_no_more_is_never_refused() {
        // Over-committed by another guest, whose manifest allows it.
        let account = Commitment { available: 1000 * MIB, promised: 3000 * MIB };
        assert_eq!(account.admit(500 * MIB, 500 * MIB), Ok(()));
        assert_eq!(account.admit(500 * MIB, 100 * MIB), Ok(()));
        assert!(account.admit(500 * MIB, 501 * MIB).is_err());
    }

    #[test]
    fn nothing_overflows() {
        let account = Commitment { available: u64::MAX, promised: u64::MAX };
        assert!(account.admit(0, u64::MAX).is_ok());
        let account = Commitment { available: 1, promised: u64::MAX };
        assert!(account.admit(0, u64::MAX).is_err());
    }

    #[test]
    fn what_is_on_its_way_counts_and_tables_are_kept_room_for() {
        let mut counts = Counts { clean: 100, dirty: 200, retired: 212, ..Counts::default() };
        assert_eq!(available(&counts), 511 * PAGE_SIZE);
        if let Some(first) = counts.guests.first_mut() {
            *first = GuestCounts { frames: 512, tables: 7 };
        }
        assert_eq!(available(&counts), 1022 * PAGE_SIZE);
    }
}
