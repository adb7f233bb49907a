//! The first instructions, and the two functions that they call.
#![expect(unsafe_code, reason = "is called from assembly")]

use super::cpu;
use core::arch::global_asm;

global_asm!(
    include_str!("boot.S"),
    stack = sym cpu::BOOT_STACK,
    stack_end = const cpu::BOOT_STACK_BYTES,
);
global_asm!(include_str!("entry.S"), emergency_stack = const cpu::PerCpu::EMERGENCY_STACK);

unsafe extern "C" {
    static IMAGE_START: u8;
    static TEXT_END: u8;
    static RODATA_END: u8;
    static BSS_START: u8;
    static IMAGE_END: u8;
}

/// Where the parts of the image are, in bytes from address 0.
pub struct Image {
    /// The first byte, of the boot header and the code.
    pub start: usize,
    /// The first byte after the code, of the read-only data.
    pub text_end: usize,
    /// The first byte after the read-only data, of what is written.
    pub rodata_end: usize,
    /// The first byte after the image, .bss included.
    pub end: usize,
}

/// Returns where the image runs.
pub fn image() -> Image {
    Image {
        start: (&raw const IMAGE_START).addr(),
        text_end: (&raw const TEXT_END).addr(),
        rodata_end: (&raw const RODATA_END).addr(),
        end: (&raw const IMAGE_END).addr(),
    }
}

/// Returns how many bytes of the image a loader loads: code and data, without .bss.
pub fn image_bytes() -> usize {
    (&raw const BSS_START).addr() - (&raw const IMAGE_START).addr()
}

/// What the loader left us with.
pub struct Entry {
    /// The device tree's address, as x0 had it; 0 where there is none.
    pub device_tree: u64,
    /// The exception level that we were entered at.
    pub exception_level: u8,
}

#[unsafe(no_mangle)]
extern "C" fn primary_main(device_tree: u64, exception_level: u64) -> ! {
    if exception_level == 2 {
        cpu::adopt_boot_cpu();
    }
    crate::boot::primary(Entry { device_tree, exception_level: exception_level as u8 })
}

#[unsafe(no_mangle)]
extern "C" fn secondary_main() -> ! {
    super::stage1::trace_registers();
    crate::boot::secondary(cpu::current())
}
