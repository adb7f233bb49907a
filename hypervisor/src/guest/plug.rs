//! What a guest's memory device does to its memory.

use super::balloon::DeviceView;
use super::{Guest, MemorySlot};
use crate::addr::{Ipa, IpaRange, PAGE_SIZE};
use crate::arch::time;
use crate::device::Width;
use crate::device::gic::intid;
use crate::device::virtio::Context;
use crate::device::virtio::mem::{MemoryBackend, Step};
use crate::guest::layout;
use crate::mem::Retiring;
use crate::stage2::{AddError, Fill, Mark};
use crate::system::System;
use alloc::sync::Arc;

/// How many entries of a detached table one step of an unplug reads.
const ENTRIES: usize = 128;

/// The memory device's hands on a guest's memory.
pub struct PlugHands(pub(super) Arc<Guest>);

impl MemoryBackend for PlugHands {
    fn admits(&mut self, bytes: u64) -> bool {
        let counts = self.0.space.memory().counts();
        (counts.free() + counts.retired).saturating_mul(PAGE_SIZE) >= bytes
    }

    fn plug(&mut self, range: IpaRange) -> Step {
        match self.0.space.add(range.clone(), Fill::Ready) {
            Ok(added) => added.next.map_or(Step::Done, Step::Next),
            Err(AddError::OutOfMemory) => self.wait_for_memory(range.start),
            Err(error) => {
                // The device plugs within its region what is not plugged: the operator has added something there.
                log::warn!("guest {}: {range:?} cannot be plugged: {error:?}", self.0.name());
                Step::OutOfMemory
            }
        }
    }

    fn unplug(&mut self, range: IpaRange) -> Step {
        match self.0.space.take_range(range, Mark::Unplugged) {
            Ok(taken) => {
                let next = taken.next;
                let mut flushed = taken.flushed;
                while let Retiring::More(rest) = flushed.retire_some(ENTRIES) {
                    flushed = rest;
                }
                next.map_or(Step::Done, Step::Next)
            }
            Err(_) => Step::OutOfMemory,
        }
    }
}

impl PlugHands {
    /// Goes on at `at` when what others have given up is free, which takes no longer than a grace period: a driver that
    /// is told that the device is busy may come again after a minute.
    fn wait_for_memory(&self, at: Ipa) -> Step {
        let memory = self.0.space.memory();
        if memory.counts().retired == 0 {
            return Step::OutOfMemory;
        }
        memory.reclaim_step();
        Step::Next(at)
    }
}

impl Guest {
    /// Looks at the memory device's interrupt line, and notes whether its queue holds work: as
    /// [`Guest::after_balloon`] does.
    fn after_memory_device(&self, system: &System, slot: &MemorySlot) {
        if let Some(intid) = intid::virtio(layout::MEMORY_SLOT as u32) {
            self.kick(system, self.gic.inject_spi(intid, slot.line()));
        }
        self.note_work(super::WORK_OF_MEMORY_DEVICE, slot.outstanding().is_more());
    }

    /// Does a bounded piece of what the memory device's queue holds; says whether, for another CPU may be about it.
    pub(super) fn memory_device_step(self: &Arc<Self>, system: &System) -> bool {
        let Some(mut slot) = self.memory_device.as_ref().and_then(spin::Mutex::try_lock) else {
            return false;
        };
        let view = DeviceView(&self.space);
        let mut hands = PlugHands(Arc::clone(self));
        let mut context = Context { memory: &view, backend: &mut hands, now: time::now() };
        // What is left is noted below.
        let _ = slot.process(&mut context);
        self.after_memory_device(system, &slot);
        true
    }

    /// Reads a register of the memory device; `None` where the guest has none.
    pub fn read_memory_device(&self, system: &System, register: u64, width: Width) -> Option<u64> {
        let mut slot = self.memory_device.as_ref()?.lock();
        let value = slot.read(register, width);
        self.after_memory_device(system, &slot);
        Some(value)
    }

    /// Writes a register of the memory device, if the guest has one.
    pub fn write_memory_device(&self, system: &System, register: u64, width: Width, value: u64) {
        let Some(device) = &self.memory_device else { return };
        let mut slot = device.lock();
        // What it leaves to do is noted below.
        let _ = slot.write(register, width, value);
        self.after_memory_device(system, &slot);
    }

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
        let mut slot = device.lock();
        slot.update(|device| device.request(bytes));
        self.after_memory_device(system, &slot);
        slot.is_live()
    }

    /// Has the driver look at the target once more: one that found what it was to give up in use tries again then, where
    /// by itself it may wait for a minute.
    pub fn remind_of_plug_target(&self, system: &System) {
        let Some(device) = &self.memory_device else { return };
        let mut slot = device.lock();
        slot.update(|device| device.remind());
        self.after_memory_device(system, &slot);
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
