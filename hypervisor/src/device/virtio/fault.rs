//! What can be wrong with a queue that a guest has set up.

use core::fmt;

use crate::device::MemoryFault;

/// A breach of the split virtqueue format (virtio 1.2 §2.7) by a guest's driver.
///
/// Each breaks the device until the driver resets it; none is the hypervisor's failure.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum QueueFault {
    /// A ring, a descriptor table or a buffer lies in memory that is not there.
    Memory(MemoryFault),
    /// The queue size is zero, no power of two, or above the maximum.
    Size(u32),
    /// A part of the queue is not aligned as §2.7 wants, or leaves the address space.
    Placement {
        /// Which part: "descriptor table", "available ring" or "used ring".
        part: &'static str,
        /// Where the driver put it.
        address: u64,
    },
    /// The available index is ahead by more than there are descriptors.
    IndexRanAway {
        /// The index that the driver wrote.
        available: u16,
        /// The index that the device will take next.
        next: u16,
    },
    /// A descriptor number is not below the size of its table.
    OutOfTable {
        /// The number.
        index: u16,
        /// How many descriptors the table has.
        length: u32,
    },
    /// A chain is longer than the queue (§2.7.5.2); a loop shows itself so.
    TooLong,
    /// A buffer leaves the address space.
    BufferWraps {
        /// Where it starts.
        address: u64,
        /// Its length in bytes.
        length: u32,
    },
    /// An indirect descriptor although the feature was not negotiated (§2.7.5.3.1).
    IndirectNotNegotiated,
    /// An indirect descriptor inside an indirect table, or one with a successor (§2.7.5.3.1).
    IndirectMisplaced,
    /// An indirect table whose length is zero or no multiple of 16 bytes (§2.7.5.3.1).
    IndirectLength(u32),
    /// A buffer for the device to read behind one for it to write (§2.7.4.2).
    ReadableAfterWritable,
}

impl From<MemoryFault> for QueueFault {
    fn from(fault: MemoryFault) -> Self {
        Self::Memory(fault)
    }
}

impl fmt::Display for QueueFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Memory(fault) => write!(f, "ring or buffer at {fault}"),
            Self::Size(size) => write!(f, "queue size {size}"),
            Self::Placement { part, address } => write!(f, "{part} misplaced at {address:#x}"),
            Self::IndexRanAway { available, next } => {
                write!(f, "available index {available} too far ahead of {next}")
            }
            Self::OutOfTable { index, length } => {
                write!(f, "descriptor {index} of a table of {length}")
            }
            Self::TooLong => f.write_str("descriptor chain longer than the queue, or a loop"),
            Self::BufferWraps { address, length } => {
                write!(f, "buffer of {length} bytes at {address:#x} wraps")
            }
            Self::IndirectNotNegotiated => f.write_str("indirect descriptor not negotiated"),
            Self::IndirectMisplaced => f.write_str("indirect descriptor nested or chained on"),
            Self::IndirectLength(length) => write!(f, "indirect table of {length} bytes"),
            Self::ReadableAfterWritable => f.write_str("readable buffer behind a writable one"),
        }
    }
}
