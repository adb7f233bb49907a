//! Who is to give memory to whom: the governor's judgement, without its hands.
//!
//! A guest is *in need* when little is available in it (the low mark, an eighth of what it has), or when it has to
//! reclaim, swap or read back what it dropped. It *can spare* what is available in it above twice that (the high
//! mark), down to its floor, and not what passes over its access flags have seen in use. Four things keep memory from
//! going to and fro:
//!
//! - the distance between the two marks: to give never makes a guest one in need;
//! - both must have been so for some reports in a row;
//! - who was given memory keeps it for a while, and for twice as long each time that this turns out to have been too
//!   short: when it is in need again soon after it gave;
//! - one decision at a time, whose effect is in the next reports.
//!
//! Who does not answer neither gives nor gets. Who is asked and does not give is not asked again for a while, which
//! doubles too.

use super::reason::{Need, Reason};
use super::sample::{Sample, Told};
use crate::mem::MAX_GUESTS;

const MIB: u64 = 1 << 20;
/// Moves are multiples of this, in bytes.
const GRAIN: u64 = 2 * MIB;
/// The least that is worth a move, in bytes.
const LEAST: u64 = 8 * MIB;
/// The most that one move takes, in bytes.
const MOST: u64 = 128 * MIB;
/// For how many reports in a row a guest must be in need before it is helped.
const NEED_REPORTS: u32 = 2;
/// For how many reports in a row a guest must be able to spare something before it is asked.
const SPARE_REPORTS: u32 = 3;
/// How long a guest keeps what it was given at first, in milliseconds.
const HOLD: u64 = 20_000;
/// How long it keeps it at most, in milliseconds.
const LONGEST_HOLD: u64 = 640_000;
/// Major faults a second that are too many.
const MAJOR_FAULTS: u64 = 100;
/// Pages a second that are too many to be reclaimed by those who want them.
const RECLAIMED: u64 = 1000;
/// Bytes a second that are too many to be swapped out.
const SWAPPED: u64 = MIB;

/// What is remembered of a guest.
#[derive(Copy, Clone, Debug, Default)]
struct History {
    /// Its last report, and when it was seen, in milliseconds.
    told: Option<(Told, u64)>,
    in_need: u32,
    /// For how many reports it has been able to spare something.
    spares: u32,
    need: Option<Need>,
    /// It gives nothing before this time, in milliseconds.
    keeps_until: u64,
    hold: u64,
    /// When it gave last, in milliseconds.
    gave: Option<u64>,
}

/// What is to be done.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Who gives; `None` for what is free.
    pub from: Option<usize>,
    /// Who gets it; `None` for nobody: it becomes free.
    pub to: Option<usize>,
    /// How much, in bytes.
    pub bytes: u64,
    /// Why.
    pub reason: Reason,
}

/// Free memory, as the governor counts it.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Free {
    /// Bytes that are free.
    pub bytes: u64,
    /// Bytes that guests may still touch for the first time: they have them by their own account.
    pub promised: u64,
    /// Bytes that should be free.
    pub reserve: u64,
}

/// The governor's judgement.
#[derive(Debug, Default)]
pub struct Policy {
    guests: [History; MAX_GUESTS],
}

impl Policy {
    /// Makes one that has seen nothing.
    pub const fn new() -> Self {
        const NOTHING: History = History {
            told: None,
            in_need: 0,
            spares: 0,
            need: None,
            keeps_until: 0,
            hold: 0,
            gave: None,
        };
        Self { guests: [NOTHING; MAX_GUESTS] }
    }

    /// Looks at how guests are, `now` in milliseconds, and says what to do, if anything. To be asked while nothing
    /// that was decided before is still going on.
    pub fn decide(&mut self, now: u64, free: Free, samples: &[Sample]) -> Option<Decision> {
        for sample in samples {
            if let Some(history) = self.guests.get_mut(sample.guest) {
                history.hear(sample, now);
            }
        }
        let neediest = samples
            .iter()
            .filter_map(|sample| Some((sample, self.need_of(sample)?)))
            .max_by_key(|(_, need)| need.urgency());
        match neediest {
            Some((sample, need)) => self.help(now, free, samples, sample, need),
            None => self.refill(now, free, samples),
        }
    }

    /// Returns what `sample`'s guest is in need of, if it has been for long enough and can have more.
    fn need_of(&self, sample: &Sample) -> Option<Need> {
        let history = self.guests.get(sample.guest)?;
        let need = history.need?;
        let long = history.in_need >= NEED_REPORTS || need.is_urgent();
        (long && room(sample) >= LEAST).then_some(need)
    }

    /// Finds memory for the guest in need.
    fn help(
        &self,
        now: u64,
        free: Free,
        samples: &[Sample],
        to: &Sample,
        need: Need,
    ) -> Option<Decision> {
        let available = to.told.and_then(|told| told.spare()).unwrap_or(0);
        let wanted = to.high_mark().saturating_sub(available).max(to.memory / 16);
        let wanted = wanted.clamp(LEAST, MOST).min(room(to)).next_multiple_of(GRAIN);
        let unpromised = free.bytes.saturating_sub(free.promised).saturating_sub(free.reserve);
        let decision = |from, bytes, donor| {
            let bytes = floor(bytes);
            let reason = Reason { need, donor };
            (bytes >= LEAST).then_some(Decision { from, to: Some(to.guest), bytes, reason })
        };
        if unpromised >= wanted {
            return decision(None, wanted.min(floor(room(to))), None);
        }
        let (donor, spare) = self.donor(now, samples, to.guest)?;
        decision(Some(donor.guest), wanted.min(spare).min(room(to)), Some(donor.into()))
    }

    /// Takes back what is missing of the reserve, where more is promised than there is.
    fn refill(&self, now: u64, free: Free, samples: &[Sample]) -> Option<Decision> {
        if free.bytes >= free.reserve || free.promised <= free.bytes {
            return None;
        }
        let missing = (free.reserve - free.bytes).clamp(LEAST, MOST).next_multiple_of(GRAIN);
        let (donor, spare) = self.donor(now, samples, usize::MAX)?;
        let need = Need::Reserve { free: free.bytes, reserve: free.reserve };
        let bytes = floor(missing.min(spare));
        let reason = Reason { need, donor: Some(donor.into()) };
        (bytes >= LEAST).then_some(Decision { from: Some(donor.guest), to: None, bytes, reason })
    }

    /// Returns who can spare most, and how much.
    fn donor<'s>(&self, now: u64, samples: &'s [Sample], not: usize) -> Option<(&'s Sample, u64)> {
        let others = samples.iter().filter(|sample| sample.guest != not);
        let willing = others.filter(|sample| {
            self.guests.get(sample.guest).is_some_and(|history| {
                history.need.is_none()
                    && history.spares >= SPARE_REPORTS
                    && history.keeps_until <= now
            })
        });
        let spares = willing.map(|sample| (sample, sample.could_spare(sample.high_mark())));
        spares.filter(|(_, spare)| *spare >= LEAST).max_by_key(|(_, spare)| *spare)
    }

    /// Notes how a decision came out: `given` and `taken` bytes, at `now` in milliseconds.
    pub fn done(&mut self, now: u64, decision: &Decision, given: u64, taken: u64) {
        if let Some(donor) = decision.from.and_then(|guest| self.guests.get_mut(guest)) {
            if given >= LEAST.min(decision.bytes) {
                donor.gave = Some(now);
            } else {
                donor.keep(now);
            }
            donor.spares = 0;
        }
        if let Some(receiver) = decision.to.and_then(|guest| self.guests.get_mut(guest)) {
            receiver.in_need = 0;
            if taken > 0 {
                receiver.hold = receiver.hold.max(HOLD);
                receiver.keeps_until = receiver.keeps_until.max(now + receiver.hold);
            }
        }
    }

    /// Forgets a guest: it started anew, or another has its number.
    pub fn forget(&mut self, guest: usize) {
        if let Some(history) = self.guests.get_mut(guest) {
            *history = History::default();
        }
    }
}

/// Returns who is to give how much so that `bytes` become free at once, most of it from who can spare most: nothing
/// is waited for, but floors hold, and each keeps its low mark.
pub fn spread(bytes: u64, samples: &[Sample]) -> heapless::Vec<(usize, u64), MAX_GUESTS> {
    let mut spares: heapless::Vec<(usize, u64), MAX_GUESTS> = samples
        .iter()
        .map(|sample| (sample.guest, floor(sample.could_spare(sample.low_mark()))))
        .filter(|(_, spare)| *spare > 0)
        .take(MAX_GUESTS)
        .collect();
    spares.sort_unstable_by_key(|(_, spare)| core::cmp::Reverse(*spare));
    let mut left = bytes;
    for (_, spare) in &mut spares {
        *spare = (*spare).min(left.next_multiple_of(GRAIN));
        left = left.saturating_sub(*spare);
    }
    spares.retain(|(_, spare)| *spare > 0);
    spares
}

/// Returns how much more the guest can have, in bytes.
fn room(sample: &Sample) -> u64 {
    sample.ceiling.saturating_sub(sample.memory)
}

const fn floor(bytes: u64) -> u64 {
    bytes / GRAIN * GRAIN
}

impl History {
    /// Takes in what the guest says, if that is new.
    fn hear(&mut self, sample: &Sample, now: u64) {
        let Some(told) = sample.told else {
            (self.told, self.need, self.in_need, self.spares) = (None, None, 0, 0);
            return;
        };
        let before = self.told;
        if before.is_some_and(|(before, _)| before.updates == told.updates) {
            return;
        }
        self.told = Some((told, now));
        self.need = need(sample, &told, before, now);
        if self.need.is_none() {
            self.in_need = 0;
        } else {
            if self.in_need == 0 {
                self.regret(now);
            }
            self.in_need = self.in_need.saturating_add(1);
        }
        let spares = self.need.is_none() && sample.could_spare(sample.high_mark()) >= LEAST;
        self.spares = if spares { self.spares.saturating_add(1) } else { 0 };
    }

    /// Notes that it is in need now: if it gave not long ago, that was too much, and it keeps what it has for longer.
    fn regret(&mut self, now: u64) {
        if let Some(gave) = self.gave.take()
            && now.saturating_sub(gave) < 2 * self.hold.max(HOLD)
        {
            self.keep(now);
        }
    }

    /// Has it keep what it has, for twice as long as the last time.
    fn keep(&mut self, now: u64) {
        self.hold = (self.hold * 2).clamp(HOLD, LONGEST_HOLD);
        self.keeps_until = now.saturating_add(self.hold);
    }
}

/// Says whether and why the guest is in need, by what it tells and how that changed.
fn need(sample: &Sample, told: &Told, before: Option<(Told, u64)>, now: u64) -> Option<Need> {
    let (before, at) = before.unwrap_or((*told, now));
    // What is counted from the guest's start begins anew when it does.
    let more = |now: Option<u64>, before: Option<u64>| now?.checked_sub(before?);
    let elapsed = now.saturating_sub(at).max(1);
    let rate =
        |now, before| more(now, before).map_or(0, |more| more.saturating_mul(1000) / elapsed);
    if let Some(times) = more(told.stalls, before.stalls).filter(|&times| times > 0) {
        return Some(Need::Stalled { times });
    }
    let available = told.spare()?;
    if available < sample.low_mark() {
        return Some(Need::Low { available, mark: sample.low_mark() });
    }
    if available >= sample.high_mark() {
        // It reads much, or cleans up; it is not short of memory.
        return None;
    }
    let reclaimed = rate(told.reclaimed, before.reclaimed);
    let faults = rate(told.major_faults, before.major_faults);
    let swapped = rate(told.swapped_out, before.swapped_out);
    if reclaimed > RECLAIMED {
        Some(Need::Reclaims { a_second: reclaimed })
    } else if faults > MAJOR_FAULTS {
        Some(Need::Faults { a_second: faults })
    } else if swapped > SWAPPED {
        Some(Need::Swaps { a_second: swapped })
    } else {
        None
    }
}
