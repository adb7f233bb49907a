//! What a guest's virtio devices have in common: their registers, their interrupt lines, and the work in their queues.

use super::Guest;
use super::balloon::{DeviceView, Hands};
use super::layout::{BALLOON_SLOT, MEMORY_SLOT};
use super::plug::PlugHands;
use crate::arch::time;
use crate::device::Width;
use crate::device::gic::intid;
use crate::device::virtio::{Context, Device, Transport};
use crate::system::System;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use spin::Mutex;

impl Guest {
    /// Changes or reads the device in `slot`, with number `number`; then looks at its interrupt line, and notes whether
    /// its queues hold work. All of that under the device's lock, so that the line's levels reach the interrupt
    /// controller in their order.
    pub(super) fn with_device<D: Device, R>(
        &self,
        system: &System,
        number: usize,
        slot: &Mutex<Transport<D>>,
        with: impl FnOnce(&mut Transport<D>) -> R,
    ) -> R {
        let mut slot = slot.lock();
        let result = with(&mut slot);
        self.after_device(system, number, &slot);
        result
    }

    fn after_device<D: Device>(&self, system: &System, number: usize, slot: &Transport<D>) {
        if let Some(intid) = intid::virtio(number as u32) {
            self.kick(system, self.gic.inject_spi(intid, slot.line()));
        }
        let bit = 1 << number;
        // Released: who sees it finds the queues as they were noted.
        if slot.outstanding().is_more() {
            self.device_work.fetch_or(bit, Ordering::Release);
        } else if self.device_work.load(Ordering::Relaxed) & bit != 0 {
            self.device_work.fetch_and(!bit, Ordering::Release);
        }
    }

    /// Does a bounded piece of what the queues of one device hold; says whether, for another CPU may be about it.
    fn device_piece<D: Device<Backend: Sized>>(
        &self,
        system: &System,
        number: usize,
        slot: &Mutex<Transport<D>>,
        mut hands: D::Backend,
    ) -> bool {
        let Some(mut slot) = slot.try_lock() else { return false };
        let view = DeviceView(&self.space);
        let mut context = Context { memory: &view, backend: &mut hands, now: time::now() };
        // What is left is noted below.
        let _ = slot.process(&mut context);
        self.after_device(system, number, &slot);
        true
    }

    /// Says whether its devices' queues hold work.
    #[inline(always)]
    pub fn has_device_work(&self) -> bool {
        self.device_work.load(Ordering::Relaxed) != 0
    }

    /// Says whether its devices' queues hold work that no CPU is about.
    pub fn wants_device_step(&self) -> bool {
        let work = self.device_work.load(Ordering::Relaxed);
        work & 1 << BALLOON_SLOT != 0 && !self.balloon.is_locked()
            || work & 1 << MEMORY_SLOT != 0
                && self.memory_device.as_ref().is_some_and(|device| !device.is_locked())
    }

    /// Does a bounded piece of what its devices' queues hold; says whether, for other CPUs may be about it.
    pub fn device_step(self: &Arc<Self>, system: &System) -> bool {
        let work = self.device_work.load(Ordering::Acquire);
        let mut done = false;
        if work & 1 << BALLOON_SLOT != 0 {
            done |= self.device_piece(system, BALLOON_SLOT, &self.balloon, Hands(Arc::clone(self)));
        }
        if work & 1 << MEMORY_SLOT != 0
            && let Some(device) = &self.memory_device
        {
            done |= self.device_piece(system, MEMORY_SLOT, device, PlugHands(Arc::clone(self)));
        }
        done
    }

    /// Reads a register of the virtio-mmio slot with this number; `None` where no device is in it.
    pub fn read_slot(
        &self,
        system: &System,
        number: usize,
        register: u64,
        width: Width,
    ) -> Option<u64> {
        match number {
            BALLOON_SLOT => {
                let read = |slot: &mut super::BalloonSlot| slot.read(register, width);
                Some(self.with_device(system, number, &self.balloon, read))
            }
            MEMORY_SLOT => {
                let read = |slot: &mut super::MemorySlot| slot.read(register, width);
                Some(self.with_device(system, number, self.memory_device.as_ref()?, read))
            }
            _ => None,
        }
    }

    /// Writes a register of the virtio-mmio slot with this number, if a device is in it. What that leaves to do is
    /// noted, and done by [`Guest::device_step`].
    pub fn write_slot(
        &self,
        system: &System,
        number: usize,
        register: u64,
        width: Width,
        value: u64,
    ) {
        match (number, &self.memory_device) {
            (BALLOON_SLOT, _) => {
                let _ = self.with_device(system, number, &self.balloon, |slot| {
                    slot.write(register, width, value)
                });
            }
            (MEMORY_SLOT, Some(device)) => {
                let _ = self
                    .with_device(system, number, device, |slot| slot.write(register, width, value));
            }
            _ => {}
        }
    }
}
