//! What a guest can still reach through a TLB.

use super::super::Mark;
use super::*;
use crate::addr::PAGE_SIZE;
use crate::arch::tlb;
use crate::mem::Order;

const MIB: u64 = 1 << 20;

/// Makes a space of which the guest has used the first 4 MiB, page by page, so that they are in the
/// TLBs.
fn used_space() -> (&'static Memory, Space<'static>) {
    let (memory, space) = space(64 * MIB, 16 * MIB);
    for offset in [0, 2 * MIB] {
        space.populate(at(offset), Order::BLOCK_2M).unwrap();
    }
    for page in 0..1024 {
        assert!(tlb::access(space.vttbr(), at(page * PAGE_SIZE)).is_some());
    }
    (memory, space)
}

fn take_a_page(space: &Space<'_>) {
    space.take_pages(&[at(5 * PAGE_SIZE)]).unwrap().1.retire();
}

fn take_a_block(space: &Space<'_>) {
    space.take_range(at(0)..at(2 * MIB), Mark::Empty).unwrap().flushed.retire();
}

fn take_a_table(space: &Space<'_>) {
    take_a_page(space);
    for page in 6..512 {
        tlb::access(space.vttbr(), at(page * PAGE_SIZE));
    }
    take_a_block(space);
}

fn balloon_a_block(space: &Space<'_>) {
    for half in [0, 256] {
        let pages: Vec<_> = (half..half + 256).map(|page| at(page * PAGE_SIZE)).collect();
        for &page in &pages {
            tlb::access(space.vttbr(), page);
        }
        space.take_pages(&pages).unwrap().1.retire();
    }
}

const REMOVALS: [fn(&Space<'_>); 4] = [take_a_page, take_a_block, take_a_table, balloon_a_block];

#[test]
#[cfg_attr(feature = "no-tlbi", ignore = "the TLBI is left out")]
fn nothing_that_was_removed_is_left_in_a_tlb() {
    for remove in REMOVALS {
        let (memory, space) = used_space();
        remove(&space);
        assert_eq!(tlb::check(space.vttbr()), Ok(()));
        assert_eq!(tlb::access(space.vttbr(), at(5 * PAGE_SIZE)), None);
        settle(memory);
        assert_sound(memory, &[&space]);
    }
}

/// The twin of the test above: where the TLBI does nothing, it is seen.
#[test]
fn a_missing_invalidation_is_noticed() {
    for remove in REMOVALS {
        // Tests of VMIDs run beside this one and empty all TLBs now and then.
        let noticed = (0..100).any(|_| {
            let (_, space) = used_space();
            tlb::without_effect(|| remove(&space));
            let stale = tlb::check(space.vttbr()).is_err();
            let reached = tlb::access(space.vttbr(), at(5 * PAGE_SIZE)).is_some();
            stale && reached
        });
        assert!(noticed);
    }
}

/// With the test-only feature the same removals leave what a test on the machine must catch.
#[test]
#[cfg(feature = "no-tlbi")]
fn without_tlbi_a_guest_keeps_what_was_removed() {
    let (_, space) = used_space();
    take_a_page(&space);
    assert!(tlb::access(space.vttbr(), at(5 * PAGE_SIZE)).is_some());
}

#[test]
fn a_guest_reads_what_it_is_mapped_to_through_a_tlb_or_not() {
    let (memory, space) = used_space();
    for page in 0..1024 {
        let ipa = at(page * PAGE_SIZE + 8);
        let walked = space.translate(&memory.pin(), ipa).unwrap().pa();
        assert_eq!(tlb::access(space.vttbr(), ipa), Some(walked));
    }
}

#[test]
#[cfg_attr(feature = "no-tlbi", ignore = "the TLBI is left out")]
fn a_vmid_is_invalidated_for_the_guest_whose_tables_changed() {
    let (memory, one) = used_space();
    let two = space_in(memory, 1, 16 * MIB);
    two.populate(at(0), Order::BLOCK_2M).unwrap();
    tlb::access(two.vttbr(), at(0));
    tlb::take_log(one.vttbr());
    tlb::take_log(two.vttbr());
    take_a_page(&two);
    assert_eq!(tlb::take_log(one.vttbr()), []);
    assert_eq!(tlb::take_log(two.vttbr()).len(), 1);
    assert_eq!(tlb::check(two.vttbr()), Ok(()));
}

/// The negative control of what the threads of `stress.rs` look for.
#[test]
fn a_valid_entry_replaced_by_another_without_a_break_is_noticed() {
    let noticed = (0..100).any(|_| {
        let (_, space) = used_space();
        assert_eq!(tlb::check_break_before_make(space.vttbr(), at(0)), Ok(()));
        let (one, other) =
            (space.root_for_edit().find(at(0)), space.root_for_edit().find(at(2 * MIB)));
        one.slot.store(other.bits, crate::sync::Ordering::Release);
        let found = tlb::check_break_before_make(space.vttbr(), at(0)).is_err();
        one.slot.store(one.bits, crate::sync::Ordering::Release);
        found
    });
    assert!(noticed);
}
