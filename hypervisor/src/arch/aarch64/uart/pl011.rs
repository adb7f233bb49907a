//! Arm's PL011 (DDI 0183), by the driver that the crate `arm-pl011-uart` has.
#![expect(unsafe_code, reason = "takes the device's registers over")]

use crate::addr::Pa;
use arm_pl011_uart::{Interrupts, PL011Registers, Uart, UniqueMmioPointer};
use core::ptr::NonNull;

/// A PL011, which the loader has set the rate and the line of.
pub struct Pl011(Uart<'static>);

impl Pl011 {
    /// Takes over the PL011 at `base`, which is not 0.
    ///
    /// # Safety
    ///
    /// There is a PL011 at `base` and nobody else drives it.
    pub unsafe fn new(base: Pa) -> Option<Self> {
        let registers =
            core::ptr::with_exposed_provenance_mut::<PL011Registers>(base.as_u64() as usize);
        // SAFETY: the caller's promise.
        let registers = unsafe { UniqueMmioPointer::new(NonNull::new(registers)?) };
        Some(Self(Uart::new(registers)))
    }

    /// Has the device interrupt, or not, when something has been received.
    pub fn set_receive_interrupt(&mut self, on: bool) {
        let received = Interrupts::RXI | Interrupts::RTI;
        self.0.set_interrupt_masks(if on { received } else { Interrupts::empty() });
    }

    /// Says whether there is no room for a byte.
    pub fn is_full(&self) -> bool {
        self.0.is_tx_fifo_full()
    }

    /// Sends a byte, for which there is room.
    pub fn send(&mut self, byte: u8) {
        self.0.write_word(byte);
    }

    /// Takes one received byte.
    pub fn receive(&mut self) -> Option<u8> {
        self.0.clear_interrupts(Interrupts::RXI | Interrupts::RTI);
        // A byte with a framing or parity error is left out.
        self.0.read_word().ok().flatten()
    }
}

/// Sends `bytes` by the PL011 at `base` before anything is set up: no lock, no state.
///
/// # Safety
///
/// There is a PL011 at `base`.
pub unsafe fn put_early(base: Pa, bytes: &[u8]) {
    let data = core::ptr::with_exposed_provenance_mut::<u32>(base.as_u64() as usize);
    let flags = data.wrapping_byte_add(0x18);
    for &byte in bytes {
        // SAFETY: UARTDR and UARTFR of the device; TXFF is bit 5.
        unsafe {
            while flags.read_volatile() & 1 << 5 != 0 {}
            data.write_volatile(u32::from(byte));
        }
    }
}
