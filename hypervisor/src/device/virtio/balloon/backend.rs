//! What the balloon asks of the memory manager.

use core::fmt;

use super::super::Progress;
use crate::addr::{Ipa, IpaRange};

/// Why a page or range that the guest named was passed over.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// The guest has no RAM there.
    Outside,
    /// It is in the balloon already, or was never in it.
    Repeated,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Outside => "outside of its memory",
            Self::Repeated => "repeated",
        })
    }
}

/// What became of a batch.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// How many elements were dealt with, from the first on, whatever became of each. The others
    /// are presented again in a later call: so the backend keeps its stretch bounded, or, with 0,
    /// says that it is busy.
    pub handled: usize,
    /// Where the range that follows those goes on, if a part of it was dealt with: an address within it.
    pub goes_on: Option<Ipa>,
    /// How many pages of 4 KiB changed hands.
    pub pages: u64,
    /// How many elements were the guest's mistake, and passed over.
    pub mistakes: u32,
    /// The first of them.
    pub first_mistake: Option<(Ipa, Mistake)>,
    /// How many elements stayed as they were because the hypervisor had no memory for its tables.
    pub no_memory: u32,
}

impl Outcome {
    /// Counts a mistake of the guest at `ipa`.
    pub fn mistake(&mut self, ipa: Ipa, mistake: Mistake) {
        self.mistakes = self.mistakes.saturating_add(1);
        self.first_mistake.get_or_insert((ipa, mistake));
    }
}

/// Carries out what the driver asks for. The device has looked at nothing: page numbers may be
/// outside of the guest's memory, repeated, in any order.
///
/// When a call returns, no CPU of the guest can reach what has been taken, through a stale TLB
/// entry neither: the device tells the driver at once.
pub trait BalloonBackend {
    /// Takes pages of 4 KiB, at most [`super::BATCH`], by page number, out of the guest's memory.
    fn inflate(&mut self, pages: &[u32]) -> Outcome;

    /// Lets the guest use pages again, at most [`super::BATCH`]; they read as zeroes.
    fn deflate(&mut self, pages: &[u32]) -> Outcome;

    /// Takes the memory under free ranges, at most [`super::RANGES`], until the guest touches them
    /// again: each is made of whole pages, is not empty and crosses no boundary of 1 GiB.
    fn report(&mut self, ranges: &[IpaRange]) -> Outcome;

    /// Lets the guest use all that is in the balloon again: its driver has been reset, and the
    /// next one knows nothing of it. A bounded piece a call.
    fn release_all(&mut self) -> Progress;
}
