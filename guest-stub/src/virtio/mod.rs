//! Drivers of our own for virtio 1.2 over MMIO: small, and able to do everything wrong.

pub mod balloon;
pub mod mem;
pub mod mmio;
pub mod queue;
