//! The console's UART, whichever the machine has.
//!
//! The loader has set the rate and the line up; Sluice enables what it needs of it.
#![expect(unsafe_code, reason = "passes the promise on that there is such a UART")]

mod cadence;
mod pl011;

use crate::addr::Pa;
use cadence::Cadence;
use pl011::Pl011;
use sluice_platform::{Uart, UartKind};
use spin::Mutex;

/// Those that are known.
enum Driver {
    Pl011(Pl011),
    Cadence(Cadence),
}

static UART: Mutex<Option<Driver>> = Mutex::new(None);

impl Driver {
    fn set_receive_interrupt(&mut self, on: bool) {
        match self {
            Self::Pl011(uart) => uart.set_receive_interrupt(on),
            Self::Cadence(uart) => uart.set_receive_interrupt(on),
        }
    }

    fn is_full(&self) -> bool {
        match self {
            Self::Pl011(uart) => uart.is_full(),
            Self::Cadence(uart) => uart.is_full(),
        }
    }

    fn send(&mut self, byte: u8) {
        match self {
            Self::Pl011(uart) => uart.send(byte),
            Self::Cadence(uart) => uart.send(byte),
        }
    }

    fn receive(&mut self) -> Option<u8> {
        match self {
            Self::Pl011(uart) => uart.receive(),
            Self::Cadence(uart) => uart.receive(),
        }
    }

    /// Sends `bytes`, waiting for room in the FIFO.
    fn put(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            while self.is_full() {
                core::hint::spin_loop();
            }
            self.send(byte);
        }
    }
}

/// Takes over `uart`.
///
/// # Safety
///
/// There is this UART, mapped as a device, and nobody else drives it.
pub unsafe fn init(uart: &Uart) {
    let base = Pa::new(uart.registers.start);
    // SAFETY: the caller's promise.
    let driver = unsafe {
        match uart.kind {
            UartKind::Pl011 => Pl011::new(base).map(Driver::Pl011),
            UartKind::Cadence => Some(Driver::Cadence(Cadence::new(base))),
        }
    };
    *UART.lock() = driver;
}

/// Sends `bytes` by `uart` before anything is set up: no lock, no state.
///
/// # Safety
///
/// There is this UART.
pub unsafe fn put_early(uart: &Uart, bytes: &[u8]) {
    let base = Pa::new(uart.registers.start);
    // SAFETY: the caller's promise.
    unsafe {
        match uart.kind {
            UartKind::Pl011 => pl011::put_early(base, bytes),
            UartKind::Cadence => Driver::Cadence(Cadence::new(base)).put(bytes),
        }
    }
}

/// Has the device interrupt, or not, when something has been received.
pub fn set_receive_interrupt(on: bool) {
    if let Some(uart) = UART.lock().as_mut() {
        uart.set_receive_interrupt(on);
    }
}

/// Sends one byte, waiting for room in the FIFO.
pub fn put(byte: u8) {
    put_all(&[byte]);
}

/// Sends `bytes`, waiting for room in the FIFO.
pub fn put_all(bytes: &[u8]) {
    if let Some(uart) = UART.lock().as_mut() {
        uart.put(bytes);
    }
}

/// Sends as many of `bytes` as there is room for at once; returns how many.
pub fn try_put(bytes: &[u8]) -> usize {
    let mut uart = UART.lock();
    let Some(uart) = uart.as_mut() else { return bytes.len() };
    let mut sent = 0;
    for &byte in bytes {
        if uart.is_full() {
            break;
        }
        uart.send(byte);
        sent += 1;
    }
    sent
}

/// Sends `bytes` whoever holds the device: for the last words of a panic.
pub fn put_in_panic(bytes: &[u8]) {
    for _ in 0..1_000_000 {
        if let Some(mut uart) = UART.try_lock() {
            if let Some(uart) = uart.as_mut() {
                uart.put(bytes);
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
    UART.lock().as_mut()?.receive()
}
