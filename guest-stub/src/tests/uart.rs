//! The PL011 (DDI 0183).

use crate::arch::{cpu, time};
use crate::gic;
use crate::outcome::Outcome;
use crate::run::Stub;

const FLAGS: u64 = 0x18;
const INTEGER_BAUD: u64 = 0x24;
const LINE: u64 = 0x2c;
const CONTROL: u64 = 0x30;
const LEVELS: u64 = 0x34;
const MASK: u64 = 0x38;
const RAW: u64 = 0x3c;
const MASKED: u64 = 0x40;
const CLEAR: u64 = 0x44;
const ID: u64 = 0xfe0;

/// The transmit interrupt.
const TRANSMIT: u32 = 1 << 5;

/// The ID registers say PL011, and what is written to the others is read back.
pub fn registers(stub: &Stub) -> Outcome {
    let base = stub.machine.uart.registers.start;
    let id = [0x11, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1];
    for (index, expected) in id.into_iter().enumerate() {
        let found = gic::read(base + ID + index as u64 * 4);
        // The upper half of the third is the revision.
        let known = if index == 2 { 0xf } else { 0xff };
        ensure!(found & known == expected & known, "ID register {index} is {found:#x}");
    }
    let flags = gic::read(base + FLAGS);
    ensure!(flags & (1 << 4) != 0, "there is input that nobody typed, UARTFR {flags:#x}");
    for (register, value) in [(INTEGER_BAUD, 0x27), (LINE, 0x70), (LEVELS, 0x12), (MASK, 0)] {
        let before = gic::read(base + register);
        gic::write(base + register, value);
        let found = gic::read(base + register);
        gic::write(base + register, before);
        ensure!(found == value, "register {register:#x} reads {found:#x} after {value:#x}");
    }
    Ok(())
}

fn quench(_: u32) {
    if let Some(machine) = crate::run::machine() {
        gic::write(machine.uart.registers.start + MASK, 0);
    }
}

/// A sent byte raises the transmit interrupt, which stays until it is cleared or masked.
pub fn interrupt(stub: &Stub) -> Outcome {
    let base = stub.machine.uart.registers.start;
    let interrupt = stub.machine.uart.interrupt;
    let control = gic::read(base + CONTROL);
    gic::write(base + MASK, 0);
    gic::write(base + CLEAR, 0x7ff);
    gic::write(base + CONTROL, 0x301);
    let before = cpu::this().count(interrupt);
    gic::enable(interrupt, quench);
    gic::write(base + MASK, TRANSMIT);
    say!("note uart-interrupt: a line to be sent");
    let came = time::poll(1_000_000, || cpu::this().count(interrupt) != before);
    let raw = gic::read(base + RAW);
    let masked = gic::read(base + MASKED);
    gic::write(base + CLEAR, TRANSMIT);
    gic::disable(interrupt);
    gic::write(base + CONTROL, control);
    ensure!(came, "no transmit interrupt, UARTRIS {raw:#x}");
    ensure!(masked & TRANSMIT == 0, "UARTMIS {masked:#x} though masked");
    Ok(())
}
