//! The registers of a virtio-mmio device of version 2 (virtio 1.2, §4.2.2) and its status protocol (§3.1).

use crate::arch::{mmio, time};
use crate::gic;
use crate::machine::{Device, Machine};

pub const MAGIC: u64 = 0x0;
pub const VERSION: u64 = 0x4;
pub const DEVICE_ID: u64 = 0x8;
pub const DEVICE_FEATURES: u64 = 0x10;
pub const DEVICE_FEATURES_SEL: u64 = 0x14;
pub const DRIVER_FEATURES: u64 = 0x20;
pub const DRIVER_FEATURES_SEL: u64 = 0x24;
pub const QUEUE_SEL: u64 = 0x30;
pub const QUEUE_NUM_MAX: u64 = 0x34;
pub const QUEUE_NUM: u64 = 0x38;
pub const QUEUE_READY: u64 = 0x44;
pub const QUEUE_NOTIFY: u64 = 0x50;
pub const INTERRUPT_STATUS: u64 = 0x60;
pub const INTERRUPT_ACK: u64 = 0x64;
pub const STATUS: u64 = 0x70;
pub const QUEUE_DESC: u64 = 0x80;
pub const QUEUE_DRIVER: u64 = 0x90;
pub const QUEUE_DEVICE: u64 = 0xa0;
pub const CONFIG_GENERATION: u64 = 0xfc;
pub const CONFIG: u64 = 0x100;

/// Device status (§2.1).
pub mod status {
    pub const ACKNOWLEDGE: u32 = 1;
    pub const DRIVER: u32 = 2;
    pub const DRIVER_OK: u32 = 4;
    pub const FEATURES_OK: u32 = 8;
    pub const NEEDS_RESET: u32 = 64;
}

/// VIRTIO_F_VERSION_1.
pub const VERSION_1: u64 = 1 << 32;

/// "virt", read as a little-endian number.
const MAGIC_VALUE: u32 = 0x7472_6976;

/// What a slot holds.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// No device of that type.
    Nothing,
    /// One, but by the interface of before virtio 1.0.
    Legacy,
    /// One.
    Modern(Transport),
}

/// The registers of one device.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Transport {
    base: u64,
    /// The device's interrupt.
    pub interrupt: u32,
}

impl Transport {
    /// Takes a slot as it is, whatever it holds.
    pub const fn at(slot: &Device) -> Self {
        Self { base: slot.registers.start, interrupt: slot.interrupt }
    }

    /// Finds the first device of a type (§5).
    pub fn find(machine: &Machine, device: u32) -> Found {
        let mut found = Found::Nothing;
        for slot in machine.slots() {
            let transport = Self::at(slot);
            if transport.read(MAGIC) != MAGIC_VALUE || transport.read(DEVICE_ID) != device {
                continue;
            }
            match transport.read(VERSION) {
                2 => return Found::Modern(transport),
                _ => found = Found::Legacy,
            }
        }
        found
    }

    /// Returns the address of a register.
    pub const fn address(self, register: u64) -> u64 {
        self.base + register
    }

    /// Reads a register.
    pub fn read(self, register: u64) -> u32 {
        mmio::read_32(self.address(register))
    }

    /// Writes a register.
    #[inline(always)]
    pub fn write(self, register: u64, value: u32) {
        mmio::write_32(self.address(register), value)
    }

    /// Writes a 64-bit register, as two of 32 bits.
    pub fn write_pair(self, register: u64, value: u64) {
        self.write(register, value as u32);
        self.write(register + 4, (value >> 32) as u32);
    }

    /// Resets the device and waits until it is done. Returns whether it was in time (five seconds).
    pub fn reset(self) -> bool {
        self.write(STATUS, 0);
        time::poll(5_000_000, || self.read(STATUS) == 0)
    }

    /// Returns the features that the device offers.
    pub fn offered(self) -> u64 {
        self.write(DEVICE_FEATURES_SEL, 1);
        let high = self.read(DEVICE_FEATURES);
        self.write(DEVICE_FEATURES_SEL, 0);
        u64::from(high) << 32 | u64::from(self.read(DEVICE_FEATURES))
    }

    /// Resets the device and goes on until features are agreed on: those of `wanted` that are offered. `None` where the
    /// device does not play along.
    pub fn negotiate(self, wanted: u64) -> Option<u64> {
        if !self.reset() {
            return None;
        }
        self.write(STATUS, status::ACKNOWLEDGE);
        self.write(STATUS, status::ACKNOWLEDGE | status::DRIVER);
        let features = self.offered() & (wanted | VERSION_1);
        self.write(DRIVER_FEATURES_SEL, 1);
        self.write(DRIVER_FEATURES, (features >> 32) as u32);
        self.write(DRIVER_FEATURES_SEL, 0);
        self.write(DRIVER_FEATURES, features as u32);
        self.write(STATUS, status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK);
        (self.read(STATUS) & status::FEATURES_OK != 0).then_some(features)
    }

    /// Lets the device go to work.
    pub fn go(self) {
        self.write(
            STATUS,
            status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK,
        );
    }

    /// Returns whether the device says that it cannot go on.
    pub fn is_broken(self) -> bool {
        self.read(STATUS) & status::NEEDS_RESET != 0
    }
}

/// Acknowledges whatever a device interrupted for: the handler of all drivers.
pub fn acknowledge(interrupt: u32) {
    let Some(machine) = crate::run::machine() else { return };
    if let Some(slot) = machine.slots().iter().find(|slot| slot.interrupt == interrupt) {
        let transport = Transport::at(slot);
        transport.write(INTERRUPT_ACK, transport.read(INTERRUPT_STATUS));
        if transport.is_broken() {
            // QEMU leaves the line of a device that needs a reset as it was: high.
            gic::set_bit(interrupt, gic::register::ICENABLER);
        }
    }
}
