//! The physical CPUs and what each keeps for itself.
#![expect(unsafe_code, reason = "reads TPIDR_EL2 and starts CPUs")]

use aarch64_cpu::asm;
use aarch64_cpu::registers::{MPIDR_EL1, Readable, TPIDR_EL2, Writeable};
use core::cell::{Cell, UnsafeCell};
use core::mem::offset_of;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

/// The largest number of CPUs.
pub const MAX_CPUS: usize = 16;
/// The size of a CPU's stack in bytes; the page below it is not mapped.
const STACK_SIZE: usize = 28 << 10;
/// The size of the first CPU's stack, on which boot builds what it then puts in its place.
const BOOT_STACK_SIZE: usize = 92 << 10;
const EMERGENCY_STACK_SIZE: usize = 8 << 10;

/// A physical CPU's number, 0 to [`MAX_CPUS`] - 1: 0 for the one that boots, then in the order in which they are listed
/// in the device tree.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuId(u8);

impl CpuId {
    /// The CPU that boots.
    pub const FIRST: Self = Self(0);

    /// Makes a CPU number; `None` where there cannot be such a CPU.
    pub const fn new(index: usize) -> Option<Self> {
        if index < MAX_CPUS { Some(Self(index as u8)) } else { None }
    }

    /// Returns the number as an index into an array of [`MAX_CPUS`].
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A stack, under a page that is not mapped: running off its end is a fault and no corruption.
#[repr(C, align(4096))]
pub struct Stack<const SIZE: usize> {
    guard: [u8; 4096],
    bytes: UnsafeCell<[u8; SIZE]>,
}

// SAFETY: only the CPU that it belongs to uses a stack, through its stack pointer.
unsafe impl<const SIZE: usize> Sync for Stack<SIZE> {}

impl<const SIZE: usize> Stack<SIZE> {
    const fn new() -> Self {
        Self { guard: [0; 4096], bytes: UnsafeCell::new([0; SIZE]) }
    }
}

/// The first CPU's stack.
pub static BOOT_STACK: Stack<BOOT_STACK_SIZE> = Stack::new();
/// How many bytes it has, its guard page included.
pub(super) const BOOT_STACK_BYTES: usize = size_of::<Stack<BOOT_STACK_SIZE>>();
/// The others', in order.
static STACKS: [Stack<STACK_SIZE>; MAX_CPUS - 1] = [const { Stack::new() }; MAX_CPUS - 1];

/// Returns the pages that EL2's stage 1 leaves out, by ascending address within each kind of stack.
pub(super) fn guards() -> impl Iterator<Item = usize> + Clone {
    let boot = core::ptr::from_ref(&BOOT_STACK.guard).addr();
    let others = STACKS.iter().map(|stack| core::ptr::from_ref(&stack.guard).addr());
    core::iter::once(boot).chain(others)
}

#[repr(C, align(16))]
struct EmergencyStack(UnsafeCell<[u8; EMERGENCY_STACK_SIZE]>);

// SAFETY: only the CPU that it belongs to uses it, when it is at its end.
unsafe impl Sync for EmergencyStack {}

/// What a CPU runs on when its own stack may be what is broken, one a CPU.
static EMERGENCY_STACKS: [EmergencyStack; MAX_CPUS] =
    [const { EmergencyStack(UnsafeCell::new([0; EMERGENCY_STACK_SIZE])) }; MAX_CPUS];

/// What one CPU keeps for itself, found through TPIDR_EL2.
#[repr(C)]
pub struct PerCpu {
    id: Cell<CpuId>,
    emergency_stack_top: Cell<*const u8>,
    /// How many window slots are in use.
    pub(super) window_depth: Cell<usize>,
}

// SAFETY: the cells are used only by the CPU that the block belongs to, and by the first CPU before it starts.
unsafe impl Sync for PerCpu {}

impl PerCpu {
    /// Where the vectors find the spare stack.
    pub(super) const EMERGENCY_STACK: usize = offset_of!(PerCpu, emergency_stack_top);
}

/// All zero until a CPU is about to start, so that it takes no room in the image.
static PER_CPU: [PerCpu; MAX_CPUS] = [const {
    PerCpu {
        id: Cell::new(CpuId::FIRST),
        emergency_stack_top: Cell::new(core::ptr::null()),
        window_depth: Cell::new(0),
    }
}; MAX_CPUS];

/// Returns the block of `cpu`, made ready for its first use.
pub(super) fn per_cpu(cpu: CpuId) -> &'static PerCpu {
    let block = &PER_CPU[cpu.index()];
    let bottom = EMERGENCY_STACKS[cpu.index()].0.get().cast::<u8>();
    block.id.set(cpu);
    block.emergency_stack_top.set(bottom.wrapping_add(EMERGENCY_STACK_SIZE));
    block
}

/// Returns the top of the stack of `cpu`.
pub(super) fn stack_top(cpu: CpuId) -> *const u8 {
    match STACKS.get(cpu.index().wrapping_sub(1)) {
        Some(stack) => stack.bytes.get().cast::<u8>().wrapping_add(STACK_SIZE),
        None => BOOT_STACK.bytes.get().cast::<u8>().wrapping_add(BOOT_STACK_SIZE),
    }
}

/// Returns how many bytes at the end of the stack of `cpu` were never written.
pub fn stack_unused(cpu: CpuId) -> u64 {
    let (bottom, size) = match STACKS.get(cpu.index().wrapping_sub(1)) {
        Some(stack) => (stack.bytes.get().cast::<u64>(), STACK_SIZE),
        None => (BOOT_STACK.bytes.get().cast::<u64>(), BOOT_STACK_SIZE),
    };
    let is_zero = |&index: &usize| {
        // SAFETY: the word is within the stack, which is aligned to pages. Its CPU may be writing it: then either is
        // read, and either is an answer.
        unsafe { bottom.wrapping_add(index).read_volatile() == 0 }
    };
    (0..size / size_of::<u64>()).take_while(is_zero).count() as u64 * size_of::<u64>() as u64
}

/// Makes the CPU that runs this the first one, number 0.
pub(super) fn adopt_boot_cpu() {
    TPIDR_EL2.set(core::ptr::from_ref(per_cpu(CpuId(0))).addr() as u64);
}

/// Returns this CPU's own block.
#[inline(always)]
pub(super) fn local() -> &'static PerCpu {
    // SAFETY: TPIDR_EL2 holds the address of this CPU's entry of PER_CPU from before the first call on.
    unsafe { &*(TPIDR_EL2.get() as *const PerCpu) }
}

/// Returns the CPU that this code runs on.
#[inline(always)]
pub fn current() -> CpuId {
    local().id.get()
}

/// Returns MPIDR_EL1's affinity fields of this CPU: Aff3 in bits 39:32, Aff2 to Aff0 in bits 23:0.
pub fn affinity() -> u64 {
    MPIDR_EL1.get() & 0xff_00ff_ffff
}

/// Tells the CPU that this is a spin loop.
pub fn relax() {
    core::hint::spin_loop();
}

/// Says that this CPU only waits for others (YIELD): an emulator that runs one CPU at a time goes on to the next.
#[cfg(feature = "scheme")]
pub fn give_turn() {
    // SAFETY: a hint changes no state.
    unsafe { core::arch::asm!("yield", options(nomem, nostack, preserves_flags)) }
}

/// Waits until an interrupt is pending. Interrupts stay masked: the caller looks for them.
pub fn wait_for_interrupt() {
    aarch64_cpu::asm::barrier::dsb(aarch64_cpu::asm::barrier::SY);
    asm::wfi();
}

/// Stops this CPU for good.
pub fn halt() -> ! {
    loop {
        asm::wfe();
    }
}

/// What a CPU that is being started finds at the address in its x0. The order is `boot.S`'s.
#[repr(C)]
pub(super) struct SecondaryStart {
    pub ttbr0: AtomicU64,
    pub tcr: AtomicU64,
    pub mair: AtomicU64,
    pub sctlr: AtomicU64,
    pub stack: AtomicU64,
    pub per_cpu: AtomicU64,
}

static SECONDARY_START: [SecondaryStart; MAX_CPUS] = [const {
    SecondaryStart {
        ttbr0: AtomicU64::new(0),
        tcr: AtomicU64::new(0),
        mair: AtomicU64::new(0),
        sctlr: AtomicU64::new(0),
        stack: AtomicU64::new(0),
        per_cpu: AtomicU64::new(0),
    }
}; MAX_CPUS];

/// The address of the [`SecondaryStart`] of the CPU that leaves a spin table next.
#[unsafe(no_mangle)]
static SPIN_START: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    fn secondary_entry();
    fn spin_entry();
}

/// How PSCI is called on this machine.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// By SMC: there is firmware at EL3, or an emulator that pretends so.
    Smc,
    /// By HVC: we are somebody's guest.
    Hvc,
}

/// How another CPU is started.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// By PSCI CPU_ON.
    Psci(Conduit),
    /// By writing where to begin to this address, which is mapped.
    SpinTable(u64),
}

/// Starts `cpu`, whose affinity is `mpidr`, at `secondary_main`. At a spin table, only after all that were started
/// before have come.
///
/// # Errors
///
/// PSCI's answer, where it is not SUCCESS (PSCI 1.1, section 5.6).
pub fn start(cpu: CpuId, mpidr: u64, way: Way) -> Result<(), smccc::psci::Error> {
    let start = &SECONDARY_START[cpu.index()];
    let Some(registers) = super::stage1::registers(cpu) else {
        return Err(smccc::psci::Error::InternalFailure);
    };
    start.ttbr0.store(registers.ttbr0, Ordering::Relaxed);
    start.tcr.store(registers.tcr, Ordering::Relaxed);
    start.mair.store(registers.mair, Ordering::Relaxed);
    start.sctlr.store(registers.sctlr, Ordering::Relaxed);
    start.stack.store(stack_top(cpu).addr() as u64, Ordering::Relaxed);
    start.per_cpu.store(core::ptr::from_ref(per_cpu(cpu)).addr() as u64, Ordering::Relaxed);
    // The new CPU reads it with its caches off.
    let bytes = NonNull::from_ref(start).cast::<u8>();
    // SAFETY: the bytes are those of a static.
    unsafe { super::memory::clean_to_poc(bytes, size_of::<SecondaryStart>()) };
    let entry = secondary_entry as *const () as u64;
    let argument = bytes.as_ptr().addr() as u64;
    match way {
        Way::Psci(Conduit::Smc) => smccc::psci::cpu_on::<smccc::Smc>(mpidr, entry, argument),
        Way::Psci(Conduit::Hvc) => smccc::psci::cpu_on::<smccc::Hvc>(mpidr, entry, argument),
        Way::SpinTable(release) => {
            SPIN_START.store(argument, Ordering::Relaxed);
            // SAFETY: the bytes are those of a static.
            unsafe { super::memory::clean_to_poc(NonNull::from_ref(&SPIN_START).cast(), 8) };
            let entry = spin_entry as *const () as u64;
            let release = core::ptr::with_exposed_provenance_mut::<u64>(release as usize);
            // SAFETY: the device tree says that the CPU looks there, and it is mapped without a cache.
            unsafe { release.write_volatile(entry) };
            asm::barrier::dsb(asm::barrier::SY);
            asm::sev();
            Ok(())
        }
    }
}

/// Ends the machine by PSCI SYSTEM_OFF; where there is no firmware that knows it, all that ends is this CPU.
pub fn power_off(conduit: Option<Conduit>) -> ! {
    crate::trace::end();
    // There is nobody left to tell that it failed.
    let _ = match conduit {
        Some(Conduit::Smc) => smccc::psci::system_off::<smccc::Smc>(),
        Some(Conduit::Hvc) => smccc::psci::system_off::<smccc::Hvc>(),
        None => Ok(()),
    };
    halt()
}
