//! Evacuation: ranges are emptied while guests and others go on.
#![expect(unsafe_code, reason = "a guest's loads and stores")]

use super::super::{Mark, MoveError, PopulateError, Populated};
use super::*;
use crate::addr::{Frame, PAGE_SIZE, PaRange};
use crate::arch::cpu::{self, CpuId};
use crate::arch::tlb;
use crate::evacuation::{Evacuation, Progress, Refusal, Spaces};
use crate::mem::{Order, Owner, Use};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const MIB: u64 = 1 << 20;

/// The spaces of tests, by the guest's number.
pub(super) struct All<'a, S>(pub(super) &'a [S]);

impl<S: core::borrow::Borrow<Space<'static>>> Spaces for All<'_, S> {
    fn with(&self, guest: GuestId, with: &mut dyn FnMut(&Space<'_>)) {
        let mut spaces = self.0.iter().map(core::borrow::Borrow::borrow);
        if let Some(space) = spaces.find(|space| space.guest() == guest) {
            with(space);
        }
    }
}

/// Empties `range` to its end.
pub(super) fn evacuate(
    memory: &Memory,
    spaces: &[&Space<'static>],
    range: PaRange,
    purpose: Use,
) -> Progress {
    let mut evacuation = Evacuation::new(range, purpose);
    loop {
        match evacuation.step(memory, &All(spaces)) {
            Progress::Working => {
                memory.idle_step();
            }
            end => return end,
        }
    }
}

/// Brings all of `range` back.
pub(super) fn online(memory: &Memory, range: PaRange) -> u64 {
    let (mut from, mut frames) = (Some(range.start), 0);
    while let Some(at) = from {
        let (next, some) = memory.online_some(&range, at).unwrap();
        (from, frames) = (next, frames + some);
    }
    frames
}

fn pa_of(memory: &Memory, space: &Space<'_>, ipa: Ipa) -> Pa {
    space.translate(&memory.pin(), ipa).unwrap().pa()
}

/// The 2 MiB of memory that `pa` is in.
fn block_of(pa: Pa) -> PaRange {
    let start = pa.align_down(BLOCK_2M);
    start..Pa::new(start.as_u64() + BLOCK_2M)
}

fn owners(memory: &Memory, range: &PaRange) -> Vec<Owner> {
    let pages = range.start.page()..range.end.page();
    pages.map(|page| memory.frames().owner_of(Frame::new(page as u32)).owner).collect()
}

#[test]
#[cfg_attr(feature = "no-tlbi", should_panic)]
fn a_block_moves_as_a_block_and_its_range_is_nobodys_until_it_is_online() {
    let (memory, space) = space(64 * MIB, BLOCK_1G);
    space.populate(at(0), Order::BLOCK_2M).unwrap();
    space.write(at(5 * PAGE_SIZE), b"stays").unwrap();
    let before = memory.counts();
    let range = block_of(pa_of(memory, &space, at(0)));
    assert!(tlb::access(space.vttbr(), at(0)).is_some());
    assert_eq!(evacuate(memory, &[&space], range.clone(), Use::Offline), Progress::Emptied);
    let leaf = space.translate(&memory.pin(), at(0)).unwrap().first();
    assert!(!range.contains(&leaf));
    assert_eq!(space.translate(&memory.pin(), at(0)).unwrap().order(), Order::BLOCK_2M);
    let mut bytes = [0; 5];
    space.read(at(5 * PAGE_SIZE), &mut bytes).unwrap();
    assert_eq!(&bytes, b"stays");
    assert!(owners(memory, &range).iter().all(|owner| *owner == Owner::Offline));
    assert_eq!(memory.counts().offline, 512);
    assert_eq!(tlb::check(space.vttbr()), Ok(()));
    settle(memory);
    assert_sound(memory, &[&space]);
    assert_eq!(online(memory, range), 512);
    settle(memory);
    assert_eq!((memory.counts().offline, memory.counts().free()), (0, before.free()));
    assert_sound(memory, &[&space]);
}

#[test]
fn pages_blocks_and_tables_of_a_range_move_and_everything_is_as_it_was_after_a_round() {
    let bytes = 64 * MIB;
    let (memory, space) = space(bytes, 32 * MIB);
    for page in (0..8 * MIB).step_by(PAGE_SIZE as usize) {
        let order = if page < 2 * MIB { Order::PAGE } else { Order::BLOCK_2M };
        space.populate(at(page), order).unwrap();
        space.write(at(page), &page.to_le_bytes()).unwrap();
    }
    let taken: Vec<_> = (0..512).step_by(3).map(|page| at(2 * MIB + page * PAGE_SIZE)).collect();
    space.take_pages(&taken).unwrap().1.retire();
    settle(memory);
    let free = memory.counts().free();
    let all = memory.frames().iter().next().unwrap().head.pa();
    // The first 2 MiB are the pool, with the root.
    let mut moved = 0;
    for start in (2 * MIB..bytes).step_by(2 * MIB as usize) {
        let start = Pa::new(all.as_u64() + start);
        let range = start..Pa::new(start.as_u64() + 2 * MIB);
        let mut evacuation = Evacuation::new(range.clone(), Use::Offline);
        while evacuation.step(memory, &All(&[&space])) == Progress::Working {
            memory.idle_step();
            let report = audit(memory, &[&space]);
            assert!(report.is_clean(), "{report:?}");
        }
        moved += evacuation.done().moved;
        assert_eq!(memory.counts().offline, 512, "{:?}", evacuation.done());
        assert!(owners(memory, &range).iter().all(|owner| *owner == Owner::Offline));
        assert_eq!(tlb::check(space.vttbr()), Ok(()));
        online(memory, range);
    }
    assert!(moved >= 2 * 512, "{moved}");
    for page in (0..8 * MIB).step_by(PAGE_SIZE as usize) {
        if !taken.contains(&at(page)) {
            let mut bytes = [0; 8];
            space.read(at(page), &mut bytes).unwrap();
            assert_eq!(u64::from_le_bytes(bytes), page);
        }
    }
    settle(memory);
    assert_eq!(memory.counts().free(), free);
    assert_sound(memory, &[&space]);
}

#[test]
#[cfg_attr(feature = "no-tlbi", should_panic)]
fn tables_are_replaced_by_copies_elsewhere() {
    let (memory, space) = space(64 * MIB, BLOCK_1G);
    for page in 0..8 {
        // A table each.
        space.populate(at(page * BLOCK_2M), Order::PAGE).unwrap();
        space.write(at(page * BLOCK_2M), &[page as u8 + 1]).unwrap();
    }
    let pin = memory.pin();
    let table = space.root(&pin).find(at(0)).table.pa();
    drop(pin);
    // Its 64 KiB: the root may not lie there.
    let start = table.align_down(PAGE_SIZE);
    let range = start..Pa::new(start.as_u64() + PAGE_SIZE);
    assert!(tlb::access(space.vttbr(), at(0)).is_some());
    assert_eq!(evacuate(memory, &[&space], range.clone(), Use::Offline), Progress::Emptied);
    assert_eq!(tlb::check(space.vttbr()), Ok(()));
    let pin = memory.pin();
    assert_ne!(space.root(&pin).find(at(0)).table.pa(), table);
    drop(pin);
    for page in 0..8 {
        let mut byte = [0];
        space.read(at(page * BLOCK_2M), &mut byte).unwrap();
        assert_eq!(byte, [page as u8 + 1]);
    }
    settle(memory);
    assert_sound(memory, &[&space]);
    let pool = memory.counts().pool;
    online(memory, range);
    assert_eq!(memory.counts().pool, pool + 1, "what EL2 reaches stays in the pool");
}

#[test]
fn what_cannot_move_is_named_and_nothing_changes() {
    let (memory, space) = space(16 * MIB, BLOCK_1G);
    space.populate(at(0), Order::BLOCK_2M).unwrap();
    settle(memory);
    let (before, runs) = (memory.counts(), memory.frames().iter().count());
    let root = Pa::new(space.vttbr() & 0xffff_ffff_f000);
    let around = block_of(root);
    let refused = evacuate(memory, &[&space], around, Use::Offline);
    assert_eq!(refused, Progress::Refused(Refusal::Root(space.guest(), root)));
    let own = memory.hypervisor_frame().unwrap();
    let range = own.pa()..Pa::new(own.pa().as_u64() + PAGE_SIZE);
    let refused = evacuate(memory, &[&space], range.clone(), Use::Never);
    assert_eq!(refused, Progress::Refused(Refusal::Fixed(range)));
    memory.give_back_hypervisor(own);
    settle(memory);
    let nowhere = Pa::new(0)..Pa::new(PAGE_SIZE);
    let refused = evacuate(memory, &[&space], nowhere.clone(), Use::Offline);
    assert_eq!(refused, Progress::Refused(Refusal::NotMemory(nowhere)));
    assert_eq!(memory.counts().free(), before.free());
    assert_eq!(memory.frames().iter().count(), runs);
    assert_sound(memory, &[&space]);
}

#[test]
fn a_range_for_which_there_is_no_room_elsewhere_is_as_it_was() {
    let (memory, space) = space(16 * MIB, 12 * MIB);
    let mut page = 0;
    while space.populate(at(page), Order::BLOCK_2M).is_ok() && page < 12 * MIB {
        space.write(at(page), &page.to_le_bytes()).unwrap();
        page += BLOCK_2M;
    }
    settle(memory);
    let before = memory.counts();
    let range = block_of(pa_of(memory, &space, at(0)));
    let wide = range.start.min(Pa::new(range.start.as_u64() - 2 * MIB))..range.end;
    for range in [range, wide] {
        let refused = evacuate(memory, &[&space], range, Use::Offline);
        match refused {
            Progress::Emptied | Progress::Refused(Refusal::NoRoom { .. } | Refusal::Root(..)) => {}
            other => panic!("{other:?}"),
        }
    }
    settle(memory);
    let after = memory.counts();
    assert_eq!(after.free() + after.offline, before.free());
    assert_sound(memory, &[&space]);
}

#[test]
fn cancelled_at_any_step_everything_is_free_again() {
    for steps in 0..80 {
        let (memory, space) = (memory(8 * MIB), ());
        let () = space;
        let space = space_in(memory, 0, 32 * MIB);
        space.populate(at(0), Order::BLOCK_2M).unwrap();
        space.write(at(PAGE_SIZE), b"here").unwrap();
        for page in 0..20 {
            space.populate(at(BLOCK_2M + page * PAGE_SIZE), Order::PAGE).unwrap();
        }
        settle(memory);
        let before = memory.counts();
        let range = block_of(pa_of(memory, &space, at(0)));
        let mut evacuation = Evacuation::new(range, Use::Offline);
        let spaces = All(&[&space]);
        let mut progress = Progress::Working;
        for _ in 0..steps {
            progress = evacuation.step(memory, &spaces);
        }
        evacuation.cancel(memory, &spaces);
        while progress == Progress::Working {
            progress = evacuation.step(memory, &spaces);
        }
        let mut bytes = [0; 4];
        space.read(at(PAGE_SIZE), &mut bytes).unwrap();
        assert_eq!(&bytes, b"here");
        settle(memory);
        let after = memory.counts();
        assert_eq!(after.free() + after.offline, before.free(), "{steps}: {progress:?}");
        assert!(progress == Progress::Emptied || after.offline == 0);
        assert_sound(memory, &[&space]);
        if progress == Progress::Emptied {
            return;
        }
    }
    panic!("80 steps are enough for 2 MiB");
}

#[test]
#[cfg_attr(feature = "no-tlbi", should_panic)]
fn a_poisoned_page_is_lost_to_its_guest_alone_and_a_fresh_one_comes_with_a_new_start() {
    let (memory, space) = space(64 * MIB, BLOCK_1G);
    space.populate(at(0), Order::BLOCK_2M).unwrap();
    space.write(at(0), b"kept").unwrap();
    let page = pa_of(memory, &space, at(3 * PAGE_SIZE));
    let range = page..Pa::new(page.as_u64() + PAGE_SIZE);
    assert!(tlb::access(space.vttbr(), at(3 * PAGE_SIZE)).is_some());
    assert_eq!(evacuate(memory, &[&space], range.clone(), Use::Never), Progress::Emptied);
    assert_eq!(owners(memory, &range), [Owner::Bad]);
    assert_eq!(memory.counts().bad, 1);
    assert_eq!(tlb::check(space.vttbr()), Ok(()));
    let poisoned = at(3 * PAGE_SIZE);
    assert_eq!(space.populate(poisoned, Order::PAGE), Err(PopulateError::Poisoned));
    assert!(space.read(poisoned, &mut [0]).is_err());
    assert!(space.write(poisoned, &[0]).is_err());
    let mut bytes = [0; 4];
    space.read(at(0), &mut bytes).unwrap();
    assert_eq!(&bytes, b"kept");
    // The balloon does not bring it back.
    space.take_pages(&[poisoned]).unwrap().1.retire();
    space.return_pages(&[poisoned]).unwrap().1.retire();
    space.take_reported(at(0)..at(BLOCK_2M)).unwrap().flushed.retire();
    assert_eq!(space.populate(poisoned, Order::PAGE), Err(PopulateError::Poisoned));
    assert_eq!(memory.online_some(&range, range.start), Ok((None, 0)), "never used again");
    space.clear().unwrap();
    assert!(space.populate(poisoned, Order::PAGE).is_ok());
    settle(memory);
    assert_sound(memory, &[&space]);
    assert_eq!(owners(memory, &range), [Owner::Bad]);
}

#[test]
fn a_free_frame_that_is_poisoned_is_bad_at_once() {
    let memory = memory(8 * MIB);
    settle(memory);
    let block = memory.allocate(Order::PAGE).unwrap();
    let frame = block.first();
    memory.give_back(block);
    let range = frame.pa()..Pa::new(frame.pa().as_u64() + PAGE_SIZE);
    let free = memory.counts().free();
    assert_eq!(evacuate(memory, &[], range.clone(), Use::Never), Progress::Emptied);
    assert_eq!((memory.counts().free(), memory.counts().bad), (free - 1, 1));
    assert_eq!(evacuate(memory, &[], range, Use::Never), Progress::Emptied, "it is already");
    assert_sound(memory, &[]);
}

/// Moves the first block of a space by hand, with something in between.
fn overtaken(between: impl Fn(&Space<'static>)) -> (&'static Memory, Space<'static>, u64) {
    let (memory, space) = space(64 * MIB, BLOCK_1G);
    space.populate(at(0), Order::BLOCK_2M).unwrap();
    space.write(at(0), b"before").unwrap();
    let frame = space.translate(&memory.pin(), at(0)).unwrap().frame().unwrap();
    let cover = memory.frames().owner_of(frame);
    let mut moving = space.begin_move(&[cover]).unwrap();
    while space.copy_some(&mut moving) {}
    between(&space);
    let moved = space.finish_move(moving);
    let frames = moved.frames;
    let _ = moved.flushed.retire();
    settle(memory);
    assert_sound(memory, &[&space]);
    assert_eq!(tlb::check(space.vttbr()), Ok(()));
    (memory, space, frames)
}

#[test]
fn what_others_do_to_a_block_that_is_moving_counts() {
    let (_, _, frames) = overtaken(|space| {
        assert_eq!(space.populate(at(0), Order::PAGE), Ok(Populated::Moving));
        assert_eq!(tlb::access(space.vttbr(), at(0)), None, "the hardware faults");
        let mut bytes = [0; 6];
        space.read(at(0), &mut bytes).unwrap();
        assert_eq!(&bytes, b"before", "readers do not wait");
    });
    assert_eq!(frames, 512);
    let (_, space, frames) = overtaken(|space| space.write(at(0), b"after!").unwrap());
    let mut bytes = [0; 6];
    space.read(at(0), &mut bytes).unwrap();
    assert_eq!((frames, &bytes), (0, b"after!"));
    let (_, space, frames) = overtaken(|space| {
        space.take_pages(&[at(PAGE_SIZE)]).unwrap().1.retire();
    });
    assert_eq!(frames, 0);
    assert!(space.read(at(PAGE_SIZE), &mut [0]).is_err());
    let (memory, space, frames) = overtaken(|space| {
        space.take_range(at(0)..at(BLOCK_1G), Mark::Empty).unwrap().flushed.retire();
    });
    assert_eq!((frames, memory.counts().guest(space.guest()).frames), (0, 0));
}

#[test]
fn a_block_that_is_gone_is_not_moved() {
    let (memory, space) = space(64 * MIB, BLOCK_1G);
    space.populate(at(0), Order::BLOCK_2M).unwrap();
    let frame = space.translate(&memory.pin(), at(0)).unwrap().frame().unwrap();
    let cover = memory.frames().owner_of(frame);
    space.take_pages(&[at(0)]).unwrap().1.retire();
    assert_eq!(space.begin_move(&[cover]).err(), Some(MoveError::Gone));
    memory.fail_after(0);
    assert!(matches!(space.begin_move(&[cover]), Err(MoveError::OutOfMemory(_))));
    memory.fail_never();
    settle(memory);
    assert_sound(memory, &[&space]);
}

/// A writer in software that has found where to write, and is slow.
#[test]
#[cfg_attr(feature = "no-grace", should_panic(expected = "a write is lost"))]
fn a_write_that_began_before_a_move_is_not_lost() {
    let (memory, space) = space(64 * MIB, BLOCK_1G);
    space.populate(at(0), Order::PAGE).unwrap();
    cpu::set_current(CpuId::new(1).unwrap());
    let pin = memory.pin();
    let frame = space.translate(&pin, at(0)).unwrap().frame().unwrap();
    cpu::set_current(CpuId::new(0).unwrap());
    let mut moving = space.begin_move(&[memory.frames().owner_of(frame)]).unwrap();
    for _ in 0..100 {
        assert!(space.copy_some(&mut moving) || cfg!(feature = "no-grace"));
    }
    // SAFETY: the writer is pinned, and found the frame mapped.
    unsafe { arch::memory::pointer(frame.pa()).write_volatile(7) };
    drop(pin);
    while space.copy_some(&mut moving) {}
    let moved = space.finish_move(moving);
    assert_eq!(moved.frames, 1);
    let _ = moved.flushed.retire();
    let mut byte = [0];
    space.read(at(0), &mut byte).unwrap();
    assert_eq!(byte, [7], "a write is lost");
}

/// Guests count in their pages, through TLBs; devices count in others, through [`Space::write`]; and all of memory is
/// emptied, range after range. No count is ever behind.
#[test]
#[cfg_attr(feature = "no-tlbi", should_panic)]
fn no_write_is_lost_while_everything_moves() {
    const RAM_BYTES: u64 = 8 * MIB;
    let memory = memory(32 * MIB);
    let spaces = [0, 1].map(|number| space_in(memory, number, RAM_BYTES));
    for space in &spaces {
        for page in (0..RAM_BYTES).step_by(PAGE_SIZE as usize) {
            let order = if page < 2 * MIB { Order::PAGE } else { Order::BLOCK_2M };
            space.populate(at(page), order).unwrap();
        }
    }
    let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    let (stop, rounds, spaces) = (&stop, &rounds, &spaces);
    std::thread::scope(|scope| {
        for (index, space) in spaces.iter().enumerate() {
            let guest = move || {
                cpu::set_current(CpuId::new(1 + index).unwrap());
                let mut counts = [0_u64; 64];
                let mut turn = 0;
                while !stop.load(Ordering::Relaxed) {
                    turn = (turn * 5 + 1) % 64;
                    let ipa = at(turn as u64 * (RAM_BYTES / 64) + 8);
                    let count = &mut counts[turn];
                    let done = tlb::access_with(space.vttbr(), ipa, |pa| {
                        // SAFETY: the frame is in the arena, which is never freed.
                        let word =
                            unsafe { arch::memory::pointer(pa).cast::<AtomicU64>().as_ref() };
                        assert_eq!(word.load(Ordering::SeqCst), *count, "a guest's write is lost");
                        word.store(*count + 1, Ordering::SeqCst);
                    });
                    *count += u64::from(done.is_some());
                    assert_eq!(tlb::check_break_before_make(space.vttbr(), ipa), Ok(()));
                    if done.is_none() {
                        std::thread::yield_now();
                    }
                }
            };
            let device = move || {
                cpu::set_current(CpuId::new(3 + index).unwrap());
                let mut counts = [0_u64; 64];
                let mut turn = 0;
                while !stop.load(Ordering::Relaxed) {
                    turn = (turn * 5 + 1) % 64;
                    let ipa = at(turn as u64 * (RAM_BYTES / 64) + 16);
                    let mut bytes = [0; 8];
                    space.read(ipa, &mut bytes).unwrap();
                    assert_eq!(u64::from_le_bytes(bytes), counts[turn], "a device's write is lost");
                    counts[turn] += 1;
                    if space.write(ipa, &counts[turn].to_le_bytes()).is_err() {
                        counts[turn] -= 1;
                    }
                    // A device is not at it all the time.
                    std::thread::sleep(core::time::Duration::from_micros(300));
                }
            };
            for work in [Box::new(guest) as Box<dyn FnOnce() + Send>, Box::new(device)] {
                scope.spawn(move || {
                    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
                    if let Err(failure) = done {
                        stop.store(true, Ordering::Relaxed);
                        std::panic::resume_unwind(failure);
                    }
                });
            }
        }
        scope.spawn(move || {
            cpu::set_current(CpuId::new(0).unwrap());
            let both = [&spaces[0], &spaces[1]];
            let start = memory.frames().iter().next().unwrap().head.pa().as_u64();
            let deadline = std::time::Instant::now() + std::time::Duration::from_millis(1500);
            while !stop.load(Ordering::Relaxed) && std::time::Instant::now() < deadline {
                for block in 1..8 {
                    let first = Pa::new(start + block * 4 * MIB);
                    let range = first..Pa::new(first.as_u64() + 4 * MIB);
                    if evacuate(memory, &both, range.clone(), Use::Offline) == Progress::Emptied {
                        rounds.fetch_add(1, Ordering::Relaxed);
                        assert!(owners(memory, &range).iter().all(|one| *one == Owner::Offline));
                        online(memory, range);
                    }
                    let report = audit(memory, &both);
                    if !report.is_clean() {
                        stop.store(true, Ordering::Relaxed);
                        panic!("{report:?}");
                    }
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
    });
    println!("{rounds:?} ranges were emptied");
    assert!(rounds.load(Ordering::Relaxed) > 0);
    settle(memory);
    assert_sound(memory, &[&spaces[0], &spaces[1]]);
}
