//! The PL011 under drivers that do what Linux's `amba-pl011` and its early console do.

use proptest::prelude::*;

use super::*;

const RX: u64 = 1 << 4;
const TX: u64 = 1 << 5;
const RT: u64 = 1 << 6;
const BE: u64 = 1 << 9;
const ALL: u64 = 0x7ff;

fn read(uart: &mut Pl011, offset: u64) -> u64 {
    uart.read(offset, Width::Word)
}

fn write(uart: &mut Pl011, offset: u64, value: u64) -> Option<u8> {
    uart.write(offset, Width::Word, value)
}

/// `pl011_startup`: line and control, interrupts cleared, FIFO drained, receive enabled.
fn startup(uart: &mut Pl011) {
    write(uart, register::IMSC, 0);
    write(uart, register::ICR, ALL);
    write(uart, register::IFLS, 0x12);
    write(uart, register::LCR_H, 0x70);
    write(uart, register::CR, 0x301 | 1 << 10 | 1 << 11);
    write(uart, register::ICR, RT | RX);
    for _ in 0..2 * FIFO {
        if read(uart, register::FR) & (1 << 4) != 0 {
            break;
        }
        read(uart, register::DR);
    }
    write(uart, register::IMSC, RT | RX);
}

/// `pl011_int`: returns what it received and sent.
fn interrupt(uart: &mut Pl011, unsent: &mut Vec<u8>) -> (Vec<u64>, Vec<u8>) {
    let (mut received, mut sent) = (Vec::new(), Vec::new());
    loop {
        let mask = read(uart, register::IMSC);
        let status = read(uart, register::RIS) & mask;
        if status == 0 {
            return (received, sent);
        }
        write(uart, register::ICR, status & !(TX | RT | RX));
        if status & (RT | RX) != 0 {
            for _ in 0..256 {
                if read(uart, register::FR) & (1 << 4) != 0 {
                    break;
                }
                received.push(read(uart, register::DR));
            }
        }
        if status & TX != 0 {
            for _ in 0..FIFO / 2 {
                let Some(byte) = unsent.pop() else { break };
                sent.extend(write(uart, register::DR, byte.into()));
            }
            if unsent.is_empty() {
                write(uart, register::IMSC, mask & !TX);
            }
        }
    }
}

#[test]
fn resets_to_what_the_manual_says() {
    let mut uart = Pl011::new();
    let expected = [
        (register::CR, 0x300),
        (register::IFLS, 0x12),
        (register::IMSC, 0),
        (register::RIS, 0),
        (register::MIS, 0),
        (register::LCR_H, 0),
        (register::DMACR, 0),
        (register::RSR_ECR, 0),
    ];
    for (offset, value) in expected {
        assert_eq!(read(&mut uart, offset), value, "{offset:#x}");
    }
    assert!(!uart.line());
    // Transmit FIFO empty and not full, receive FIFO empty, not busy.
    assert_eq!(read(&mut uart, register::FR) & 0xf8, 0x90);
}

#[test]
fn is_found_as_a_pl011_of_revision_3_by_the_amba_bus() {
    let mut uart = Pl011::new();
    let mut id =
        |from: u64| (0..4).fold(0, |id, byte| id | read(&mut uart, from + 4 * byte) << (8 * byte));
    assert_eq!(id(0xff0), 0xb105_f00d);
    let peripheral = id(0xfe0);
    assert_eq!(peripheral & 0x000f_ffff, 0x0004_1011);
    assert_eq!(peripheral >> 20 & 0xf, 3, "FIFOs of 32");
}

#[test]
fn early_console_and_decompressor_print_without_setup() {
    let mut uart = Pl011::new();
    for width in [Width::Byte, Width::Word] {
        assert_eq!(read(&mut uart, register::FR) & (1 << 5), 0, "room");
        assert_eq!(uart.write(register::DR, width, b'x'.into()), Some(b'x'));
        assert_eq!(read(&mut uart, register::FR) & (1 << 3), 0, "not busy");
    }
    assert!(!uart.line());
}

#[test]
fn a_typed_byte_interrupts_and_reading_it_ends_the_interrupt() {
    let mut uart = Pl011::new();
    startup(&mut uart);
    assert!(!uart.line());
    assert!(uart.receive(b'a'));
    assert!(uart.line());
    assert_eq!(interrupt(&mut uart, &mut Vec::new()), (vec![b'a'.into()], vec![]));
    assert!(!uart.line());
}

#[test]
fn pasted_text_arrives_whole_and_in_order() {
    let mut uart = Pl011::new();
    startup(&mut uart);
    let text: Vec<u8> = (0..5000_u32).map(|i| (i % 251) as u8).collect();
    let (mut offered, mut received) = (text.iter(), Vec::new());
    let mut waiting = offered.next();
    while let Some(byte) = waiting {
        if uart.receive(*byte) {
            waiting = offered.next();
            continue;
        }
        assert_eq!(uart.room(), 0);
        assert_ne!(read(&mut uart, register::FR) & (1 << 6), 0, "receive FIFO full");
        received.extend(interrupt(&mut uart, &mut Vec::new()).0);
    }
    received.extend(interrupt(&mut uart, &mut Vec::new()).0);
    assert_eq!(received.iter().map(|byte| *byte as u8).collect::<Vec<_>>(), text);
    assert_eq!(uart.room(), WAITING);
}

#[test]
fn a_byte_typed_before_the_driver_starts_does_not_block_those_after_it() {
    let mut uart = Pl011::new();
    assert!(uart.receive(b'e'));
    startup(&mut uart);
    assert!(!uart.line());
    assert!(uart.receive(b'l'));
    assert_eq!(interrupt(&mut uart, &mut Vec::new()).0, [u64::from(b'l')]);
}

#[test]
fn a_byte_that_came_just_before_the_clear_still_interrupts() {
    let mut uart = Pl011::new();
    startup(&mut uart);
    assert!(uart.receive(b'a'));
    read(&mut uart, register::DR);
    assert!(uart.receive(b'b'));
    write(&mut uart, register::ICR, RT | RX);
    assert!(uart.line());
}

#[test]
fn clearing_the_receive_interrupt_holds_until_the_next_byte() {
    let mut uart = Pl011::new();
    write(&mut uart, register::IMSC, RX);
    assert!(uart.receive(b'a'));
    write(&mut uart, register::ICR, RX);
    assert!(!uart.line());
    assert!(uart.receive(b'b'));
    assert!(uart.line());
}

#[test]
fn data_that_is_left_after_a_read_interrupts_again() {
    let mut uart = Pl011::new();
    write(&mut uart, register::IMSC, RX);
    assert!(uart.receive(b'a') && uart.receive(b'b'));
    write(&mut uart, register::ICR, RX);
    assert!(!uart.line());
    assert_eq!(read(&mut uart, register::DR), b'a'.into());
    assert!(uart.line(), "for drivers that clear, read one byte and leave");
    assert_eq!(read(&mut uart, register::DR), b'b'.into());
    assert!(!uart.line());
    assert_eq!(read(&mut uart, register::DR), 0, "nothing left");
}

#[test]
fn transmitting_by_interrupt_sends_everything_and_stops() {
    let mut uart = Pl011::new();
    startup(&mut uart);
    let mut unsent: Vec<u8> = (0..100).rev().collect();
    // `pl011_start_tx`: the first byte goes out at once, the others by interrupt.
    let first = write(&mut uart, register::DR, unsent.pop().unwrap().into());
    assert_eq!(first, Some(0));
    write(&mut uart, register::IMSC, RT | RX | TX);
    assert!(uart.line());
    let (_, sent) = interrupt(&mut uart, &mut unsent);
    assert_eq!(sent, (1..100).collect::<Vec<u8>>());
    assert!(!uart.line(), "masked when there is nothing more to send");
    write(&mut uart, register::ICR, TX);
    assert_eq!(read(&mut uart, register::RIS) & TX, 0);
}

#[test]
fn masked_interrupts_show_in_the_raw_status_alone() {
    let mut uart = Pl011::new();
    assert!(uart.receive(b'a'));
    assert_eq!(read(&mut uart, register::RIS), RX | RT);
    assert_eq!(read(&mut uart, register::MIS), 0);
    assert!(!uart.line());
    write(&mut uart, register::IMSC, RT);
    assert_eq!(read(&mut uart, register::MIS), RT);
    assert!(uart.line());
}

#[test]
fn a_break_comes_with_its_error_bits() {
    let mut uart = Pl011::new();
    startup(&mut uart);
    write(&mut uart, register::IMSC, RT | RX | BE);
    assert!(uart.receive_break());
    assert!(uart.receive(b'h'));
    assert_eq!(read(&mut uart, register::RIS) & BE, BE);
    let (received, _) = interrupt(&mut uart, &mut Vec::new());
    assert_eq!(received, [1 << 10, u64::from(b'h')]);
    assert_eq!(read(&mut uart, register::RIS) & BE, 0);
}

#[test]
fn the_receive_status_is_of_the_byte_read_last() {
    let mut uart = Pl011::new();
    assert!(uart.receive_break());
    read(&mut uart, register::DR);
    assert_eq!(read(&mut uart, register::RSR_ECR), 1 << 2);
    write(&mut uart, register::RSR_ECR, 0);
    assert_eq!(read(&mut uart, register::RSR_ECR), 0);
}

#[test]
fn settings_read_back_within_their_width() {
    let mut uart = Pl011::new();
    let settings = [
        (register::IBRD, 0xffff),
        (register::FBRD, 0x3f),
        (register::LCR_H, 0xff),
        (register::CR, 0xff87),
        (register::IFLS, 0x3f),
        (register::IMSC, 0x7ff),
        (register::DMACR, 7),
        (register::ILPR, 0xff),
    ];
    for (offset, kept) in settings {
        assert_eq!(write(&mut uart, offset, u64::MAX), None);
        assert_eq!(read(&mut uart, offset), kept, "{offset:#x}");
        write(&mut uart, offset, 0);
        assert_eq!(read(&mut uart, offset), 0, "{offset:#x}");
    }
}

#[test]
fn loopback_returns_bytes_and_modem_lines() {
    let mut uart = Pl011::new();
    write(&mut uart, register::CR, 0x381);
    assert_eq!(write(&mut uart, register::DR, b'z'.into()), None);
    assert_eq!(read(&mut uart, register::DR), b'z'.into());
    assert_eq!(read(&mut uart, register::FR) & 0x107, 0);
    write(&mut uart, register::CR, 0x381 | 0xf << 10);
    assert_eq!(read(&mut uart, register::FR) & 0x107, 0x107);
}

#[test]
fn without_fifos_one_byte_is_full() {
    let mut uart = Pl011::new();
    assert!(uart.receive(b'a'));
    assert_ne!(read(&mut uart, register::FR) & (1 << 6), 0);
    write(&mut uart, register::LCR_H, 0x70);
    assert_eq!(read(&mut uart, register::FR) & (1 << 6), 0);
}

#[test]
fn narrow_reads_get_their_bytes() {
    let mut uart = Pl011::new();
    assert_eq!(uart.read(register::CR, Width::Byte), 0);
    assert_eq!(uart.read(register::CR + 1, Width::Byte), 3);
    assert_eq!(uart.read(register::CR + 3, Width::Byte), 0);
}

fn width() -> impl Strategy<Value = Width> {
    prop::sample::select(vec![Width::Byte, Width::Half, Width::Word, Width::Double])
}

proptest! {
    /// Whatever a guest does, nothing panics, and data that waits with the timeout unmasked always
    /// holds the line.
    #[test]
    fn survives_any_access(
        accesses in prop::collection::vec(
            (any::<u8>(), any::<u64>(), 0..BYTES, width(), any::<u64>()), 0..300),
    ) {
        let mut uart = Pl011::new();
        for (kind, wild, offset, width, value) in accesses {
            match kind % 6 {
                0 => { uart.read(offset, width); }
                1 => { uart.read(offset & 0x7c, width); }
                2 => { uart.write(offset & 0x7c, width, value); }
                3 => { uart.write(wild, width, value); }
                4 => { uart.read(wild, width); }
                _ => { let _ = uart.receive(value as u8); }
            }
            if uart.mask.contains(Interrupts::RECEIVE_TIMEOUT) && uart.waiting.length != 0 {
                prop_assert!(uart.line());
            }
        }
    }
}
