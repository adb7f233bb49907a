//! A block is touched by several vCPUs, none of which waits, while it is split and joined.

use super::*;
use crate::addr::PAGE_SIZE;
use crate::mem::Order;

const MEMORY: u64 = 8 << 20;

fn touch(space: &Space<'_>) {
    let ipa = at([0, 1, 511][below(3) as usize] * PAGE_SIZE);
    let found = tlb::access(space.vttbr(), ipa);
    let sound = tlb::check_break_before_make(space.vttbr(), ipa);
    assert_eq!(sound, Ok(()), "one valid entry took the place of another");
    if found.is_none() {
        let done = space.populate(ipa, Order::BLOCK_2M);
        assert!(matches!(done, Ok(Populated::Mapped(_) | Populated::Already)), "{done:?}");
    }
}

pub(super) fn scene() {
    let memory = fresh(MEMORY);
    let space = Arc::new(space_of(memory, 0, BLOCK_2M));
    let changing = Arc::new(AtomicBool::new(true));
    let mut threads: Vec<_> = (0..2)
        .map(|cpu| {
            let (space, changing) = (space.clone(), changing.clone());
            on(cpu, move || {
                while changing.load(Ordering::Relaxed) {
                    touch(&space);
                    thread::yield_now();
                }
            })
        })
        .collect();
    let changed = space.clone();
    threads.push(on(3, move || {
        for _ in 0..3 {
            let _ = changed.split_block(at(0));
            if let Some(flushed) = changed.coalesce(at(0)) {
                flushed.retire();
            }
        }
        changing.store(false, Ordering::Relaxed);
    }));
    join(threads);
    assert_eq!(tlb::check(space.vttbr()), Ok(()));
    let _ = tlb::take_log(space.vttbr());
    settle(memory);
    assert_sound(memory, &[&space]);
}
