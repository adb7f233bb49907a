//! A guest on the host's arena, with the hypervisor's own hands behind its devices; and another guest, which must notice
//! nothing.

use sluice::addr::{Ipa, IpaRange, PAGE_SIZE};
use sluice::arch::{memory, tlb};
use sluice::audit::audit;
use sluice::device::GuestMemory;
use sluice::device::MemoryFault;
use sluice::guest::balloon::DeviceView;
use sluice::guest::holder::{Holder, remove_step};
use sluice::guest::layout::{self, RAM_START};
use sluice::mem::{GuestId, Memory, host};
use sluice::stage2::{IPA_BITS, Mark, Populated, Space, VmidPool, What};
use std::cell::{Cell, RefCell};
use std::sync::atomic::AtomicU64;

/// The guest's memory in bytes.
pub const RAM: u64 = 16 << 20;
/// What it can have beyond that, in bytes: more than there is.
pub const HOTPLUG: u64 = 64 << 20;
/// What there is for both guests and their tables, in bytes.
const MEMORY: u64 = 32 << 20;
/// The pages that the other guest looks at.
const HERS: u64 = 8;

/// VMIDs of all threads, which share the TLB that stands for all.
static VMIDS: VmidPool = VmidPool::new(16);

fn space(memory: &'static Memory, number: usize, hotplug: u64) -> Space<'static> {
    let guest = GuestId::new(number).expect("there can be two guests");
    let vmid = VMIDS.allocate().expect("two guests a thread");
    // Numbers differ all the same until all are used up; one that is free could be another thread's.
    VMIDS.release(vmid);
    tlb::invalidate_vmid(vmid.in_vttbr());
    let ram = RAM_START..at(RAM_START, RAM);
    let region = layout::hotplug(&ram, hotplug).expect("it fits the address space");
    Space::with_hotplug(memory, guest, vmid, ram, region).expect("there is a frame for its root")
}

/// Returns the address `offset` bytes behind `start`, wherever that is.
pub fn at(start: Ipa, offset: u64) -> Ipa {
    Ipa::new(start.as_u64().wrapping_add(offset))
}

/// Memory, and a guest in it that does nothing.
pub struct World {
    memory: &'static Memory,
    bystander: Space<'static>,
}

thread_local! {
    static WORLD: World = World::new();
}

/// What the other guest has in its pages.
fn pattern(page: u64) -> [u8; 64] {
    core::array::from_fn(|index| 0x80 | (index as u8 ^ page as u8))
}

impl World {
    fn new() -> Self {
        let memory = host::memory_in(memory::take(MEMORY, 2 << 20));
        let bystander = space(memory, 0, 0);
        for page in 0..HERS {
            let written = bystander.write(at(RAM_START, page * PAGE_SIZE), &pattern(page));
            written.expect("there is memory for the first");
        }
        Self { memory, bystander }
    }

    /// Runs `with` for a guest that has just been made, and sees that nothing is left of it afterwards.
    pub fn with_guest(with: impl FnOnce(&Owner)) {
        WORLD.with(|world| {
            let owner = Owner {
                space: space(world.memory, 1, HOTPLUG),
                release_from: AtomicU64::new(0),
                faults: AtomicU64::new(0),
            };
            with(&owner);
            world.check(&[&world.bystander, &owner.space]);
            let (vttbr, guest) = (owner.space.vttbr(), owner.space.guest());
            drop(owner);
            world.settle();
            let counts = world.memory.counts();
            let left = counts.guest(guest);
            assert_eq!((left.frames, left.tables), (0, 0), "a guest that has gone has memory");
            world.check(&[&world.bystander]);
            tlb::invalidate_vmid(vttbr);
            drop(tlb::take_log(vttbr));
        });
    }

    fn settle(&self) {
        for _ in 0..100_000 {
            if self.memory.counts().retired == 0 {
                return;
            }
            self.memory.idle_step();
        }
        panic!("what is retired does not come back");
    }

    fn check(&self, spaces: &[&Space<'_>]) {
        self.settle();
        let report = audit(self.memory, spaces);
        assert!(report.is_clean() && report.unsettled == 0, "{report:?}");
        assert_eq!(self.memory.counts().in_hand(), 0, "frames were lost");
        for page in 0..HERS {
            let mut seen = [0; 64];
            let read = self.bystander.read(at(RAM_START, page * PAGE_SIZE), &mut seen);
            assert_eq!((read, seen), (Ok(()), pattern(page)), "another guest's memory changed");
        }
    }
}

/// Whose memory it is.
pub struct Owner {
    /// Its tables.
    pub space: Space<'static>,
    release_from: AtomicU64,
    faults: AtomicU64,
}

impl Holder for &Owner {
    fn name(&self) -> &str {
        "hostile"
    }

    fn space(&self) -> &Space<'static> {
        &self.space
    }

    fn release_from(&self) -> &AtomicU64 {
        &self.release_from
    }

    fn faults(&self) -> &AtomicU64 {
        &self.faults
    }
}

impl Owner {
    /// Touches `ipa` as one of its CPUs does: a page that is populated for that is all zeroes.
    pub fn touch(&self, ipa: Ipa) {
        if ipa.as_u64() >> IPA_BITS != 0 {
            // An address size fault, before any TLB or table is looked at.
            return;
        }
        if tlb::access(self.space.vttbr(), ipa).is_some() {
            return;
        }
        if let Ok(Populated::Mapped(_)) = self.space.populate_step(ipa) {
            let mut page = [0xff; PAGE_SIZE as usize];
            let page_start = ipa.align_down(PAGE_SIZE);
            self.space.read(page_start, &mut page).expect("it was mapped just now");
            assert!(page.iter().all(|&byte| byte == 0), "{ipa} comes with somebody's bytes");
            assert!(tlb::access(self.space.vttbr(), ipa).is_some(), "{ipa} is not there");
        }
    }

    /// No TLB leads where the tables do not.
    pub fn check_tlb(&self) {
        assert_eq!(tlb::check(self.space.vttbr()), Ok(()));
    }

    /// Says whether there is anything in `range` that the guest gave up and that waits for its driver to come back.
    pub fn has_ballooned(&self, range: IpaRange) -> bool {
        let mut found = false;
        self.space.dump(range, |run| found |= run.what == What::Absent(Mark::Ballooned));
        found
    }

    /// Takes all that it has at `range`.
    pub fn remove(&self, mut range: IpaRange) {
        while range.start < range.end {
            match remove_step(&self.space, range.clone()) {
                Some(Some(next)) => range.start = next,
                Some(None) => return,
                None => assert!(self.space.memory().idle_step(), "no table comes free"),
            }
        }
    }
}

/// A write that another of the guest's CPUs makes while a device is at work.
#[derive(Copy, Clone, Debug)]
pub struct Behind {
    /// It comes after every so many accesses of the device.
    pub every: u64,
    /// Where.
    pub ipa: Ipa,
    /// What.
    pub value: u64,
}

/// The guest's memory as a device sees it: counted, and changing meanwhile.
pub struct Watched<'a> {
    view: DeviceView<'a>,
    accesses: Cell<u64>,
    behind: RefCell<Vec<Behind>>,
}

impl<'a> Watched<'a> {
    /// Watches `owner`'s memory.
    pub fn new(owner: &'a Owner) -> Self {
        let (accesses, behind) = (Cell::new(0), RefCell::new(Vec::new()));
        Self { view: DeviceView(&owner.space), accesses, behind }
    }

    /// Returns how many accesses there were.
    pub fn accesses(&self) -> u64 {
        self.accesses.get()
    }

    /// Has a CPU write behind the devices' back, besides those that do so already, four at most.
    pub fn disturb(&self, behind: Behind) {
        let mut all = self.behind.borrow_mut();
        if all.len() == 4 {
            all.remove(0);
        }
        all.push(behind);
    }

    /// From here on nobody does.
    pub fn leave_alone(&self) {
        self.behind.borrow_mut().clear();
    }

    fn accessed(&self) {
        let count = self.accesses.get() + 1;
        self.accesses.set(count);
        for behind in &*self.behind.borrow() {
            if count.is_multiple_of(behind.every) {
                // Where it has no memory, that CPU faults.
                let _ = self.view.write_u64(behind.ipa, behind.value);
            }
        }
    }
}

impl GuestMemory for Watched<'_> {
    fn read(&self, ipa: Ipa, bytes: &mut [u8]) -> Result<(), MemoryFault> {
        let result = self.view.read(ipa, bytes);
        self.accessed();
        result
    }

    fn write(&self, ipa: Ipa, bytes: &[u8]) -> Result<(), MemoryFault> {
        let result = self.view.write(ipa, bytes);
        self.accessed();
        result
    }
}
