//! What a device is to its transport.

use super::{Queue, QueueFault};
use crate::device::GuestMemory;

/// Whether a bounded piece of work was all there is.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[must_use = "work that is left undone is lost"]
pub enum Progress {
    /// Nothing is left to do.
    Done,
    /// Call again, after looking whether something else is due.
    MoreWork,
}

impl Progress {
    /// Says whether there is more to do.
    pub fn is_more(self) -> bool {
        self == Self::MoreWork
    }
}

/// What a device works with during one call.
pub struct Context<'a, M: GuestMemory + ?Sized, B: ?Sized> {
    /// The guest's memory.
    pub memory: &'a M,
    /// What carries out the device's decisions.
    pub backend: &'a mut B,
    /// The time, in any unit that only grows: statistics are stamped with it.
    pub now: u64,
}

/// What a device wants of its transport after the host side has changed something.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// The configuration changed: new generation, and an interrupt.
    pub config_changed: bool,
    /// Queues to serve as if the driver had notified them, one bit each.
    pub queues: u32,
}

/// A virtio device behind a transport.
///
/// Queues are numbered as the driver numbers them, which depends on the features negotiated.
pub trait Device {
    /// What carries out the device's decisions.
    type Backend: ?Sized;

    /// Returns the device type (virtio 1.2 §5), never 0.
    fn id(&self) -> u32;

    /// Returns the features offered, without those of the transport ([`super::feature::COMMON`]).
    fn features(&self) -> u64;

    /// Takes note of the features that the driver has accepted: a subset of those offered.
    fn negotiated(&mut self, features: u64);

    /// Returns how many queues there are with the features negotiated, at most
    /// [`super::mmio::QUEUES`].
    fn queue_count(&self) -> u32;

    /// Fills `bytes` from the configuration space at `offset`; reads zero behind its end.
    fn read_config(&self, offset: u64, bytes: &mut [u8]);

    /// Writes `bytes` to the configuration space at `offset`; what is not writable stays.
    fn write_config(&mut self, offset: u64, bytes: &[u8]);

    /// Forgets what the driver had set up. `MoreWork` where [`Device::finish_reset`] has to be
    /// called before anything else.
    fn reset(&mut self) -> Progress;

    /// Does a bounded piece of what a reset leaves to do outside of the device.
    fn finish_reset(&mut self, backend: &mut Self::Backend) -> Progress;

    /// Forgets what it holds of queue `index`, which has been stopped.
    fn queue_stopped(&mut self, index: u32);

    /// Serves a bounded slice of queue `index`.
    ///
    /// # Errors
    ///
    /// What the driver did wrong: breaks the device until its next reset.
    fn serve<M: GuestMemory + ?Sized>(
        &mut self,
        index: u32,
        queue: &mut Queue,
        context: &mut Context<'_, M, Self::Backend>,
    ) -> Result<Progress, QueueFault>;

    /// Returns and clears what is wanted of the transport.
    fn take_signals(&mut self) -> Signals;
}
