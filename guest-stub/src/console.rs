//! Prints lines on the PL011 that the device tree names, one line at a time whoever prints.
#![expect(unsafe_code, reason = "takes a lock over when all is lost")]

use crate::arch::{cpu, mmio};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering};
use spin::mutex::SpinMutex;

/// Where the UART is; 0 while that is not known.
static UART: AtomicU64 = AtomicU64::new(0);
static LINE: SpinMutex<()> = SpinMutex::new(());

/// UARTFR.TXFF: there is no room.
const FULL: u32 = 1 << 5;

/// Says where the UART is.
pub fn set_uart(base: u64) {
    UART.store(base, Ordering::Relaxed);
}

struct Uart(u64);

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // UARTFR, UARTDR
            while mmio::read_32(self.0 + 0x18) & FULL != 0 {
                cpu::relax();
            }
            mmio::write_32(self.0, u32::from(byte));
        }
        Ok(())
    }
}

/// Prints one line.
pub fn line(text: fmt::Arguments<'_>) {
    let base = UART.load(Ordering::Relaxed);
    if base != 0 {
        let _one_line = LINE.lock();
        let _ = writeln!(Uart(base), "{text}");
    }
}

/// Lets a CPU that has failed print, whoever was printing.
pub fn take_over() {
    // SAFETY: the lock guards no data, only that lines stay whole; this is the last that is printed.
    unsafe { LINE.force_unlock() }
}

/// Prints one line.
macro_rules! say {
    ($($text:tt)*) => { $crate::console::line(format_args!($($text)*)) };
}
