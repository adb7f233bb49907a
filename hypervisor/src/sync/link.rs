//! Descriptors that lead to tables: written by one, followed by many.

use super::{AtomicU64, Edge, Ordering, ordering};

/// Writes a descriptor. What it leads to is written before.
#[inline(always)]
pub fn publish(slot: &AtomicU64, bits: u64) {
    // Release: pairs with the acquire of `follow`.
    slot.store(bits, ordering(Edge::LinkRelease, Ordering::Release));
}

/// Reads a descriptor, to go on where it leads.
#[inline(always)]
pub fn follow(slot: &AtomicU64) -> u64 {
    // Acquire: pairs with the release of `publish`. Forbids that the link is seen, and what was written to the table
    // before it was linked is not.
    slot.load(ordering(Edge::LinkAcquire, Ordering::Acquire))
}

#[cfg(all(test, loom))]
mod model {
    use super::*;
    use crate::epoch::model::{check, is_caught};
    use loom::sync::Arc;
    use loom::thread;

    /// A table is filled and linked, while a walker follows the link.
    fn walker_and_writer() {
        let shared = Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
        let writer = thread::spawn({
            let shared = shared.clone();
            move || {
                let (slot, part) = &*shared;
                part.store(7, Ordering::Relaxed);
                publish(slot, 1);
            }
        });
        let (slot, part) = &*shared;
        if follow(slot) == 1 {
            assert_eq!(follow(part), 7, "a lookup found a table that is not filled");
        }
        writer.join().expect("a model stops at its first panic");
    }

    /// The same, and a third changes a flag of the link meanwhile.
    fn walker_writer_and_flag() {
        let shared = Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
        let writer = thread::spawn({
            let shared = shared.clone();
            move || {
                let (slot, part) = &*shared;
                part.store(7, Ordering::Relaxed);
                publish(slot, 1);
            }
        });
        let flag = thread::spawn({
            let shared = shared.clone();
            move || shared.0.compare_exchange(1, 3, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        });
        let (slot, part) = &*shared;
        if follow(slot) != 0 {
            assert_eq!(follow(part), 7, "a lookup found a table that is not filled");
        }
        writer.join().expect("a model stops at its first panic");
        flag.join().expect("a model stops at its first panic");
    }

    #[test]
    fn who_follows_a_link_finds_the_table_filled() {
        check(walker_and_writer, None, None).expect("the protocol holds");
    }

    #[test]
    fn an_exchange_passes_on_what_the_release_before_it_ordered() {
        check(walker_writer_and_flag, None, None).expect("the protocol holds");
    }

    #[test]
    fn without_either_order_it_fails() {
        is_caught(walker_and_writer, "link", Edge::LinkRelease, None);
        is_caught(walker_and_writer, "link", Edge::LinkAcquire, None);
    }
}
