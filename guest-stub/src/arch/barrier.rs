//! Barriers and cache maintenance.
#![expect(unsafe_code, reason = "names instructions")]

use core::arch::asm;

/// Waits for all memory accesses before, for every observer (DSB SY).
#[inline(always)]
pub fn dsb() {
    // SAFETY: a barrier changes no state.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) }
}

/// Lets all that came before take effect on what is executed next (ISB).
#[inline(always)]
pub fn isb() {
    // SAFETY: a barrier changes no state.
    unsafe { asm!("isb", options(nostack, preserves_flags)) }
}

/// Cleans and invalidates `bytes` from `start` to the point of coherency, for those who read with their caches off.
pub fn clean_to_poc(start: usize, bytes: usize) {
    let line = 4usize << ((mrs!("CTR_EL0") >> 16) & 0xf);
    let mut address = start & !(line - 1);
    while address < start + bytes {
        // SAFETY: cleaning a line changes no contents.
        unsafe { asm!("dc civac, {}", in(reg) address, options(nostack, preserves_flags)) }
        address += line;
    }
    dsb();
}

/// Makes an instruction written at `address` what the next fetch sees, on this CPU and the others.
pub fn publish_instruction(address: usize) {
    // SAFETY: maintenance by address changes no contents.
    unsafe {
        asm!(
            "dc cvau, {address}",
            "dsb ish",
            "ic ivau, {address}",
            "dsb ish",
            "isb",
            address = in(reg) address,
            options(nostack, preserves_flags)
        );
    }
}
