//! `bench`: what operations cost at EL2, in ticks of the counter. Under QEMU's `-icount` a tick is so many
//! instructions.

#[cfg(feature = "scheme")]
pub mod crowd;
mod offline;
#[cfg(feature = "scheme")]
mod scheme;
#[cfg(feature = "scheme")]
mod turns;

use super::parse::Bench;
use super::report::{Column, Report, Value};
use crate::addr::{BLOCK_1G, BLOCK_2M, Ipa, IpaRange, PAGE_SIZE};
use crate::arch::time;
use crate::guest::{Guest, State};
use crate::mem::{Memory, Retiring};
use crate::stage2::{AddError, Fill, Mark};
use crate::system::System;
use crate::tally;

/// Times `count` calls of `operation`, in ticks.
fn timed(report: &mut Report<'_>, name: &str, count: u64, mut operation: impl FnMut()) {
    let start = time::now();
    for _ in 0..count {
        operation();
    }
    let ticks = time::now() - start;
    report.row(&[Value::Text(name), Value::Number(count), Value::Number(ticks)]);
}

/// Measures what is asked for, with the first guest.
pub(super) fn bench(system: &'static System, what: Bench, report: &mut Report<'_>) {
    let Some(guest) = system.guests().next() else {
        return report.error(format_args!("there is no guest to measure with"), None);
    };
    let memory = system.memory();
    // Theirs would be measured too, and waiting until nothing is retired would have no end.
    if matches!(what, Bench::All | Bench::Offline | Bench::Hotplug)
        && let Some(on) = system.guests().find(|guest| guest.state() != State::Off)
    {
        let name = on.name();
        return report.error(
            format_args!("guest {name} is on; only 'bench operations' measures beside guests"),
            None,
        );
    }
    match what {
        Bench::All => {
            operations(memory, &guest, report);
            offline::offline(memory, &guest, report);
            hotplug(memory, &guest, report);
        }
        Bench::Operations => operations(memory, &guest, report),
        Bench::Offline => offline::offline(memory, &guest, report),
        Bench::Hotplug => hotplug(memory, &guest, report),
        #[cfg(feature = "scheme")]
        Bench::Scheme => scheme::scheme(system, &guest, report),
    }
}

/// Measures what is quick.
fn operations(memory: &Memory, guest: &Guest, report: &mut Report<'_>) {
    const BENCHES: &[Column] = &[("name", 24), ("count", 8), ("ticks", 10)];
    const COUNT: u64 = 1000;
    report.table("benches", BENCHES);
    timed(report, "empty", COUNT, || {
        core::hint::black_box(());
    });
    timed(report, "pin and unpin", COUNT, || {
        core::hint::black_box(&memory.pin());
    });
    let ipa = guest.config.placement.kernel;
    timed(report, "walk", COUNT, || {
        let pin = memory.pin();
        let _ = core::hint::black_box(guest.space.translate(&pin, ipa));
    });
    timed(report, "guest read, 16 bytes", COUNT, || {
        let mut bytes = [0; 16];
        let _ = core::hint::black_box(guest.space.read(ipa, &mut bytes));
    });
}

/// Zeroes until that much is ready in blocks of 2 MiB and more, which idle CPUs do in earnest. Says whether it is; not,
/// where less is kept so (`zeroed=` on the command line).
fn wait_for_clean(memory: &Memory, bytes: u64) -> bool {
    while memory.counts().clean_large * PAGE_SIZE < bytes {
        if !memory.idle_step() {
            return false;
        }
    }
    true
}

/// How much is added in one call: what is as large as it can be, and what is to be mapped by smaller blocks.
const PIECES: [(&str, u64); 3] =
    [("largest", u64::MAX), ("2M blocks", BLOCK_2M), ("4K pages", PAGE_SIZE)];

/// How much is added and removed, in bytes.
const SIZES: [u64; 8] = [
    PAGE_SIZE,
    16 * PAGE_SIZE,
    BLOCK_2M,
    16 * BLOCK_2M,
    256 << 20,
    BLOCK_1G,
    4 * BLOCK_1G,
    16 * BLOCK_1G,
];
/// More than this is not mapped by pages: nobody does, and the table pool is not for it.
const MOST_BY_PAGES: u64 = 16 * BLOCK_2M;

/// What a part of a measurement took.
#[derive(Copy, Clone, Default)]
struct Cost {
    ticks: u64,
    steps: u64,
    longest: u64,
    events: [u64; tally::EVENTS.len()],
}

impl Cost {
    /// Adds what `step` takes.
    fn of<R>(&mut self, step: impl FnOnce() -> R) -> R {
        let before = tally::counts().unwrap_or_default();
        let start = time::now();
        let done = step();
        let ticks = time::now() - start;
        let after = tally::counts().unwrap_or_default();
        self.ticks += ticks;
        self.steps += 1;
        self.longest = self.longest.max(ticks);
        for ((event, after), before) in self.events.iter_mut().zip(after).zip(before) {
            *event += after - before;
        }
        done
    }

    fn row(&self, report: &mut Report<'_>, name: &str, mapped: &str, bytes: u64) {
        let [writes, tlbis, barriers] = self.events;
        report.row(&[
            Value::Text(name),
            Value::Text(mapped),
            Value::Size(bytes),
            Value::Number(self.ticks),
            Value::Number(self.steps),
            Value::Number(self.longest),
            Value::Number(writes),
            Value::Number(tlbis),
            Value::Number(barriers),
        ]);
    }
}

fn hotplug(memory: &Memory, guest: &Guest, report: &mut Report<'_>) {
    const COLUMNS: &[Column] = &[
        ("operation", 10),
        ("mapped", 10),
        ("bytes", 10),
        ("ticks", 10),
        ("steps", 6),
        ("longest", 8),
        ("writes", 8),
        ("tlbis", 6),
        ("barriers", 9),
    ];
    let region = guest.space.hotplug();
    let room = region.end.as_u64() - region.start.as_u64();
    if room == 0 {
        return report
            .remark(format_args!("guest {} has no region for hot-plug to measure", guest.name()));
    }
    report.table("hotplug", COLUMNS);
    for (mapped, piece) in PIECES {
        for bytes in SIZES {
            if bytes > room || bytes < piece.min(PAGE_SIZE.max(bytes)) {
                continue;
            }
            let by_pages = piece == PAGE_SIZE;
            if (by_pages && bytes > MOST_BY_PAGES) || (piece != u64::MAX && bytes <= piece) {
                continue;
            }
            // A gigabyte more, since what is zeroed may begin and end within blocks of that size.
            if !wait_for_clean(memory, bytes + BLOCK_1G) {
                return report.remark(format_args!(
                    "{} are not kept zeroed: give zeroed=<size> on the command line",
                    Value::Size(bytes)
                ));
            }
            let range = region.start..Ipa::new(region.start.as_u64() + bytes);
            let mut cost = Cost::default();
            if let Err(error) = add(guest, &range, piece, &mut cost) {
                return report.remark(format_args!("{mapped}: {error:?}"));
            }
            cost.row(report, "add", mapped, bytes);
            let (mut unlink, mut retire) = (Cost::default(), Cost::default());
            remove(guest, range, &mut unlink, &mut retire);
            unlink.row(report, "remove", mapped, bytes);
            retire.row(report, "retire", mapped, bytes);
            while memory.counts().retired > 0 {
                memory.idle_step();
            }
        }
    }
}

fn add(guest: &Guest, range: &IpaRange, piece: u64, cost: &mut Cost) -> Result<(), AddError> {
    let mut at = range.start;
    while at < range.end {
        let left = range.end.as_u64() - at.as_u64();
        let end = Ipa::new(at.as_u64() + left.min(piece));
        let added = cost.of(|| guest.space.add(at..end, Fill::Ready))?;
        at = added.next.unwrap_or(end);
    }
    Ok(())
}

/// Takes `range` back: until no CPU can reach it, and until all of it is retired.
fn remove(guest: &Guest, range: IpaRange, unlink: &mut Cost, retire: &mut Cost) {
    /// How many entries of detached tables a step reads.
    const ENTRIES: usize = 128;
    let mut from = range.start;
    loop {
        let taken = unlink.of(|| guest.space.take_range(from..range.end, Mark::Unplugged));
        let Ok(taken) = taken else { return };
        let mut flushed = taken.flushed;
        while let Retiring::More(rest) = retire.of(|| flushed.retire_some(ENTRIES)) {
            flushed = rest;
        }
        match taken.next {
            Some(next) => from = next,
            None => return,
        }
    }
}
