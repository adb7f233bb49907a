//! What a trap costs, there and back.
#![expect(
    unsafe_code,
    reason = "calls the hypervisor and reads devices without going through anything"
)]

use super::{Measurement, repeat};
use crate::arch::probe::Conduit;
use crate::firmware::{self, SMCCC_VERSION};
use crate::gic::{self, register};
use crate::memory::PAGE;
use crate::outcome::Verdict;
use crate::run::Stub;
use core::arch::asm;

const TIMES: u64 = 1000;

fn times(stub: &Stub) -> u64 {
    stub.orders.number("iterations", TIMES)
}

/// The loop alone.
pub fn empty(stub: &Stub) -> Result<Measurement, Verdict> {
    // SAFETY: there is no instruction.
    Ok(repeat(times(stub), || unsafe { asm!("", options(nostack)) }))
}

macro_rules! call {
    ($instruction:literal) => {
        // SAFETY: the function returns a number; SMCCC lets it use x0 to x17.
        unsafe {
            asm!($instruction, inout("x0") u64::from(SMCCC_VERSION) => _, out("x1") _, out("x2") _, out("x3") _,
                lateout("x4") _, lateout("x5") _, lateout("x6") _, lateout("x7") _, lateout("x8") _, lateout("x9") _,
                lateout("x10") _, lateout("x11") _, lateout("x12") _, lateout("x13") _, lateout("x14") _,
                lateout("x15") _, lateout("x16") _, lateout("x17") _, options(nostack))
        }
    };
}

/// SMCCC_VERSION, by the conduit of the device tree.
pub fn hypercall(stub: &Stub) -> Result<Measurement, Verdict> {
    if firmware::try_call(SMCCC_VERSION, [0; 3]).is_err() {
        skip!("nobody is called by the conduit of the device tree");
    }
    Ok(match stub.machine.conduit {
        Conduit::Smc => repeat(times(stub), || call!("smc #0")),
        _ => repeat(times(stub), || call!("hvc #0")),
    })
}

fn reads(stub: &Stub, address: u64) -> Result<Measurement, Verdict> {
    Ok(repeat(times(stub), || {
        gic::read(address);
    }))
}

/// A read of GICD_TYPER.
pub fn gicd_typer(stub: &Stub) -> Result<Measurement, Verdict> {
    reads(stub, gic::distributor() + register::TYPER)
}

/// A read of GICD_ISENABLER1.
pub fn gicd_isenabler(stub: &Stub) -> Result<Measurement, Verdict> {
    reads(stub, gic::distributor() + register::ISENABLER + 4)
}

/// A write of GICD_ICENABLER of an interrupt that nobody uses.
pub fn gicd_icenabler(stub: &Stub) -> Result<Measurement, Verdict> {
    let address = gic::distributor() + register::ICENABLER + 8;
    Ok(repeat(times(stub), || gic::write(address, 1 << 31)))
}

/// A read of GICR_TYPER of this CPU.
pub fn gicr_typer(stub: &Stub) -> Result<Measurement, Verdict> {
    if gic::is_v2() {
        skip!("a GICv2 has no redistributors");
    }
    reads(stub, gic::redistributor() + register::GICR_TYPER)
}

/// A read of UARTFR.
pub fn uart_flags(stub: &Stub) -> Result<Measurement, Verdict> {
    reads(stub, stub.machine.uart.registers.start + 0x18)
}

/// A read of the magic number of a virtio-mmio slot.
pub fn virtio_magic(stub: &Stub) -> Result<Measurement, Verdict> {
    match stub.machine.slots().first() {
        Some(slot) => reads(stub, slot.registers.start),
        None => skip!("no virtio-mmio slots"),
    }
}

/// A read of ID_AA64PFR0_EL1, which hypervisors trap to hide features.
pub fn id_register(stub: &Stub) -> Result<Measurement, Verdict> {
    Ok(repeat(times(stub), || {
        mrs!("ID_AA64PFR0_EL1");
    }))
}

/// A read of memory that has been touched before: no trap.
pub fn memory_read(stub: &Stub) -> Result<Measurement, Verdict> {
    let page = [0u64; (PAGE / 8) as usize];
    Ok(repeat(times(stub), || {
        // SAFETY: the array is there.
        unsafe { page.as_ptr().read_volatile() };
    }))
}
