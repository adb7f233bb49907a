//! The governor at work: on the first CPU, a bounded step at a time.
//!
//! While it is on, each second it asks guests for news and lets the policy judge; every ten seconds it begins a pass
//! over the access flags of each guest's memory. While it is off and nobody is out of memory it is never due, and
//! costs nothing.

use super::hands::{Claim, Hands, free_bytes, sample};
use super::journal::{Entry, Journal};
use super::policy::{Decision, Free, Policy, spread};
use super::reason::{Need, Reason};
use super::sample::Sample;
use super::transfer::{Progress, Short, Transfer};
use crate::addr::PAGE_SIZE;
use crate::arch::cpu::CpuId;
use crate::arch::time;
use crate::mem::MAX_GUESTS;
use crate::stage2::AccessPass;
use crate::system::System;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use spin::Mutex;

/// How long a driver that makes no headway is waited for, in seconds.
const PATIENCE: u64 = 10;
/// How long after the beginning of one round of passes the next begins, in seconds.
const ROUND: u64 = 10;
/// How long news of guests are waited for when somebody is out of memory, in seconds.
const NEWS: u64 = 2;
/// How often transfers are looked at, in parts of a second.
const LOOKS_A_SECOND: u64 = 50;
/// How often a pass does a step, in parts of a second.
const PASS_STEPS_A_SECOND: u64 = 500;
/// What should be free, as a part of the machine's memory.
const RESERVE_PART: u64 = 32;

/// What passes over a guest's access flags have seen.
#[derive(Debug, Default)]
struct Scan {
    /// The life of the guest that is looked at.
    life: u64,
    pass: Option<AccessPass>,
    /// How many passes there were.
    passes: u64,
    /// What was used between the last two, in bytes.
    used: Option<u64>,
}

/// A decision that is being carried out.
struct AtWork {
    number: u64,
    decision: Decision,
    transfer: Transfer,
    /// Held until it is over.
    _claim: Claim,
}

struct Governor {
    policy: Policy,
    journal: Journal,
    at_work: heapless::Vec<AtWork, MAX_GUESTS>,
    scans: [Scan; MAX_GUESTS],
    /// What somebody is out of, in bytes, and until when guests are looked at for it, in ticks.
    short_of: (u64, u64),
    /// When guests are asked and judged next, in ticks.
    next_look: u64,
    /// When the next round of passes begins, in ticks.
    next_round: u64,
}

static GOVERNOR: Mutex<Governor> = Mutex::new(Governor {
    policy: Policy::new(),
    journal: Journal::new(),
    at_work: heapless::Vec::new(),
    scans: [const { Scan { life: 0, pass: None, passes: 0, used: None } }; MAX_GUESTS],
    short_of: (0, 0),
    next_look: 0,
    next_round: 0,
});
static ON: AtomicBool = AtomicBool::new(false);
/// When the next step is due, in ticks; `u64::MAX` for never.
static DUE: AtomicU64 = AtomicU64::new(u64::MAX);
/// How many bytes are wanted at once.
static WANTED: AtomicU64 = AtomicU64::new(0);

/// Says whether it is on.
pub fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// Turns it on or off. What it had begun is carried to its end.
pub fn set_on(on: bool) {
    if on && !is_on() {
        // What was seen before is of another time.
        GOVERNOR.lock().scans.iter_mut().for_each(|scan| *scan = Scan::default());
    }
    ON.store(on, Ordering::Relaxed);
    DUE.store(0, Ordering::Release);
}

/// Asks guests for `bytes` that somebody needs now: by their balloons, as they said last what they could spare, down
/// to their floors. Returns at once, from any CPU; nothing is allocated.
pub fn reclaim_now(system: &System, bytes: u64) {
    // Who asks again before that was looked at asks for the same.
    WANTED.fetch_max(bytes, Ordering::Relaxed);
    DUE.store(0, Ordering::Release);
    system.kick(CpuId::FIRST);
}

/// Returns when the next step is due, in ticks; `u64::MAX` for never.
#[inline]
pub fn due() -> u64 {
    DUE.load(Ordering::Relaxed)
}

/// Does a bounded step, if one is due. On the first CPU.
pub fn step(system: &'static System) {
    let now = time::now();
    if due() > now {
        return;
    }
    // What is asked from here on is for the next step.
    DUE.store(u64::MAX, Ordering::SeqCst);
    let next = GOVERNOR.lock().step(system, now);
    DUE.fetch_min(next, Ordering::SeqCst);
}

/// Gives the last `count` decisions to `show`, the oldest first, and returns how many there ever were.
pub fn journal(count: usize, mut show: impl FnMut(&Entry)) -> u64 {
    let governor = GOVERNOR.lock();
    governor.journal.last(count).for_each(&mut show);
    governor.journal.made()
}

/// Returns how guest `number` is, if it is on.
pub fn snapshot(system: &'static System, number: usize) -> Option<Sample> {
    let governor = GOVERNOR.lock();
    sample(&Hands(system), number, governor.scans.get(number)?.used)
}

impl Governor {
    /// Does a step, and returns when the next one is due.
    ///
    /// Not inlined: what it needs of the stack would be taken of each guest's exit, and of each command's.
    #[inline(never)]
    fn step(&mut self, system: &'static System, now: u64) -> u64 {
        let second = time::frequency();
        let mut due = u64::MAX;
        let wanted = WANTED.swap(0, Ordering::Relaxed);
        if wanted > 0 {
            self.short_of = (wanted, now + NEWS * second);
            // While it is off, what they said last may be long ago.
            for guest in system.guests() {
                guest.request_stats(system);
            }
        }
        if self.short_of.0 > 0 {
            self.reclaim(system, now);
            due = now + second / LOOKS_A_SECOND;
        }
        self.carry_on(system, now);
        if is_on() {
            if now >= self.next_look {
                self.next_look = now + second;
                self.look(system, now);
            }
            if self.scan(system, now) {
                due = now + second / PASS_STEPS_A_SECOND;
            }
            due = due.min(self.next_look);
        }
        if !self.at_work.is_empty() {
            due = due.min(now + second / LOOKS_A_SECOND);
        }
        due
    }

    fn samples(&self, system: &'static System) -> heapless::Vec<Sample, MAX_GUESTS> {
        let hands = Hands(system);
        let each = self.scans.iter().enumerate();
        each.filter_map(|(number, scan)| sample(&hands, number, scan.used)).collect()
    }

    /// Asks guests for news, and has the policy judge what they said before.
    fn look(&mut self, system: &'static System, now: u64) {
        for guest in system.guests() {
            guest.request_stats(system);
        }
        if !self.at_work.is_empty() {
            return;
        }
        let samples = self.samples(system);
        let milliseconds = crate::logger::microseconds(now) / 1000;
        if let Some(decision) = self.policy.decide(milliseconds, free(system, &samples), &samples) {
            self.begin(system, decision, now);
        }
    }

    /// Has guests give what somebody is out of, as soon as one says that it can spare something. Where so much has become
    /// free meanwhile, nobody is asked: their targets are the operator's.
    fn reclaim(&mut self, system: &'static System, now: u64) {
        let (wanted, until) = self.short_of;
        if free_bytes(system) >= wanted {
            self.short_of = (0, 0);
            return;
        }
        let busy = |guest: usize| self.at_work.iter().any(|one| one.decision.from == Some(guest));
        let samples = self.samples(system);
        let free: heapless::Vec<Sample, MAX_GUESTS> =
            samples.into_iter().filter(|sample| !busy(sample.guest)).collect();
        let parts = spread(wanted, &free);
        if parts.is_empty() && now < until {
            return;
        }
        self.short_of = (0, 0);
        let found: u64 = parts.iter().map(|(_, bytes)| bytes).sum();
        if found < wanted {
            log::debug!("{wanted} bytes are wanted, guests can spare {found}");
        }
        for (from, bytes) in parts {
            let donor = free.iter().find(|sample| sample.guest == from).map(Into::into);
            let reason = Reason { need: Need::Exhausted { wanted }, donor };
            self.begin(system, Decision { from: Some(from), to: None, bytes, reason }, now);
        }
    }

    fn begin(&mut self, system: &'static System, decision: Decision, now: u64) {
        let name = |number: Option<usize>, none| Name(system, number, none);
        log::info!(
            "balance: {} from {} to {}: {}",
            crate::monitor::report::Size(decision.bytes),
            name(decision.from, "what is free"),
            name(decision.to, "what is free"),
            decision.reason
        );
        let number = self.journal.note(now, decision);
        let (patience, mut hands) = (PATIENCE * time::frequency(), Hands(system));
        let Decision { from, to, bytes, .. } = decision;
        let begun = Claim::of(from, to).ok_or(Short::Busy).and_then(|claim| {
            Ok((claim, Transfer::begin(&mut hands, from, to, bytes, now, patience)?))
        });
        match begun {
            Ok((claim, transfer)) => {
                // There is room for one of each guest, and each takes part in one at a time.
                let _ = self.at_work.push(AtWork { number, decision, transfer, _claim: claim });
            }
            Err(why) => {
                let over = Progress { over: true, ..Progress::default() };
                self.end(number, &decision, over, Some(why), now);
            }
        }
    }

    /// Looks how what was decided comes along.
    fn carry_on(&mut self, system: &'static System, now: u64) {
        let mut index = 0;
        while let Some(one) = self.at_work.get_mut(index) {
            let progress = one.transfer.step(&mut Hands(system), now);
            let (number, decision, short) = (one.number, one.decision, one.transfer.short());
            self.journal.update(number, progress, short);
            if progress.over {
                self.at_work.swap_remove(index);
                self.end(number, &decision, progress, short, now);
            } else {
                index += 1;
            }
        }
    }

    fn end(
        &mut self,
        number: u64,
        decision: &Decision,
        progress: Progress,
        short: Option<Short>,
        now: u64,
    ) {
        self.journal.update(number, progress, short);
        let milliseconds = crate::logger::microseconds(now) / 1000;
        self.policy.done(milliseconds, decision, progress.given, progress.taken);
        if let Some(why) = short {
            let taken = crate::monitor::report::Size(progress.taken);
            log::info!("balance: {taken} moved, for {why}");
        }
    }

    /// Does a step of a pass over some guest's access flags. Says whether there is more to do in this round.
    fn scan(&mut self, system: &'static System, now: u64) -> bool {
        let begins = now >= self.next_round;
        if begins {
            self.next_round = now + ROUND * time::frequency();
        }
        let mut stepped = false;
        for guest in system.guests() {
            let Some(scan) = self.scans.get_mut(guest.id.index()) else { continue };
            let life = guest.started().unwrap_or(0);
            if scan.life != life {
                *scan = Scan { life, ..Scan::default() };
                self.policy.forget(guest.id.index());
            }
            if begins && life != 0 && scan.pass.is_none() {
                scan.pass = Some(AccessPass::new(&guest.space));
            }
            if !stepped && let Some(pass) = &mut scan.pass {
                stepped = true;
                if let Some(seen) = pass.step(&guest.space) {
                    scan.pass = None;
                    scan.passes += 1;
                    // The first only clears what was set since the guest began.
                    scan.used = (scan.passes > 1).then_some(seen.used);
                }
            }
        }
        stepped
    }
}

/// Counts free memory.
fn free(system: &'static System, samples: &[Sample]) -> Free {
    let counts = system.memory().counts();
    let owned = |sample: &Sample| {
        let guest = counts.guests.get(sample.guest).copied().unwrap_or_default();
        guest.frames * PAGE_SIZE
    };
    let promised = samples.iter().map(|sample| sample.memory.saturating_sub(owned(sample))).sum();
    let reserve = (counts.total / RESERVE_PART).max((32 << 20) / PAGE_SIZE) * PAGE_SIZE;
    Free { bytes: free_bytes(system), promised, reserve }
}

/// A guest's name, or other words for nobody.
struct Name(&'static System, Option<usize>, &'static str);

impl core::fmt::Display for Name {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Some(number) = self.1 else { return f.write_str(self.2) };
        match self.0.guests().find(|guest| guest.id.index() == number) {
            Some(guest) => f.write_str(guest.name()),
            None => write!(f, "guest {number}"),
        }
    }
}
