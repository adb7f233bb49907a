//! Threads for CPUs: guests run, balloons move memory between them, and walkers, dumps and audits
//! look on.
//!
//! A guest writes to each page a tag that names itself and the page. Whatever it reads, through a
//! TLB or not, is its own tag or zero; anything else is a page that was reused too early or not
//! zeroed.
#![expect(unsafe_code, reason = "a guest's loads and stores")]

use super::super::{Mark, PopulateError};
use super::*;
use crate::addr::PAGE_SIZE;
use crate::arch::cpu::{self, CpuId};
use crate::arch::tlb;
use crate::audit::Asked;
use crate::audit::continuous::Continuous;
use crate::mem::Order;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
/// Each guest's RAM: both cannot be populated at once.
const RAM_BYTES: u64 = 24 * MIB;
const MEMORY: u64 = 40 * MIB;
const TIME: Duration = Duration::from_millis(1500);

/// Numbers that look random, the same at every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn page(&mut self) -> Ipa {
        at(self.below(RAM_BYTES / PAGE_SIZE) * PAGE_SIZE)
    }

    fn block(&mut self) -> Ipa {
        at(self.below(RAM_BYTES / BLOCK_2M) * BLOCK_2M)
    }
}

fn tag(space: &Space<'_>, ipa: Ipa) -> u64 {
    ipa.as_u64() | (space.guest().index() as u64 + 1)
}

/// Loads the tag of the page at `ipa` as the guest, and stores it where there is none.
fn touch(space: &Space<'_>, ipa: Ipa) {
    let mine = tag(space, ipa);
    let touched = tlb::access_with(space.vttbr(), ipa, |pa| {
        let word = arch::memory::pointer(pa).cast::<AtomicU64>();
        // SAFETY: the frame is in the arena, which is never freed; the test is about whose it is.
        let word = unsafe { word.as_ref() };
        let found = word.load(Ordering::SeqCst);
        assert!(found == 0 || found == mine, "{ipa} at {pa} holds {found:#x}");
        word.store(mine, Ordering::SeqCst);
    });
    assert_eq!(tlb::check_break_before_make(space.vttbr(), ipa), Ok(()));
    if touched.is_none() {
        match space.populate(ipa, Order::BLOCK_2M) {
            Ok(_) | Err(PopulateError::Ballooned | PopulateError::OutOfMemory) => {}
            Err(error) => panic!("{ipa} is RAM: {error:?}"),
        }
    }
}

/// Gives memory up and takes it back, as a balloon driver does that does not care for the guest.
fn balloon(space: &Space<'_>, random: &mut Random) {
    let block = random.block();
    let pages: Vec<_> = (0..512).map(|page| Ipa::new(block.as_u64() + page * PAGE_SIZE)).collect();
    match random.below(6) {
        0 => {
            let range = block..Ipa::new(block.as_u64() + BLOCK_2M);
            if let Ok(taken) = space.take_range(range, Mark::Empty) {
                taken.flushed.retire();
            }
        }
        1 => {
            let some: Vec<_> = (0..64).map(|_| random.page()).collect();
            if let Ok((_, flushed)) = space.take_pages(&some) {
                flushed.retire();
            }
        }
        2 | 3 => {
            for half in pages.chunks(256) {
                if let Ok((_, flushed)) = space.take_pages(half) {
                    flushed.retire();
                }
            }
        }
        _ => {
            if let Ok((_, flushed)) = space.return_pages(&pages) {
                flushed.retire();
            }
            if let Some(flushed) = space.coalesce(block) {
                flushed.retire();
            }
        }
    }
}

/// Reads what the guest wrote, by walks.
fn look(space: &Space<'_>, random: &mut Random) {
    let ipa = random.page();
    let mut bytes = [0; 8];
    if space.read(ipa, &mut bytes).is_ok() {
        let found = u64::from_le_bytes(bytes);
        assert!(found == 0 || found == tag(space, ipa), "{ipa} holds {found:#x}");
    }
}

/// Returns what a thread does: `work`, as CPU `cpu`, until all are to stop. A failure anywhere
/// stops them all, so that it is reported.
fn worker<'a>(
    stop: &'a AtomicBool,
    cpu: usize,
    mut work: impl FnMut(&mut Random) + Send + 'a,
) -> impl FnOnce() + Send + 'a {
    move || {
        cpu::set_current(CpuId::new(cpu).unwrap());
        let mut random = Random(0x9e37_79b9_7f4a_7c15 + cpu as u64);
        let until_stopped = AssertUnwindSafe(|| {
            while !stop.load(Ordering::Relaxed) {
                work(&mut random);
            }
        });
        if let Err(failure) = catch_unwind(until_stopped) {
            stop.store(true, Ordering::Relaxed);
            resume_unwind(failure);
        }
    }
}

#[test]
#[cfg_attr(feature = "no-tlbi", should_panic)]
#[cfg_attr(feature = "no-grace", ignore = "walks are too short to fail by chance: see walkers.rs")]
fn guests_see_their_own_memory_while_it_moves() {
    run();
}

pub(super) fn run() {
    let memory = memory(MEMORY);
    let spaces = [0, 1].map(|number| space_in(memory, number, RAM_BYTES));
    let stop = AtomicBool::new(false);
    let audits = AtomicU64::new(0);
    let counted = AtomicU64::new(0);
    let round = AtomicU64::new(0);
    let (stop, round) = (&stop, &round);
    let [one, two] = &spaces;
    std::thread::scope(|scope| {
        for (index, space) in spaces.iter().enumerate() {
            scope.spawn(worker(stop, index, move |random| touch(space, random.page())));
            scope.spawn(worker(stop, index + 2, move |random| balloon(space, random)));
        }
        scope.spawn(worker(stop, 4, |random| look(one, random)));
        scope.spawn(worker(stop, 5, |_| {
            let mut end = one.ram().start;
            two.dump(two.ram(), |run| {
                assert_eq!(run.range.start, end);
                end = run.range.end;
            });
            let report = audit(memory, &[one, two]);
            assert!(report.is_clean(), "{report:?}");
            audits.fetch_add(1, Ordering::Relaxed);
            counted.fetch_add(report.counted, Ordering::Relaxed);
        }));
        let mut rounds = Continuous::new();
        scope.spawn(worker(stop, 6, move |_| {
            let mut found = rounds.step(memory, &|guest, look| {
                let Some(space) = [one, two].into_iter().find(|space| space.guest() == guest)
                else {
                    return Asked::Nobody;
                };
                look(space);
                Asked::Looked
            });
            assert_eq!(found.next(), None);
            drop(found);
            round.store(rounds.rounds(), Ordering::Relaxed);
        }));
        scope.spawn(worker(stop, 7, |_| {
            if !memory.idle_step() {
                std::thread::yield_now();
            }
        }));
        let began = Instant::now();
        while began.elapsed() < TIME && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!("{audits:?} audits, counters compared {counted:?} times, {round:?} continuous rounds");
    assert!(audits.into_inner() > 0);
    for space in &spaces {
        assert_eq!(tlb::check(space.vttbr()), Ok(()));
        space.clear().unwrap();
    }
    settle(memory);
    assert_sound(memory, &[one, two]);
    let counts = memory.counts();
    assert_eq!(counts.free() + counts.pool + counts.tables(), MEMORY / PAGE_SIZE);
}
