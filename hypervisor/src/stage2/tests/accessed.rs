//! Which memory is used: passes over the access flags, with a TLB and without.

use super::*;
use crate::addr::PAGE_SIZE;
use crate::arch::cpu::{self, CpuId};
use crate::arch::tlb;
use crate::mem::Order;
use crate::stage2::{AccessPass, Accessed, Populated};

const MIB: u64 = 1 << 20;

fn pass(space: &Space<'_>) -> Accessed {
    let mut pass = AccessPass::new(space);
    loop {
        if let Some(seen) = pass.step(space) {
            return seen;
        }
    }
}

/// Touches as a vCPU does: the access faults where it must, and is tried again.
fn touch(space: &Space<'_>, ipa: Ipa) {
    // Once more for each piece of a block that is zeroed, and for each time that a pass came in between.
    for _ in 0..1000 {
        if tlb::access(space.vttbr(), ipa).is_some() {
            return;
        }
        space.populate_step(ipa).unwrap();
    }
    panic!("{ipa} faults for ever");
}

/// Maps `blocks` of 2 MiB.
fn with_blocks(blocks: u64) -> (&'static Memory, Space<'static>) {
    let (memory, space) = space(64 * MIB, 32 * MIB);
    for block in 0..blocks {
        space.populate(at(block * BLOCK_2M), Order::BLOCK_2M).unwrap();
    }
    (memory, space)
}

#[test]
#[cfg_attr(feature = "no-tlbi", ignore = "the TLBI is left out")]
fn a_pass_sees_what_was_used_since_the_last_one() {
    let (memory, space) = with_blocks(8);
    for block in 0..8 {
        touch(&space, at(block * BLOCK_2M));
    }
    assert_eq!(pass(&space), Accessed { mapped: 8 * BLOCK_2M, used: 8 * BLOCK_2M });
    assert_eq!(pass(&space), Accessed { mapped: 8 * BLOCK_2M, used: 0 });
    touch(&space, at(3 * BLOCK_2M + 5 * PAGE_SIZE));
    touch(&space, at(6 * BLOCK_2M));
    assert_eq!(pass(&space), Accessed { mapped: 8 * BLOCK_2M, used: 2 * BLOCK_2M });
    assert_eq!(tlb::check(space.vttbr()), Ok(()));
    assert_sound(memory, &[&space]);
}

#[test]
fn one_pass_invalidates_once_and_one_that_cleared_nothing_not_at_all() {
    let (_, space) = with_blocks(16);
    tlb::take_log(space.vttbr());
    pass(&space);
    assert_eq!(tlb::take_log(space.vttbr()), [tlb::Invalidation::Vmid { vttbr: space.vttbr() }]);
    pass(&space);
    assert_eq!(tlb::take_log(space.vttbr()), []);
}

/// The twin of the first: a TLB that keeps what it has hides that memory is used.
#[test]
fn without_the_invalidation_what_is_used_is_not_seen() {
    let (_, space) = with_blocks(1);
    touch(&space, at(0));
    tlb::without_effect(|| pass(&space));
    touch(&space, at(0));
    assert_eq!(pass(&space).used, 0);
}

#[test]
fn of_pages_one_in_sixteen_stands_for_its_neighbours() {
    let (_, space) = with_blocks(0);
    for page in 0..512 {
        space.populate(at(page * PAGE_SIZE), Order::PAGE).unwrap();
    }
    assert_eq!(pass(&space), Accessed { mapped: BLOCK_2M, used: BLOCK_2M });
    touch(&space, at(32 * PAGE_SIZE));
    touch(&space, at(33 * PAGE_SIZE));
    assert_eq!(pass(&space), Accessed { mapped: BLOCK_2M, used: 16 * PAGE_SIZE });
}

#[test]
fn a_fault_for_want_of_the_flag_is_answered_by_setting_it() {
    let (_, space) = with_blocks(1);
    pass(&space);
    assert_eq!(tlb::access(space.vttbr(), at(0)), None);
    assert_eq!(space.populate_step(at(0)), Ok(Populated::Already));
    assert!(tlb::access(space.vttbr(), at(0)).is_some());
}

#[test]
#[cfg_attr(feature = "no-tlbi", ignore = "the TLBI is left out")]
fn pages_of_which_some_were_used_are_one_block_again() {
    let (memory, space) = with_blocks(1);
    // Empty a page and put the same frame back: the block was split and is complete again.
    space.take_pages(&[at(MIB)]).unwrap().1.retire();
    space.return_pages(&[at(MIB)]).unwrap().1.retire();
    settle(memory);
    space.populate(at(MIB), Order::PAGE).unwrap();
    pass(&space);
    touch(&space, at(16 * PAGE_SIZE));
    space.coalesce(at(0)).unwrap().retire();
    assert!(tlb::access(space.vttbr(), at(0)).is_some(), "of a block that was used a part was");
    settle(memory);
    assert_sound(memory, &[&space]);
}

#[test]
#[cfg_attr(feature = "no-tlbi", ignore = "the TLBI is left out")]
fn passes_and_edits_do_not_disturb_one_another() {
    let (memory, space) = with_blocks(16);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Pins are a CPU's: on one with the edits they would be the edits' own.
            cpu::set_current(CpuId::new(1).unwrap());
            for _ in 0..200 {
                pass(&space);
            }
        });
        for round in 0..200 {
            let block = at(round % 16 * BLOCK_2M);
            let (_, flushed) = space.take_pages(&[block]).unwrap();
            flushed.retire();
            let (_, flushed) = space.return_pages(&[block]).unwrap();
            flushed.retire();
            touch(&space, block);
            let taken = space
                .take_range(block..Ipa::new(block.as_u64() + BLOCK_2M), crate::stage2::Mark::Empty);
            taken.unwrap().flushed.retire();
            touch(&space, block);
        }
    });
    settle(memory);
    assert_sound(memory, &[&space]);
    assert_eq!(tlb::check(space.vttbr()), Ok(()));
}
