//! Which of its memory a guest uses: the access flag of its descriptors (Arm ARM, D8.5.2), looked at in
//! passes.
//!
//! A pass clears the flag of every page and block that it finds set. What has it again in the next pass was used in
//! between: the CPU has set it where it has FEAT_HAFDBS; elsewhere the access has faulted, and the fault has set it
//! ([`note`]). Of tables of pages one in [`SAMPLE`] is looked at and stands for its neighbours, so that a pass over a
//! guest that is mapped by pages costs it few faults.
//!
//! It takes no lock and waits for nobody. A flag is changed by a compare-and-exchange on the descriptor that was
//! read: if an edit has written another one meanwhile, that stays. An edit that writes over the change loses a
//! flag, which is a guess less right, and nothing else; and a table that was taken out is not reused while the step
//! is pinned, and its frames are told by their addresses. A flag may change without break-before-make (D8.16.1).
//!
//! A TLB may hold a translation from before and go on using it unnoticed, so a pass that cleared something ends by
//! invalidating the guest's, once. What is used between the two is not seen.

use super::descriptor::{ACCESS_FLAG, Level};
use super::space::Space;
use super::walk::Place;
use crate::addr::{Ipa, PAGE_SIZE};
use crate::arch;
use crate::sync::Ordering;
use crate::tally::{Event, count};
use crate::trace;

/// How many entries a step looks at.
const STEP: usize = 256;
/// Of so many pages one is looked at.
pub const SAMPLE: u64 = 16;

/// What a pass has seen, in bytes.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Accessed {
    /// Mapped.
    pub mapped: u64,
    /// Of that, used since the pass before.
    pub used: u64,
}

/// A pass over a guest's memory, in bounded steps.
#[derive(Clone, Debug)]
pub struct AccessPass {
    at: Ipa,
    seen: Accessed,
    cleared: bool,
}

impl AccessPass {
    /// Begins a pass over all that `space` can have.
    pub fn new(space: &Space<'_>) -> Self {
        Self { at: space.extent().start, seen: Accessed::default(), cleared: false }
    }

    /// Looks at 256 entries of `space`, the same as before; gives what was seen when that was the last of them.
    pub fn step(&mut self, space: &Space<'_>) -> Option<Accessed> {
        let end = space.extent().end;
        let pin = space.memory.pin();
        for _ in 0..STEP {
            if self.at >= end {
                drop(pin);
                if self.cleared {
                    arch::tlb::invalidate_vmid(space.vttbr());
                }
                return Some(self.seen);
            }
            self.look(&space.root(&pin).find(self.at));
        }
        None
    }

    /// Looks at the entry at `place`, and goes on behind what it stands for.
    fn look(&mut self, place: &Place<'_>) {
        let bytes = match place.level() {
            Level::Three => SAMPLE * PAGE_SIZE,
            larger => larger.order().bytes(),
        };
        let mapped = place.leaf(self.at).is_ok();
        // Less than the whole only at the beginning and the end of memory.
        self.at = Ipa::new(self.at.align_down(bytes).as_u64().saturating_add(bytes));
        if !mapped {
            return;
        }
        self.seen.mapped += bytes;
        if place.bits & ACCESS_FLAG != 0 {
            self.seen.used += bytes;
            self.cleared |= exchange(place, place.bits & !ACCESS_FLAG);
        }
    }
}

/// Sets the access flag of the page or block at `place` where it is clear: an access to it has faulted.
#[inline]
pub(super) fn note(place: &Place<'_>) {
    if place.bits & ACCESS_FLAG == 0 && exchange(place, place.bits | ACCESS_FLAG) {
        // Seen by the table walker before the guest tries again.
        arch::barrier::dsb_ishst();
    }
}

/// Writes `bits` at `place` if it still says what it said.
fn exchange(place: &Place<'_>, bits: u64) -> bool {
    count(Event::Write, 1);
    // Relaxed: it goes on with what a release wrote, for whoever reads it, and adds nothing that is read through it.
    let exchanged =
        place.slot.compare_exchange(place.bits, bits, Ordering::Relaxed, Ordering::Relaxed);
    if exchanged.is_ok() {
        trace::access_flag(place.slot, bits);
    }
    exchanged.is_ok()
}
