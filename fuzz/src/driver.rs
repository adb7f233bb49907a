//! What a driver does with a virtio-mmio device, as far as a hostile one has to know.

use crate::world::{Owner, Watched, at};
use sluice::addr::{Ipa, PAGE_SIZE};
use sluice::device::virtio::mmio::Status;
use sluice::device::virtio::{Context, Device, Progress, Transport, feature};
use sluice::device::{GuestMemory, Width};
use sluice::guest::layout::RAM_START;

/// The registers that it uses (virtio 1.2 §4.2.2).
pub mod register {
    pub const DEVICE_FEATURES: u64 = 0x10;
    pub const DEVICE_FEATURES_SEL: u64 = 0x14;
    pub const DRIVER_FEATURES: u64 = 0x20;
    pub const DRIVER_FEATURES_SEL: u64 = 0x24;
    pub const QUEUE_SEL: u64 = 0x30;
    pub const QUEUE_NUM: u64 = 0x38;
    pub const QUEUE_READY: u64 = 0x44;
    pub const QUEUE_NOTIFY: u64 = 0x50;
    pub const STATUS: u64 = 0x70;
    pub const QUEUE_PARTS: [u64; 3] = [0x80, 0x90, 0xa0];
}

/// The most queues.
pub const QUEUES: u64 = 4;
/// How many accesses to the guest's memory one slice may make: 64 descriptors, a read for each of their buffers, and
/// the rings around them.
const ACCESSES_A_SLICE: u64 = 160;

/// The frame in which a queue lies: descriptors, available ring, used ring, a page each.
pub fn queue_page(device: u64, queue: u64) -> Ipa {
    at(RAM_START, (16 * device + 4 * (queue % QUEUES)) * PAGE_SIZE)
}

/// A device, and what its driver remembers.
pub struct Slot<D> {
    /// The device.
    pub transport: Transport<D>,
    number: u64,
    size: u16,
    available: [u16; QUEUES as usize],
}

impl<D: Device<Backend: Sized>> Slot<D> {
    /// Puts `transport` into slot `number`.
    pub fn new(transport: Transport<D>, number: u64) -> Self {
        Self { transport, number, size: 256, available: [0; QUEUES as usize] }
    }

    fn set(&mut self, register: u64, value: u64) {
        let _ = self.transport.write(register, Width::Word, value);
    }

    /// Does at most `slices` pieces of what the device has to do; says whether there is more.
    pub fn work(
        &mut self,
        memory: &Watched<'_>,
        backend: &mut D::Backend,
        slices: usize,
    ) -> Progress {
        for _ in 0..slices {
            if !self.transport.outstanding().is_more() {
                break;
            }
            let before = memory.accesses();
            let mut context = Context { memory, backend, now: before };
            let _ = self.transport.process(&mut context);
            let accesses = memory.accesses() - before;
            assert!(accesses <= ACCESSES_A_SLICE, "{accesses} accesses in one slice");
        }
        self.transport.outstanding()
    }

    /// Resets the device.
    pub fn reset(&mut self) {
        self.set(register::STATUS, 0);
        self.available = Default::default();
    }

    /// Sets it up with what it offers of `features`, and queues of `size`.
    pub fn probe(&mut self, owner: &Owner, features: u64, size: u16) {
        self.size = size.max(1);
        for status in [1, 3] {
            self.set(register::STATUS, status);
        }
        for half in [0, 1] {
            self.set(register::DEVICE_FEATURES_SEL, half);
            let offered = self.transport.read(register::DEVICE_FEATURES, Width::Word);
            self.set(register::DRIVER_FEATURES_SEL, half);
            let wanted = (features | feature::VERSION_1) >> (32 * half) & 0xffff_ffff;
            self.set(register::DRIVER_FEATURES, offered & wanted);
        }
        self.set(register::STATUS, 0xb);
        for queue in 0..QUEUES {
            self.set(register::QUEUE_SEL, queue);
            self.set(register::QUEUE_NUM, size.into());
            let page = queue_page(self.number, queue);
            for (part, register) in (0..).zip(register::QUEUE_PARTS) {
                let place = at(page, part * PAGE_SIZE);
                // A ring that lies where it has no memory is a mistake that it may make.
                let _ = owner.space.write(place, &[0; PAGE_SIZE as usize]);
                self.set(register, place.as_u64() & 0xffff_ffff);
                self.set(register + 4, place.as_u64() >> 32);
            }
            self.set(register::QUEUE_READY, 1);
        }
        self.set(register::STATUS, 0xf);
    }

    /// Writes a descriptor.
    pub fn describe(
        &self,
        memory: &dyn GuestMemory,
        queue: u64,
        index: u8,
        (address, length, flags, next): (Ipa, u32, u16, u16),
    ) {
        let place = at(queue_page(self.number, queue), 16 * u64::from(index));
        let _ = memory.write_u64(place, address.as_u64());
        let _ = memory.write_u32(at(place, 8), length);
        let _ = memory.write_u16(at(place, 12), flags);
        let _ = memory.write_u16(at(place, 14), next);
    }

    /// Makes a chain available.
    pub fn offer(&mut self, memory: &dyn GuestMemory, queue: u64, head: u8) {
        let ring = at(queue_page(self.number, queue), PAGE_SIZE);
        let index = &mut self.available[(queue % QUEUES) as usize];
        let _ = memory.write_u16(at(ring, 4 + 2 * u64::from(*index % self.size)), head.into());
        *index = index.wrapping_add(1);
        let _ = memory.write_u16(at(ring, 2), *index);
    }

    /// Tells the device.
    pub fn notify(&mut self, queue: u64) {
        self.set(register::QUEUE_NOTIFY, queue);
    }

    /// Returns how many chains of a queue came back.
    pub fn used(&self, owner: &Owner, queue: u64) -> u16 {
        let mut index = [0; 2];
        let place = at(queue_page(self.number, queue), 2 * PAGE_SIZE + 2);
        owner.space.read(place, &mut index).expect("the ring is in memory");
        u16::from_le_bytes(index)
    }

    /// Resets the device, and sees that it comes to an end and forgets everything.
    pub fn finish(&mut self, owner: &Owner, memory: &Watched<'_>, backend: &mut D::Backend) {
        self.reset();
        let mut rounds = 0;
        while self.work(memory, backend, 1).is_more() {
            // What is missing may be retired.
            owner.space.memory().idle_step();
            rounds += 1;
            assert!(rounds < 20_000, "a reset without end");
        }
        assert_eq!(self.transport.status(), Status::empty());
        assert!(!self.transport.line() && self.transport.fault().is_none());
    }
}
