//! The only free frame there is changes hands, while software walks to where it was.
#![expect(unsafe_code, reason = "a guest's stores")]

use super::*;
use crate::mem::{Clean, Order};

const MINE: u64 = 0x1111;
const OTHERS: u64 = 0x2222;

/// Stores `value` at the first address of its RAM as the guest, when it has memory there.
fn store(space: &Space<'_>, value: u64) -> bool {
    let _ = space.populate(at(0), Order::PAGE);
    let stored = tlb::access_with(space.vttbr(), at(0), |pa| {
        // SAFETY: the frame is in the arena, which is never freed; the scene is about whose it is.
        unsafe { arch::memory::pointer(pa).cast::<Word>().as_ref() }.store(value, Ordering::SeqCst);
    });
    stored.is_some()
}

/// Reads there by walks, which find the guest's own or nothing.
fn look(space: &Space<'_>) {
    let mut bytes = [0; 8];
    if space.read(at(0), &mut bytes).is_ok() {
        let found = u64::from_le_bytes(bytes);
        assert!(found == 0 || found == MINE, "a walk read what is not the guest's");
    }
}

pub(super) fn scene() {
    let memory = fresh(4 << 20);
    let [one, two] = [0, 1].map(|number| Arc::new(space_of(memory, number, BLOCK_2M)));
    assert!(store(&one, MINE), "there is memory");
    // So that what the one guest loses is what the other gets.
    let mut hoard: Vec<Clean> = Vec::new();
    for order in (0..10).rev().filter_map(Order::new) {
        hoard.extend(core::iter::from_fn(|| memory.allocate(order).ok()));
    }
    let seen = one.clone();
    let mut threads = vec![on(4, move || (0..3).for_each(|_| look(&seen)))];
    // Another walker, elsewhere, that comes and goes.
    threads.push(on(5, move || (0..3).for_each(|_| drop(memory.pin()))));
    let (gives, takes) = (one.clone(), two.clone());
    threads.push(on(0, move || {
        let (_, flushed) = gives.take_pages(&[at(0)]).expect("there is room for a table");
        flushed.retire();
        for _ in 0..12 {
            memory.idle_step();
            if store(&takes, OTHERS) {
                break;
            }
        }
    }));
    join(threads);
    hoard.into_iter().for_each(|block| memory.give_back(block));
    for space in [&one, &two] {
        let _ = tlb::take_log(space.vttbr());
    }
    settle(memory);
    assert_sound(memory, &[&one, &two]);
}
