//! The physical PL011 (Arm DDI 0183).
//!
//! The loader has set the rate and the line up; Sluice enables what it needs of it.
#![expect(unsafe_code, reason = "takes the device's registers over")]

use crate::addr::Pa;
use arm_pl011_uart::{Interrupts, PL011Registers, Uart, UniqueMmioPointer};
use core::ptr::NonNull;
use spin::Mutex;

static UART: Mutex<Option<Uart<'static>>> = Mutex::new(None);

/// Takes over the PL011 at `base`.
///
/// # Safety
///
/// There is a PL011 at `base` and nobody else drives it.
pub unsafe fn init(base: Pa) {
    let registers =
        core::ptr::with_exposed_provenance_mut::<PL011Registers>(base.as_u64() as usize);
    let Some(registers) = NonNull::new(registers) else { return };
    // SAFETY: the caller's promise.
    let uart = Uart::new(unsafe { UniqueMmioPointer::new(registers) });
    *UART.lock() = Some(uart);
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

/// Has the device interrupt, or not, when something has been received.
pub fn set_receive_interrupt(on: bool) {
    if let Some(uart) = UART.lock().as_mut() {
        let received = Interrupts::RXI | Interrupts::RTI;
        uart.set_interrupt_masks(if on { received } else { Interrupts::empty() });
    }
}

/// Sends one byte, waiting for room in the FIFO.
pub fn put(byte: u8) {
    put_all(&[byte]);
}

/// Sends `bytes`, waiting for room in the FIFO.
pub fn put_all(bytes: &[u8]) {
    if let Some(uart) = UART.lock().as_mut() {
        put_on(uart, bytes);
    }
}

/// Sends as many of `bytes` as there is room for at once; returns how many.
pub fn try_put(bytes: &[u8]) -> usize {
    let mut uart = UART.lock();
    let Some(uart) = uart.as_mut() else { return bytes.len() };
    let mut sent = 0;
    for &byte in bytes {
        if uart.is_tx_fifo_full() {
            break;
        }
        uart.write_word(byte);
        sent += 1;
    }
    sent
}

fn put_on(uart: &mut Uart<'_>, bytes: &[u8]) {
    for &byte in bytes {
        while uart.is_tx_fifo_full() {
            core::hint::spin_loop();
        }
        uart.write_word(byte);
    }
}

/// Sends `bytes` whoever holds the device: for the last words of a panic.
pub fn put_in_panic(bytes: &[u8]) {
    for _ in 0..1_000_000 {
        if let Some(mut uart) = UART.try_lock() {
            if let Some(uart) = uart.as_mut() {
                put_on(uart, bytes);
            }
            return;
        }
        core::hint::spin_loop();
    }
    // SAFETY: the holder has been stopped, or has itself panicked; mixed-up output is all that can come of it.
    unsafe { UART.force_unlock() };
    put_all(bytes);
}

/// Takes one received byte.
pub fn get() -> Option<u8> {
    let mut uart = UART.lock();
    let uart = uart.as_mut()?;
    uart.clear_interrupts(Interrupts::RXI | Interrupts::RTI);
    // A byte with a framing or parity error is left out.
    uart.read_word().ok().flatten()
}
