//! What the memory device asks of the memory manager.

use crate::addr::{Ipa, IpaRange};

/// How far a bounded step got.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// All of the range is done.
    Done,
    /// Go on at this address, which may be the one where the step began.
    Next(Ipa),
    /// There is no memory for more; this step has done nothing, and what was done before it stays done.
    OutOfMemory,
}

/// Carries out what the device has decided. Ranges are of whole blocks of the device's region.
pub trait MemoryBackend {
    /// Says whether the guest may have `bytes` more now.
    fn admits(&mut self, bytes: u64) -> bool;

    /// Gives the guest zeroed memory at `range`, where it has none: a bounded piece from its beginning.
    fn plug(&mut self, range: IpaRange) -> Step;

    /// Takes what the guest has at `range`: a bounded piece from its beginning. When this returns no CPU
    /// of the guest reaches that piece.
    fn unplug(&mut self, range: IpaRange) -> Step;
}
