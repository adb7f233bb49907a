//! Cadence's UART, as Zynq UltraScale+ has it (UG1085, chapter 21, and UG1087's module UART).
#![expect(unsafe_code, reason = "drives the device's registers")]

use crate::addr::Pa;

/// Registers.
mod register {
    pub const CONTROL: u64 = 0x0;
    pub const INTERRUPT_ENABLE: u64 = 0x8;
    pub const INTERRUPT_DISABLE: u64 = 0xc;
    pub const INTERRUPT_STATUS: u64 = 0x14;
    pub const RECEIVE_TIMEOUT: u64 = 0x1c;
    pub const RECEIVE_TRIGGER: u64 = 0x20;
    pub const STATUS: u64 = 0x2c;
    pub const FIFO: u64 = 0x30;
}

/// CONTROL: the receiver and the transmitter are on.
const ON: u32 = 1 << 4 | 1 << 2;
/// STATUS.
const RECEIVED_NOTHING: u32 = 1 << 1;
const TRANSMIT_FULL: u32 = 1 << 4;
/// Interrupts: as much has been received as RECEIVE_TRIGGER says; something has, and nothing more comes.
const RECEIVED: u32 = 1 << 8 | 1;

/// A Cadence UART, which the loader has set the rate and the line of.
pub struct Cadence(Pa);

impl Cadence {
    /// Takes over the UART at `base`.
    ///
    /// # Safety
    ///
    /// There is such a UART at `base`, mapped as a device, and nobody else drives it.
    pub unsafe fn new(base: Pa) -> Self {
        let mut new = Self(base);
        new.write(register::INTERRUPT_DISABLE, !0);
        new.write(register::CONTROL, ON);
        new.write(register::RECEIVE_TRIGGER, 1);
        new.write(register::RECEIVE_TIMEOUT, 10);
        new
    }

    fn read(&self, register: u64) -> u32 {
        let address = (self.0.as_u64() + register) as usize;
        // SAFETY: a register of the device, as `new` was promised.
        unsafe { core::ptr::with_exposed_provenance::<u32>(address).read_volatile() }
    }

    fn write(&mut self, register: u64, value: u32) {
        let address = (self.0.as_u64() + register) as usize;
        // SAFETY: as for reads.
        unsafe { core::ptr::with_exposed_provenance_mut::<u32>(address).write_volatile(value) }
    }

    /// Has the device interrupt, or not, when something has been received.
    pub fn set_receive_interrupt(&mut self, on: bool) {
        let register = if on { register::INTERRUPT_ENABLE } else { register::INTERRUPT_DISABLE };
        self.write(register, RECEIVED);
    }

    /// Says whether there is no room for a byte.
    pub fn is_full(&self) -> bool {
        self.read(register::STATUS) & TRANSMIT_FULL != 0
    }

    /// Sends a byte, for which there is room.
    pub fn send(&mut self, byte: u8) {
        self.write(register::FIFO, byte.into());
    }

    /// Takes one received byte.
    pub fn receive(&mut self) -> Option<u8> {
        self.write(register::INTERRUPT_STATUS, RECEIVED);
        let nothing = self.read(register::STATUS) & RECEIVED_NOTHING != 0;
        (!nothing).then(|| self.read(register::FIFO) as u8)
    }
}
