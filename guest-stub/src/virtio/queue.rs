//! A split virtqueue (virtio 1.2, §2.7), every field of which can be written at will.
#![expect(unsafe_code, reason = "reads and writes memory that it shares with a device")]

use super::mmio::{self, Transport};
use crate::arch::{barrier, time};
use crate::memory::{PAGE, Range};

/// How many descriptors our queues have.
pub const SIZE: u16 = 64;
/// The available ring, in bytes from the descriptors.
const AVAILABLE: u64 = 1024;
/// The used ring, in bytes from the descriptors.
const USED: u64 = 2048;

/// There is a next descriptor.
pub const NEXT: u16 = 1;
/// The device writes to the buffer.
pub const WRITE: u16 = 2;
/// The buffer holds descriptors.
pub const INDIRECT: u16 = 4;

/// One descriptor.
#[derive(Copy, Clone, Debug)]
pub struct Descriptor {
    pub address: u64,
    pub length: u32,
    pub flags: u16,
    pub next: u16,
}

/// The device did not return a chain in time.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Silent;

/// A queue in one page.
pub struct Queue {
    transport: Transport,
    index: u32,
    memory: Range,
    /// The available index, as it was written last.
    pub available: u16,
    /// The used index up to which completions have been seen.
    pub seen: u16,
}

impl Queue {
    /// Gives the device queue `index` in a page, which is cleared, and enables it. `None` where the device has no such
    /// queue, or one too small.
    pub fn open(transport: Transport, index: u32, memory: Range) -> Option<Self> {
        let queue = Self { transport, index, memory, available: 0, seen: 0 };
        transport.write(mmio::QUEUE_SEL, index);
        if transport.read(mmio::QUEUE_NUM_MAX) < u32::from(SIZE) || memory.size() < PAGE {
            return None;
        }
        queue.clear();
        queue.place(memory.start, memory.start + AVAILABLE, memory.start + USED);
        transport.write(mmio::QUEUE_READY, 1);
        Some(queue)
    }

    /// Tells the device where the parts of the queue are, wherever that is.
    pub fn place(&self, descriptors: u64, available: u64, used: u64) {
        self.transport.write(mmio::QUEUE_SEL, self.index);
        self.transport.write(mmio::QUEUE_NUM, u32::from(SIZE));
        self.transport.write_pair(mmio::QUEUE_DESC, descriptors);
        self.transport.write_pair(mmio::QUEUE_DRIVER, available);
        self.transport.write_pair(mmio::QUEUE_DEVICE, used);
    }

    /// Returns where the queue is.
    pub const fn memory(&self) -> Range {
        self.memory
    }

    fn clear(&self) {
        for word in 0..PAGE / 8 {
            // SAFETY: the page was given to this queue.
            unsafe { ((self.memory.start + word * 8) as *mut u64).write_volatile(0) }
        }
    }

    fn write_16(&self, offset: u64, value: u16) {
        // SAFETY: the offsets below are within the page of this queue.
        unsafe { ((self.memory.start + offset) as *mut u16).write_volatile(value) }
    }

    fn read_16(&self, offset: u64) -> u16 {
        // SAFETY: the offsets below are within the page of this queue.
        unsafe { ((self.memory.start + offset) as *const u16).read_volatile() }
    }

    /// Writes descriptor `index` (modulo the size).
    pub fn describe(&self, index: u16, descriptor: Descriptor) {
        let place = self.memory.start + u64::from(index % SIZE) * 16;
        let Descriptor { address, length, flags, next } = descriptor;
        let rest = u64::from(length) | u64::from(flags) << 32 | u64::from(next) << 48;
        // SAFETY: the descriptor is within the page of this queue.
        unsafe {
            (place as *mut u64).write_volatile(address);
            ((place + 8) as *mut u64).write_volatile(rest);
        }
    }

    /// Writes entry `slot` (modulo the size) of the available ring.
    pub fn offer_at(&self, slot: u16, head: u16) {
        self.write_16(AVAILABLE + 4 + u64::from(slot % SIZE) * 2, head);
    }

    /// Writes the available index.
    pub fn set_available(&mut self, index: u16) {
        barrier::dsb();
        self.available = index;
        self.write_16(AVAILABLE + 2, index);
        barrier::dsb();
    }

    /// Offers the chain that begins at descriptor `head`.
    pub fn offer(&mut self, head: u16) {
        self.offer_at(self.available, head);
        self.set_available(self.available.wrapping_add(1));
    }

    /// Notifies the device.
    #[inline(always)]
    pub fn notify(&self) {
        self.transport.write(mmio::QUEUE_NOTIFY, self.index);
    }

    /// Returns the used index.
    pub fn used(&self) -> u16 {
        let used = self.read_16(USED + 2);
        barrier::dsb();
        used
    }

    /// Waits for the device to return one more chain.
    ///
    /// # Errors
    ///
    /// [`Silent`] after `microseconds`.
    pub fn wait(&mut self, microseconds: u64) -> Result<(), Silent> {
        if self.used() == self.seen && !time::poll(microseconds, || self.used() != self.seen) {
            return Err(Silent);
        }
        self.seen = self.seen.wrapping_add(1);
        Ok(())
    }

    /// Writes the buffers as one chain, from descriptor 0 on.
    pub fn chain(&self, buffers: impl ExactSizeIterator<Item = (Range, u16)>) {
        let last = buffers.len().saturating_sub(1);
        for (index, (buffer, flags)) in buffers.enumerate() {
            let flags = flags | if index < last { NEXT } else { 0 };
            self.describe(
                index as u16,
                Descriptor {
                    address: buffer.start,
                    length: buffer.size() as u32,
                    flags,
                    next: index as u16 + 1,
                },
            );
        }
    }

    /// Offers the buffers as one chain and waits for it.
    ///
    /// # Errors
    ///
    /// [`Silent`] after five seconds.
    pub fn submit(
        &mut self,
        buffers: impl ExactSizeIterator<Item = (Range, u16)>,
    ) -> Result<(), Silent> {
        self.chain(buffers);
        self.offer(0);
        self.notify();
        self.wait(5_000_000)
    }
}
