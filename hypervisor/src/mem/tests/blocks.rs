//! Blocks: found, split, merged, zeroed, claimed.

use super::super::boot::blocks;
use super::super::host::{frame_table, memory};
use super::super::*;
use super::{MIB, guest, settle};
use crate::addr::{BLOCK_1G, BLOCK_2M, Ipa, Pa, PaRange};

fn range(start: u64, end: u64) -> PaRange {
    Pa::new(start)..Pa::new(end)
}

fn free_blocks(memory: &Memory) -> Vec<(u64, u8)> {
    let free = memory.frames().iter().filter(|cover| cover.owner == Owner::Free);
    free.map(|cover| (cover.head.pa().as_u64(), cover.order.get())).collect()
}

#[test]
fn a_range_is_the_fewest_aligned_blocks() {
    let found: Vec<_> = blocks(&range(0x3000, 0x40_0000 + 0x5000), Order::BLOCK_2M)
        .map(|(first, order)| (first.number(), order.get()))
        .collect();
    let expected: Vec<(u32, u8)> = [(3, 0)]
        .into_iter()
        .chain((2..9).map(|order| (1 << order, order)))
        .chain([(0x200, 9), (0x400, 2), (0x404, 0)])
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn memory_with_holes_has_blocks_up_to_the_holes() {
    let arena = arch::memory::take(16 * MIB, 16 * MIB);
    let base = arena.start.as_u64();
    let (low, high) = (range(base, base + 4 * MIB), range(base + 6 * MIB, base + 16 * MIB));
    let memory = Memory::new(frame_table(&[low.clone(), high.clone()]));
    memory.add_free(low.clone()).expect("this is memory");
    memory.add_free(high.clone()).expect("this is memory");
    let hole = Frame::containing(Pa::new(base + 5 * MIB)).expect("below 16 TiB");
    assert_eq!(memory.frames().owner_of(hole).owner, Owner::Offline);
    assert_eq!(
        free_blocks(&memory),
        [(base, 10), (base + 6 * MIB, 9), (base + 8 * MIB, 11)],
        "4, 2 and 8 MiB"
    );
    let across = range(base, base + 8 * MIB);
    assert_eq!(memory.add_free(across.clone()), Err(RangeError::NotMemory(across)));
    let crooked = range(base + 1, base + 0x1000);
    assert_eq!(memory.add_free(crooked.clone()), Err(RangeError::NotMemory(crooked)));
}

#[test]
fn what_is_claimed_is_not_added() {
    let arena = arch::memory::take(8 * MIB, 8 * MIB);
    let base = arena.start.as_u64();
    let memory = Memory::new(frame_table(core::slice::from_ref(&arena)));
    let image = range(base + MIB, base + MIB + 0x3000);
    memory.claim_hypervisor(image.clone()).expect("nothing is claimed yet");
    assert_eq!(memory.claim_bad(image.clone()), Err(RangeError::Claimed(image.clone())));
    memory.claim_bad(range(base + 0x1000, base + 0x2000)).expect("this is not claimed");
    memory.add_free(arena.clone()).expect("this is memory");
    memory.add_free(arena.clone()).expect("adding it again adds nothing");
    let counts = memory.counts();
    assert_eq!((counts.total, counts.hypervisor, counts.bad), (2048, 3, 1));
    assert_eq!((counts.free(), counts.in_hand()), (2044, 0));
    memory.release_hypervisor(range(base + MIB + 0x1000, base + MIB + 0x2000)).expect("claimed");
    assert_eq!((memory.counts().hypervisor, memory.counts().free()), (2, 2045));
    let owner = |offset| {
        let frame = Frame::containing(Pa::new(base + MIB + offset)).expect("below 16 TiB");
        memory.frames().owner_of(frame).owner
    };
    assert_eq!([0, 0x1000, 0x2000].map(owner), [Owner::Hypervisor, Owner::Free, Owner::Hypervisor]);
}

#[test]
fn of_what_overlaps_the_rest_is_claimed_too() {
    let arena = arch::memory::take(8 * MIB, 8 * MIB);
    let base = arena.start.as_u64();
    let memory = Memory::new(frame_table(core::slice::from_ref(&arena)));
    memory.claim_hypervisor(range(base + MIB, base + 2 * MIB)).expect("nothing is claimed yet");
    memory.claim_hypervisor(range(base + 3 * MIB, base + 4 * MIB)).expect("this is not claimed");
    let all = range(base, base + 5 * MIB);
    assert!(memory.claim_bad(all.clone()).is_err());
    memory
        .each_unclaimed(&all, &|part| memory.claim_bad(part))
        .expect("it leaves out what is claimed");
    memory
        .each_unclaimed(&all, &|_| panic!("all of it is claimed"))
        .expect("there is nothing to do");
    memory.add_free(arena.clone()).expect("this is memory");
    let counts = memory.counts();
    assert_eq!((counts.total, counts.hypervisor, counts.bad, counts.free()), (2048, 512, 768, 768));
}

#[test]
fn a_gigabyte_comes_apart_and_together_again() {
    let range = arch::memory::take(BLOCK_1G + 2 * BLOCK_2M, BLOCK_1G);
    let memory = host::memory_in(range);
    // The pool is the first 2 MiB, so the block of 1 GiB is not whole, and one of 512 MiB is.
    let before = free_blocks(memory);
    let half = memory.allocate(Order::BLOCK_1G.halved()).expect("512 MiB are in one piece");
    let given = memory.assign(half, guest(0), Ipa::new(BLOCK_1G));
    memory.split_assigned(given.first, given.order, Order::BLOCK_2M);
    memory.split_assigned(given.first, Order::BLOCK_2M, Order::PAGE);
    let third = Frame::new(given.first.number() + 3);
    let cover = memory.frames().owner_of(third);
    assert_eq!((cover.head, cover.order), (third, Order::PAGE));
    assert_eq!(cover.ipa, Some(Ipa::new(BLOCK_1G + 0x3000)));
    let fifth = Frame::new(given.first.number() + 5 * 512 + 7);
    let cover = memory.frames().owner_of(fifth);
    assert_eq!(cover.order, Order::BLOCK_2M);
    assert_eq!(cover.ipa_of(fifth), Some(Ipa::new(BLOCK_1G + 5 * BLOCK_2M + 0x7000)));
    let (big, first) = (Order::BLOCK_1G.halved(), given.first);
    assert_eq!(memory.merge_assigned(first, Order::BLOCK_2M, big), Err(NotMergeable));
    assert_eq!(memory.merge_assigned(first, Order::PAGE, Order::BLOCK_2M), Ok(()));
    assert_eq!(memory.merge_assigned(first, Order::BLOCK_2M, big), Ok(()));
    assert_eq!(memory.frames().owner_of(fifth).order, big);
    let mut chain = Chain::new();
    chain.push(memory.frames(), first, big);
    let grace = memory.retire_chain(chain);
    memory.quiesce(grace);
    assert_eq!(free_blocks(memory), before);
}

#[test]
fn blocks_that_are_not_neighbours_in_the_guest_do_not_merge() {
    let memory = memory(16 * MIB);
    let block = memory.allocate(Order::PAGE.doubled()).expect("there is enough");
    let given = memory.assign(block, guest(0), Ipa::new(0x1000));
    memory.split_assigned(given.first, given.order, Order::PAGE);
    let merged = memory.merge_assigned(given.first, Order::PAGE, given.order);
    assert_eq!(merged, Err(NotMergeable), "0x1000 is no multiple of 8 KiB");
}

#[test]
fn idle_time_makes_zeroed_memory_up_to_the_watermark_and_leaves_large_blocks_whole() {
    let memory = memory(64 * MIB);
    memory.set_clean_watermark(8 * MIB / 4096);
    assert_eq!(memory.counts().clean, 0);
    settle(memory);
    let counts = memory.counts();
    assert_eq!(counts.clean_large, 8 * MIB / 4096);
    assert_eq!(counts.clean, counts.clean_large);
    let largest = free_blocks(memory).into_iter().map(|(_, order)| order).max();
    assert_eq!(largest, Some(13), "32 MiB are in one piece");
    assert!(memory.allocate_ready(Order::BLOCK_2M).is_ok());
    let too_large = memory.allocate_ready(Order::BLOCK_1G);
    assert_eq!(too_large, Err(OutOfMemory { order: Order::BLOCK_1G }));
}

#[test]
fn zeroed_and_dirty_neighbours_make_a_large_block_when_it_is_asked_for() {
    let memory = memory(64 * MIB);
    memory.set_clean_watermark(20 * MIB / 4096);
    settle(memory);
    let order = Order::new(13).expect("32 MiB");
    let upper = memory.allocate(order).expect("32 MiB are in one piece");
    // The lower half holds the pool, so 16 MiB are the largest block, a part of it zeroed.
    let order = Order::new(12).expect("16 MiB");
    let block = memory.allocate(order).expect("it is brought together");
    memory.give_back(block);
    memory.give_back(upper);
    assert_eq!(memory.counts().in_hand(), 0);
}

#[test]
fn small_dirty_pieces_are_zeroed_by_an_allocation_that_needs_them_as_one() {
    let memory = memory(4 * MIB);
    settle(memory);
    let block = memory.allocate(Order::BLOCK_2M).expect("2 MiB are free");
    let given = memory.assign(block, guest(0), Ipa::new(0));
    memory.split_assigned(given.first, given.order, Order::PAGE);
    let mut kept = Chain::new();
    let mut chain = Chain::new();
    for index in 0..512 {
        let page = Frame::new(given.first.number() + index);
        // Every other page first, so that they come back without their buddies.
        let to = if index % 2 == 0 { &mut chain } else { &mut kept };
        to.push(memory.frames(), page, Order::PAGE);
    }
    memory.quiesce(memory.retire_chain(chain));
    settle(memory);
    memory.quiesce(memory.retire_chain(kept));
    let counts = memory.counts();
    assert_eq!((counts.clean, counts.dirty), (256, 256), "alternating");
    for _ in 0..32 {
        if let Ok(block) = memory.allocate(Order::BLOCK_2M) {
            return memory.give_back(block);
        }
    }
    panic!("each attempt makes some progress, and there is nothing else to wait for");
}

#[test]
fn storage_must_suffice_and_regions_ascend() {
    let (a, b) = (range(0x1000, 0x3000), range(0x8000, 0x9000));
    let three: &'static [Record] = Vec::from_iter((0..3).map(|_| Record::new())).leak();
    assert_eq!(FrameTable::records_for(&[a.clone(), b.clone()]), 3);
    assert!(FrameTable::new(&[a.clone(), b.clone()], three).is_ok());
    let short = FrameTable::new(&[a.clone(), b.clone()], &three[..2]).err();
    assert_eq!(short, Some(LayoutError::StorageTooSmall));
    let reversed = FrameTable::new(&[b, a], three).err();
    assert_eq!(reversed, Some(LayoutError::BadRange));
    let high = range(16 << 40, (16 << 40) + 0x1000);
    assert_eq!(FrameTable::new(&[high], three).err(), Some(LayoutError::BadRange));
}
