//! EL2's own stage 1: the image (W^X, guard pages under the stacks), devices, the hypervisor's own
//! frames. Everything is mapped at its physical address; no guest's frame is mapped but through a
//! window, whose tables each CPU has for itself.
//!
//! All CPUs share the tables below the root. Each has a root of its own, which differs in the last
//! entry: there its window hangs. So invalidating a window's translation is local to its CPU.
#![expect(unsafe_code, reason = "builds the tables that EL2 itself runs under")]

use super::boot::{Image, image};
use super::cpu::{self, CpuId, MAX_CPUS};
use crate::addr::{BLOCK_1G, BLOCK_2M, PAGE_SIZE, Pa, PaRange};
use crate::trace::{self, Register};
use aarch64_cpu::registers::{ID_AA64MMFR0_EL1, MAIR_EL2, Readable, SCTLR_EL2, TCR_EL2, TTBR0_EL2};
use aarch64_paging::descriptor::{El23Attributes, PhysicalAddress};
use aarch64_paging::paging::{Constraints, El2, MemoryRegion, PageTable, RootTable, Translation};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Mutex;

/// MAIR_EL2: attribute 0 is Device-nGnRE, attribute 1 Normal write-back.
const MAIR: u64 = 0xff04;
/// SCTLR_EL2: MMU, caches, stack alignment, nothing writable is executable; the rest RES1.
const SCTLR: u64 = 0x30c5_0830 | 1 | 1 << 2 | 1 << 3 | 1 << 12 | 1 << 19;

const COMMON: El23Attributes =
    El23Attributes::VALID.union(El23Attributes::ACCESSED).union(El23Attributes::USER_RES1);
const NORMAL: El23Attributes =
    COMMON.union(El23Attributes::ATTRIBUTE_INDEX_1).union(El23Attributes::INNER_SHAREABLE);
const CODE: El23Attributes = NORMAL.union(El23Attributes::READ_ONLY);
const READ_ONLY: El23Attributes = CODE.union(El23Attributes::XN);
/// Memory that EL2 writes, never executable.
pub(super) const DATA: El23Attributes = NORMAL.union(El23Attributes::XN);
const DEVICE: El23Attributes =
    COMMON.union(El23Attributes::ATTRIBUTE_INDEX_0).union(El23Attributes::XN);

/// The number of tables in the image: enough for the image, the devices and the L1 and L2 tables
/// of 16 GiB; what is above comes from the memory that boot sets aside ([`set_spare`]).
const TABLES: usize = 40;

/// A table, as hardware reads it.
#[repr(C, align(4096))]
pub(super) struct Table(pub [AtomicU64; 512]);

impl Table {
    pub(super) const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; 512])
    }
}

static POOL: [Table; TABLES] = [const { Table::new() }; TABLES];
static ROOTS: [Table; MAX_CPUS] = [const { Table::new() }; MAX_CPUS];

/// The entry of the root where each CPU's window hangs.
pub(super) const WINDOW_ENTRY: usize = 511;

/// Where tables come from: the pool in the image, then the memory that boot set aside.
struct Tables {
    used: usize,
}

/// What is left of the memory that boot set aside for tables: zeroed and mapped.
static SPARE: Mutex<PaRange> = Mutex::new(Pa::new(0)..Pa::new(0));

impl Translation<El23Attributes> for Tables {
    fn allocate_table(&mut self) -> (NonNull<PageTable<El23Attributes>>, PhysicalAddress) {
        let address = match POOL.get(self.used) {
            Some(table) => {
                self.used += 1;
                core::ptr::from_ref(table).expose_provenance()
            }
            None => {
                let mut spare = SPARE.lock();
                let start = spare.start;
                let next = start.checked_add(4096).filter(|next| *next <= spare.end);
                // Boot sets a table aside for every GiB that there is, so this cannot be.
                spare.start = next.expect("EL2's tables were counted too few at boot");
                start.as_u64() as usize
            }
        };
        trace::el2_table(address);
        let pointer = NonNull::new(core::ptr::with_exposed_provenance_mut(address));
        (pointer.expect("no table is at address 0"), PhysicalAddress(address))
    }

    unsafe fn deallocate_table(&mut self, _table: NonNull<PageTable<El23Attributes>>) {
        // What EL2 maps stays mapped. A table that it no longer needs is a page lost, no danger.
    }

    fn physical_to_virtual(&self, pa: PhysicalAddress) -> NonNull<PageTable<El23Attributes>> {
        NonNull::new(core::ptr::with_exposed_provenance_mut(pa.0))
            .expect("no table is at address 0")
    }
}

/// Sets aside zeroed memory for the tables that the pool in the image does not reach for: one for every
/// GiB of memory, and some. It must be mapped before it is needed.
pub fn set_spare(range: PaRange) {
    *SPARE.lock() = range;
}

/// EL2's tables while boot fills them.
pub struct Builder(RootTable<El2, Tables>);

static SHARED: Mutex<Option<Builder>> = Mutex::new(None);

impl Builder {
    /// Makes tables that hold the image.
    #[expect(clippy::new_without_default, reason = "there is one set of tables, made once")]
    pub fn new() -> Self {
        let mut builder = Self(RootTable::new(Tables { used: 0 }, 0, El2));
        let Image { start, text_end, rodata_end, end } = image();
        builder.map(start, text_end, CODE);
        builder.map(text_end, rodata_end, READ_ONLY);
        let mut from = rodata_end;
        // The linker has placed the stacks in any order: the next guard page is the lowest above.
        while let Some(guard) = cpu::guards().filter(|&guard| guard >= from).min() {
            builder.map(from, guard, DATA);
            from = guard + 4096;
        }
        builder.map(from, end, DATA);
        builder
    }

    fn map(&mut self, start: usize, end: usize, attributes: El23Attributes) {
        if start >= end {
            return;
        }
        let region = MemoryRegion::new(start, end);
        let mapped =
            self.0.map_range(&region, PhysicalAddress(start), attributes, Constraints::empty());
        // The range is in 48 bits of address and the attributes are constants.
        mapped.expect("a range of physical memory can be mapped");
        self.trace(start, end);
    }

    /// Records what was written to map `start..end`.
    fn trace(&self, start: usize, end: usize) {
        trace::el2_mapped(self.0.to_physical().0, start, end);
    }

    /// Maps memory for reading and writing.
    pub fn data(&mut self, range: PaRange) {
        self.map(range.start.as_u64() as usize, range.end.as_u64() as usize, DATA);
    }

    /// Maps memory for reading.
    pub fn read_only(&mut self, range: PaRange) {
        self.map(range.start.as_u64() as usize, range.end.as_u64() as usize, READ_ONLY);
    }

    /// Maps a device's registers.
    pub fn device(&mut self, range: PaRange) {
        self.map(range.start.as_u64() as usize, range.end.as_u64() as usize, DEVICE);
    }

    /// Turns on stage 1 on this CPU, the first.
    ///
    /// Until it is on no lock may be taken: exclusive accesses need cacheable memory.
    ///
    /// # Safety
    ///
    /// All that boot goes on to use is mapped.
    pub unsafe fn activate(self) {
        let registers = self.registers(cpu::current());
        // SAFETY: the caller's promise; the image is mapped where it runs.
        unsafe {
            core::arch::asm!(
                "bl enable_mmu",
                in("x1") registers.ttbr0,
                in("x2") registers.tcr,
                in("x3") registers.mair,
                in("x4") registers.sctlr,
                out("x30") _,
            );
        }
        if cfg!(feature = "trace") {
            let window = super::window::prepare(cpu::current()) & !0xfff;
            trace::begin_el2(self.0.to_physical().0, registers.ttbr0 as usize, window as usize);
            trace_registers();
        }
        *SHARED.lock() = Some(self);
    }

    /// Says whether something is mapped in `region`.
    fn has_mapped(&self, region: &MemoryRegion) -> bool {
        let mut found = false;
        let walked = self.0.walk_range(region, &mut |_, entry, _| {
            found |= entry.is_valid();
            Ok(())
        });
        walked.expect("the range is in 48 bits of address");
        found
    }

    /// Makes the tables down to level 2 for all of `memory`.
    fn cover(&mut self, memory: &PaRange) {
        let mut at = memory.start.align_down(BLOCK_1G);
        while at < memory.end {
            // Mapping nothing in the last block of the GiB makes the tables that lead to it.
            let block = (at.as_u64() + BLOCK_1G - BLOCK_2M) as usize;
            let region = MemoryRegion::new(block, block + BLOCK_2M as usize);
            // Where something is mapped there already the tables are there, and it must stay.
            if !self.has_mapped(&region) {
                let made = self.0.map_range(
                    &region,
                    PhysicalAddress(block),
                    El23Attributes::empty(),
                    Constraints::empty(),
                );
                made.expect("a range of physical memory can be mapped");
                self.trace(block, block + BLOCK_2M as usize);
            }
            at = Pa::new(at.as_u64() + BLOCK_1G);
        }
    }

    /// Says whether there is a table left, as part of a block of 2 MiB can need.
    fn has_table(&self) -> bool {
        self.0.translation().used < TABLES || !SPARE.lock().is_empty()
    }

    /// Gives the root of `cpu` all entries that the CPUs share.
    fn share_root(&self, cpu: CpuId) -> &'static Table {
        let root = &ROOTS[cpu.index()];
        let common = self.0.to_physical().0;
        // SAFETY: it is the root that the builder holds, a table of 512 words.
        let common = unsafe { &*core::ptr::with_exposed_provenance::<Table>(common) };
        for (own, shared) in root.0.iter().zip(&common.0).take(WINDOW_ENTRY) {
            let bits = shared.load(Ordering::Relaxed);
            if cfg!(feature = "trace") && bits != own.load(Ordering::Relaxed) {
                trace::table_write(own, bits);
            }
            own.store(bits, Ordering::Relaxed);
        }
        root
    }

    fn registers(&self, cpu: CpuId) -> Stage1Registers {
        trace::lock(root_pa(CpuId::FIRST));
        trace::table(trace::EL2, root_pa(cpu));
        trace::root(trace::EL2, root_pa(cpu), cpu.index() as u16);
        let root = self.share_root(cpu);
        let window = super::window::prepare(cpu);
        root.0[WINDOW_ENTRY].store(window, Ordering::Relaxed);
        trace::table_write(&root.0[WINDOW_ENTRY], window);
        trace::unlock(root_pa(CpuId::FIRST));
        super::barrier::dsb_ishst();
        let pa_range = (ID_AA64MMFR0_EL1.get() & 0xf).min(5);
        Stage1Registers {
            ttbr0: core::ptr::from_ref(root).expose_provenance() as u64,
            // T0SZ 16: 48 bits; write-back, inner shareable walks; 4 KiB granule; RES1 bits.
            tcr: 1 << 31 | 1 << 23 | pa_range << 16 | 0b11 << 12 | 0b01 << 10 | 0b01 << 8 | 16,
            mair: MAIR,
            sctlr: SCTLR,
        }
    }
}

/// What the registers that govern EL2's stage 1 hold on one CPU.
pub(super) struct Stage1Registers {
    pub ttbr0: u64,
    pub tcr: u64,
    pub mair: u64,
    pub sctlr: u64,
}

/// Makes the root of `cpu` and returns what its registers are to hold; `None` before the first CPU's are on.
pub(super) fn registers(cpu: CpuId) -> Option<Stage1Registers> {
    Some(SHARED.lock().as_ref()?.registers(cpu))
}

/// Returns where the root of `cpu` is. By the first CPU's a trace names the lock on EL2's tables.
#[inline(always)]
fn root_pa(cpu: CpuId) -> Pa {
    Pa::new(ROOTS.get(cpu.index()).map_or(0, |root| core::ptr::from_ref(root).addr() as u64))
}

/// Records what governs this CPU's stage 1, which was turned on just before.
#[inline(always)]
pub(super) fn trace_registers() {
    if cfg!(feature = "trace") {
        trace::sysreg_write(Register::Tcr, TCR_EL2.get());
        trace::sysreg_write(Register::Mair, MAIR_EL2.get());
        trace::sysreg_write(Register::Ttbr0, TTBR0_EL2.get());
        trace::sysreg_write(Register::Sctlr, SCTLR_EL2.get());
    }
}

/// Maps memory that the hypervisor has come to own, for reading and writing, on all CPUs: see
/// [`map_hypervisor`](super::memory::map_hypervisor).
///
/// The roots need no change: boot made a table for everything that memory reaches ([`cover`]).
pub(super) fn map_data(range: PaRange, table: impl FnOnce() -> Option<Pa>) -> bool {
    let mut shared = SHARED.lock();
    let Some(builder) = shared.as_mut() else { return false };
    let whole = range.start.is_aligned(BLOCK_2M) && range.end.is_aligned(BLOCK_2M);
    // A part of a block may need a table of level 3; those of level 2 are there.
    if !whole && !builder.has_table() {
        let Some(table) = table() else { return false };
        set_spare(table..Pa::new(table.as_u64() + PAGE_SIZE));
    }
    trace::lock(root_pa(CpuId::FIRST));
    builder.data(range);
    super::barrier::dsb_ishst();
    super::barrier::isb();
    trace::unlock(root_pa(CpuId::FIRST));
    true
}

/// Makes the tables down to level 2 for all of `memory`, so that a block of it can be mapped later
/// without another table, and the roots of all CPUs have in common what they ever will.
///
/// To be called by the first CPU before it starts others.
pub fn cover(memory: &[PaRange]) {
    if let Some(builder) = SHARED.lock().as_mut() {
        trace::lock(root_pa(CpuId::FIRST));
        for range in memory {
            builder.cover(range);
        }
        builder.share_root(cpu::current());
        super::barrier::dsb_ishst();
        super::barrier::isb();
        trace::unlock(root_pa(CpuId::FIRST));
    }
}
