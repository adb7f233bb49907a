//! Schedules at random, by shuttle: guests run, their memory comes, goes and moves, walkers and audits look on.
//!
//! `RUSTFLAGS="--cfg shuttle" cargo test --release -p sluice --lib --target-dir target/shuttle schedules`
//!
//! What runs is the code that ships, on the host's fake of the machine, whose TLBs keep all that an MMU may. Another
//! thread may come in at each atomic access, fence and lock. A schedule is made from a seed, so it can be had again.
//! For each step and lock named in [`Edge`] there is a scene that fails when it is left out.

mod blocks;
mod boot;
mod frames;
mod moves;
mod numbers;
mod reuse;
mod teardown;
mod writes;

use super::super::{PopulateError, Populated};
use super::*;
use crate::arch::cpu::{self, CpuId};
use crate::arch::tlb;
use crate::sync::mutant::{note, without};
use crate::sync::{AtomicBool, AtomicU64, Edge, Ordering};
use core::sync::atomic::AtomicU64 as Word;
use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::thread::{self, JoinHandle};
use shuttle::{Config, FailurePersistence, Runner};
use std::sync::{Arc, Mutex};

/// A scene: what it is called, and what its threads do.
type Scene = (&'static str, fn());

/// The scenes, and for each what it is to catch.
const SCENES: &[(Scene, &[Edge])] = &[
    (
        ("teardown", teardown::scene),
        &[
            Edge::Unlink,
            Edge::Flush,
            Edge::Scrub,
            Edge::WriterLock,
            Edge::FreeLock,
            Edge::PoolLock,
            Edge::GarbageLock,
        ],
    ),
    (("reuse", reuse::scene), &[Edge::GracePeriod, Edge::SecondEpoch, Edge::Announcements]),
    (("blocks", blocks::scene), &[Edge::Break, Edge::LookAgain, Edge::Flush, Edge::WriterLock]),
    (("moves", moves::scene), &[Edge::Hide, Edge::StillMoving, Edge::Flush]),
    (("writes", writes::scene), &[Edge::CopyLater, Edge::Stay]),
    (("frames", frames::scene), &[Edge::FreeLock, Edge::EmptyingLock]),
    (("boot", boot::scene), &[Edge::KnownLock]),
    (("numbers", numbers::scene), &[Edge::VmidLock, Edge::Generation]),
];

/// How many schedules a sound scene must stand: by a scheduler that chooses evenly, and by one that lets few threads
/// run far ahead.
const SOUND: [usize; 2] = [500, 1500];
/// In how many of these a mistake must be caught.
const MUTANT: [usize; 2] = [1000, 5000];
const SEED: u64 = 0x51_0ce;

/// How many schedules there were.
static SCHEDULES: Word = Word::new(0);

/// Runs `scene` in so many schedules of both kinds. A failure is a panic.
fn run(scene: fn(), [evenly, ahead]: [usize; 2]) {
    let mut config = Config::new();
    // What is on a thread's stack: a few edits.
    config.stack_size = 256 << 10;
    config.failure_persistence = FailurePersistence::None;
    config.silence_warnings = true;
    let schedulers: [Box<dyn Scheduler + Send>; 2] = [
        Box::new(RandomScheduler::new_from_seed(SEED, evenly)),
        Box::new(PctScheduler::new_from_seed(SEED, 3, ahead)),
    ];
    for scheduler in schedulers {
        Runner::new(scheduler, config.clone()).run(move || {
            SCHEDULES.fetch_add(1, Ordering::Relaxed);
            tlb::invalidate_all_guests();
            scene();
        });
    }
}

/// A thread that pretends to be `cpu`.
fn on(cpu: usize, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    thread::spawn(move || {
        cpu::set_current(CpuId::new(cpu).unwrap());
        work();
    })
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        thread.join().expect("a schedule stops at its first panic");
    }
}

fn below(bound: u64) -> u64 {
    thread_rng().gen_range(0..bound)
}

/// The same memory for all schedules of a test: each forgets what was there before, but for what stands in the frames.
fn fresh(bytes: u64) -> &'static Memory {
    std::thread_local! {
        static RANGE: core::cell::RefCell<std::collections::HashMap<u64, crate::addr::PaRange>> =
            core::cell::RefCell::default();
    }
    let range = RANGE.with_borrow_mut(|ranges| {
        ranges.entry(bytes).or_insert_with(|| arch::memory::take(bytes, BLOCK_1G)).clone()
    });
    host::memory_in(range)
}

/// Makes a space with `ram_bytes` of RAM, with a tag that depends on `number` alone.
fn space_of(memory: &'static Memory, number: usize, ram_bytes: u64) -> Space<'static> {
    let pool = VmidPool::new(16);
    let vmid = (0..=number).filter_map(|_| pool.allocate()).last().expect("there are some");
    Space::new(memory, guest(number), vmid, ram(ram_bytes)).expect("there is memory")
}

/// Which mutant a child of the test runs: numbers of a scene and of an edge.
const MUTANT_OF: &str = "SLUICE_MUTANT";

/// Runs one mutant, and notes its first panic as a row of the table.
fn one_mutant(scene: usize, edge: usize) {
    let ((name, scene), _) = SCENES[scene];
    let edge = Edge::ALL[edge];
    let first = Mutex::new(Some(()));
    std::panic::set_hook(Box::new(move |panic| {
        if first.lock().is_ok_and(|mut first| first.take().is_some()) {
            let text = panic.payload_as_str().unwrap_or("a panic without words");
            note(edge, "shuttle", name, SCHEDULES.load(Ordering::Relaxed), text);
        }
    }));
    without(Some(edge), || run(scene, MUTANT));
}

/// Has a process of its own run a mutant: one without a lock may come to any end. Says whether it failed.
fn is_caught(scene: usize, edge: Edge) -> bool {
    let edge = Edge::ALL.iter().position(|&other| other == edge).expect("it is one of all");
    let exe = std::env::current_exe().expect("this is a program");
    let name = "stage2::tests::schedules::schedules_pass_and_catch_what_is_left_out";
    let ended = std::process::Command::new(exe)
        .args(["--exact", name])
        .env(MUTANT_OF, format!("{scene} {edge}"))
        .output()
        .expect("a program can be started");
    !ended.status.success()
}

// One test, for the TLBs are one for all.
#[test]
fn schedules_pass_and_catch_what_is_left_out() {
    if let Ok(mutant) = std::env::var(MUTANT_OF) {
        let mut numbers = mutant.split(' ').map(|number| number.parse().expect("a number"));
        let mut next = || numbers.next().expect("two numbers");
        return one_mutant(next(), next());
    }
    for ((name, scene), _) in SCENES {
        SCHEDULES.store(0, Ordering::Relaxed);
        println!("{name}");
        run(*scene, SOUND);
    }
    let mut missed = Vec::new();
    for (index, ((name, _), edges)) in SCENES.iter().enumerate() {
        missed.extend(
            edges.iter().filter(|&&edge| !is_caught(index, edge)).map(|edge| (edge, *name)),
        );
    }
    assert!(missed.is_empty(), "left out and not noticed: {missed:?}");
}
