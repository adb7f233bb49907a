//! What a guest's memory device does to its memory.

#[cfg(target_os = "none")]
use super::Guest;
use super::holder::{Holder, remove_step};
#[cfg(target_os = "none")]
use super::layout::MEMORY_SLOT;
use crate::addr::{Ipa, IpaRange, PAGE_SIZE};
#[cfg(target_os = "none")]
use crate::device::virtio::mem::MemoryDevice;
use crate::device::virtio::mem::{MemoryBackend, Step};
use crate::stage2::{AddError, Fill};
#[cfg(target_os = "none")]
use crate::system::System;
use core::sync::atomic::Ordering;

/// The memory device's hands on a guest's memory.
pub struct PlugHands<H>(pub H);

impl<H: Holder> MemoryBackend for PlugHands<H> {
    fn admits(&mut self, bytes: u64) -> bool {
        let counts = self.0.space().memory().counts();
        (counts.free() + counts.retired).saturating_mul(PAGE_SIZE) >= bytes
    }

    fn plug(&mut self, range: IpaRange) -> Step {
        match self.0.space().add(range.clone(), Fill::Ready) {
            Ok(added) => added.next.map_or(Step::Done, Step::Next),
            Err(AddError::OutOfMemory) => self.wait_for_memory(range.start),
            Err(error) => {
                // The device plugs within its region what is not plugged: the operator has added something there. A
                // guest can ask again and again: the log says it the 1st, 2nd, 4th, 8th time.
                let count = self.0.faults().fetch_add(1, Ordering::Relaxed) + 1;
                if count.is_power_of_two() {
                    log::warn!("guest {}: {range:?} cannot be plugged: {error:?}", self.0.name());
                }
                Step::OutOfMemory
            }
        }
    }

    fn unplug(&mut self, range: IpaRange) -> Step {
        match remove_step(self.0.space(), range) {
            Some(next) => next.map_or(Step::Done, Step::Next),
            None => Step::OutOfMemory,
        }
    }
}

impl<H: Holder> PlugHands<H> {
    /// Goes on at `at` when what others have given up is free, which takes no longer than a grace period: a driver that
    /// is told that the device is busy may come again after a minute.
    fn wait_for_memory(&self, at: Ipa) -> Step {
        let memory = self.0.space().memory();
        if memory.counts().retired == 0 {
            return Step::OutOfMemory;
        }
        memory.reclaim_step();
        Step::Next(at)
    }
}

#[cfg(target_os = "none")]
impl Guest {
    /// Returns how many bytes are plugged, beyond what the guest has from the start.
    pub fn plugged(&self) -> u64 {
        self.memory_device.as_ref().map_or(0, |device| device.lock().device().plugged())
    }

    /// Returns how many bytes shall be plugged.
    pub fn plug_target(&self) -> u64 {
        self.memory_device.as_ref().map_or(0, |device| device.lock().device().requested())
    }

    /// Returns how many bytes can be plugged.
    pub fn plug_limit(&self) -> u64 {
        self.memory_device.as_ref().map_or(0, |device| device.lock().device().limit())
    }

    /// Returns the size of the blocks that are plugged and unplugged, in bytes; 0 where the guest has no memory
    /// device.
    pub fn plug_block(&self) -> u64 {
        self.memory_device.as_ref().map_or(0, |device| device.lock().device().block())
    }

    /// Sets how many bytes shall be plugged, rounded down to whole blocks and to what can be. Says whether the guest
    /// has a driver that is told.
    pub fn set_plug_target(&self, system: &System, bytes: u64) -> bool {
        let Some(device) = &self.memory_device else { return false };
        self.with_device(system, MEMORY_SLOT, device, |slot| {
            slot.update(|device| device.request(bytes));
            slot.is_live()
        })
    }

    /// Has the driver look at the target once more: one that found what it was to give up in use tries again then, where
    /// by itself it may wait for a minute.
    pub fn remind_of_plug_target(&self, system: &System) {
        let Some(device) = &self.memory_device else { return };
        self.with_device(system, MEMORY_SLOT, device, |slot| slot.update(MemoryDevice::remind));
    }

    /// Notes that nothing is plugged any more, the machine having been made anew.
    pub(super) fn memory_device_power_on(&self) {
        if let Some(device) = &self.memory_device {
            let mut slot = device.lock();
            slot.power_on();
            slot.update(|device| device.power_on());
        }
    }
}
