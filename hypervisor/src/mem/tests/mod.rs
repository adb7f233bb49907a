//! The memory manager as a whole, on the host.

mod blocks;
mod random;
mod threads;

use super::host::memory;
use super::*;
use crate::addr::{BLOCK_2M, Ipa};
use crate::arch::cpu::CpuId;
use std::sync::atomic::AtomicU32;

const MIB: u64 = 1 << 20;

fn guest(index: usize) -> GuestId {
    GuestId::new(index).expect("a small number")
}

fn settle(memory: &Memory) {
    while memory.idle_step() {}
}

#[test]
#[cfg_attr(feature = "no-grace", ignore = "there is no grace period to see")]
fn a_block_goes_round_from_free_to_guest_to_free() {
    let memory = memory(16 * MIB);
    let before = memory.counts();
    assert_eq!(before.in_hand(), 0);
    let block = memory.allocate(Order::BLOCK_2M).expect("14 MiB are free");
    assert_eq!(memory.counts().in_hand(), 512);
    let given = memory.assign(block, guest(1), Ipa::new(0x4000_0000));
    let inside = Frame::new(given.first.number() + 5);
    let cover = memory.frames().owner_of(inside);
    assert_eq!((cover.head, cover.order), (given.first, Order::BLOCK_2M));
    assert_eq!(cover.owner, Owner::Guest(guest(1)));
    assert_eq!(cover.ipa_of(inside), Some(Ipa::new(0x4000_5000)));
    assert_eq!(memory.counts().guest(guest(1)).frames, 512);

    let mut chain = Chain::new();
    chain.push(memory.frames(), given.first, given.order);
    assert_eq!(memory.frames().owner_of(inside).owner, Owner::Retired);
    let grace = memory.retire_chain(chain);
    assert_eq!(memory.counts().retired, 512);
    memory.quiesce(grace);
    assert_eq!(memory.frames().owner_of(inside).owner, Owner::Free);
    settle(memory);
    let after = memory.counts();
    assert_eq!(after.free(), before.free());
    assert_eq!(after.in_hand(), 0);
    assert_eq!(after.dirty, 0);
}

#[test]
#[cfg_attr(feature = "no-grace", ignore = "there is no grace period to see")]
fn a_pin_holds_up_the_grace_period_and_dropping_it_ends_that() {
    let memory = memory(16 * MIB);
    let table = memory.table_frame(guest(0)).expect("the pool is full");
    let pin = memory.pin();
    let nested = memory.pin();
    let mut chain = Chain::new();
    chain.push(memory.frames(), table.frame(), Order::PAGE);
    let grace = memory.retire_chain(chain);
    settle(memory);
    assert!(!memory.is_over(grace));
    drop(pin);
    settle(memory);
    assert!(!memory.is_over(grace), "the nested pin counts on its own");
    assert_eq!(memory.frames().owner_of(table.frame()).owner, Owner::Retired);
    drop(nested);
    settle(memory);
    assert!(memory.is_over(grace));
    assert_eq!(memory.frames().owner_of(table.frame()).owner, Owner::Hypervisor);
    assert_eq!(memory.counts().in_hand(), 0);
}

#[test]
fn the_pool_grows_by_small_pieces_where_el2_has_no_table_for_them() {
    let memory = memory(16 * MIB);
    // No block of 2 MiB is whole: every 32nd page is somebody's.
    let pages: Vec<_> = core::iter::from_fn(|| memory.allocate(Order::PAGE).ok()).collect();
    let kept = |page: &Clean| page.first().number().is_multiple_of(32);
    let (kept, others): (Vec<_>, Vec<_>) = pages.into_iter().partition(kept);
    others.into_iter().for_each(|page| memory.give_back(page));
    arch::memory::use_up_tables();
    let free = memory.counts().free();
    let tables: Vec<_> = core::iter::from_fn(|| memory.table_frame(guest(0)).ok()).collect();
    assert!(tables.len() as u64 > free, "{} tables of {free} free frames", tables.len());
    assert_eq!(memory.counts().free(), 0);
    assert_eq!(kept.len(), 7 * 16);
}

#[test]
#[cfg_attr(feature = "no-grace", ignore = "there is no grace period to see")]
fn a_cpu_that_sleeps_is_roused_when_something_is_retired() {
    static ROUSED: AtomicU32 = AtomicU32::new(0);
    let memory = super::host::memory_with(16 * MIB, |memory| {
        memory.set_rouse(|cpu| _ = ROUSED.fetch_or(1 << cpu.index(), Ordering::Relaxed));
    });
    let retire = || {
        let table = memory.table_frame(guest(0)).expect("the pool is full");
        let mut chain = Chain::new();
        chain.push(memory.frames(), table.frame(), Order::PAGE);
        let _ = memory.retire_chain(chain);
        ROUSED.swap(0, Ordering::Relaxed)
    };
    let cpu = |index| CpuId::new(index).expect("a small number");
    assert_eq!(retire(), 0, "all are awake");
    settle(memory);
    assert!(!memory.falls_asleep(cpu(1)), "nothing is retired");
    assert!(!memory.falls_asleep(cpu(3)));
    assert_eq!(retire(), 1 << 3);
    assert_eq!(retire(), 1 << 1, "the other was roused before");
    assert_eq!(retire(), 0);
    assert!(memory.falls_asleep(cpu(2)), "something is retired");
    memory.is_awake(cpu(2));
    assert_eq!(retire(), 0, "it is awake");
}

#[test]
fn what_is_retired_is_recycled_in_the_order_of_retirement_over_many_epochs() {
    let memory = memory(16 * MIB);
    let page = |_| memory.allocate(Order::PAGE).expect("there is enough");
    // All at the beginning, so that none comes round.
    let mut pages = (0..32 * 5).map(page).collect::<Vec<_>>().into_iter();
    let mut retired = Vec::new();
    let check = |retired: &[(GracePeriod, Vec<Frame>)]| {
        for (grace, frames) in retired.iter().filter(|(grace, _)| memory.is_over(*grace)) {
            for &frame in frames {
                let owner = memory.frames().owner_of(frame).owner;
                assert_eq!(owner, Owner::Free, "{grace:?} is said to be over");
            }
        }
    };
    for index in 0..32 {
        let mut chain = Chain::new();
        let mut frames = Vec::new();
        for block in pages.by_ref().take(5) {
            let given = memory.assign(block, guest(index % 2), Ipa::new(0));
            chain.push(memory.frames(), given.first, given.order);
            frames.push(given.first);
        }
        retired.push((memory.retire_chain(chain), frames));
        // Up to three advances, so that a retirement may find the bag that it needs in use, and two
        // bags may expire at once.
        for _ in 0..index * 7 % 4 {
            assert!(memory.epoch().try_advance());
        }
        if index % 3 == 0 {
            memory.recycle();
        }
        check(&retired);
    }
    memory.quiesce(retired[9].0);
    assert!(retired[..=9].iter().all(|&(grace, _)| memory.is_over(grace)));
    while memory.recycle() > 0 || memory.epoch().try_advance() && memory.counts().retired > 0 {
        check(&retired);
    }
    assert!(retired.iter().all(|&(grace, _)| memory.is_over(grace)));
    assert_eq!((memory.counts().retired, memory.counts().in_hand()), (0, 0));
}

#[test]
fn past_the_bound_the_remover_ends_grace_periods_itself() {
    let memory = memory(16 * MIB);
    memory.set_retired_bound(600);
    for index in 0..4 {
        let block = memory.allocate(Order::BLOCK_2M).expect("it was recycled");
        let given = memory.assign(block, guest(0), Ipa::new(index * BLOCK_2M));
        let mut chain = Chain::new();
        chain.push(memory.frames(), given.first, given.order);
        let _ = memory.retire_chain(chain);
        assert!(memory.counts().retired <= 600, "nobody is idle here");
    }
    let most = memory.counts().retired_detail.most;
    assert!((1..=600).contains(&most), "{most} were retired, if for a moment");
}

#[test]
#[cfg_attr(feature = "no-grace", ignore = "there is no grace period to see")]
fn a_pinned_remover_does_not_wait_for_itself() {
    let memory = memory(16 * MIB);
    memory.set_retired_bound(0);
    let block = memory.allocate(Order::BLOCK_2M).expect("14 MiB are free");
    let given = memory.assign(block, guest(0), Ipa::new(0));
    let pin = memory.pin();
    let mut chain = Chain::new();
    chain.push(memory.frames(), given.first, given.order);
    let grace = memory.retire_chain(chain);
    assert!(!memory.is_over(grace));
    drop(pin);
    memory.quiesce(grace);
    assert!(memory.is_over(grace));
}

#[test]
fn the_oldest_pin_is_visible() {
    let memory = memory(16 * MIB);
    let cpu = arch::cpu::CpuId::new(3).expect("a small number");
    for _ in 0..5 {
        assert!(memory.epoch().try_advance());
    }
    let _pin = memory.epoch().pin(cpu);
    while memory.epoch().try_advance() {}
    let snapshot = memory.epoch().snapshot();
    assert_eq!((snapshot.epoch.get(), snapshot.cpus[3].announced.get()), (6, 5));
    assert_eq!((snapshot.cpus[3].pins, snapshot.cpus[2].pins), (1, 0));
}

#[test]
fn injected_failures_leave_everything_as_it_was() {
    let memory = memory(16 * MIB);
    memory.fail_after(2);
    let first = memory.allocate(Order::PAGE).expect("the first succeeds");
    let second = memory.table_frame(guest(0)).expect("the second succeeds");
    let counts = memory.counts();
    assert!(memory.allocate(Order::PAGE).is_err());
    assert!(memory.table_frame(guest(0)).is_err());
    assert!(memory.hypervisor_frame().is_err());
    assert_eq!(memory.fail_never(), 3);
    let after = memory.counts();
    assert_eq!((after.free(), after.pool), (counts.free(), counts.pool));
    memory.give_back(first);
    memory.give_back_table(second);
    memory.fail_once_after(0);
    assert!(memory.allocate(Order::PAGE).is_err());
    memory.give_back(memory.allocate(Order::PAGE).expect("only one fails"));
    assert_eq!(memory.fail_never(), 1);
}

#[test]
fn a_root_is_one_allocation_whether_it_was_set_aside_or_not() {
    for aside in [true, false] {
        let memory = memory(4 * MIB);
        let before = memory.counts();
        memory.fail_after(u64::from(aside));
        memory.set_roots_aside();
        assert_eq!(memory.fail_never(), u64::from(!aside));
        let pool = memory.counts().pool;
        assert_eq!(before.pool - pool, if aside { MAX_GUESTS as u64 } else { 0 });
        memory.fail_once_after(0);
        assert!(memory.root_frame(guest(0)).is_err());
        assert_eq!(memory.fail_never(), 1);
        // The first of what is counted twice would succeed, and the second fail.
        memory.fail_once_after(1);
        let root = memory.root_frame(guest(0)).expect("the first succeeds");
        assert!(memory.root_frame(guest(1)).is_err());
        assert_eq!(memory.fail_never(), 1);
        assert_eq!(pool - memory.counts().pool, u64::from(!aside));
        memory.give_back_table(root);
        let after = memory.counts();
        assert_eq!((after.pool, after.in_hand()), (pool, 0));
    }
}

#[test]
fn the_pool_grows_until_memory_is_used_up_and_says_so_then() {
    let memory = memory(4 * MIB);
    let mut tables = Vec::new();
    while let Ok(table) = memory.table_frame(guest(0)) {
        tables.push(table);
    }
    assert_eq!(tables.len(), 1024, "every frame became a table");
    assert_eq!(memory.counts().free(), 0);
    assert_eq!(memory.counts().guest(guest(0)).tables, 1024);
    tables.into_iter().for_each(|table| memory.give_back_table(table));
    assert_eq!((memory.counts().pool, memory.counts().in_hand()), (1024, 0));
}
