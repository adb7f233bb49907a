//! All CPUs add and remove memory by the service, ranges of mixed sizes, as fast as they can. What comes is zero, stays as
//! it was written, and is out of reach when it is gone.
//!
//! `cycles=` says how many there are in all, `seed=` which. Each CPU has a part of the region of its own, but for the
//! blocks where parts meet, so that they use tables together.

use crate::arch::cpu::{self, MAX_CPUS};
use crate::arch::probe::{self, Class};
use crate::memory::{BLOCK, PAGE, Range};
use crate::outcome::{Outcome, failure};
use crate::run::Stub;
use crate::service::{NO_MEMORY, Refused, Service};
use crate::smp;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Once;

/// How large ranges are, in pages, and how many of 64 are.
const SIZES: [(u64, u64); 7] =
    [(1, 20), (3, 12), (16, 12), (200, 6), (512, 10), (1024, 3), (4096, 1)];
/// How often a range that there is no memory for is asked for again: others are about to give theirs back.
const PATIENCE: u32 = 1_000_000;

struct Shared {
    service: Service,
    cpus: u64,
    /// How many cycles each CPU does.
    cycles: u64,
    seed: u64,
}

static SHARED: Once<Shared> = Once::new();
static CYCLES: AtomicU64 = AtomicU64::new(0);
static PAGES: AtomicU64 = AtomicU64::new(0);
/// The first thing that was wrong: which of [`WRONG`], plus 1, and where.
static WRONG_KIND: AtomicU64 = AtomicU64::new(0);
static WRONG_WHERE: AtomicU64 = AtomicU64::new(0);

const WRONG: [&str; 6] = [
    "a request was refused",
    "a page that was added cannot be read",
    "a page that was added is not zero",
    "a page does not keep what was written",
    "a release was refused",
    "a page that was released can be reached",
];

struct Wrong(u64, u64);

/// Numbers that look random, the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn range(&mut self, part: Range) -> Range {
        let mut weight = self.below(64);
        let mut pages = 1;
        for (size, weights) in SIZES {
            if weight < weights {
                pages = size;
                break;
            }
            weight -= weights;
        }
        let bytes = (pages * PAGE).min(part.size());
        let places = (part.size() - bytes) / PAGE + 1;
        let start = part.start + self.below(places) * PAGE;
        // Half of what is a block or more begins where a block does.
        let aligned = start & !(BLOCK - 1);
        let aligns = bytes >= BLOCK && self.below(2) == 0 && aligned >= part.start;
        Range::sized(if aligns { aligned } else { start }, bytes)
    }
}

/// Requests or releases a range, and again what there was no memory for: to release a part of a block takes a table.
fn insist(
    mut range: Range,
    wrong: u64,
    ask: impl Fn(Range) -> Result<(), Refused>,
) -> Result<(), Wrong> {
    for _ in 0..PATIENCE {
        match ask(range) {
            Ok(()) => return Ok(()),
            Err(Refused { error: NO_MEMORY, done }) => range.start += done,
            Err(_) => break,
        }
        cpu::relax();
    }
    Err(Wrong(wrong, range.start))
}

fn cycle(service: Service, part: Range, random: &mut Random) -> Result<(), Wrong> {
    let range = random.range(part);
    insist(range, 0, |range| service.request(range))?;
    let pages = range.size() / PAGE;
    let some = [0, pages - 1, random.below(pages), random.below(pages)];
    let address = |page: u64| range.start + page * PAGE;
    for page in some.map(address) {
        match probe::read(page) {
            // One of the four may be another.
            Ok(0) => {}
            Ok(word) if word == !page => continue,
            Ok(_) => return Err(Wrong(2, page)),
            Err(_) => return Err(Wrong(1, page)),
        }
        probe::write(page, !page).map_err(|_| Wrong(3, page))?;
    }
    for page in some.map(address) {
        if probe::read(page) != Ok(!page) {
            return Err(Wrong(3, page));
        }
    }
    insist(range, 4, |range| service.release(range))?;
    let gone = address(random.below(pages));
    match probe::read(gone) {
        Err(fault) if fault.class() == Class::External => {}
        _ => return Err(Wrong(5, gone)),
    }
    PAGES.fetch_add(pages, Ordering::Relaxed);
    CYCLES.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

fn work(index: usize) {
    let Some(shared) = SHARED.get() else { return };
    // Not whole blocks, so that parts meet within one.
    let size = (shared.service.region.size() / shared.cpus - 5 * PAGE) & !(PAGE - 1);
    let part = Range::sized(shared.service.region.start + index as u64 * size, size);
    let mut random = Random(shared.seed ^ (index as u64) << 48);
    for done in 0..shared.cycles {
        if WRONG_KIND.load(Ordering::Relaxed) != 0 {
            return;
        }
        if let Err(Wrong(kind, place)) = cycle(shared.service, part, &mut random) {
            WRONG_WHERE.store(place, Ordering::Relaxed);
            WRONG_KIND.store(kind + 1, Ordering::Release);
            return;
        }
        if index == 0 && done % (shared.cycles / 10).max(1) == 0 {
            say!("churn: {} cycles", CYCLES.load(Ordering::Relaxed));
        }
    }
}

/// See the head of this file.
pub fn churn(stub: &Stub) -> Outcome {
    let service = Service::find()?;
    let cpus = stub.machine.cpus().len().min(MAX_CPUS) as u64;
    if service.region.size() < cpus * 32 * BLOCK {
        skip!("there is little room for more memory");
    }
    let cycles = stub.orders.number("cycles", 2000).div_ceil(cpus);
    let seed = stub.orders.number("seed", 1);
    SHARED.call_once(|| Shared { service, cpus, cycles, seed });
    let joined = smp::with_others(stub.machine, work, || work(0));
    let kind = WRONG_KIND.load(Ordering::Acquire);
    if let Some(wrong) = (kind as usize).checked_sub(1).and_then(|kind| WRONG.get(kind)) {
        fail!("{wrong}: {:#x}", WRONG_WHERE.load(Ordering::Relaxed));
    }
    joined.map_err(|(index, refused)| failure(format_args!("CPU {index}: {refused:?}")))?;
    let (cycles, pages) = (CYCLES.load(Ordering::Relaxed), PAGES.load(Ordering::Relaxed));
    say!("churn: {cycles} cycles of {pages} pages in all, seed {seed}");
    Ok(())
}
