//! A descriptor chain (virtio 1.2 §2.7.5): the buffers of one request, followed one by one.

use super::QueueFault;
use crate::addr::Ipa;
use crate::device::GuestMemory;

/// The size of a descriptor in bytes.
pub const DESCRIPTOR_BYTES: u32 = 16;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// A buffer that a chain names.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// The first byte. Nothing says that the guest has memory there.
    pub address: Ipa,
    /// The length in bytes; may be 0. The end does not leave the address space.
    pub length: u32,
    /// Whether it is for the device to write; otherwise it is for the device to read.
    pub writable: bool,
}

/// A chain and how far it has been followed: a plain value, kept over calls.
///
/// Descriptors are read when they are reached and once only, so that a guest which rewrites them
/// fools nobody but itself.
#[derive(Copy, Clone, Debug)]
pub struct Chain {
    head: u16,
    /// The table being followed, and its length in descriptors.
    table: Ipa,
    length: u32,
    next: Option<u16>,
    /// How many buffers the chain may still have.
    left: u16,
    indirect: Indirect,
    seen_writable: bool,
}

/// Whether an indirect descriptor may come.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Indirect {
    NotNegotiated,
    Allowed,
    Inside,
}

impl Chain {
    /// Starts at descriptor `head` of a queue's table of `size` descriptors, which has been
    /// checked not to leave the address space.
    ///
    /// # Errors
    ///
    /// `head` is outside the table.
    pub(super) fn new(
        table: Ipa,
        size: u16,
        head: u16,
        indirect: bool,
    ) -> Result<Self, QueueFault> {
        if head >= size {
            return Err(QueueFault::OutOfTable { index: head, length: size.into() });
        }
        Ok(Self {
            head,
            table,
            length: size.into(),
            next: Some(head),
            left: size,
            indirect: if indirect { Indirect::Allowed } else { Indirect::NotNegotiated },
            seen_writable: false,
        })
    }

    /// Returns the number by which the used ring names the chain.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Reads the next descriptor (two, where the first is an indirect one) and returns its buffer,
    /// or `None` behind the last.
    ///
    /// # Errors
    ///
    /// What is wrong with the chain. It is not to be followed further then.
    pub fn next<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
    ) -> Result<Option<Buffer>, QueueFault> {
        // Two rounds at most: inside an indirect table there is no further one.
        while let Some(index) = self.next {
            let descriptor = self.descriptor(memory, index)?;
            if descriptor.flags & INDIRECT != 0 {
                self.enter(descriptor)?;
                continue;
            }
            return self.buffer(descriptor).map(Some);
        }
        Ok(None)
    }

    fn descriptor<M: GuestMemory + ?Sized>(
        &self,
        memory: &M,
        index: u16,
    ) -> Result<Descriptor, QueueFault> {
        let length = self.length;
        if u32::from(index) >= length {
            return Err(QueueFault::OutOfTable { index, length });
        }
        // Cannot wrap: tables are checked when they are taken on.
        let offset = u64::from(index) * u64::from(DESCRIPTOR_BYTES);
        let place = Ipa::new(self.table.as_u64().wrapping_add(offset));
        let mut bytes = [0; DESCRIPTOR_BYTES as usize];
        memory.read(place, &mut bytes)?;
        Ok(Descriptor::from_bytes(bytes))
    }

    /// Goes on in the table that an indirect descriptor names.
    fn enter(&mut self, descriptor: Descriptor) -> Result<(), QueueFault> {
        match self.indirect {
            Indirect::NotNegotiated => return Err(QueueFault::IndirectNotNegotiated),
            Indirect::Inside => return Err(QueueFault::IndirectMisplaced),
            Indirect::Allowed => {}
        }
        if descriptor.flags & NEXT != 0 {
            return Err(QueueFault::IndirectMisplaced);
        }
        let Descriptor { address, length, .. } = descriptor;
        if length == 0 || !length.is_multiple_of(DESCRIPTOR_BYTES) {
            return Err(QueueFault::IndirectLength(length));
        }
        descriptor.check_range()?;
        self.table = Ipa::new(address);
        self.length = length / DESCRIPTOR_BYTES;
        self.indirect = Indirect::Inside;
        self.next = Some(0);
        Ok(())
    }

    fn buffer(&mut self, descriptor: Descriptor) -> Result<Buffer, QueueFault> {
        self.left = self.left.checked_sub(1).ok_or(QueueFault::TooLong)?;
        descriptor.check_range()?;
        let writable = descriptor.flags & WRITE != 0;
        if self.seen_writable && !writable {
            return Err(QueueFault::ReadableAfterWritable);
        }
        self.seen_writable = writable;
        self.next = (descriptor.flags & NEXT != 0).then_some(descriptor.next);
        Ok(Buffer { address: Ipa::new(descriptor.address), length: descriptor.length, writable })
    }
}

/// `struct virtq_desc`, as the guest wrote it.
#[derive(Copy, Clone)]
struct Descriptor {
    address: u64,
    length: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    fn from_bytes(bytes: [u8; DESCRIPTOR_BYTES as usize]) -> Self {
        let number = u128::from_le_bytes(bytes);
        Self {
            address: number as u64,
            length: (number >> 64) as u32,
            flags: (number >> 96) as u16,
            next: (number >> 112) as u16,
        }
    }

    fn check_range(self) -> Result<(), QueueFault> {
        let Self { address, length, .. } = self;
        match address.checked_add(length.into()) {
            Some(_) => Ok(()),
            None => Err(QueueFault::BufferWraps { address, length }),
        }
    }
}
