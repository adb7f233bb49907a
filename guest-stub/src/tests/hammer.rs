//! Once the hypervisor has returned a request to take a page, no vCPU reaches that page through a stale translation.
//!
//! The boot CPU gives a page away (or a block, or unplugs one) that all others are reading and writing without pause.
//! When the request has come back it raises a flag. A worker that has seen the flag *before* an access, and whose access
//! succeeds all the same, has used a translation that should have been gone. The flag is stored with release after the
//! used ring was read, and loaded with acquire before the access, so there is no other explanation.
//!
//! Where a page may come back by being touched (reporting; a machine that is no hypervisor's), workers only read, and it
//! is the old contents that must not be seen once the flag is up.
//!
//! `lie=1` is the negative control: the request is left out, and the test has to fail.

use crate::arch::cpu::{self, MAX_CPUS};
use crate::arch::probe::{self, Class};
use crate::arch::time;
use crate::memory::{BLOCK, PAGE, Range};
use crate::outcome::{Outcome, failure};
use crate::run::Stub;
use crate::service::Service;
use crate::smp;
use crate::tests::balloon::{Seen, expect, fill};
use crate::virtio::balloon::{Balloon, feature, fresh_block};
use crate::virtio::mem::Mem;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// Accesses that each worker makes before the page goes, and with the flag up.
const ACCESSES: u64 = 200;
/// How long the boot CPU waits for the workers.
const PATIENCE: u64 = 10_000_000;

/// What the workers do their accesses to, by round; a round of 0 is none.
static ROUND: AtomicU32 = AtomicU32::new(0);
static BASE: AtomicU64 = AtomicU64::new(0);
static SIZE: AtomicU64 = AtomicU64::new(0);
static MAY_COME_BACK: AtomicBool = AtomicBool::new(false);
/// The last round whose memory is gone: the flag.
static GONE: AtomicU32 = AtomicU32::new(0);
static STOP: AtomicBool = AtomicBool::new(false);

/// What a worker has done in its round.
struct Worker {
    round: AtomicU32,
    before: AtomicU64,
    after: AtomicU64,
    stale: AtomicU64,
    stale_address: AtomicU64,
    odd_fault: AtomicU64,
}

static WORKERS: [Worker; MAX_CPUS] = [const {
    Worker {
        round: AtomicU32::new(0),
        before: AtomicU64::new(0),
        after: AtomicU64::new(0),
        stale: AtomicU64::new(0),
        stale_address: AtomicU64::new(0),
        odd_fault: AtomicU64::new(0),
    }
}; MAX_CPUS];

fn work(index: usize) {
    let worker = &WORKERS[index];
    let mut random = index as u64 + 1;
    while !STOP.load(Ordering::Acquire) {
        let round = ROUND.load(Ordering::Acquire);
        if worker.round.load(Ordering::Relaxed) != round {
            worker.before.store(0, Ordering::Relaxed);
            worker.after.store(0, Ordering::Relaxed);
            worker.round.store(round, Ordering::Release);
        }
        if round == 0 {
            cpu::relax();
            continue;
        }
        hammer(worker, round, &mut random);
    }
}

/// Makes accesses until the round is over.
fn hammer(worker: &Worker, round: u32, random: &mut u64) {
    let (base, size) = (BASE.load(Ordering::Relaxed), SIZE.load(Ordering::Relaxed));
    let may_come_back = MAY_COME_BACK.load(Ordering::Relaxed);
    while ROUND.load(Ordering::Relaxed) == round {
        *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        // The two words of a page that `fill` marks are left alone by writes, and are what is read.
        let page = base + (*random >> 33) % (size / PAGE) * PAGE;
        let gone = GONE.load(Ordering::Acquire) == round;
        let write = !may_come_back && *random & 1 << 32 != 0;
        let answer =
            if write { probe::write(page + 8, *random).map(|()| 1) } else { probe::read(page) };
        let count = if gone { &worker.after } else { &worker.before };
        match answer {
            Ok(value) if gone && !(may_come_back && value == 0) => {
                worker.stale_address.store(page, Ordering::Relaxed);
                worker.stale.fetch_add(1, Ordering::Release);
            }
            Err(fault) if fault.class() != Class::External => {
                worker.odd_fault.store(fault.esr, Ordering::Release)
            }
            _ => {}
        }
        count.fetch_add(1, Ordering::Release);
        if *random & 0xf00_0000_0000 == 0 {
            // A machine that runs one CPU at a time goes on to the next.
            cpu::relax();
        }
    }
}

fn workers(stub: &Stub) -> &'static [Worker] {
    &WORKERS[1..stub.machine.cpus().len()]
}

fn all(workers: &[Worker], mut done: impl FnMut(&Worker) -> bool) -> bool {
    time::poll(PATIENCE, || workers.iter().all(&mut done))
}

/// One round: lets the workers at `range`, has it `taken`, and sees what they see.
fn round(stub: &Stub, number: u32, range: Range, taken: impl FnOnce() -> Outcome) -> Outcome {
    let workers = workers(stub);
    fill(range);
    BASE.store(range.start, Ordering::Relaxed);
    SIZE.store(range.size(), Ordering::Relaxed);
    ROUND.store(number, Ordering::Release);
    let warm = all(workers, |worker| {
        worker.round.load(Ordering::Acquire) == number
            && worker.before.load(Ordering::Acquire) >= ACCESSES
    });
    let taken = taken();
    GONE.store(number, Ordering::Release);
    let cold =
        taken.is_ok() && all(workers, |worker| worker.after.load(Ordering::Acquire) >= ACCESSES);
    ROUND.store(0, Ordering::Release);
    let idle = all(workers, |worker| worker.round.load(Ordering::Acquire) == 0);
    taken?;
    for (index, worker) in workers.iter().enumerate() {
        let stale = worker.stale.swap(0, Ordering::AcqRel);
        let address = worker.stale_address.load(Ordering::Relaxed);
        let cpu = index + 1;
        ensure!(
            stale == 0,
            "stale translation: CPU {cpu} reached {address:#x} {stale} times after it was taken, round {number}"
        );
        let odd = worker.odd_fault.swap(0, Ordering::AcqRel);
        ensure!(odd == 0, "CPU {cpu} took a fault that is no external abort: ESR {odd:#x}");
    }
    ensure!(
        warm && cold && idle,
        "the workers are stuck: before {warm}, after {cold}, idle {idle}"
    );
    Ok(())
}

/// Starts the workers, does the rounds, stops the workers.
fn with_workers(stub: &Stub, rounds: impl FnOnce() -> Outcome) -> Outcome {
    if stub.machine.cpus().len() < 2 {
        skip!("one CPU only");
    }
    STOP.store(false, Ordering::Release);
    ROUND.store(0, Ordering::Release);
    GONE.store(0, Ordering::Release);
    let mut outcome = Ok(());
    let joined = smp::with_others(stub.machine, work, || {
        outcome = rounds();
        STOP.store(true, Ordering::Release);
    });
    outcome?;
    joined.map_err(|(index, refused)| failure(format_args!("CPU {index}: {refused:?}")))
}

fn inflating(stub: &Stub, ranges: impl Fn(u32, Range) -> Range) -> Outcome {
    let rounds = stub.orders.number("rounds", 64) as u32;
    let lie = stub.orders.number("lie", 0) == 1;
    let mut balloon = Balloon::open(stub, feature::MUST_TELL_HOST)?;
    let block = fresh_block()?;
    let keeps_away = balloon.has(feature::MUST_TELL_HOST) && !stub.orders.plain();
    MAY_COME_BACK.store(!keeps_away, Ordering::Release);
    with_workers(stub, || {
        for number in 1..=rounds {
            let range = ranges(number, block);
            round(stub, number, range, || if lie { Ok(()) } else { Ok(balloon.give(range)?) })?;
            balloon.take_back(range)?;
            expect(range, "had back", |seen| seen == Seen::Zero)?;
        }
        Ok(())
    })
}

/// Single pages of a block that stays.
pub fn page(stub: &Stub) -> Outcome {
    inflating(stub, |number, block| {
        Range::sized(block.start + u64::from(number).wrapping_mul(37) % (BLOCK / PAGE) * PAGE, PAGE)
    })
}

/// A whole block.
pub fn block(stub: &Stub) -> Outcome {
    inflating(stub, |_, block| block)
}

/// A reported block: once the report has come back, its old contents are not to be seen again.
pub fn report(stub: &Stub) -> Outcome {
    let rounds = stub.orders.number("rounds", 64) as u32;
    let lie = stub.orders.number("lie", 0) == 1;
    let mut balloon = Balloon::open(stub, feature::MUST_TELL_HOST)?;
    if balloon.report.is_none() {
        skip!("the balloon has no reporting queue");
    }
    let block = fresh_block()?;
    MAY_COME_BACK.store(true, Ordering::Release);
    with_workers(stub, || {
        for number in 1..=rounds {
            round(stub, number, block, || {
                if lie { Ok(()) } else { Ok(balloon.report_free(&[block])?) }
            })?;
        }
        Ok(())
    })
}

/// A plugged block: once the request to unplug it has come back, it is out of reach.
pub fn plugged(stub: &Stub) -> Outcome {
    let rounds = stub.orders.number("rounds", 64) as u32;
    let lie = stub.orders.number("lie", 0) == 1;
    let mut mem = Mem::open_empty(stub, 1)?;
    let block = mem.blocks(0, 1);
    MAY_COME_BACK.store(false, Ordering::Release);
    with_workers(stub, || {
        for number in 1..=rounds {
            mem.must_plug(block)?;
            expect(block, "plugged", |seen| seen == Seen::Zero)?;
            round(stub, number, block, || if lie { Ok(()) } else { mem.must_unplug(block) })?;
        }
        Ok(())
    })
}

/// A block that is released by the service.
pub fn release(stub: &Stub) -> Outcome {
    let rounds = stub.orders.number("rounds", 64) as u32;
    let lie = stub.orders.number("lie", 0) == 1;
    let service = Service::find()?;
    let block = fresh_block()?;
    MAY_COME_BACK.store(false, Ordering::Release);
    with_workers(stub, || {
        for number in 1..=rounds {
            round(stub, number, block, || if lie { Ok(()) } else { Ok(service.release(block)?) })?;
            service.request(block)?;
            expect(block, "had back", |seen| seen == Seen::Zero)?;
        }
        Ok(())
    })
}

/// Lets all other CPUs at `range`, which is gone for good when `taken` returns, and sees what they see.
pub fn while_taken(stub: &Stub, range: Range, taken: impl FnOnce() -> Outcome) -> Outcome {
    MAY_COME_BACK.store(false, Ordering::Release);
    with_workers(stub, || round(stub, 1, range, taken))
}
