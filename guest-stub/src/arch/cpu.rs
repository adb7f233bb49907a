//! The CPU we run on: its number, its interrupts, its sleep.
#![expect(unsafe_code, reason = "names system registers and instructions")]

use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The most CPUs that the stub makes use of.
pub const MAX_CPUS: usize = 8;

/// The interrupts that are counted for each CPU: SGIs, PPIs and the SPIs of a `virt` machine.
pub const COUNTED_INTERRUPTS: usize = 288;

/// A CPU's stack in bytes.
const STACK_BYTES: usize = 32 << 10;

/// A CPU's stack.
#[repr(C, align(4096))]
pub struct Stack(UnsafeCell<[u8; STACK_BYTES]>);

// SAFETY: each stack is used by its own CPU only.
unsafe impl Sync for Stack {}

/// All stacks, the boot CPU's first.
pub static STACKS: [Stack; MAX_CPUS] =
    [const { Stack(UnsafeCell::new([0; STACK_BYTES])) }; MAX_CPUS];

/// What each CPU has for itself.
pub struct PerCpu {
    /// How often each interrupt was taken.
    pub interrupts: [AtomicU32; COUNTED_INTERRUPTS],
    /// SErrors taken.
    pub system_errors: AtomicU32,
    /// The ESR_EL1 of the last SError.
    pub last_system_error: AtomicU64,
    /// What the interrupt handler wrote to ICC_PMR_EL1's companion: the running priority seen last.
    pub running_priority: AtomicU32,
    /// The interrupt taken last.
    pub last_interrupt: AtomicU32,
}

impl PerCpu {
    const fn new() -> Self {
        Self {
            interrupts: [const { AtomicU32::new(0) }; COUNTED_INTERRUPTS],
            system_errors: AtomicU32::new(0),
            last_system_error: AtomicU64::new(0),
            running_priority: AtomicU32::new(0),
            last_interrupt: AtomicU32::new(0),
        }
    }

    /// Returns how often `interrupt` was taken.
    pub fn count(&self, interrupt: u32) -> u32 {
        self.interrupts.get(interrupt as usize).map_or(0, |count| count.load(Ordering::Acquire))
    }
}

static CPUS: [PerCpu; MAX_CPUS] = [const { PerCpu::new() }; MAX_CPUS];

/// Says which CPU this is; kept in TPIDR_EL1.
pub fn adopt(index: usize) {
    msr!("TPIDR_EL1", index as u64);
}

/// Returns the number of this CPU in the device tree, 0 to `MAX_CPUS` - 1.
#[inline(always)]
pub fn index() -> usize {
    (mrs!("TPIDR_EL1") as usize).min(MAX_CPUS - 1)
}

/// Returns what CPU `index` has for itself.
pub fn of(index: usize) -> &'static PerCpu {
    &CPUS[index.min(MAX_CPUS - 1)]
}

/// Returns what this CPU has for itself.
pub fn this() -> &'static PerCpu {
    of(index())
}

/// Returns the address just past the stack of CPU `index`.
pub fn stack_end(index: usize) -> u64 {
    (STACKS[index.min(MAX_CPUS - 1)].0.get().addr() + STACK_BYTES) as u64
}

/// Returns this CPU's affinity, as PSCI and the GIC name it (MPIDR_EL1 without its flags).
pub fn affinity() -> u64 {
    mrs!("MPIDR_EL1") & 0xff_00ff_ffff
}

/// Takes interrupts from here on.
#[inline(always)]
pub fn unmask() {
    // SAFETY: the handlers are in place since boot and keep all registers.
    unsafe { asm!("msr DAIFClr, #0x6", "isb", options(nostack)) }
}

/// Takes no interrupts from here on.
#[inline(always)]
pub fn mask() {
    // SAFETY: masking changes no other state.
    unsafe { asm!("msr DAIFSet, #0x2", options(nostack)) }
}

/// Sleeps until an interrupt is pending, masked or not.
#[inline(always)]
pub fn wait_for_interrupt() {
    // SAFETY: sleeping changes no state.
    unsafe { asm!("dsb sy", "wfi", options(nostack)) }
}

/// Says that this CPU is only waiting for another one (YIELD): emulators that run one CPU at a time go on to the next.
#[inline(always)]
pub fn relax() {
    // SAFETY: a hint changes no state.
    unsafe { asm!("yield", options(nostack, preserves_flags)) }
}

/// Sleeps until an event.
#[inline(always)]
pub fn wait_for_event() {
    // SAFETY: sleeping changes no state.
    unsafe { asm!("wfe", options(nostack)) }
}

/// Sends an event to all CPUs.
#[inline(always)]
pub fn send_event() {
    // SAFETY: an event changes no state.
    unsafe { asm!("dsb ish", "sev", options(nostack)) }
}

/// Sleeps with interrupts masked, in turns with taking them, until `done`. On return they are masked.
pub fn sleep_until(mut done: impl FnMut() -> bool) {
    mask();
    while !done() {
        wait_for_interrupt();
        unmask();
        mask();
    }
}
