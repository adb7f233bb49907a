//! Access to the system registers that `aarch64-cpu` does not name.

/// Reads the system register named by a string literal.
macro_rules! mrs {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: reading the registers that are read this way has no side effect.
        unsafe {
            core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags));
        }
        value
    }};
}

/// Writes the system register named by a string literal. What the write means is for the caller
/// to justify, as its SAFETY comment.
macro_rules! msr {
    ($name:literal, $value:expr) => {{
        let value: u64 = $value;
        core::arch::asm!(concat!("msr ", $name, ", {}"), in(reg) value, options(nostack, preserves_flags));
    }};
}
