//! What machine this is: memory, CPUs, UART, GIC, timers, slots for virtio devices, as its device
//! tree says. Knows nothing of guests.
#![cfg_attr(not(test), no_std)]

mod blob;
mod chosen;
mod error;
mod machine;
mod reader;
mod tree;

pub use error::PlatformError;
pub use machine::{
    Conduit, Cpu, Gic, GicV2, GicV3, MAX_ARGUMENTS, MAX_CPUS, MAX_MEMORY_RANGES,
    MAX_REDISTRIBUTORS, MAX_RESERVED_RANGES, MAX_VIRTIO_SLOTS, Machine, Start, Timer, Uart,
    UartKind, VirtioSlot,
};
