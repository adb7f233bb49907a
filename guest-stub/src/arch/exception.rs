//! What the vectors call.
#![expect(unsafe_code, reason = "is called from assembly")]

use super::cpu;
use crate::console;
use core::arch::global_asm;
use core::sync::atomic::Ordering;

/// Marks a jump of `probe_execute` in x11.
const EXECUTE_MARK: u64 = 0x5a5a;

global_asm!(include_str!("vectors.S"), execute_mark = const EXECUTE_MARK);

#[unsafe(no_mangle)]
extern "C" fn interrupt_main() {
    crate::gic::take();
}

#[unsafe(no_mangle)]
extern "C" fn system_error_main() {
    let this = cpu::this();
    this.last_system_error.store(mrs!("ESR_EL1"), Ordering::Relaxed);
    this.system_errors.fetch_add(1, Ordering::Release);
}

#[unsafe(no_mangle)]
extern "C" fn fatal_exception(registers: &[u64; 31], vector: u64) -> ! {
    console::take_over();
    say!(
        "stub: exception {vector} on CPU {}: ESR {:#x}, FAR {:#x}, ELR {:#x} (image at {:#x}), SPSR {:#x}",
        cpu::index(),
        mrs!("ESR_EL1"),
        mrs!("FAR_EL1"),
        mrs!("ELR_EL1"),
        super::boot::image().0,
        mrs!("SPSR_EL1")
    );
    for (index, chunk) in registers.chunks(4).enumerate() {
        say!("stub: x{:<2} {chunk:#018x?}", index * 4);
    }
    crate::run::stop()
}
