//! Lines on the PL011 that the device tree names: printed one at a time whoever prints, and read.
#![expect(unsafe_code, reason = "takes a lock over when all is lost")]

use crate::arch::{cpu, mmio};
use crate::gic;
use crate::outcome::Text;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering};
use spin::mutex::SpinMutex;

/// Where the UART is; 0 while that is not known.
static UART: AtomicU64 = AtomicU64::new(0);
static LINE: SpinMutex<()> = SpinMutex::new(());

const DATA: u64 = 0x00;
const FLAGS: u64 = 0x18;
const MASK: u64 = 0x38;
/// UARTFR.TXFF: there is no room.
const FULL: u32 = 1 << 5;
/// UARTFR.RXFE: nothing came.
const EMPTY: u32 = 1 << 4;
/// UARTIMSC.RXIM and RTIM: something came.
const CAME: u32 = 1 << 4 | 1 << 6;

/// Says where the UART is.
pub fn set_uart(base: u64) {
    UART.store(base, Ordering::Relaxed);
}

struct Uart(u64);

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            while mmio::read_32(self.0 + FLAGS) & FULL != 0 {
                cpu::relax();
            }
            mmio::write_32(self.0 + DATA, u32::from(byte));
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

/// Keeps the interrupt quiet until the next wait for a byte.
fn quench(_: u32) {
    mmio::write_32(UART.load(Ordering::Relaxed) + MASK, 0);
}

/// Reads a line, asleep until it comes; what does not fit is cut off. The UART interrupts with `interrupt`.
pub fn read_line<const SIZE: usize>(interrupt: u32) -> Text<SIZE> {
    let base = UART.load(Ordering::Relaxed);
    let mut line = Text::new();
    gic::enable(interrupt, quench);
    loop {
        cpu::sleep_until(|| {
            mmio::write_32(base + MASK, CAME);
            mmio::read_32(base + FLAGS) & EMPTY == 0
        });
        cpu::unmask();
        match mmio::read_32(base + DATA) as u8 {
            b'\r' | b'\n' => break,
            byte => {
                let _ = line.write_char(char::from(byte));
            }
        }
    }
    quench(interrupt);
    gic::disable(interrupt);
    line
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
