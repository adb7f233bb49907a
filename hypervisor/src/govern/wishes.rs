//! Guests without drivers that ask for what is wished of them by the service: what they have of a range counts as in
//! the balloon or not, or as plugged or not, and a change is wished of them, one run of addresses at a time.

use crate::addr::{Ipa, IpaRange, byte_count};
use crate::guest::Guest;
use crate::service::Wish;
use crate::stage2::{Mark, What};

/// Returns what the guest has not of `range`, in bytes.
pub(super) fn missing(guest: &Guest, range: &IpaRange) -> u64 {
    byte_count(range).saturating_sub(guest.space.present(range.clone()))
}

/// Says whether the region where memory can be added is to be asked for by the service.
pub(super) fn may_grow(guest: &Guest) -> bool {
    let region = guest.space.hotplug();
    !region.is_empty() && guest.service.listens() && !guest.range_is_taken(&region)
}

/// Wishes of the guest that it have `wanted` bytes of `range`: what is too much is the end of the last run that it
/// has there, what is missing the first run that it has not. More than a run is not wished at once.
pub(super) fn wish(guest: &Guest, range: &IpaRange, wanted: u64) {
    let present = guest.space.present(range.clone());
    let absent = What::Absent(Mark::Unplugged);
    let wish = if present > wanted {
        let last = run(guest, range, |what| what != absent, false);
        last.map(|run| {
            let size = byte_count(&run).min(present - wanted);
            Wish::Release(Ipa::new(run.end.as_u64() - size)..run.end)
        })
    } else if present < wanted {
        let first = run(guest, range, |what| what == absent, true);
        first.map(|run| {
            let size = byte_count(&run).min(wanted - present);
            Wish::Offer(run.start..Ipa::new(run.start.as_u64() + size))
        })
    } else {
        None
    };
    guest.service.wish(wish);
}

/// Returns the first or the last run of addresses in `range` that are `such`.
fn run(
    guest: &Guest,
    range: &IpaRange,
    such: impl Fn(What) -> bool,
    first: bool,
) -> Option<IpaRange> {
    let mut found: Option<IpaRange> = None;
    guest.space.dump(range.clone(), |entries| {
        if !such(entries.what) {
            return;
        }
        match &mut found {
            Some(run) if run.end == entries.range.start => run.end = entries.range.end,
            Some(_) if first => {}
            _ => found = Some(entries.range.clone()),
        }
    });
    found
}
