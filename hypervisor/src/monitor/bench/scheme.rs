//! What the epoch scheme costs: walkers, removers, and the wait of the one for the other; and the same walks under a
//! reader-writer lock.

use super::crowd::{Crowd, Done, Guard, LOCK, Walk};
use super::turns::Turns;
use super::{Cost, add, timed, wait_for_clean};
use crate::addr::{BLOCK_1G, BLOCK_2M, Ipa, IpaRange, PAGE_SIZE};
use crate::guest::{Guest, State};
use crate::mem::Memory;
use crate::monitor::report::{Column, Report, Value};
use crate::stage2::{Mark, Space};
use crate::system::System;
use alloc::sync::Arc;
use core::hint::black_box;

/// How many CPUs walk.
const WALKERS: [usize; 4] = [1, 2, 4, 8];
/// As many translations under a guard as a single access to a guest's memory makes, and as a dump does.
const TRANSLATIONS: [u64; 2] = [1, 64];
/// How many blocks of 2 MiB are walked, and how many beside them are taken away meanwhile.
const BLOCKS: u64 = 32;
/// How often each is done.
const GRACE_PERIODS: u64 = 400;
const ROUNDS: u64 = 8;
/// For how long nothing is retired between two grace periods, at least, in ticks.
const BETWEEN: u64 = 1 << 13;
/// For how long walkers are counted where nothing is taken away, in ticks.
const UNDISTURBED: u64 = 1 << 15;

/// A guest of which part of the region for hot-plug is mapped in the ways that are measured.
struct Subject<'a> {
    system: &'static System,
    memory: &'static Memory,
    guest: &'a Arc<Guest>,
    /// 1 GiB mapped by pages.
    pages: IpaRange,
    /// What is walked: mapped by blocks of 2 MiB, below a table that it shares with the next.
    walked: IpaRange,
    /// What is taken away: as large, and mapped in the same way when it is there.
    removed: IpaRange,
}

/// Measures all of it, where the first guest is off and has 2 GiB to add; elsewhere, only the grace period beside
/// what the other CPUs do already.
pub(super) fn scheme(system: &'static System, guest: &Arc<Guest>, report: &mut Report<'_>) {
    let region = guest.space.hotplug();
    let bytes = BLOCKS * BLOCK_2M;
    let at = |offset: u64| Ipa::new(region.start.as_u64() + offset);
    let subject = Subject {
        system,
        memory: system.memory(),
        guest,
        pages: at(0)..at(BLOCK_1G),
        walked: at(BLOCK_1G)..at(BLOCK_1G + bytes),
        removed: at(BLOCK_1G + bytes)..at(BLOCK_1G + 2 * bytes),
    };
    if guest.state() != State::Off || subject.removed.end > region.end {
        table_of_grace(report);
        return grace(system, system.memory(), None, 0, report);
    }
    let mapped = subject.map(&subject.pages, PAGE_SIZE) && subject.map(&subject.walked, BLOCK_2M);
    if mapped {
        subject.operations(report);
        subject.graces(report);
        subject.throughput(report);
    } else {
        report.error(
            format_args!(
                "there is too little zeroed memory: give zeroed=<size> on the command line"
            ),
            None,
        );
    }
    for range in [subject.pages.clone(), subject.walked.clone(), subject.removed.clone()] {
        take(&guest.space, range);
    }
    settle(subject.memory);
}

impl Subject<'_> {
    /// Maps all of `range` in pieces of so many bytes. Says whether it did.
    fn map(&self, range: &IpaRange, piece: u64) -> bool {
        let bytes = range.end.as_u64() - range.start.as_u64();
        wait_for_clean(self.memory, bytes)
            && add(self.guest, range, piece, &mut Cost::default()).is_ok()
    }

    fn walk(&self, guard: Guard, translations: u64) -> Walk {
        Walk {
            guest: Arc::clone(self.guest),
            start: self.walked.start,
            blocks: BLOCKS,
            guard,
            translations,
        }
    }

    /// What is done under a guard, by one CPU alone.
    fn operations(&self, report: &mut Report<'_>) {
        const OPERATIONS: &[Column] = &[("name", 34), ("count", 8), ("ticks", 10)];
        const COUNT: u64 = 1000;
        let (memory, space) = (self.memory, &self.guest.space);
        report.table("operations", OPERATIONS);
        timed(report, "empty", COUNT, || {
            black_box(());
        });
        timed(report, "pin and unpin", COUNT, || {
            black_box(&memory.pin());
        });
        timed(report, "lock and unlock, for reading", COUNT, || {
            black_box(&LOCK.try_read());
        });
        for (pinned, locked, at) in [
            ("translation of a page, pinned", "the same, locked", self.pages.start),
            ("translation in a block, pinned", "the same, locked", self.walked.start),
        ] {
            timed(report, pinned, COUNT, || {
                let pin = memory.pin();
                let _ = black_box(space.translate(&pin, black_box(at)));
            });
            timed(report, locked, COUNT, || {
                if let Some(reading) = LOCK.try_read() {
                    let _ = black_box(space.translate_locked(&reading, black_box(at)));
                }
            });
        }
        let dump = |range: IpaRange| {
            space.dump(range, |run| {
                black_box(run);
            });
        };
        let start = self.pages.start;
        let one_pin = start..Ipa::new(start.as_u64() + 64 * PAGE_SIZE);
        timed(report, "dump of 64 pages, one pin", 100, || dump(one_pin.clone()));
        timed(report, "dump of 1 GiB of pages", 1, || dump(self.pages.clone()));
    }

    /// The grace period beside CPUs that walk.
    fn graces(&self, report: &mut Report<'_>) {
        table_of_grace(report);
        let walk = self.walk(Guard::Pin, 64);
        for walkers in self.possible() {
            grace(self.system, self.memory, Some(&walk), walkers, report);
        }
    }

    /// Returns those numbers of walkers for which there are CPUs.
    fn possible(&self) -> impl Iterator<Item = usize> + use<> {
        let cpus = self.system.cpus();
        WALKERS.into_iter().filter(move |walkers| *walkers < cpus)
    }

    /// How much walkers get done, by themselves and while memory is taken away beside what they walk.
    fn throughput(&self, report: &mut Report<'_>) {
        const THROUGHPUT: &[Column] = &[
            ("guard", 6),
            ("of", 3),
            ("walkers", 8),
            ("removed", 8),
            ("translations", 13),
            ("ticks", 10),
            ("longest_entry", 14),
        ];
        report.table("throughput", THROUGHPUT);
        for translations in TRANSLATIONS {
            for walkers in self.possible() {
                for (name, guard) in [("pin", Guard::Pin), ("lock", Guard::Lock)] {
                    for removing in [false, true] {
                        let walk = self.walk(guard, translations);
                        let Some((ticks, done)) = self.rounds(&walk, walkers, removing) else {
                            return report.error(format_args!("memory has run out"), None);
                        };
                        let removed = if removing { ROUNDS * BLOCKS } else { 0 };
                        report.row(&[
                            Value::Text(name),
                            Value::Number(translations),
                            Value::Number(walkers as u64),
                            Value::Number(removed),
                            Value::Number(done.translations),
                            Value::Number(ticks),
                            Value::Number(done.longest_entry),
                        ]);
                    }
                }
            }
        }
    }

    /// Has walkers walk, in rounds. Returns for how many ticks they were counted, and what they did.
    fn rounds(&self, walk: &Walk, walkers: usize, removing: bool) -> Option<(u64, Done)> {
        let (mut ticks, mut all) = (0, Done::default());
        for _ in 0..ROUNDS {
            if removing && !self.map(&self.removed, BLOCK_2M) {
                return None;
            }
            settle(self.memory);
            let crowd = Crowd::call(self.system, walkers, walk);
            let begun = crowd.own.spent();
            if removing {
                self.remove(&crowd.own, walk.guard);
            } else {
                crowd.own.rest(UNDISTURBED);
            }
            ticks += crowd.own.spent() - begun;
            let done = crowd.dismiss();
            all.translations += done.translations;
            all.longest_entry = all.longest_entry.max(done.longest_entry);
        }
        Some((ticks, all))
    }

    /// Takes away what is to be, a block at a time. Where walkers take the lock, it is held until no CPU can reach the
    /// block; retiring needs no lock in either case.
    fn remove(&self, own: &Turns, guard: Guard) {
        let space = &self.guest.space;
        for block in
            (self.removed.start.as_u64()..self.removed.end.as_u64()).step_by(BLOCK_2M as usize)
        {
            let writing = (guard == Guard::Lock).then(|| {
                let writing = own.spend(|| LOCK.write());
                while !own.spend(|| writing.is_alone()) {}
                writing
            });
            let range = Ipa::new(block)..Ipa::new(block + BLOCK_2M);
            let taken = own.spend(|| space.take_range(range, Mark::Unplugged));
            own.spend(|| drop(writing));
            if let Ok(taken) = taken {
                let _ = own.spend(|| taken.flushed.retire());
            }
        }
    }
}

fn table_of_grace(report: &mut Report<'_>) {
    const GRACE: &[Column] = &[("walkers", 8), ("count", 8), ("ticks", 10), ("longest", 10)];
    report.table("grace", GRACE);
}

/// How long it takes from when something is unlinked and flushed until it may be reused, where so many CPUs walk.
fn grace(
    system: &'static System,
    memory: &Memory,
    walk: Option<&Walk>,
    walkers: usize,
    report: &mut Report<'_>,
) {
    let crowd = walk.map(|walk| Crowd::call(system, walkers, walk));
    let alone = crowd.is_none().then(Turns::enter);
    let Some(own) = crowd.as_ref().map(|crowd| &crowd.own).or(alone.as_ref()) else { return };
    let epoch = memory.epoch();
    let (mut ticks, mut longest) = (0, 0);
    for period in 0..GRACE_PERIODS {
        // Each meets the walkers in another place, and all of them long after the one before.
        own.rest(BETWEEN + period * 617 % BETWEEN);
        let begun = own.spent();
        let retired = own.spend(|| epoch.retiring());
        while !own.spend(|| epoch.try_advance() && epoch.has_passed(retired)) {}
        let took = own.spent() - begun;
        ticks += took;
        longest = longest.max(took);
    }
    drop(alone);
    if let Some(crowd) = crowd {
        let _ = crowd.dismiss();
    }
    report.row(&[
        Value::Number(walkers as u64),
        Value::Number(GRACE_PERIODS),
        Value::Number(ticks),
        Value::Number(longest),
    ]);
}

/// Takes all of `range` back that is there.
fn take(space: &Space<'_>, range: IpaRange) {
    let mut from = Some(range.start);
    while let Some(at) = from {
        let Ok(taken) = space.take_range(at..range.end, Mark::Unplugged) else { return };
        from = taken.next;
        let _ = taken.flushed.retire();
    }
}

/// Has everything done that idle CPUs would do meanwhile.
fn settle(memory: &Memory) {
    while memory.idle_step() || memory.counts().retired > 0 {}
}
