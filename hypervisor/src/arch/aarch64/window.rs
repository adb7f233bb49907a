//! The per-CPU window: where EL2 sees a frame that is not its own, for as long as it reads or writes it.
//!
//! The last 512 GiB of each CPU's address space hang under tables that no other CPU walks. So a
//! translation is made with a store and unmade with a TLBI of this CPU alone. Uses nest: each takes the
//! next slot.
#![expect(unsafe_code, reason = "writes the descriptors of the window")]

use super::cpu::{self, CpuId, MAX_CPUS};
use super::stage1::{DATA, Table, WINDOW_ENTRY};
use crate::addr::{BLOCK_2M, Frame, PAGE_SIZE, Pa};
use crate::mem::Order;
use crate::trace::{self, Barrier};
use aarch64_cpu::asm::barrier;
use aarch64_paging::descriptor::El23Attributes;
use core::arch::asm;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

/// How deep uses nest.
const SLOTS: usize = 8;
/// The entries of the page table that each slot has.
const SLOT_PAGES: usize = 512 / SLOTS;

const BASE: usize = WINDOW_ENTRY << 39;
const TABLE: u64 = 3;

struct Window {
    level1: Table,
    level2: Table,
    level3: Table,
}

static WINDOWS: [Window; MAX_CPUS] =
    [const { Window { level1: Table::new(), level2: Table::new(), level3: Table::new() } };
        MAX_CPUS];

fn table_descriptor(table: &Table) -> u64 {
    core::ptr::from_ref(table).expose_provenance() as u64 | TABLE
}

/// Links the tables of the window of `cpu` and returns the root entry that leads to them.
pub(super) fn prepare(cpu: CpuId) -> u64 {
    let window = &WINDOWS[cpu.index()];
    window.level1.0[0].store(table_descriptor(&window.level2), Ordering::Relaxed);
    window.level2.0[0].store(table_descriptor(&window.level3), Ordering::Relaxed);
    if cfg!(feature = "trace") {
        for table in [&window.level1, &window.level2, &window.level3] {
            trace::table(trace::EL2, Pa::new(core::ptr::from_ref(table).addr() as u64));
        }
        for table in [&window.level1, &window.level2] {
            trace::table_write(&table.0[0], table.0[0].load(Ordering::Relaxed));
        }
    }
    table_descriptor(&window.level1)
}

fn invalidate(address: usize) {
    // SAFETY: invalidating a TLB entry only costs a walk.
    unsafe {
        asm!("tlbi vae2, {}", in(reg) address >> 12, options(nostack, preserves_flags));
    }
}

/// Unmaps a slot when its use ends.
struct Mapped<'a> {
    entries: &'a [AtomicU64],
    address: usize,
}

impl Drop for Mapped<'_> {
    fn drop(&mut self) {
        for entry in self.entries {
            entry.store(0, Ordering::Relaxed);
        }
        trace::table_run(self.entries, 0, 0);
        barrier::dsb(barrier::NSHST);
        trace::barrier(Barrier::DsbNshst);
        for page in 0..self.entries.len() {
            invalidate(self.address + page * PAGE_SIZE as usize);
        }
        trace::tlbi_own_pages(self.address as u64 >> 12, self.entries.len());
        barrier::dsb(barrier::NSH);
        trace::barrier(Barrier::DsbNsh);
        barrier::isb(barrier::SY);
        trace::barrier(Barrier::Isb);
        let depth = &cpu::local().window_depth;
        depth.set(depth.get() - 1);
    }
}

/// Maps the block of 2^`order` frames from `first` in this CPU's window while `access` runs.
///
/// `order` is at most 6 (64 frames), or [`Order::BLOCK_2M`]. The pointer must not leave the closure.
pub fn with_frames<R>(first: Frame, order: Order, access: impl FnOnce(NonNull<u8>) -> R) -> R {
    let window = &WINDOWS[cpu::current().index()];
    let depth = &cpu::local().window_depth;
    let slot = depth.get();
    assert!(slot < SLOTS, "uses of the window nest too deep");
    let base = first.pa().as_u64();
    let (entries, address, descriptor) = if order == Order::BLOCK_2M {
        let entries = &window.level2.0[slot + 1..=slot + 1];
        (entries, BASE + (slot + 1) * BLOCK_2M as usize, DATA.bits() as u64)
    } else {
        let pages = order.frames() as usize;
        assert!(pages <= SLOT_PAGES, "a run of pages that does not fit a window's slot");
        let entry = slot * SLOT_PAGES;
        let entries = &window.level3.0[entry..entry + pages];
        let page = (DATA | El23Attributes::TABLE_OR_PAGE).bits() as u64;
        (entries, BASE + entry * PAGE_SIZE as usize, page)
    };
    for (frame, entry) in entries.iter().enumerate() {
        let pa = base + frame as u64 * PAGE_SIZE;
        entry.store(pa | descriptor, Ordering::Relaxed);
    }
    trace::table_run(entries, base | descriptor, PAGE_SIZE);
    barrier::dsb(barrier::NSHST);
    trace::barrier(Barrier::DsbNshst);
    barrier::isb(barrier::SY);
    trace::barrier(Barrier::Isb);
    depth.set(slot + 1);
    let _mapped = Mapped { entries, address };
    let pointer: *mut u8 = core::ptr::with_exposed_provenance_mut(address);
    access(NonNull::new(pointer).expect("the window is not at address 0"))
}
