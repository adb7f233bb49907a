//! Frames taken and given back by several CPUs, while a range of them is taken offline and comes back.

use super::*;
use crate::addr::PAGE_SIZE;
use crate::mem::Order;

const MEMORY: u64 = 8 << 20;

/// Takes frames, as much of them as can be, and gives them back.
fn churn(memory: &Memory) {
    for _ in 0..4 {
        let orders = [Order::PAGE, Order::PAGE.doubled(), Order::PAGE.doubled().doubled()];
        let order = orders[below(3) as usize];
        if let Ok(block) = memory.allocate(order) {
            let cover = memory.frames().owner_of(block.first());
            assert_eq!(cover.head, block.first(), "a block in hand is a block");
            thread::yield_now();
            memory.give_back(block);
        }
    }
}

pub(super) fn scene() {
    let memory = fresh(MEMORY);
    let all = memory.frames().iter().last().expect("there is memory");
    let end = Pa::from_page(u64::from(all.head.number() + all.order.frames()));
    let range = Pa::new(end.as_u64() - BLOCK_2M)..end;
    let isolated = Arc::new(AtomicU64::new(0));
    let mut threads: Vec<_> = (0..2).map(|cpu| on(cpu, move || churn(memory))).collect();
    for cpu in 2..4 {
        let (range, isolated) = (range.clone(), isolated.clone());
        threads.push(on(cpu, move || {
            let Ok(mine) = memory.isolate(range) else { return };
            assert_eq!(isolated.fetch_add(1, Ordering::SeqCst), 0, "one range at a time");
            thread::yield_now();
            isolated.fetch_sub(1, Ordering::SeqCst);
            memory.release(mine);
        }));
    }
    threads.push(on(4, move || (0..12).for_each(|_| _ = memory.idle_step())));
    join(threads);
    while memory.idle_step() {}
    let counts = memory.counts();
    assert_eq!(counts.free() + counts.pool, MEMORY / PAGE_SIZE, "frames are lost");
    assert_eq!(counts.in_hand(), 0);
}
