//! A guest's driver for tests, which does with registers and rings what Linux does
//! (`virtio_mmio.c`, `virtio_ring.c`, `virtio_balloon.c`).

use std::rc::Rc;

use super::balloon::Balloon;
use super::balloon::fake_backend::FakeBackend;
use super::mmio::Label;
use super::registers::register;
use super::{Context, Device, Transport, feature};
use crate::addr::{Ipa, PAGE_SIZE};
use crate::device::fake_memory::FakeMemory;
use crate::device::{GuestMemory, Width};

/// Status bits as a driver writes them.
pub(crate) mod status {
    pub(crate) const ACKNOWLEDGE: u32 = 1;
    pub(crate) const DRIVER: u32 = 2;
    pub(crate) const DRIVER_OK: u32 = 4;
    pub(crate) const FEATURES_OK: u32 = 8;
    pub(crate) const NEEDS_RESET: u32 = 0x40;
}

/// Descriptor flags.
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// How many accesses to the guest's memory one slice may make: 64 descriptors, a read for each of
/// their buffers, and the rings around them.
const ACCESSES_A_SLICE: u64 = 160;

/// A guest with a device, a balloon if nothing else is said: device, memory, and what is behind the device.
pub(crate) struct Machine<D: Device<Backend: Sized> = Balloon<FakeBackend>> {
    pub(crate) transport: Transport<D>,
    pub(crate) memory: Rc<FakeMemory>,
    pub(crate) backend: D::Backend,
    pub(crate) now: u64,
    /// How many slices were worked.
    pub(crate) slices: u64,
    /// Stop working after this many slices of one notification: a backend that is busy.
    pub(crate) patience: u64,
}

/// The first page of the fake memory that no queue uses.
pub(crate) const BUFFERS: u64 = 16 * PAGE_SIZE;

impl Machine {
    pub(crate) fn new() -> Self {
        let label = Label { guest: 1, slot: 2 };
        Self::with(Transport::new(label, Balloon::new(label)), FakeBackend::default())
    }
}

impl<D: Device<Backend: Sized>> Machine<D> {
    pub(crate) fn with(transport: Transport<D>, backend: D::Backend) -> Self {
        let memory = Rc::new(FakeMemory::new(64));
        Self { transport, memory, backend, now: 0, slices: 0, patience: u64::MAX }
    }

    pub(crate) fn read(&mut self, offset: u64) -> u32 {
        self.transport.read(offset, Width::Word) as u32
    }

    pub(crate) fn write(&mut self, offset: u64, value: u32) {
        if self.transport.write(offset, Width::Word, value.into()).is_more() {
            self.work();
        }
    }

    /// Works until done, as an exit does, and sees that each slice is bounded.
    pub(crate) fn work(&mut self) {
        for _ in 0..self.patience {
            let before = self.memory.accesses();
            let (memory, backend) = (&*self.memory, &mut self.backend);
            let mut context = Context { memory, backend, now: self.now };
            let progress = self.transport.process(&mut context);
            self.slices += 1;
            assert!(self.memory.accesses() - before <= ACCESSES_A_SLICE);
            if !progress.is_more() {
                return;
            }
        }
    }

    /// Goes as far as agreeing on `wanted` of the features; returns the status then.
    pub(crate) fn negotiate(&mut self, wanted: u64) -> u32 {
        self.write(register::STATUS, 0);
        self.write(register::STATUS, status::ACKNOWLEDGE);
        self.write(register::STATUS, status::ACKNOWLEDGE | status::DRIVER);
        for half in [1, 0] {
            self.write(register::DRIVER_FEATURES_SEL, half);
            self.write(register::DRIVER_FEATURES, (wanted >> (32 * half)) as u32);
        }
        let seen = self.read(register::STATUS);
        self.write(register::STATUS, seen | status::FEATURES_OK);
        self.read(register::STATUS)
    }

    /// Returns the features offered.
    pub(crate) fn offered(&mut self) -> u64 {
        let mut features = 0;
        for half in [0, 1] {
            self.write(register::DEVICE_FEATURES_SEL, half);
            features |= u64::from(self.read(register::DEVICE_FEATURES)) << (32 * half);
        }
        features
    }

    /// `vm_setup_vq`.
    pub(crate) fn queue(&mut self, index: u32, features: u64) -> DriverQueue {
        self.write(register::QUEUE_SEL, index);
        assert_eq!(self.read(register::QUEUE_READY), 0);
        let size = self.read(register::QUEUE_NUM_MAX);
        assert_ne!(size, 0, "queue {index} exists");
        let queue = DriverQueue::new(index, size as u16, features & feature::EVENT_IDX != 0);
        queue.clear(&self.memory);
        self.write(register::QUEUE_NUM, size);
        self.place(&queue);
        self.write(register::QUEUE_READY, 1);
        queue
    }

    /// Tells the device where a queue is.
    pub(crate) fn place(&mut self, queue: &DriverQueue) {
        let parts = [
            (register::QUEUE_DESC_LOW, queue.descriptors),
            (register::QUEUE_DRIVER_LOW, queue.available),
            (register::QUEUE_DEVICE_LOW, queue.used),
        ];
        for (low, address) in parts {
            self.write(low, address.as_u64() as u32);
            self.write(low + 4, (address.as_u64() >> 32) as u32);
        }
    }

    /// `virtio_device_ready`.
    pub(crate) fn ready(&mut self) {
        let seen = self.read(register::STATUS);
        self.write(register::STATUS, seen | status::DRIVER_OK);
    }

    /// Sets the device up with `features` and all of its queues.
    pub(crate) fn probe(&mut self, features: u64) -> Vec<DriverQueue> {
        assert_ne!(self.negotiate(features) & status::FEATURES_OK, 0);
        let count = Device::queue_count(self.transport.device());
        let queues = (0..count).map(|index| self.queue(index, features)).collect();
        self.ready();
        queues
    }

    /// `vm_interrupt`: returns and acknowledges what the interrupt was for.
    pub(crate) fn interrupt(&mut self) -> u32 {
        let cause = self.read(register::INTERRUPT_STATUS);
        assert_eq!(self.transport.line(), cause != 0);
        self.write(register::INTERRUPT_ACK, cause);
        assert!(!self.transport.line());
        cause
    }

    /// Puts bytes into the memory, `offset` into the part for buffers.
    pub(crate) fn put(&self, offset: u64, bytes: &[u8]) -> Ipa {
        let ipa = FakeMemory::at(BUFFERS + offset);
        self.memory.write(ipa, bytes).unwrap();
        ipa
    }

    /// Puts page numbers into the memory as the balloon driver does.
    pub(crate) fn put_pages(&self, offset: u64, pages: &[u32]) -> (Ipa, u32, bool) {
        let bytes: Vec<u8> = pages.iter().flat_map(|page| page.to_le_bytes()).collect();
        (self.put(offset, &bytes), bytes.len() as u32, false)
    }
}

/// The driver's side of a queue.
pub(crate) struct DriverQueue {
    pub(crate) index: u32,
    pub(crate) size: u16,
    pub(crate) descriptors: Ipa,
    pub(crate) available: Ipa,
    pub(crate) used: Ipa,
    event_index: bool,
    /// The next descriptor to use: chains are short and returned soon.
    free: u16,
    next_available: u16,
    /// The available index when the device was last notified.
    kicked: u16,
    next_used: u16,
}

impl DriverQueue {
    fn new(index: u32, size: u16, event_index: bool) -> Self {
        let page = |n: u64| FakeMemory::at((4 * u64::from(index) + n) * PAGE_SIZE);
        Self {
            index,
            size,
            descriptors: page(0),
            available: page(1),
            used: page(2),
            event_index,
            free: 0,
            next_available: 0,
            kicked: 0,
            next_used: 0,
        }
    }

    /// Zeroes the rings, as a driver does before it hands them over.
    pub(crate) fn clear(&self, memory: &FakeMemory) {
        for part in [self.descriptors, self.available, self.used] {
            memory.write(part, &[0; PAGE_SIZE as usize]).unwrap();
        }
    }

    /// Writes descriptor `index` of the table at `table`.
    pub(crate) fn describe(
        memory: &FakeMemory,
        table: Ipa,
        index: u16,
        (address, length, flags, next): (Ipa, u32, u16, u16),
    ) {
        let place = table.checked_add(16 * u64::from(index)).unwrap();
        memory.write_u64(place, address.as_u64()).unwrap();
        memory.write_u32(place.checked_add(8).unwrap(), length).unwrap();
        memory.write_u16(place.checked_add(12).unwrap(), flags).unwrap();
        memory.write_u16(place.checked_add(14).unwrap(), next).unwrap();
    }

    /// `virtqueue_add` with direct descriptors of (address, length, writable); returns the head.
    pub(crate) fn add(&mut self, memory: &FakeMemory, buffers: &[(Ipa, u32, bool)]) -> u16 {
        let head = self.free;
        for (i, (address, length, writable)) in buffers.iter().enumerate() {
            let next = (self.free + 1) % self.size;
            let more = if i + 1 < buffers.len() { NEXT } else { 0 };
            let flags = more | if *writable { WRITE } else { 0 };
            Self::describe(memory, self.descriptors, self.free, (*address, *length, flags, next));
            self.free = next;
        }
        self.offer(memory, head);
        head
    }

    /// `virtqueue_add` with an indirect table at `table`.
    pub(crate) fn add_indirect(
        &mut self,
        memory: &FakeMemory,
        table: Ipa,
        buffers: &[(Ipa, u32, bool)],
    ) -> u16 {
        for (i, (address, length, writable)) in (0_u16..).zip(buffers) {
            let more = if usize::from(i) + 1 < buffers.len() { NEXT } else { 0 };
            let flags = more | if *writable { WRITE } else { 0 };
            Self::describe(memory, table, i, (*address, *length, flags, i + 1));
        }
        let head = self.free;
        self.free = (self.free + 1) % self.size;
        let length = 16 * buffers.len() as u32;
        Self::describe(memory, self.descriptors, head, (table, length, INDIRECT, 0));
        self.offer(memory, head);
        head
    }

    /// Makes the chain at `head` available.
    pub(crate) fn offer(&mut self, memory: &FakeMemory, head: u16) {
        let slot = 4 + 2 * u64::from(self.next_available % self.size);
        memory.write_u16(self.available.checked_add(slot).unwrap(), head).unwrap();
        self.next_available = self.next_available.wrapping_add(1);
        self.set_available_index(memory, self.next_available);
    }

    /// Writes the available index.
    pub(crate) fn set_available_index(&self, memory: &FakeMemory, index: u16) {
        memory.write_u16(self.available.checked_add(2).unwrap(), index).unwrap();
    }

    /// Writes the available ring's flags.
    pub(crate) fn set_flags(&self, memory: &FakeMemory, flags: u16) {
        memory.write_u16(self.available, flags).unwrap();
    }

    /// Asks for an interrupt when the used index passes `event`.
    pub(crate) fn set_used_event(&self, memory: &FakeMemory, event: u16) {
        let place = 4 + 2 * u64::from(self.size);
        memory.write_u16(self.available.checked_add(place).unwrap(), event).unwrap();
    }

    /// `virtqueue_kick_prepare`: does the device want to be notified?
    pub(crate) fn wants_kick(&mut self, memory: &FakeMemory) -> bool {
        let (old, new) = (self.kicked, self.next_available);
        self.kicked = new;
        if !self.event_index {
            return memory.read_u16(self.used).unwrap() & 1 == 0;
        }
        let place = 4 + 8 * u64::from(self.size);
        let event = memory.read_u16(self.used.checked_add(place).unwrap()).unwrap();
        new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
    }

    /// `virtqueue_kick`; returns whether a notification was needed.
    pub(crate) fn kick<D: Device<Backend: Sized>>(&mut self, machine: &mut Machine<D>) -> bool {
        let wanted = self.wants_kick(&machine.memory);
        if wanted {
            machine.write(register::QUEUE_NOTIFY, self.index);
        }
        wanted
    }

    /// `virtqueue_get_buf`: the head and the bytes written of the next returned chain. Asks for an
    /// interrupt for the one behind it.
    pub(crate) fn take(&mut self, memory: &FakeMemory) -> Option<(u32, u32)> {
        if memory.read_u16(self.used.checked_add(2).unwrap()).unwrap() == self.next_used {
            return None;
        }
        let slot = 4 + 8 * u64::from(self.next_used % self.size);
        let place = self.used.checked_add(slot).unwrap();
        let element = memory.read_u64(place).unwrap();
        self.next_used = self.next_used.wrapping_add(1);
        self.set_used_event(memory, self.next_used);
        Some((element as u32, (element >> 32) as u32))
    }
}
