//! Making blocks again of pages that lie together.

use super::space::Space;
use crate::addr::Ipa;
use crate::mem::Flushed;

impl Space<'_> {
    /// Maps the 2 MiB around `ipa` by one block, if its 512 pages are those of one block of memory
    /// in order. Needs no memory, so it cannot fail; `None` where they are not.
    ///
    /// Under break-before-make: the table is hidden from the hardware, flushed, and replaced.
    pub fn coalesce(&self, ipa: Ipa) -> Option<Flushed<'_>> {
        if !self.covers(ipa) {
            return None;
        }
        let mut edit = self.edit();
        edit.join(ipa).then(|| edit.finish())
    }
}
