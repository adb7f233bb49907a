//! A number that tells those who read without a lock whether anything was edited meanwhile.
//!
//! Writers take turns, by a lock that is not here. Readers read the number, then what they want, then the number again:
//! if it is the same, nothing was edited from the one to the other. (What Linux calls a sequence counter.)
//!
//! What an edit removed is retired after it, in bounded steps: its frames still count as the guest's, and those below
//! detached tables have records that still name it. There is no number before that is over.

use super::{AtomicU64, Edge, Ordering, fence_for, ordering};

/// How often something was edited.
pub struct Edits {
    /// The number of edits that have begun plus the number that have ended: odd while one is under way.
    edits: AtomicU64,
    /// How many removals are not retired yet.
    removals: AtomicU64,
}

impl Edits {
    /// Makes the number of what was never edited.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self { edits: AtomicU64::new(0), removals: AtomicU64::new(0) }
    }

    /// Makes the number of what was never edited.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self { edits: AtomicU64::new(0), removals: AtomicU64::new(0) }
    }

    /// Begins an edit. One at a time.
    pub fn begin(&self) {
        let edits = self.edits.load(Ordering::Relaxed);
        self.edits.store(edits + 1, Ordering::Relaxed);
        // Pairs with the acquire fence of `number`: who sees something of this edit sees that it has begun.
        fence_for(Edge::EditBegins, Ordering::Release);
    }

    /// Ends the edit.
    pub fn end(&self) {
        let edits = self.edits.load(Ordering::Relaxed);
        // Release: pairs with the acquire load of `number`. Who sees that it has ended sees all of it.
        self.edits.store(edits + 1, ordering(Edge::EditEnds, Ordering::Release));
    }

    /// Notes, in an edit, that what it removes is to be retired.
    pub fn begin_removal(&self) {
        self.removals.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that what an edit removed is retired. The edit may have ended or not.
    pub fn end_removal(&self) {
        // Release: pairs with the acquire of `number`. Who sees that it is over sees all that was noted of the frames.
        self.removals.fetch_sub(1, ordering(Edge::RemovalEnds, Ordering::Release));
    }

    /// Returns the number; `None` while an edit is under way, or what one removed is not retired.
    pub fn number(&self) -> Option<u64> {
        // Pairs with the release fence of `begin`: what was read before this saw nothing of an edit that is not counted
        // below.
        fence_for(Edge::EditsFence, Ordering::Acquire);
        let edits = self.edits.load(ordering(Edge::EditsAcquire, Ordering::Acquire));
        // After the edits: whose end was seen, its removal was seen to begin.
        let removals = self.removals.load(ordering(Edge::RemovalsAcquire, Ordering::Acquire));
        (edits.is_multiple_of(2) && removals == 0).then_some(edits)
    }
}

impl Default for Edits {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, loom))]
mod model {
    use super::*;
    use crate::epoch::model::{check, is_caught};
    use loom::sync::Arc;
    use loom::thread;

    /// One who edits two words, twice, and one who reads both: they are of one edit, or the reader knows.
    fn reader_and_writer() {
        let shared = Arc::new((Edits::new(), AtomicU64::new(0), AtomicU64::new(0)));
        let writer = thread::spawn({
            let shared = shared.clone();
            move || {
                for edit in 1..=2 {
                    shared.0.begin();
                    shared.1.store(edit, Ordering::Relaxed);
                    shared.2.store(edit, Ordering::Relaxed);
                    shared.0.end();
                }
            }
        });
        // A thread of its own, too: what the first thread loads first is of before the others began.
        let reader = thread::spawn(move || {
            let (edits, one, other) = &*shared;
            if let Some(before) = edits.number() {
                let both = (one.load(Ordering::Relaxed), other.load(Ordering::Relaxed));
                if edits.number() == Some(before) {
                    let of = before / 2;
                    assert_eq!(both, (of, of), "a lookup between edits saw half of one");
                }
            }
        });
        reader.join().expect("a model stops at its first panic");
        writer.join().expect("a model stops at its first panic");
    }

    /// One who takes a page out of its entry and then out of its record, and one who reads both: they are of one time, or
    /// the reader knows.
    fn reader_and_remover() {
        let shared = Arc::new((Edits::new(), AtomicU64::new(0), AtomicU64::new(0)));
        let remover = thread::spawn({
            let shared = shared.clone();
            move || {
                let (edits, entry, record) = &*shared;
                edits.begin();
                entry.store(1, Ordering::Relaxed);
                edits.begin_removal();
                edits.end();
                record.store(1, Ordering::Relaxed);
                edits.end_removal();
            }
        });
        let reader = thread::spawn(move || {
            let (edits, entry, record) = &*shared;
            if let Some(before) = edits.number() {
                let both = (entry.load(Ordering::Relaxed), record.load(Ordering::Relaxed));
                if edits.number() == Some(before) {
                    assert_eq!(both.0, both.1, "a lookup between edits saw half of a removal");
                }
            }
        });
        reader.join().expect("a model stops at its first panic");
        remover.join().expect("a model stops at its first panic");
    }

    #[test]
    fn who_reads_before_what_was_removed_is_retired_knows_it() {
        check(reader_and_remover, None, None).expect("the protocol holds");
    }

    #[test]
    fn without_either_order_of_removals_it_fails() {
        is_caught(reader_and_remover, "removals", Edge::RemovalEnds, None);
        is_caught(reader_and_remover, "removals", Edge::RemovalsAcquire, None);
    }

    #[test]
    fn who_reads_between_two_edits_knows_it() {
        check(reader_and_writer, None, None).expect("the protocol holds");
    }

    #[test]
    fn without_any_of_its_four_orders_it_fails() {
        for edge in [Edge::EditBegins, Edge::EditEnds, Edge::EditsFence, Edge::EditsAcquire] {
            is_caught(reader_and_writer, "edits", edge, None);
        }
    }
}
