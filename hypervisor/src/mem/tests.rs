//! The memory manager as a whole, on the host.

use super::host::memory;
use super::*;
use crate::addr::Ipa;

const MIB: u64 = 1 << 20;

fn guest(index: usize) -> GuestId {
    GuestId::new(index).expect("a small number")
}

fn settle(memory: &Memory) {
    while memory.idle_step() {}
}

#[test]
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
