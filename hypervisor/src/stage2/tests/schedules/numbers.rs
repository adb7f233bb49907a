//! Tags of TLB entries: no two guests have the same, and a new guest finds nothing of an old one's.

use super::*;
use crate::mem::Order;
use crate::stage2::Vmid;

pub(super) fn scene() {
    let pool = Arc::new(VmidPool::new(8));
    let memory = fresh(4 << 20);
    // A guest that is gone has left something in the TLBs, and its number comes again in the next generation.
    let gone = pool.allocate().expect("none is used");
    let space = Space::new(memory, guest(0), gone, ram(BLOCK_2M)).expect("there is memory");
    space.populate(at(0), Order::PAGE).expect("there is memory");
    assert!(tlb::access(space.vttbr(), at(0)).is_some());
    pool.release(gone);
    for _ in 1..250 {
        pool.release(pool.allocate().expect("all are free"));
    }
    let threads: Vec<_> = (0..3)
        .map(|cpu| {
            let pool = pool.clone();
            on(cpu, move || {
                let mine: Vec<Vmid> = (0..3).filter_map(|_| pool.allocate()).collect();
                thread::yield_now();
                mine.into_iter().for_each(|vmid| pool.release(vmid));
            })
        })
        .collect();
    let kept: Vec<Vmid> = (0..3).filter_map(|_| pool.allocate()).collect();
    join(threads);
    let others: Vec<Vmid> = (0..3).filter_map(|_| pool.allocate()).collect();
    let mut numbers: Vec<_> = kept.iter().chain(&others).map(|vmid| vmid.number()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 6, "two guests have the same tag");
    let again = pool.allocate().expect("some are free");
    assert!(again.generation() > 0, "the numbers were used up");
    assert_eq!(tlb::cached(space.vttbr()), 0, "a new guest finds what an old one left");
    drop(space);
}
