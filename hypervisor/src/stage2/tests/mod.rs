//! Tests of stage 2 on the host.

mod accessed;
mod basic;
mod continuous;
mod evacuate;
mod hardware;
mod operations;
mod reference;
#[cfg(shuttle)]
mod schedules;
#[cfg(not(shuttle))]
mod soak;
mod stress;
#[cfg(feature = "trace")]
mod traced;
mod walkers;
mod wrong;

use super::{Space, VmidPool};
use crate::addr::{BLOCK_1G, BLOCK_2M, Ipa, IpaRange, Pa};
use crate::arch;
use crate::audit::audit;
use crate::mem::{GuestId, Memory, host};

/// Where guests' RAM begins, as on QEMU's `virt`.
const RAM: u64 = 1 << 30;

/// VMIDs of all tests, so that their TLB entries do not mix.
static VMIDS: VmidPool = VmidPool::new(16);

fn ram(bytes: u64) -> IpaRange {
    Ipa::new(RAM)..Ipa::new(RAM + bytes)
}

/// Returns the address `offset` bytes into a guest's RAM.
fn at(offset: u64) -> Ipa {
    Ipa::new(RAM + offset)
}

fn guest(number: usize) -> GuestId {
    GuestId::new(number).unwrap()
}

/// Makes memory of `bytes`, at least 4 MiB: the first 2 MiB are the table pool, the rest is free.
/// (What `host::memory` makes begins at a multiple of 1 GiB, and the arena has room for 16 of
/// these.)
fn memory(bytes: u64) -> &'static Memory {
    let range = arch::memory::take(bytes, if bytes < BLOCK_1G { BLOCK_2M } else { BLOCK_1G });
    let memory = Memory::new(host::frame_table(core::slice::from_ref(&range)));
    let pool = range.start..Pa::new(range.start.as_u64() + BLOCK_2M);
    memory.claim_hypervisor(pool.clone()).unwrap();
    memory.claim_table_chunk(pool).unwrap();
    memory.add_free(range).unwrap();
    Box::leak(Box::new(memory))
}

/// Makes `memory` bytes of memory and in it a space with `ram` bytes of RAM.
fn space(bytes: u64, ram_bytes: u64) -> (&'static Memory, Space<'static>) {
    let memory = memory(bytes);
    (memory, space_in(memory, 0, ram_bytes))
}

fn space_in(memory: &'static Memory, number: usize, ram_bytes: u64) -> Space<'static> {
    let vmid = VMIDS.allocate().unwrap();
    // So that the pool does not run out: numbers differ all the same until 65,535 are used up.
    VMIDS.release(vmid);
    Space::new(memory, guest(number), vmid, ram(ram_bytes)).unwrap()
}

/// Makes a space of which what lies behind its RAM, up to `extent`, is unplugged.
fn space_with_hotplug(
    memory: &'static Memory,
    number: usize,
    ram_bytes: u64,
    extent: u64,
) -> Space<'static> {
    let vmid = VMIDS.allocate().unwrap();
    VMIDS.release(vmid);
    let (ram, extent) = (ram(ram_bytes), ram(extent));
    let hotplug = ram.end..extent.end;
    Space::with_hotplug(memory, guest(number), vmid, ram, hotplug).unwrap()
}

/// Waits for all that was retired.
fn settle(memory: &Memory) {
    while memory.counts().retired > 0 {
        memory.idle_step();
    }
}

/// Asserts that tables, records and counters agree, and that no frame was lost.
fn assert_sound(memory: &Memory, spaces: &[&Space<'_>]) {
    let report = audit(memory, spaces);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.unsettled, 0, "{report:?}");
    assert_eq!(report.counted, spaces.len() as u64, "{report:?}");
    assert_eq!(memory.counts().in_hand(), 0, "frames were lost");
}
