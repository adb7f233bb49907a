//! The executable specification: what a guest's memory is, and what each operation does to it.
//!
//! [`State`] is the abstract state, a plain map from a guest's pages to frames or to why there is none. [`step`] says
//! in pure functions what each [`Operation`] does to it. Both are all that one has to read, and trust.
//!
//! They are held against the implementation by a [`Shadow`] beside each guest's tables, in host tests and in builds with
//! the feature `checking`; without it everything here is empty. Under the lock under which an edit writes the tables it
//! says which operation it was (`Shadow::did`); as it ends (`Shadow::check`), all that the operation touched is read
//! from the tables by the walker, and from the frame table, and must be what the specification makes of the state
//! before, and some of what it did not touch is compared as well, in turn. So what the specification says is carried on
//! from the guest's first page to its last, several CPUs or not, and nothing that changes without an operation stays
//! unnoticed for long. The first difference is told in words.

mod operation;
#[cfg(any(feature = "checking", all(test, not(shuttle))))]
mod shadow;
mod state;
#[cfg(all(test, not(shuttle)))]
mod tests;

pub use operation::{Illegal, Operation, step};
#[cfg(any(feature = "checking", all(test, not(shuttle))))]
pub use shadow::Shadow;
pub use state::{Page, State};

use crate::stage2::Space;

/// Nothing: this build does not check.
#[cfg(not(any(feature = "checking", all(test, not(shuttle)))))]
#[derive(Debug)]
pub struct Shadow;

#[cfg(not(any(feature = "checking", all(test, not(shuttle)))))]
impl Shadow {
    /// Keeps nothing.
    pub(crate) const fn new() -> Self {
        Self
    }

    /// Notes what the edit under way has done.
    #[inline(always)]
    pub(crate) fn did(&mut self, _: &Operation<'_>, _: &Space<'_>) {}

    /// Compares, as an edit ends.
    #[inline(always)]
    pub(crate) fn check(&mut self, _: &Space<'_>, _: crate::stage2::Table<'_>) {}
}

/// Compares all that `space` is with what it should be, and says in the log that it is so. For the `audit` command, whose
/// time is as long as there is memory.
#[inline(always)]
pub fn compare_whole(space: &Space<'_>) {
    #[cfg(feature = "checking")]
    space.compare_whole();
    #[cfg(not(feature = "checking"))]
    let _ = space;
}

/// Compares some of what `space` is with what it should be, after a request of its guest.
#[inline(always)]
pub fn after_request(space: &Space<'_>) {
    #[cfg(feature = "checking")]
    space.compare_some();
    #[cfg(not(feature = "checking"))]
    let _ = space;
}
