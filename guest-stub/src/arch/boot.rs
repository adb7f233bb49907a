//! The first instructions, and what they call.
#![expect(unsafe_code, reason = "is called from assembly")]

use super::{cpu, mmu};
use core::arch::global_asm;

global_asm!(
    include_str!("boot.S"),
    stacks = sym cpu::STACKS,
    stack_end = const size_of::<cpu::Stack>(),
    sctlr_off = const mmu::SCTLR_OFF,
);

unsafe extern "C" {
    static IMAGE_START: u8;
    static IMAGE_END: u8;
    fn secondary_entry();
}

/// What `secondary_entry` finds at its x0.
#[repr(C, align(64))]
pub struct Start {
    /// TTBR0_EL1, TCR_EL1, MAIR_EL1, SCTLR_EL1.
    pub registers: [u64; 4],
    /// The end of the stack.
    pub stack: u64,
    /// The number of the CPU.
    pub index: u64,
}

/// Returns the first byte of the image and the one past it, .bss included.
pub fn image() -> (u64, u64) {
    ((&raw const IMAGE_START).addr() as u64, (&raw const IMAGE_END).addr() as u64)
}

/// Returns the address at which PSCI has to start a CPU.
pub fn secondary_address() -> u64 {
    (secondary_entry as *const ()).addr() as u64
}

#[unsafe(no_mangle)]
extern "C" fn primary_main(device_tree: u64, entered_at: u64) -> ! {
    cpu::adopt(0);
    mmu::enable(&[image().0, device_tree]);
    crate::run::primary(device_tree, entered_at)
}

#[unsafe(no_mangle)]
extern "C" fn secondary_main(index: u64) -> ! {
    cpu::adopt(index as usize);
    crate::smp::secondary()
}
