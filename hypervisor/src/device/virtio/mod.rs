//! Virtio 1.2 devices over virtio-mmio version 2, with split virtqueues.
//!
//! ```text
//!  exit -> mmio::Transport::{read, write} -> Progress::MoreWork?
//!            |  registers, status, features, interrupt line        yes: process() until Done,
//!            v                                                     looking up in between
//!          process() -> Device::serve(queue) -> queue::Queue -> chain::Chain -> GuestMemory
//!                         |
//!                         v
//!                       the device's backend (memory taken, given back)
//! ```
//!
//! A call of `process` serves one slice of one queue and is bounded, whatever the guest has put
//! into its rings; the rest is `MoreWork`. What does not follow the specification breaks the
//! device (`DEVICE_NEEDS_RESET`), with one line in the log, until the driver resets it.

pub mod balloon;
pub mod chain;
pub mod device;
#[cfg(all(test, not(loom)))]
pub(crate) mod driver;
pub mod fault;
pub mod mem;
pub mod mmio;
#[cfg(all(test, loom))]
mod model;
mod order;
pub mod queue;
pub mod reader;
mod registers;
#[cfg(all(test, not(loom)))]
mod tests;

pub use device::{Context, Device, Progress, Signals};
pub use fault::QueueFault;
pub use mmio::Transport;
pub use queue::Queue;

/// Feature bits of the transport and the queues (virtio 1.2 §6).
pub mod feature {
    /// `VIRTIO_F_INDIRECT_DESC`: a descriptor may point at a table of descriptors.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// `VIRTIO_F_EVENT_IDX`: each side says at which index it wants to be told.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// `VIRTIO_F_VERSION_1`: the device is no legacy device. Mandatory here.
    pub const VERSION_1: u64 = 1 << 32;

    /// What every device here offers beside its own features.
    pub const COMMON: u64 = INDIRECT_DESC | EVENT_IDX | VERSION_1;
}
