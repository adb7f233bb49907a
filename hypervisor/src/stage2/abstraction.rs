//! What the tables say, as the specification sees it.

#[cfg(feature = "checking")]
use super::Space;
use super::descriptor::{self, ACCESS_FLAG, Level};
use super::walk::Table;
use super::{IPA_BITS, Mark};
use crate::addr::Ipa;
use crate::spec::Page;

/// Returns the attributes that guest memory is mapped with, as [`Page::Mapped`] has them.
pub(crate) fn page_attributes() -> u64 {
    attributes(descriptor::guest_attributes().bits() as u64)
}

/// Leaves out of a leaf where it leads, how large it is, whether it was used and whether it is being moved.
fn attributes(leaf: u64) -> u64 {
    let page =
        descriptor::leaf_like(descriptor::not_moving(leaf), crate::addr::Pa::new(0), Level::Two);
    descriptor::attributes(page).bits() as u64 & !ACCESS_FLAG
}

/// Reads what is at `ipa` in the tables below `root`, and the number of the page at which the next entry begins.
pub(crate) fn abstraction(root: Table<'_>, ipa: Ipa) -> (Page, u64) {
    if ipa.as_u64() >> IPA_BITS != 0 {
        return (Page::EMPTY, u64::MAX);
    }
    let place = root.find(ipa);
    let end = place.covers(ipa).end.page();
    let page = match place.leaf(ipa) {
        Ok(leaf) => match leaf.frame() {
            Some(frame) => Page::Mapped { frame, attributes: attributes(leaf.bits()) },
            None => Page::Absent(Mark::Poisoned),
        },
        Err(absent) => Page::Absent(absent.mark),
    };
    (page, end)
}

#[cfg(feature = "checking")]
impl Space<'_> {
    /// Compares some of this space with what the specification says, as at the end of an edit.
    pub(crate) fn compare_some(&self) {
        drop(self.lock_writer());
    }

    /// Compares all of this space with what the specification says.
    pub(crate) fn compare_whole(&self) {
        let writing = self.lock_writer();
        writing.shadow().check_whole(self, writing.root());
    }
}
