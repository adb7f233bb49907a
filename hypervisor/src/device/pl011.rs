//! The PL011 UART (DDI 0183) as a guest's drivers use it.
//!
//! There is no line with a speed: what is transmitted is out at once, so the transmit FIFO is
//! always empty, and whatever control and line settings are written are kept for reading back.
//! Received bytes wait in a buffer far larger than the FIFO, of which the FIFO shows the head, so
//! that pasted text is not lost; where that is full too, the sender is told and waits.
//!
//! Where drivers written for QEMU's `virt` would notice the difference, this model does what QEMU
//! does instead of what the manual says, and the line says so.

use alloc::boxed::Box;
use alloc::vec;
use bitflags::bitflags;

use super::Width;

/// The size in bytes of the registers.
pub const BYTES: u64 = 0x1000;
/// How many received bytes wait at most.
pub const WAITING: usize = 2048;
/// The depth of the receive FIFO (revision r1p5).
const FIFO: usize = 32;

/// Register offsets (§3.2).
mod register {
    pub const DR: u64 = 0x00;
    pub const RSR_ECR: u64 = 0x04;
    pub const FR: u64 = 0x18;
    pub const ILPR: u64 = 0x20;
    pub const IBRD: u64 = 0x24;
    pub const FBRD: u64 = 0x28;
    pub const LCR_H: u64 = 0x2c;
    pub const CR: u64 = 0x30;
    pub const IFLS: u64 = 0x34;
    pub const IMSC: u64 = 0x38;
    pub const RIS: u64 = 0x3c;
    pub const MIS: u64 = 0x40;
    pub const ICR: u64 = 0x44;
    pub const DMACR: u64 = 0x48;
    pub const PERIPH_ID0: u64 = 0xfe0;
    pub const PCELL_ID3: u64 = 0xffc;
}

/// UARTPeriphID0 to 3 and UARTPCellID0 to 3 (§3.3.15, §3.3.16): part 0x011 of Arm, r1p5, which
/// tells drivers that the FIFOs have 32 entries.
const IDS: [u8; 8] = [0x11, 0x10, 0x34, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

bitflags! {
    /// UARTRIS, UARTMIS, UARTIMSC and UARTICR.
    #[derive(Copy, Clone, Debug, PartialEq, Eq)]
    struct Interrupts: u16 {
        const RECEIVE = 1 << 4;
        const TRANSMIT = 1 << 5;
        const RECEIVE_TIMEOUT = 1 << 6;
        const BREAK_ERROR = 1 << 9;
        /// Those that a driver may mask but that never occur here: modem lines, framing, parity
        /// and overrun.
        const OTHERS = 0b101_1000_1111;
    }

    /// UARTFR.
    #[derive(Copy, Clone, Debug, PartialEq, Eq)]
    struct Flags: u16 {
        const CLEAR_TO_SEND = 1 << 0;
        const DATA_SET_READY = 1 << 1;
        const CARRIER = 1 << 2;
        const RECEIVE_EMPTY = 1 << 4;
        const RECEIVE_FULL = 1 << 6;
        const TRANSMIT_EMPTY = 1 << 7;
        const RING = 1 << 8;
    }

    /// UARTCR.
    #[derive(Copy, Clone, Debug, PartialEq, Eq)]
    struct Control: u16 {
        const LOOPBACK = 1 << 7;
        const TRANSMIT_ENABLE = 1 << 8;
        const RECEIVE_ENABLE = 1 << 9;
        const DATA_TERMINAL_READY = 1 << 10;
        const REQUEST_TO_SEND = 1 << 11;
        const OUT1 = 1 << 12;
        const OUT2 = 1 << 13;
        const OTHERS = 0b1100_0000_0000_0111;
    }
}

/// UARTDR and UARTRSR: the line was held low. In UARTRSR the bit is 8 lower.
const BREAK: u16 = 1 << 10;
/// UARTLCR_H: FIFOs on.
const FIFO_ENABLE: u8 = 1 << 4;

/// A PL011.
#[derive(Debug)]
pub struct Pl011 {
    waiting: Ring,
    /// UARTRSR: the errors of the byte read last.
    receive_status: u8,
    low_power: u8,
    integer_divisor: u16,
    fractional_divisor: u8,
    line_control: u8,
    control: Control,
    fifo_levels: u8,
    mask: Interrupts,
    raw: Interrupts,
    dma: u8,
}

impl Default for Pl011 {
    fn default() -> Self {
        Self::new()
    }
}

impl Pl011 {
    /// Makes one in its reset state (§3.2).
    pub fn new() -> Self {
        Self::at_reset(Ring::new())
    }

    fn at_reset(waiting: Ring) -> Self {
        Self {
            waiting,
            receive_status: 0,
            low_power: 0,
            integer_divisor: 0,
            fractional_divisor: 0,
            line_control: 0,
            control: Control::TRANSMIT_ENABLE.union(Control::RECEIVE_ENABLE),
            fifo_levels: 0x12,
            mask: Interrupts::empty(),
            raw: Interrupts::empty(),
            dma: 0,
        }
    }

    /// Puts it back into its reset state; bytes that wait are dropped.
    pub fn power_on(&mut self) {
        // A guest's reset allocates nothing.
        let Ring { entries, .. } = core::mem::take(&mut self.waiting);
        *self = Self::at_reset(Ring { entries, ..Ring::default() });
    }

    /// Returns the level of the interrupt line (UARTINTR). To be copied to the interrupt
    /// controller after every call that takes `&mut self`.
    pub fn line(&self) -> bool {
        self.raw.intersects(self.mask)
    }

    /// Takes a byte from the other end of the line. `false`: there is no room, offer it later.
    #[must_use = "a byte that was not taken is lost"]
    pub fn receive(&mut self, byte: u8) -> bool {
        self.put(byte.into())
    }

    /// Takes a break from the other end of the line (Linux: the key behind it is for SysRq).
    /// `false`: there is no room, offer it later.
    #[must_use = "a break that was not taken is lost"]
    pub fn receive_break(&mut self) -> bool {
        self.put(BREAK)
    }

    /// Returns how many more bytes [`Pl011::receive`] takes.
    pub fn room(&self) -> usize {
        WAITING.saturating_sub(self.waiting.length)
    }

    fn put(&mut self, entry: u16) -> bool {
        let taken = self.waiting.push(entry);
        if taken {
            self.arrived();
        }
        taken
    }

    /// Raises what data in the FIFO raises. The manual waits for the level in UARTIFLS; QEMU does
    /// so at the first byte, and so do we: there are drivers that enable this interrupt alone.
    fn arrived(&mut self) {
        let Some(entry) = self.waiting.first() else { return };
        self.raw |= Interrupts::RECEIVE | Interrupts::RECEIVE_TIMEOUT;
        if entry & BREAK != 0 {
            self.raw |= Interrupts::BREAK_ERROR;
        }
    }

    /// Reads a register; what cannot be read is 0.
    pub fn read(&mut self, offset: u64, width: Width) -> u64 {
        // A narrow read within a register gets the bytes that it asks for.
        let shift = offset % 4 * 8;
        let register = offset - offset % 4;
        width.truncate(u64::from(self.read_register(register)) >> shift)
    }

    fn read_register(&mut self, offset: u64) -> u16 {
        match offset {
            register::DR => self.take(),
            register::RSR_ECR => self.receive_status.into(),
            register::FR => self.flags().bits(),
            register::ILPR => self.low_power.into(),
            register::IBRD => self.integer_divisor,
            register::FBRD => self.fractional_divisor.into(),
            register::LCR_H => self.line_control.into(),
            register::CR => self.control.bits(),
            register::IFLS => self.fifo_levels.into(),
            register::IMSC => self.mask.bits(),
            register::RIS => self.raw.bits(),
            register::MIS => (self.raw & self.mask).bits(),
            register::DMACR => self.dma.into(),
            register::PERIPH_ID0..=register::PCELL_ID3 => {
                let index = (offset - register::PERIPH_ID0) / 4;
                IDS.get(index as usize).copied().unwrap_or(0).into()
            }
            _ => 0,
        }
    }

    /// Writes a register. Returns the byte that goes out on the line, where one does.
    pub fn write(&mut self, offset: u64, width: Width, value: u64) -> Option<u8> {
        let value = width.truncate(value) as u16;
        match offset {
            register::DR => return self.transmit(value as u8),
            register::RSR_ECR => self.receive_status = 0,
            register::ILPR => self.low_power = value as u8,
            register::IBRD => self.integer_divisor = value,
            register::FBRD => self.fractional_divisor = value as u8 & 0x3f,
            // Turning the FIFOs off or on would drop what is in them; what waits here stays.
            register::LCR_H => self.line_control = value as u8,
            register::CR => self.control = Control::from_bits_truncate(value),
            register::IFLS => self.fifo_levels = value as u8 & 0x3f,
            register::IMSC => self.mask = Interrupts::from_bits_truncate(value),
            register::ICR => self.clear(Interrupts::from_bits_truncate(value)),
            register::DMACR => self.dma = value as u8 & 7,
            _ => {}
        }
        None
    }

    /// Sends, whether or not the transmitter was enabled: early consoles do not (QEMU).
    fn transmit(&mut self, byte: u8) -> Option<u8> {
        // The FIFO has taken the byte and is empty again.
        self.raw |= Interrupts::TRANSMIT;
        if self.control.contains(Control::LOOPBACK) {
            let _ = self.receive(byte);
            return None;
        }
        Some(byte)
    }

    /// Reads UARTDR: a byte and its errors.
    fn take(&mut self) -> u16 {
        let Some(entry) = self.waiting.pop() else { return 0 };
        self.receive_status = (entry >> 8) as u8;
        if self.waiting.length == 0 {
            self.raw -= Interrupts::RECEIVE | Interrupts::RECEIVE_TIMEOUT;
        } else {
            self.arrived();
        }
        entry
    }

    fn clear(&mut self, interrupts: Interrupts) {
        self.raw -= interrupts;
        // The timeout passes at once. A byte that came between the driver's last look at the FIFO
        // and this write would otherwise wait for the next one.
        if self.waiting.length != 0 {
            self.raw |= Interrupts::RECEIVE_TIMEOUT;
        }
    }

    fn flags(&self) -> Flags {
        let mut flags = Flags::TRANSMIT_EMPTY;
        let depth = if self.line_control & FIFO_ENABLE != 0 { FIFO } else { 1 };
        flags.set(Flags::RECEIVE_EMPTY, self.waiting.length == 0);
        flags.set(Flags::RECEIVE_FULL, self.waiting.length >= depth);
        if self.control.contains(Control::LOOPBACK) {
            // §2.4.6: the modem outputs are the inputs.
            let control = self.control;
            flags.set(Flags::CLEAR_TO_SEND, control.contains(Control::REQUEST_TO_SEND));
            flags.set(Flags::DATA_SET_READY, control.contains(Control::DATA_TERMINAL_READY));
            flags.set(Flags::CARRIER, control.contains(Control::OUT1));
            flags.set(Flags::RING, control.contains(Control::OUT2));
        } else {
            // Somebody is there and listens, for drivers with flow control.
            flags |= Flags::CLEAR_TO_SEND | Flags::DATA_SET_READY | Flags::CARRIER;
        }
        flags
    }
}

/// Received bytes with their errors, first in, first out.
#[derive(Debug, Default)]
struct Ring {
    /// [`WAITING`] of them, which are too many for the stack of who makes a guest.
    entries: Box<[u16]>,
    first: usize,
    length: usize,
}

impl Ring {
    fn new() -> Self {
        Self { entries: vec![0; WAITING].into(), first: 0, length: 0 }
    }

    fn push(&mut self, entry: u16) -> bool {
        if self.length == WAITING {
            return false;
        }
        if let Some(place) = self.entries.get_mut((self.first + self.length) % WAITING) {
            *place = entry;
            self.length += 1;
        }
        true
    }

    fn first(&self) -> Option<u16> {
        if self.length == 0 { None } else { self.entries.get(self.first).copied() }
    }

    fn pop(&mut self) -> Option<u16> {
        let entry = self.first()?;
        self.first = (self.first + 1) % WAITING;
        self.length -= 1;
        Some(entry)
    }
}

#[cfg(test)]
mod tests;
