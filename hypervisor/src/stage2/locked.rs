//! For benchmarks only: the walk of `walk.rs` under a reader-writer lock, to compare the scheme with.
//!
//! The lock is as good as one of one word gets: a reader that comes alone takes one exchange to enter and one to
//! leave, and one that finds a writer waiting stays out, so that readers never starve a remover. It keeps no order
//! among readers, and has nothing else that would cost.

use super::descriptor::{Level, Mark};
use super::space::{IPA_BITS, Space};
use super::walk::{Absent, Leaf};
use crate::addr::Ipa;
use crate::sync::{AtomicU64, Ordering};

/// A writer is inside, or waits for the readers to leave. The bits below count the readers.
const WRITER: u64 = 1 << 63;

/// A lock that is held by many readers or by one writer. There must not be two who ask to write.
pub struct ReadWriteLock(AtomicU64);

/// Shows that the lock is held for reading.
#[must_use = "dropping it leaves"]
pub struct Reading<'l>(&'l ReadWriteLock);

/// Shows that no reader can enter any more. Those that are inside may still be.
#[must_use = "dropping it leaves"]
pub struct Writing<'l>(&'l ReadWriteLock);

impl ReadWriteLock {
    /// Makes an open lock.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Enters for reading, unless there is a writer or another CPU was faster.
    #[inline]
    pub fn try_read(&self) -> Option<Reading<'_>> {
        let readers = self.0.load(Ordering::Relaxed);
        if readers & WRITER != 0 {
            return None;
        }
        // Acquire: pairs with the release with which a writer leaves.
        self.0
            .compare_exchange_weak(readers, readers + 1, Ordering::Acquire, Ordering::Relaxed)
            .ok()
            .map(|_| Reading(self))
    }

    /// Keeps readers from entering.
    #[inline]
    pub fn write(&self) -> Writing<'_> {
        self.0.fetch_or(WRITER, Ordering::Relaxed);
        Writing(self)
    }
}

impl Default for ReadWriteLock {
    fn default() -> Self {
        Self::new()
    }
}

impl Writing<'_> {
    /// Says whether all readers have left.
    #[inline]
    pub fn is_alone(&self) -> bool {
        // Acquire: pairs with the release with which a reader leaves.
        self.0.0.load(Ordering::Acquire) == WRITER
    }
}

impl Drop for Reading<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Release);
    }
}

impl Drop for Writing<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.0.fetch_and(!WRITER, Ordering::Release);
    }
}

impl Space<'_> {
    /// Finds what `ipa` is mapped to, without a pin: whoever takes tables or memory out of this space meanwhile must
    /// hold the lock for writing. The benchmark does, and nobody else edits the space of a guest that is off.
    #[inline]
    pub fn translate_locked<'r>(
        &'r self,
        _reading: &'r Reading<'_>,
        ipa: Ipa,
    ) -> Result<Leaf<'r>, Absent> {
        if ipa.as_u64() >> IPA_BITS != 0 {
            return Err(Absent { mark: Mark::Empty, level: Level::One });
        }
        self.root_for_edit().find(ipa).leaf(ipa)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_share_and_a_writer_is_alone() {
        let lock = ReadWriteLock::new();
        let readers = (lock.try_read(), lock.try_read());
        assert!(readers.0.is_some() && readers.1.is_some());
        let writing = lock.write();
        assert!(!writing.is_alone());
        assert!(lock.try_read().is_none(), "who comes after a writer waits");
        drop(readers);
        assert!(writing.is_alone());
        drop(writing);
        assert!(lock.try_read().is_some());
    }
}
