//! Stage 1 of EL1: an identity map of 39 bits in blocks of 1 GiB. Memory is normal, write-back and executable; all else is
//! device memory. One level is enough, for what is of interest here happens at stage 2.
#![expect(unsafe_code, reason = "writes the registers of translation")]

use super::barrier::{dsb, isb};
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

#[repr(C, align(4096))]
struct Table([AtomicU64; 512]);

static TABLE: Table = Table([const { AtomicU64::new(0) }; 512]);

/// Attribute 0 is Device-nGnRE, attribute 1 normal write-back, allocating.
const MAIR: u64 = 0xff04;
/// Block, access flag, attribute 0, never executable.
const DEVICE: u64 = 1 | 1 << 10 | 3 << 53;
/// Block, access flag, inner shareable, attribute 1.
const NORMAL: u64 = 1 | 1 << 10 | 3 << 8 | 1 << 2;
/// SCTLR_EL1: RES1 bits, M, C, I.
const SCTLR: u64 = SCTLR_OFF | 1 | 1 << 2 | 1 << 12;
/// SCTLR_EL1 with stage 1 off: the RES1 bits (29, 28, 23, 22, 20, 11).
pub const SCTLR_OFF: u64 = 0x30d0_0800;

/// One past the highest address that is mapped.
pub const LIMIT: u64 = 1 << 39;

unsafe extern "C" {
    fn enable_mmu(ttbr: u64, tcr: u64, mair: u64, sctlr: u64);
}

/// TTBR0_EL1, TCR_EL1, MAIR_EL1, SCTLR_EL1.
pub fn registers() -> [u64; 4] {
    let parange = mrs!("ID_AA64MMFR0_EL1") & 0xf;
    // T0SZ 25, write-back walks, inner shareable, no TTBR1 walks, the physical size that the CPU has.
    let tcr = 25 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23 | parange.min(5) << 32;
    [(&raw const TABLE).addr() as u64, tcr, MAIR, SCTLR]
}

/// Turns stage 1 on with the blocks that hold `memory` as normal memory. Called once, on the boot CPU.
pub fn enable(memory: &[u64]) {
    for (index, entry) in TABLE.0.iter().enumerate() {
        let address = (index as u64) << 30;
        let normal = memory.iter().any(|known| known >> 30 == address >> 30);
        entry.store(address | if normal { NORMAL } else { DEVICE }, Ordering::Relaxed);
    }
    dsb();
    let [ttbr, tcr, mair, sctlr] = registers();
    // SAFETY: the table maps everything to itself, so that the code goes on where it is.
    unsafe { enable_mmu(ttbr, tcr, mair, sctlr) }
}

/// Makes the blocks from `start` to `end` normal memory. No such block may hold a device that is in use.
pub fn add_memory(start: u64, end: u64) {
    for (index, entry) in TABLE.0.iter().enumerate() {
        let address = (index as u64) << 30;
        if address + (1 << 30) <= start
            || address >= end
            || entry.load(Ordering::Relaxed) & NORMAL == NORMAL
        {
            continue;
        }
        // Break before make: the attributes of a live block change.
        entry.store(0, Ordering::Relaxed);
        invalidate_all();
        entry.store(address | NORMAL, Ordering::Relaxed);
        dsb();
        isb();
    }
}

/// Returns whether an address is mapped as normal memory, from which instructions can be fetched.
pub fn is_normal(address: u64) -> bool {
    let entry = TABLE.0.get((address >> 30) as usize);
    entry.is_some_and(|entry| entry.load(Ordering::Relaxed) & NORMAL == NORMAL)
}

/// Invalidates all of stage 1 on every CPU (TLBI VMALLE1IS).
pub fn invalidate_all() {
    // SAFETY: dropping cached translations changes no memory.
    unsafe {
        asm!("dsb ishst", "tlbi vmalle1is", "dsb ish", "isb", options(nostack, preserves_flags))
    }
}

/// The block of addresses, the last of the map, that [`Alias`] changes.
const ALIAS: usize = 511;

/// A second mapping, for what no kernel does; it ends when it is dropped.
pub struct Alias(());

impl Alias {
    fn new(entry: u64) -> Self {
        TABLE.0[ALIAS].store(0, Ordering::Relaxed);
        invalidate_all();
        TABLE.0[ALIAS].store(entry, Ordering::Relaxed);
        dsb();
        isb();
        Self(())
    }

    /// Maps what a next-level table at `address` says, whatever is there.
    pub fn table(address: u64) -> Self {
        Self::new(address & 0xffff_ffff_f000 | 3)
    }

    /// Maps the 1 GiB from `address` as normal memory.
    pub fn normal(address: u64) -> Self {
        Self::new(address & !0x3fff_ffff & 0xffff_ffff_ffff | NORMAL)
    }

    /// Returns the first address of the mapping, which has 1 GiB.
    pub const fn start(&self) -> u64 {
        (ALIAS as u64) << 30
    }
}

impl Drop for Alias {
    fn drop(&mut self) {
        TABLE.0[ALIAS].store(0, Ordering::Relaxed);
        invalidate_all();
    }
}

/// Fills the page at `table`, which has to be the caller's, as a table of blocks of 2 MiB from `address` on.
pub fn fill_table(table: u64, address: u64) {
    for index in 0..512u64 {
        // SAFETY: the page is the caller's.
        unsafe {
            ((table + index * 8) as *mut u64).write_volatile((address + (index << 21)) | NORMAL)
        }
    }
    dsb();
}
