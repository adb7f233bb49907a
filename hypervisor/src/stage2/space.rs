//! The address space of one guest: what its intermediate physical addresses are mapped to.

use super::descriptor::{Level, Mark, attributes, guest_attributes};
use super::devices::Devices;
use super::edit;
use super::regime::{GuestStage2, Tables};
use super::vmid::Vmid;
use super::walk::{Absent, Leaf, Table};
use crate::addr::{Frame, Ipa, IpaRange, Pa};
use crate::arch;
use crate::epoch::Pin;
use crate::mem::{GuestId, Memory, Order, OutOfMemory, Unlinked};
use crate::spec::Shadow;
use crate::sync::{Edge, Edits, Lock};
use crate::trace;
use aarch64_paging::descriptor::PhysicalAddress;
use aarch64_paging::paging::{Constraints, MemoryRegion, RootTable};
use core::fmt;
use core::mem::ManuallyDrop;

/// The size of a guest's address space in bits: what stage 2 resolves from one table of level 1.
pub const IPA_BITS: u32 = 39;

/// How often a look is tried anew when an edit came in between: an edit is over in a few hundred instructions.
const TRIES: usize = 64;

/// A guest's stage 2.
///
/// Lock order: the writer lock of a space is taken before any lock of [`Memory`]; no two spaces'
/// writer locks are held together.
pub struct Space<'m> {
    pub(super) memory: &'m Memory,
    pub(super) guest: GuestId,
    /// What it has from the start.
    ram: IpaRange,
    /// Where memory can be added.
    hotplug: IpaRange,
    /// Both, and what lies between.
    pub(super) extent: IpaRange,
    /// The root leads to [`Devices`].
    has_devices: bool,
    vmid: Vmid,
    root: Pa,
    pub(super) writer: Lock<Writer<'m>>,
    pub(super) edits: Edits,
}

/// The only one who writes the tables of a space, under its writer lock.
pub(super) struct Writer<'m> {
    /// Never dropped: the crate would free the tables at once, whoever is walking them.
    tables: ManuallyDrop<RootTable<GuestStage2, Tables<'m>>>,
    /// What the tables should say.
    pub(super) shadow: Shadow,
}

impl<'m> Writer<'m> {
    /// Returns the stock that new tables are taken from.
    pub(super) fn stock(&self) -> &Tables<'m> {
        self.tables.translation()
    }

    /// Maps the block of `order` at `ipa`, where nothing is, to `first`.
    pub(super) fn map(&mut self, ipa: Ipa, first: Pa, order: Order) {
        let start = ipa.as_u64() as usize;
        let region = MemoryRegion::new(start, start + order.bytes() as usize);
        let pa = PhysicalAddress(first.as_u64() as usize);
        let mapped = self.tables.map_range(&region, pa, guest_attributes(), Constraints::empty());
        debug_assert_eq!(mapped, Ok(()), "RAM lies within the space");
    }

    /// Writes `mark` for the page or block of `order` at `ipa`, making the tables down to it. What
    /// is absent around it stays so: the crate copies the mark of an entry into the table it makes
    /// of it.
    pub(super) fn mark(&mut self, ipa: Ipa, order: Order, mark: Mark) {
        let start = ipa.as_u64() as usize;
        let region = MemoryRegion::new(start, start + order.bytes() as usize);
        // The crate ignores the physical address of what is not valid, but subtracts the offset in
        // a block from it before it does: the IPA itself never underflows.
        let pa = PhysicalAddress(start);
        let flags = attributes(mark.bits());
        let marked = self.tables.map_range(&region, pa, flags, Constraints::empty());
        debug_assert_eq!(marked, Ok(()), "RAM lies within the space");
    }
}

/// Why a space cannot be made.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum SpaceError {
    /// There is no frame for the root table.
    OutOfMemory,
    /// The RAM, or where it can be added, is not of whole pages, is not below the 39 bits of a space, or the one
    /// does not follow the other.
    BadRam,
}

impl fmt::Display for SpaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OutOfMemory => "there is no memory for its tables",
            Self::BadRam => "its memory does not fit an address space",
        })
    }
}

impl From<OutOfMemory> for SpaceError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

impl<'m> Space<'m> {
    /// Makes an empty space of which `ram`, in whole pages, may be populated.
    pub fn new(
        memory: &'m Memory,
        guest: GuestId,
        vmid: Vmid,
        ram: IpaRange,
    ) -> Result<Self, SpaceError> {
        let none = ram.end..ram.end;
        Self::with_hotplug(memory, guest, vmid, ram, none)
    }

    /// Makes a space as [`Space::new`] does, of which `hotplug`, in whole pages and above `ram`, is unplugged until
    /// memory is [added](Space::add).
    pub fn with_hotplug(
        memory: &'m Memory,
        guest: GuestId,
        vmid: Vmid,
        ram: IpaRange,
        hotplug: IpaRange,
    ) -> Result<Self, SpaceError> {
        let ends = [ram.start, ram.end, hotplug.start, hotplug.end];
        let whole = ends.iter().all(|end| end.is_aligned(Order::PAGE.bytes())) && ends.is_sorted();
        if !whole || hotplug.end.as_u64() > 1 << IPA_BITS {
            return Err(SpaceError::BadRam);
        }
        let extent = if hotplug.is_empty() { ram.clone() } else { ram.start..hotplug.end };
        let stock = Tables::new(memory);
        stock.put(memory.root_frame(guest)?);
        let tables = RootTable::new(stock, Level::One as usize, GuestStage2);
        let root = Pa::new(tables.to_physical().0 as u64);
        let space = Self {
            memory,
            guest,
            ram,
            hotplug,
            extent,
            has_devices: false,
            vmid,
            root,
            writer: Lock::new(
                Edge::WriterLock,
                Writer { tables: ManuallyDrop::new(tables), shadow: Shadow::new() },
            ),
            edits: Edits::new(),
        };
        trace::root(guest.index() as u16, root, vmid.number());
        space.unplug_beyond_ram()?;
        Ok(space)
    }

    /// Makes `devices` a part of the space. Before the guest runs; RAM begins behind them, or they are left out.
    #[must_use]
    pub fn with_devices(mut self, devices: &Devices) -> Self {
        self.has_devices = self.ram.start >= Devices::END;
        if self.has_devices {
            let writing = self.lock_writer();
            edit::write(writing.root().slot(0), devices.entry());
        }
        self
    }

    /// Returns where what is mapped has owners: behind [`Devices`], if there are any.
    pub(crate) fn owned_from(&self) -> Ipa {
        if self.has_devices { Devices::END } else { Ipa::new(0) }
    }

    /// Returns where its frames come from.
    pub const fn memory(&self) -> &'m Memory {
        self.memory
    }

    /// Returns whose space this is.
    pub const fn guest(&self) -> GuestId {
        self.guest
    }

    /// Returns what the guest has from the start.
    pub fn ram(&self) -> IpaRange {
        self.ram.clone()
    }

    /// Returns where memory can be added; it may be empty.
    pub fn hotplug(&self) -> IpaRange {
        self.hotplug.clone()
    }

    /// Returns all of RAM, of what can be added, and of what lies between.
    pub fn extent(&self) -> IpaRange {
        self.extent.clone()
    }

    /// Says whether there may be memory at `ipa`.
    #[inline]
    pub fn covers(&self, ipa: Ipa) -> bool {
        self.extent.contains(&ipa)
    }

    /// Returns the tag of this space's TLB entries.
    pub const fn vmid(&self) -> Vmid {
        self.vmid
    }

    /// Returns what VTTBR_EL2 holds while the guest runs. It is the same for the space's whole
    /// life, see `vmid.rs`.
    #[inline]
    pub const fn vttbr(&self) -> u64 {
        self.root.as_u64() | self.vmid.in_vttbr()
    }

    /// Returns where the root table is.
    pub(super) const fn root_pa(&self) -> Pa {
        self.root
    }

    /// Says whether `frame` is the root table.
    pub fn is_root(&self, frame: Frame) -> bool {
        self.root == frame.pa()
    }

    /// Finds what `ipa` is mapped to. Takes no lock and waits for nobody.
    #[inline]
    pub fn translate<'p>(&self, pin: &'p Pin<'_>, ipa: Ipa) -> Result<Leaf<'p>, Absent> {
        if ipa.as_u64() >> IPA_BITS != 0 {
            return Err(Absent { mark: Mark::Empty, level: Level::One });
        }
        self.root(pin).find(ipa).leaf(ipa)
    }

    /// Returns the root table for a walk under `pin`.
    #[expect(unsafe_code, reason = "vouches for the root table")]
    pub(crate) fn root<'p>(&self, _pin: &'p Pin<'_>) -> Table<'p> {
        // SAFETY: the root is given back when the space is dropped, and retired then; `pin` was
        // made before.
        unsafe { Table::new(self.root, Level::One) }
    }

    /// Returns the root table for an edit under the writer lock.
    #[expect(unsafe_code, reason = "vouches for the root table")]
    pub(super) fn root_for_edit(&self) -> Table<'_> {
        // SAFETY: only edits under the writer lock unlink tables, and what they unlink is retired
        // after they have ended.
        unsafe { Table::new(self.root, Level::One) }
    }

    /// Returns a number that differs after an edit; `None` while one is under way, or what one
    /// removed is not retired yet. What was read between two equal numbers was read between edits.
    pub(crate) fn edition(&self) -> Option<u64> {
        self.edits.number()
    }

    /// Runs `look` until nothing was edited while it ran, and returns what it saw then, which was so at one moment.
    /// `None` where there was always something, in a bounded number of tries. Takes no lock.
    pub(crate) fn between_edits<R>(&self, mut look: impl FnMut(Table<'_>) -> R) -> Option<R> {
        for _ in 0..TRIES {
            if let Some(before) = self.edition() {
                let pin = self.memory.pin();
                let seen = look(self.root(&pin));
                if self.edition() == Some(before) {
                    return Some(seen);
                }
            }
            arch::cpu::relax();
        }
        None
    }
}

impl Drop for Space<'_> {
    /// Gives everything back, the root table last. No CPU may enter the guest any more, and none
    /// have its VTTBR loaded where it can walk.
    fn drop(&mut self) {
        if self.clear().is_err() {
            log::error!("the space of guest {} cannot be cleared", self.guest);
        }
        let mut unlinked = Unlinked::new(self.memory);
        let everything = Ipa::new(0)..Ipa::new(1 << IPA_BITS);
        unlinked.empty_table(self.root, everything);
        let flushed = unlinked.flush(self.vttbr(), &self.edits);
        trace::root_end(self.guest.index() as u16, self.root);
        let _ = flushed.retire();
    }
}
