//! A guest's UART.

use crate::Input;
use sluice::device::Width;
use sluice::device::pl011::{Pl011, WAITING};

/// All widths.
pub const WIDTHS: [Width; 4] = [Width::Byte, Width::Half, Width::Word, Width::Double];

/// Reads and writes registers while bytes come: none is lost or made up, and the line is what the registers say.
pub fn run(input: &[u8]) {
    const DR: u64 = 0;
    const MIS: u64 = 0x40;
    let mut input = Input::new(input);
    let mut uart = Pl011::new();
    let mut waiting = 0;
    while !input.is_empty() {
        let kind = input.byte();
        let place = u64::from(input.byte()) * 4;
        let offset = if kind & 0x80 != 0 { u64::from(input.half()) } else { place };
        let width = WIDTHS[usize::from(kind >> 2) % WIDTHS.len()];
        match kind % 4 {
            0 => {
                let before = uart.room();
                let value = uart.read(offset, width);
                assert_eq!(width.truncate(value), value, "a value wider than its access");
                let taken = uart.room() - before;
                assert!(
                    taken <= usize::from(offset - offset % 4 == DR),
                    "a read takes one byte at most"
                );
                waiting -= taken;
            }
            1 => {
                let before = uart.room();
                let value = input.number();
                let sent = uart.write(offset, width, value);
                assert!(sent.is_none_or(|sent| offset == DR && sent == value as u8));
                // What comes back in loopback waits like all else.
                waiting += before - uart.room();
            }
            2 => waiting += usize::from(uart.receive(input.byte())),
            _ if kind & 0x40 == 0 => waiting += usize::from(uart.receive_break()),
            _ => {
                // Fill it up.
                for byte in 0..=255 {
                    waiting += usize::from(uart.receive(byte));
                }
            }
        }
        assert_eq!(uart.room() + waiting, WAITING);
        assert_eq!(uart.line(), uart.read(MIS, Width::Word) != 0);
    }
}
