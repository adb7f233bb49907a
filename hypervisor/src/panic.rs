//! x
/// x
pub fn own_fault(kind: u64, registers: &crate::arch::entry::OwnRegisters) -> ! {
    crate::arch::uart::put_in_panic(
        alloc::format!(
            "fault {kind} pc {:#x} esr {:#x} far {:#x}\r\n",
            registers.pc,
            registers.syndrome,
            registers.fault_address
        )
        .as_bytes(),
    );
    crate::arch::cpu::halt()
}
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    crate::arch::uart::put_in_panic(alloc::format!("panic {info}\r\n").as_bytes());
    crate::arch::cpu::halt()
}
