//! A guest counts up words in its memory while that memory moves to other frames; no count is lost.
#![expect(unsafe_code, reason = "a guest's loads and stores")]

use super::*;
use crate::addr::{Frame, PAGE_SIZE};
use crate::mem::{Cover, Order, Owner};

const MEMORY: u64 = 6 << 20;
const RAM_BYTES: u64 = 2 << 20;
/// The pages in which it counts.
const COUNTED: [u64; 2] = [0, 1];

/// Counts up the word at `ipa` as the guest, which stored `last` there.
fn count_up(space: &Space<'_>, ipa: Ipa, last: u64) {
    loop {
        let done = tlb::access_with(space.vttbr(), ipa, |pa| {
            // SAFETY: the frame is in the arena, which is never freed; the scene is about which it is.
            let word = unsafe { arch::memory::pointer(pa).cast::<Word>().as_ref() };
            assert_eq!(word.load(Ordering::SeqCst), last, "what a guest wrote was lost");
            word.store(last + 1, Ordering::SeqCst);
        });
        if done.is_some() {
            return;
        }
        match space.populate(ipa, Order::PAGE) {
            Ok(Populated::Moving) => thread::yield_now(),
            Ok(_) => {}
            Err(error) => panic!("a page of RAM cannot be populated: {error:?}"),
        }
    }
}

/// Moves its first pages.
pub(super) fn move_some(memory: &Memory, space: &Space<'_>) {
    let covers: Vec<Cover> = (0..3)
        .filter_map(|page| {
            let pin = memory.pin();
            let leaf = space.translate(&pin, at(page * PAGE_SIZE)).ok()?;
            let cover = memory.frames().owner_of(Frame::containing(leaf.first())?);
            (cover.owner == Owner::Guest(space.guest())).then_some(cover)
        })
        .collect();
    let Ok(mut moving) = space.begin_move(&covers) else { return };
    while space.copy_some(&mut moving) {
        thread::yield_now();
    }
    if below(8) == 0 {
        space.cancel_move(moving);
    } else {
        space.finish_move(moving).flushed.retire();
    }
}

pub(super) fn scene() {
    let memory = fresh(MEMORY);
    let space = Arc::new(space_of(memory, 0, RAM_BYTES));
    for page in 0..3 {
        space.populate(at(page * PAGE_SIZE), Order::PAGE).expect("there is memory");
    }
    let moving = Arc::new(AtomicBool::new(true));
    let mut threads = Vec::new();
    for page in COUNTED {
        let space = space.clone();
        let moves = moving.clone();
        threads.push(on(page as usize, move || {
            let mut last = 0;
            while moves.load(Ordering::Relaxed) {
                count_up(&space, at(page * PAGE_SIZE), last);
                last += 1;
                thread::yield_now();
            }
        }));
    }
    let (moved, taken) = (space.clone(), space.clone());
    threads.push(on(3, move || {
        (0..3).for_each(|_| move_some(memory, &moved));
        moving.store(false, Ordering::Relaxed);
    }));
    threads.push(on(4, move || {
        // A page that nobody counts in comes and goes.
        for _ in 0..3 {
            if let Ok((_, flushed)) = taken.take_pages(&[at(2 * PAGE_SIZE)]) {
                flushed.retire();
            }
            if let Ok((_, flushed)) = taken.return_pages(&[at(2 * PAGE_SIZE)]) {
                flushed.retire();
            }
            let _ = taken.populate(at(2 * PAGE_SIZE), Order::PAGE);
        }
    }));
    threads.push(on(5, move || (0..12).for_each(|_| _ = memory.idle_step())));
    join(threads);
    assert_eq!(tlb::check(space.vttbr()), Ok(()));
    let _ = tlb::take_log(space.vttbr());
    settle(memory);
    assert_sound(memory, &[&space]);
}
