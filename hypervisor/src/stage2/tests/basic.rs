//! One operation at a time.

use super::super::{Fill, Level, Mark, PopulateError, Populated, TakeError, What};
use super::*;
use crate::addr::PAGE_SIZE;
use crate::arch::tlb::{Invalidation, take_log};
use crate::mem::Order;

const MIB: u64 = 1 << 20;

fn level_of(space: &Space<'_>, memory: &Memory, ipa: Ipa) -> Result<Level, (Level, Mark)> {
    let pin = memory.pin();
    let found = space.translate(&pin, ipa);
    found.map(|leaf| leaf.level()).map_err(|absent| (absent.level, absent.mark))
}

fn pages(from: u64, count: u64) -> Vec<Ipa> {
    (from..from + count).map(|page| at(page * PAGE_SIZE)).collect()
}

#[test]
fn a_touch_maps_a_zeroed_block() {
    let (memory, space) = space(64 * MIB, 16 * MIB);
    assert_eq!(
        space.populate(at(5 * MIB), Order::BLOCK_2M),
        Ok(Populated::Mapped(Order::BLOCK_2M))
    );
    assert_eq!(space.populate(at(5 * MIB), Order::BLOCK_2M), Ok(Populated::Already));
    assert_eq!(level_of(&space, memory, at(4 * MIB)), Ok(Level::Two));
    assert_eq!(level_of(&space, memory, at(6 * MIB)), Err((Level::Two, Mark::Empty)));
    let mut bytes = [1; 16];
    space.read(at(5 * MIB - 8), &mut bytes).unwrap();
    assert_eq!(bytes, [0; 16]);
    assert_sound(memory, &[&space]);
}

#[test]
fn what_is_not_ram_is_not_populated() {
    let (memory, space) = space(64 * MIB, 16 * MIB);
    for ipa in [Ipa::new(0), Ipa::new(RAM - 1), at(16 * MIB), Ipa::new(u64::MAX)] {
        assert_eq!(space.populate(ipa, Order::BLOCK_2M), Err(PopulateError::Outside));
        assert!(space.read(ipa, &mut [0]).is_err());
        assert!(space.write(ipa, &[0]).is_err());
        assert!(space.translate(&memory.pin(), ipa).is_err());
    }
    assert_sound(memory, &[&space]);
}

#[test]
fn a_block_does_not_reach_out_of_ram() {
    let (memory, space) = space(64 * MIB, 3 * MIB);
    let populated = space.populate(at(2 * MIB + 4096), Order::BLOCK_2M);
    assert_eq!(populated, Ok(Populated::Mapped(Order::PAGE)));
    assert_sound(memory, &[&space]);
}

#[test]
fn eager_guests_get_blocks_of_a_gigabyte() {
    let (memory, space) = space(2 * BLOCK_1G, BLOCK_1G);
    let populated = space.populate(at(MIB), Order::BLOCK_1G);
    assert_eq!(populated, Ok(Populated::Mapped(Order::BLOCK_1G)));
    assert_eq!(level_of(&space, memory, at(0)), Ok(Level::One));
    // A page out of the middle: two tables, the rest stays as large as can be.
    let (done, flushed) = space.take_pages(&[at(512 * MIB)]).unwrap();
    flushed.retire();
    assert_eq!((done.done, done.taken), (1, 1));
    assert_eq!(level_of(&space, memory, at(0)), Ok(Level::Two));
    assert_eq!(level_of(&space, memory, at(512 * MIB + 4096)), Ok(Level::Three));
    assert_eq!(level_of(&space, memory, at(512 * MIB)), Err((Level::Three, Mark::Ballooned)));
    settle(memory);
    assert_sound(memory, &[&space]);
    assert_eq!(memory.counts().guest(guest(0)).frames, BLOCK_1G / PAGE_SIZE - 1);
}

#[test]
fn where_no_block_is_free_a_page_is_mapped() {
    let (memory, space) = space(4 * MIB, 16 * MIB);
    let taken = memory.allocate(Order::PAGE).unwrap();
    let populated = space.populate(at(0), Order::BLOCK_2M);
    assert_eq!(populated, Ok(Populated::Mapped(Order::PAGE)));
    memory.give_back(taken);
    assert_sound(memory, &[&space]);
}

#[test]
fn a_fault_zeroes_a_block_in_bounded_pieces() {
    let (memory, space) = space(8 * MIB, 16 * MIB);
    for _ in 0..2 {
        let mut pieces = 0;
        while space.populate_step(at(0)) == Ok(Populated::Later) {
            pieces += 1;
        }
        assert!(pieces <= 16, "{pieces} pieces of 128 KiB make a block of 2 MiB");
        assert_eq!(level_of(&space, memory, at(0)), Ok(Level::Two));
        space.clear().unwrap();
        settle(memory);
    }
    assert_sound(memory, &[&space]);
}

#[test]
fn ballooned_pages_are_gone_until_they_are_returned() {
    let (memory, space) = space(64 * MIB, 16 * MIB);
    space.write(at(2 * MIB), &[7; 4096]).unwrap();
    let batch = pages(512, 256);
    let (done, flushed) = space.take_pages(&batch).unwrap();
    flushed.retire();
    assert_eq!((done.done, done.taken, done.repeated), (256, 256, 0));
    assert_eq!(space.populate(at(2 * MIB), Order::BLOCK_2M), Err(PopulateError::Ballooned));
    assert!(space.read(at(2 * MIB), &mut [0]).is_err());
    assert!(space.write(at(2 * MIB), &[0]).is_err());
    assert_eq!(level_of(&space, memory, at(3 * MIB)), Ok(Level::Three));

    // Once more, with a page that was never touched and one that is no RAM.
    let (done, flushed) = space.take_pages(&[at(2 * MIB), at(8 * MIB), at(16 * MIB)]).unwrap();
    flushed.retire();
    assert_eq!((done.repeated, done.marked, done.outside, done.taken), (1, 1, 1, 0));
    assert_eq!(space.populate(at(8 * MIB), Order::BLOCK_2M), Err(PopulateError::Ballooned));
    assert_eq!(
        space.populate(at(8 * MIB + 4096), Order::BLOCK_2M),
        Ok(Populated::Mapped(Order::PAGE)),
        "the rest of the block can still be populated"
    );

    let (done, flushed) = space.return_pages(&batch).unwrap();
    flushed.retire();
    assert_eq!((done.marked, done.repeated), (256, 0));
    let mut byte = [1];
    space.read(at(2 * MIB), &mut byte).unwrap();
    assert_eq!(byte, [0], "what comes back is zeroed");
    settle(memory);
    assert_sound(memory, &[&space]);
}

#[test]
fn a_block_that_was_ballooned_as_a_whole_comes_back_as_a_block() {
    let (memory, space) = space(64 * MIB, 16 * MIB);
    space.write(at(0), &[7]).unwrap();
    let tables = memory.counts().tables();
    for half in [pages(0, 256), pages(256, 256)] {
        space.take_pages(&half).unwrap().1.retire();
    }
    assert_eq!(level_of(&space, memory, at(0)), Err((Level::Two, Mark::Ballooned)));
    settle(memory);
    assert_eq!(memory.counts().tables(), tables);
    assert_eq!(memory.counts().guest(guest(0)).frames, 0);

    // The mark of the block is split when a part of it is returned.
    space.return_pages(&pages(17, 1)).unwrap().1.retire();
    assert_eq!(level_of(&space, memory, at(17 * PAGE_SIZE)), Err((Level::Three, Mark::Empty)));
    for page in (0..512).filter(|&page| page != 17) {
        let ipa = at(page * PAGE_SIZE);
        assert_eq!(level_of(&space, memory, ipa), Err((Level::Three, Mark::Ballooned)));
    }
    space.return_pages(&pages(0, 512)).unwrap().1.retire();
    assert_eq!(level_of(&space, memory, at(0)), Err((Level::Two, Mark::Empty)));
    assert_eq!(space.populate(at(0), Order::BLOCK_2M), Ok(Populated::Mapped(Order::BLOCK_2M)));
    settle(memory);
    assert_sound(memory, &[&space]);
}

#[test]
#[cfg_attr(feature = "no-tlbi", ignore = "the TLBI is left out")]
fn taking_a_block_costs_one_flush_of_one_range() {
    let (memory, space) = space(64 * MIB, 16 * MIB);
    for block in 0..4 {
        space.populate(at(block * BLOCK_2M), Order::BLOCK_2M).unwrap();
    }
    take_log(space.vttbr());
    let range = at(BLOCK_2M)..at(2 * BLOCK_2M);
    let taken = space.take_range(range.clone(), Mark::Empty).unwrap();
    assert_eq!(taken.next, None);
    let expected = Invalidation::Stage2 { vttbr: space.vttbr(), ranges: vec![range] };
    assert_eq!(take_log(space.vttbr()), [expected]);
    memory.quiesce(taken.flushed.retire());
    assert_sound(memory, &[&space]);
}

#[test]
#[cfg_attr(feature = "no-tlbi", ignore = "the TLBI is left out")]
fn a_batch_costs_one_flush_however_many_blocks_it_breaks() {
    let (memory, space) = space(64 * MIB, 16 * MIB);
    for block in 0..6 {
        space.populate(at(block * BLOCK_2M), Order::BLOCK_2M).unwrap();
    }
    take_log(space.vttbr());
    let batch: Vec<_> = (0..256).map(|i| at((i % 6) * BLOCK_2M + i * PAGE_SIZE)).collect();
    // Unsorted as it is, it needs a table a page by the plan: so it takes more than one call.
    let (mut left, mut flushes) = (&batch[..], 0);
    while !left.is_empty() {
        let (done, flushed) = space.take_pages(left).unwrap();
        assert_eq!(done.taken, done.done);
        flushed.retire();
        left = &left[done.done..];
        flushes += 1;
    }
    assert_eq!(take_log(space.vttbr()).len(), flushes);
    assert!(flushes <= 2, "{flushes}");
    settle(memory);
    assert_sound(memory, &[&space]);
}

#[test]
fn a_gigabyte_mapped_as_pages_leaves_by_one_store() {
    let (memory, space) = space(2 * BLOCK_1G, 2 * BLOCK_1G);
    for page in 0..2048 {
        space.populate(at(page * PAGE_SIZE * 100), Order::PAGE).unwrap();
    }
    assert_sound(memory, &[&space]);
    take_log(space.vttbr());
    let taken = space.take_range(at(0)..at(BLOCK_1G), Mark::Ballooned).unwrap();
    assert_eq!(level_of(&space, memory, at(0)), Err((Level::One, Mark::Ballooned)));
    if cfg!(not(feature = "no-tlbi")) {
        assert_eq!(take_log(space.vttbr()), [Invalidation::Vmid { vttbr: space.vttbr() }]);
    }
    // The audit does not mind that its frames are still to be retired.
    let report = audit(memory, &[&space]);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.unsettled, 2048);
    taken.flushed.retire();
    settle(memory);
    assert_eq!(memory.counts().guest(guest(0)).frames, 0);
    assert_sound(memory, &[&space]);
    // And the mark of a gigabyte is split as that of a block is.
    space.return_pages(&[at(MIB)]).unwrap().1.retire();
    assert_eq!(space.populate(at(MIB), Order::BLOCK_2M), Ok(Populated::Mapped(Order::PAGE)));
    assert_eq!(space.populate(at(0), Order::BLOCK_2M), Err(PopulateError::Ballooned));
    assert_eq!(space.populate(at(512 * MIB), Order::BLOCK_2M), Err(PopulateError::Ballooned));
    assert_sound(memory, &[&space]);
}

#[test]
fn ragged_ranges_take_what_they_name_and_no_more() {
    let (memory, space) = space(64 * MIB, 16 * MIB);
    for block in 0..8 {
        space.populate(at(block * BLOCK_2M), Order::BLOCK_2M).unwrap();
    }
    let range = at(MIB)..at(5 * MIB + 4096);
    let (mut left, mut steps) = (range.clone(), 0);
    while !left.is_empty() {
        let taken = space.take_range(left.clone(), Mark::Empty).unwrap();
        left.start = taken.next.unwrap_or(left.end);
        taken.flushed.retire();
        steps += 1;
    }
    assert!(steps > 1, "257 pages are more than one bounded step takes");
    for page in 0..(16 * MIB / PAGE_SIZE) {
        let ipa = at(page * PAGE_SIZE);
        let mapped = level_of(&space, memory, ipa).is_ok();
        assert_eq!(mapped, !range.contains(&ipa), "{ipa}");
    }
    settle(memory);
    assert_sound(memory, &[&space]);
}

#[test]
fn what_is_in_the_balloon_is_not_had_back_by_reporting_it_free() {
    let (memory, space) = space(64 * MIB, 16 * MIB);
    space.take_pages(&pages(0, 512)).unwrap().1.retire();
    space.populate(at(2 * MIB), Order::BLOCK_2M).unwrap();
    space.take_pages(&pages(512 + 7, 1)).unwrap().1.retire();
    let _ = space.take_reported(at(0)..at(4 * MIB)).unwrap().flushed.retire();
    let ballooned = |page| space.populate(at(page * PAGE_SIZE), Order::PAGE).is_err();
    assert!((0..512).all(ballooned));
    assert!((512..1024).all(|page| ballooned(page) == (page == 512 + 7)));
    settle(memory);
    assert_sound(memory, &[&space]);
}

#[test]
fn ranges_that_are_not_ram_are_refused() {
    let (memory, space) = space(64 * MIB, 16 * MIB);
    for range in [
        at(0)..at(17 * MIB),
        Ipa::new(0)..at(MIB),
        at(1)..at(MIB),
        at(MIB)..at(MIB + 1),
        at(2 * MIB)..at(MIB),
    ] {
        let refused = space.take_range(range, Mark::Empty).err();
        assert_eq!(refused, Some(TakeError::Outside));
    }
    assert_sound(memory, &[&space]);
}

#[test]
fn clearing_gives_every_frame_back() {
    let memory = memory(BLOCK_1G);
    let before = memory.counts();
    let space = space_in(memory, 3, 512 * MIB);
    for block in 0..100 {
        space.populate(at(block * BLOCK_2M), Order::BLOCK_2M).unwrap();
    }
    space.take_pages(&pages(1000, 3)).unwrap().1.retire();
    memory.quiesce(space.clear().unwrap());
    assert_eq!(memory.counts().free(), before.free());
    assert_eq!(memory.counts().guest(guest(3)).tables, 1, "the root");
    assert_sound(memory, &[&space]);
    drop(space);
    settle(memory);
    assert_eq!(memory.counts().tables(), 0);
    assert_sound(memory, &[]);
}

#[test]
fn pages_in_order_are_one_block_again() {
    let (memory, space) = space(64 * MIB, 16 * MIB);
    space.populate(at(2 * MIB), Order::BLOCK_2M).unwrap();
    space.write(at(2 * MIB + 5000), b"here").unwrap();
    assert!(space.coalesce(at(2 * MIB)).is_none(), "it is a block");
    // Empty a page and put the same frame back: the block was split and is complete again.
    let (_, flushed) = space.take_pages(&[at(3 * MIB)]).unwrap();
    flushed.retire();
    assert!(space.coalesce(at(2 * MIB)).is_none(), "a page is missing");
    space.return_pages(&[at(3 * MIB)]).unwrap().1.retire();
    settle(memory);
    let first = space.translate(&memory.pin(), at(2 * MIB)).unwrap().first();
    space.populate(at(3 * MIB), Order::PAGE).unwrap();
    let page = space.translate(&memory.pin(), at(3 * MIB)).unwrap().pa();
    assert_eq!(page, Pa::new(first.as_u64() + MIB), "the smallest free block is what was taken");
    space.coalesce(at(2 * MIB)).unwrap().retire();
    assert_eq!(level_of(&space, memory, at(2 * MIB)), Ok(Level::Two));
    let mut bytes = [0; 4];
    space.read(at(2 * MIB + 5000), &mut bytes).unwrap();
    assert_eq!(&bytes, b"here");
    settle(memory);
    assert_sound(memory, &[&space]);
}

#[test]
fn a_dump_groups_what_belongs_together() {
    let (memory, space) = space(64 * MIB, 16 * MIB);
    space.populate(at(0), Order::BLOCK_2M).unwrap();
    let next = space.translate(&memory.pin(), at(0)).unwrap().first().as_u64() + BLOCK_2M;
    space.populate(at(BLOCK_2M), Order::BLOCK_2M).unwrap();
    let consecutive =
        space.translate(&memory.pin(), at(BLOCK_2M)).unwrap().first().as_u64() == next;
    space.take_range(at(8 * MIB)..at(10 * MIB), Mark::Ballooned).unwrap().flushed.retire();
    let mut runs = Vec::new();
    space.dump(space.ram(), |run| runs.push(run.clone()));
    let mapped = if consecutive { 1 } else { 2 };
    assert_eq!(runs.len(), mapped + 3, "{runs:#?}");
    assert!(runs[..mapped].iter().all(|run| matches!(run.what, What::Mapped { .. })));
    assert_eq!(runs[mapped].what, What::Absent(Mark::Empty));
    assert_eq!(runs[mapped + 1].range, at(8 * MIB)..at(10 * MIB));
    assert_eq!(runs[mapped + 1].what, What::Absent(Mark::Ballooned));
    assert_eq!(runs[0].range.start, at(0));
    assert!(runs.windows(2).all(|pair| pair[0].range.end == pair[1].range.start));
    assert_eq!(runs.last().unwrap().range.end, at(16 * MIB));
}

#[test]
fn writes_reach_over_pages_and_are_read_back() {
    let (memory, space) = space(64 * MIB, 16 * MIB);
    let bytes: Vec<u8> = (0..10_000).map(|i| (i % 251) as u8).collect();
    space.write(at(2 * MIB - 5000), &bytes).unwrap();
    let mut back = vec![0; bytes.len()];
    space.read(at(2 * MIB - 5000), &mut back).unwrap();
    assert_eq!(back, bytes);
    // Reading what was never touched costs no memory.
    let before = memory.counts().guest_frames();
    space.read(at(10 * MIB), &mut back).unwrap();
    assert!(back.iter().all(|&byte| byte == 0));
    assert_eq!(memory.counts().guest_frames(), before);
    assert_sound(memory, &[&space]);
}

/// Wherever a bounded step ends, what it says that it has done is what it has done: a page that it marked for the sake
/// of its end is among it.
#[test]
fn a_step_that_ends_early_says_how_far_it_came() {
    let (memory, space) = space(64 * MIB, BLOCK_1G);
    let whole = space.extent();
    let end = at(511 * BLOCK_2M + PAGE_SIZE);
    let mut ended_early = 0;
    for first in 0..1024 {
        // Two tables of pages, and a last block of which one page is meant.
        let _ = space.take_range(whole.clone(), Mark::Ballooned).unwrap().flushed.retire();
        let _ = space.return_pages(&[at(PAGE_SIZE), at(BLOCK_2M + PAGE_SIZE)]).unwrap().1.retire();
        let returned = space.return_range(at(first * PAGE_SIZE)..end).unwrap();
        let reached = returned.next.unwrap_or(end);
        let _ = returned.flushed.retire();
        ended_early += u64::from(reached < end);
        let next = level_of(&space, memory, reached).expect_err("nothing is mapped").1;
        assert_eq!(next, Mark::Ballooned, "from page {first}: more was returned than is said");
        // The same for what is taken, beginning with what is empty.
        let _ = space.take_range(whole.clone(), Mark::Empty).unwrap().flushed.retire();
        let _ = space.take_pages(&[at(PAGE_SIZE), at(BLOCK_2M + PAGE_SIZE)]).unwrap().1.retire();
        let taken = space.take_range(at(first * PAGE_SIZE)..end, Mark::Ballooned).unwrap();
        let reached = taken.next.unwrap_or(end);
        let _ = taken.flushed.retire();
        let next = level_of(&space, memory, reached).expect_err("nothing is mapped").1;
        assert_eq!(next, Mark::Empty, "from page {first}: more was taken than is said");
    }
    assert!(ended_early > 0);
    assert_sound(memory, &[&space]);
}

/// Whoever removes the last of what a guest can have is done when that is gone, however little of its last GiB is memory.
#[test]
fn removing_the_end_ends_there() {
    let memory = memory(192 * MIB);
    for (number, more) in [2, 130, 256, 512, 1022].into_iter().enumerate() {
        let space = space_with_hotplug(memory, number, BLOCK_1G, BLOCK_1G + more * MIB);
        let region = space.ram().end..space.extent().end;
        let tables = memory.counts().guest(guest(number)).tables;
        for piece in [2, 128] {
            let start = Ipa::new(region.end.as_u64() - (piece * MIB).min(more * MIB));
            let mut from = start;
            while let Some(next) = space.add(from..region.end, Fill::Ready).unwrap().next {
                from = next;
            }
            let mut rest = start..region.end;
            let mut steps = 0;
            loop {
                steps += 1;
                assert!(steps < 100, "{more} MiB: it does not end");
                let taken = space.take_range(rest.clone(), Mark::Unplugged).unwrap();
                let next = taken.next;
                taken.flushed.retire();
                match next {
                    Some(next) => {
                        assert!(rest.contains(&next), "{more} MiB: {next} of {rest:?}");
                        rest.start = next;
                    }
                    None => break,
                }
            }
            settle(memory);
            assert_eq!(space.present(region.clone()), 0);
            assert_eq!(memory.counts().guest(guest(number)).tables, tables, "a table is left");
            assert_sound(memory, &[&space]);
        }
    }
}
