//! The CPU: its assembly, its registers and what is built on them.

/// Reads a system register by a name that the assembler knows (`S3_0_C1_C2_0` where it knows none).
macro_rules! mrs {
    ($name:expr) => {{
        let value: u64;
        // SAFETY: reading a system register has no effect on memory that Rust knows of.
        unsafe {
            core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value, options(nostack, preserves_flags))
        };
        value
    }};
}

/// Writes a system register by a name that the assembler knows, and lets it take effect.
macro_rules! msr {
    ($name:expr, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: the callers write registers of timers, interrupts and features, never of translation.
        unsafe {
            core::arch::asm!(concat!("msr ", $name, ", {}"), "isb", in(reg) value, options(nostack, preserves_flags))
        }
    }};
}

pub mod barrier;
pub mod boot;
pub mod cpu;
pub mod exception;
pub mod float;
pub mod mmio;
pub mod mmu;
pub mod probe;
pub mod time;
