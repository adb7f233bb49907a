//! Stage 2: what a guest's physical addresses lead to, edited while the guest runs.
//!
//! [`Space`] is one guest's. Reading it ([`Space::translate`], [`Space::read`], [`Space::dump`],
//! the audit) takes no lock, see `walk.rs`; changing it ([`Space::populate`], [`Space::add`],
//! [`Space::take_pages`], [`Space::take_range`], [`Space::return_pages`], [`Space::return_range`],
//! [`Space::coalesce`], [`Space::begin_move`]) follows one protocol, see `edit.rs`. What left the tables is on its way to
//! being free as a typed value, see [`crate::mem::Flushed`]. Which of it a guest uses, [`AccessPass`] finds out.

#[cfg(any(feature = "checking", all(test, not(shuttle))))]
mod abstraction;
mod accessed;
mod add;
mod coalesce;
mod descriptor;
mod devices;
mod dump;
mod edit;
mod evacuate;
mod flush;
mod give_back;
mod guest_memory;
mod harvest;
#[cfg(any(feature = "scheme", all(test, not(loom))))]
mod locked;
mod populate;
mod regime;
mod space;
mod take;
#[cfg(all(test, not(loom)))]
mod tests;
mod vmid;
mod walk;

pub use accessed::{AccessPass, Accessed};
pub use add::{AddError, Added, Fill};
pub use descriptor::{Level, Mark};
pub use devices::Devices;
pub use dump::{Run, What};
pub use evacuate::{BATCH, Move, MoveError, Moved, TablesMoved, copy_piece};
pub use guest_memory::AccessError;
#[cfg(feature = "scheme")]
pub use locked::{ReadWriteLock, Reading, Writing};
pub use populate::{PopulateError, Populated};
pub use space::{IPA_BITS, Space, SpaceError};
pub use take::{Pages, TakeError, Taken};
pub use vmid::{Vmid, VmidPool};
pub use walk::{Absent, Leaf};

#[cfg(any(feature = "checking", all(test, not(shuttle))))]
pub(crate) use abstraction::{abstraction, page_attributes};
pub(crate) use flush::FlushSet;
pub(crate) use harvest::Harvest;
pub(crate) use walk::Table;
