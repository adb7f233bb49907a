//! What a guest may try against its hypervisor. Each test passes when the guest lives and the devices still answer:
//! whatever it has broken, it has broken for itself, and a reset of the device mends it.

pub mod attack;
pub mod blocks;
pub mod calls;
pub mod mmio;
pub mod pages;
pub mod queues;
pub mod registers;
pub mod rings;
pub mod storms;
pub mod walks;

use crate::memory::{PAGE, Range};
use crate::outcome::Outcome;
use crate::run::Stub;
use crate::tests::balloon::{Seen, expect, fill};
use crate::virtio::balloon::{Balloon, feature, fresh_block};
use spin::Once;

/// Pages for [`still_works`], the same every time.
static PAGES: Once<Option<Range>> = Once::new();

/// Ends the test unless the balloon, after a reset, takes pages and gives them back as ever.
pub fn still_works(stub: &Stub, after: &str) -> Outcome {
    let mut balloon = Balloon::open(stub, feature::MUST_TELL_HOST)?;
    let pages =
        *PAGES.call_once(|| fresh_block().ok().map(|block| Range::sized(block.start, 16 * PAGE)));
    let Some(pages) = pages else { skip!("no untouched memory left") };
    fill(pages);
    let done = balloon.give(pages).and_then(|()| balloon.take_back(pages));
    ensure!(done.is_ok(), "{after}: the balloon no longer answers");
    expect(pages, after, |seen| seen == Seen::Zero)
}

/// A cheap generator of numbers that are the same in every run of a seed.
pub struct Random(u64);

impl Random {
    /// Begins with the `seed` of the orders.
    pub fn new(stub: &Stub) -> Self {
        Self(stub.orders.number("seed", 1).wrapping_mul(2).wrapping_add(1))
    }

    /// Returns the next number (splitmix64).
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ value >> 31
    }

    /// Returns a number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
