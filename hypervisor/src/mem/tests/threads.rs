//! Several CPUs at once, for real: what the models cannot be large enough for.

use super::super::host::memory;
use super::super::*;
use super::{MIB, guest, settle};
use crate::addr::Ipa;
use crate::arch::cpu::{CpuId, set_current};
use crate::sync::{AtomicBool, AtomicU64, Ordering};
use std::thread;

/// How often each CPU does what it does.
const ROUNDS: u64 = if cfg!(miri) { 20 } else { 2000 };

fn as_cpu(index: usize) {
    set_current(CpuId::new(index).expect("a small number"));
}

#[test]
fn lookups_find_the_owner_while_a_block_splits_and_merges() {
    let memory = memory(16 * MIB);
    let block = memory.allocate(Order::BLOCK_2M).expect("14 MiB are free");
    let ipa = Ipa::new(0x4000_0000);
    let given = memory.assign(block, guest(4), ipa);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            as_cpu(1);
            let mut index = 0;
            while !done.load(Ordering::Relaxed) {
                index = (index + 37) % 512;
                let frame = Frame::new(given.first.number() + index);
                let cover = memory.frames().owner_of(frame);
                assert_eq!(cover.owner, Owner::Guest(guest(4)));
                let expected = Ipa::from_page(ipa.page() + u64::from(index));
                assert_eq!(cover.ipa_of(frame), Some(expected));
            }
        });
        for round in 0..ROUNDS {
            let to = Order::new((round % 9) as u8).expect("less than 9");
            memory.split_assigned(given.first, given.order, to);
            memory.merge_assigned(given.first, to, given.order).expect("these were one");
        }
        done.store(true, Ordering::Relaxed);
    });
}

/// A walker reads a frame's number from a link and then the frame, as it would a table; a remover
/// replaces the frame, and others recycle and zero what was replaced.
#[test]
#[cfg_attr(feature = "no-grace", ignore = "fails, as it must: see the test below")]
fn a_walker_never_reads_a_frame_that_was_reused() {
    assert_eq!(late_reads(ROUNDS), 0);
}

#[test]
#[cfg_attr(not(feature = "no-grace"), ignore = "the grace period is compiled in")]
fn without_the_grace_period_a_walker_reads_a_frame_that_was_reused() {
    assert_ne!(late_reads(50 * ROUNDS), 0);
}

#[expect(unsafe_code, reason = "reads and writes frames")]
fn late_reads(rounds: u64) -> u64 {
    const LIVE: u64 = 0x11fe;
    let memory = memory(16 * MIB);
    let word = |frame: Frame| {
        let pointer = arch::memory::pointer(frame.pa()).cast::<AtomicU64>();
        // SAFETY: the arena is never freed, and the word is only accessed atomically or in hand.
        unsafe { pointer.as_ref() }
    };
    let live = || {
        let table = memory.table_frame(guest(0)).expect("the pool is large enough");
        word(table.frame()).store(LIVE, Ordering::Release);
        u64::from(table.frame().number())
    };
    let (link, done, late) = (AtomicU64::new(live()), AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for cpu in 1..=2 {
            let (link, done, late) = (&link, &done, &late);
            scope.spawn(move || {
                as_cpu(cpu);
                while !done.load(Ordering::Relaxed) {
                    let _pin = memory.pin();
                    let frame = Frame::new(link.load(Ordering::Acquire) as u32);
                    for _ in 0..20 {
                        if word(frame).load(Ordering::Acquire) != LIVE {
                            late.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
        scope.spawn(|| {
            as_cpu(3);
            while !done.load(Ordering::Relaxed) {
                memory.idle_step();
            }
        });
        for round in 0..rounds {
            let old = link.swap(live(), Ordering::AcqRel);
            let mut chain = Chain::new();
            chain.push(memory.frames(), Frame::new(old as u32), Order::PAGE);
            let grace = memory.retire_chain(chain);
            if round % 8 == 0 {
                memory.quiesce(grace);
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    settle(memory);
    assert_eq!((memory.counts().retired, memory.counts().in_hand()), (0, 0));
    late.into_inner()
}
