//! What the registers of a virtio-mmio device hold (virtio 1.2 §4.2.2).

use bitflags::bitflags;

/// Register offsets.
pub(super) mod register {
    pub const MAGIC: u64 = 0x000;
    pub const VERSION: u64 = 0x004;
    pub const DEVICE_ID: u64 = 0x008;
    pub const VENDOR_ID: u64 = 0x00c;
    pub const DEVICE_FEATURES: u64 = 0x010;
    pub const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub const DRIVER_FEATURES: u64 = 0x020;
    pub const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub const QUEUE_SEL: u64 = 0x030;
    pub const QUEUE_NUM_MAX: u64 = 0x034;
    pub const QUEUE_NUM: u64 = 0x038;
    pub const QUEUE_READY: u64 = 0x044;
    pub const QUEUE_NOTIFY: u64 = 0x050;
    pub const INTERRUPT_STATUS: u64 = 0x060;
    pub const INTERRUPT_ACK: u64 = 0x064;
    pub const STATUS: u64 = 0x070;
    pub const QUEUE_DESC_LOW: u64 = 0x080;
    pub const QUEUE_DESC_HIGH: u64 = 0x084;
    pub const QUEUE_DRIVER_LOW: u64 = 0x090;
    pub const QUEUE_DRIVER_HIGH: u64 = 0x094;
    pub const QUEUE_DEVICE_LOW: u64 = 0x0a0;
    pub const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
    pub const SHM_LEN_LOW: u64 = 0x0b0;
    pub const SHM_BASE_HIGH: u64 = 0x0bc;
    pub const CONFIG_GENERATION: u64 = 0x0fc;
    pub const CONFIG: u64 = 0x100;
}

bitflags! {
    /// The device status field (§2.1).
    #[derive(Copy, Clone, Debug, PartialEq, Eq)]
    pub struct Status: u8 {
        /// The guest has noticed the device.
        const ACKNOWLEDGE = 1;
        /// The guest has a driver for it.
        const DRIVER = 2;
        /// The driver is set up.
        const DRIVER_OK = 4;
        /// Device and driver agree on the features.
        const FEATURES_OK = 8;
        /// The device is broken until it is reset.
        const NEEDS_RESET = 0x40;
        /// The driver has given up.
        const FAILED = 0x80;
    }

    /// The causes of an interrupt (§4.2.2, InterruptStatus).
    #[derive(Copy, Clone, Debug, PartialEq, Eq)]
    pub(super) struct Cause: u8 {
        /// A buffer was returned.
        const USED_BUFFER = 1;
        /// The configuration changed, or the device is broken.
        const CONFIG_CHANGE = 2;
    }
}

/// Returns the 32 bits of `value` that a features selector names.
pub(super) fn half(value: u64, selector: u32) -> u32 {
    match selector {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

/// Writes the low 32 bits of `number`.
pub(super) fn set_low(number: &mut u64, value: u32) {
    *number = *number & !0xffff_ffff | u64::from(value);
}

/// Writes the high 32 bits of `number`.
pub(super) fn set_high(number: &mut u64, value: u32) {
    *number = *number & 0xffff_ffff | u64::from(value) << 32;
}
