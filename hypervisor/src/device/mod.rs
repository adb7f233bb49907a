//! The devices a guest sees, as pure models: no registers, no locks of their own (but the GIC, which
//! every vCPU reaches at once), no allocation.
//!
//! An exit hands an access to a model, the model changes and says what is to be done next: set an
//! interrupt line, go on working, transmit a byte. What a guest wrote is an allegation until
//! checked.

use core::fmt;

use crate::addr::Ipa;

#[cfg(all(test, not(loom)))]
pub(crate) mod fake_memory;
#[cfg(not(loom))]
pub mod gic;
pub mod pl011;
pub mod sparse;
pub mod virtio;

/// The width of an access to a device's registers.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Width {
    /// 1 byte.
    Byte,
    /// 2 bytes.
    Half,
    /// 4 bytes.
    Word,
    /// 8 bytes.
    Double,
}

impl Width {
    /// Returns the width in bytes: 1, 2, 4 or 8.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Byte => 1,
            Self::Half => 2,
            Self::Word => 4,
            Self::Double => 8,
        }
    }

    /// Keeps the bits of `value` that an access of this width carries.
    pub const fn truncate(self, value: u64) -> u64 {
        match self {
            Self::Byte => value & 0xff,
            Self::Half => value & 0xffff,
            Self::Word => value & 0xffff_ffff,
            Self::Double => value,
        }
    }
}

/// Why an address could not be read or written on a guest's behalf.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum MemoryFaultReason {
    /// The guest has no memory there.
    Outside,
    /// The guest gave the page away: to the balloon, or by unplugging it.
    GivenAway,
    /// The page is not populated and the hypervisor has no frame left for it.
    OutOfMemory,
}

/// An access to a guest's memory that could not be carried out.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct MemoryFault {
    /// The first address that could not be reached.
    pub ipa: Ipa,
    /// Why.
    pub reason: MemoryFaultReason,
}

impl fmt::Display for MemoryFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = match self.reason {
            MemoryFaultReason::Outside => "no memory there",
            MemoryFaultReason::GivenAway => "given away by the guest",
            MemoryFaultReason::OutOfMemory => "no frame left to populate it",
        };
        write!(f, "{}: {reason}", self.ipa)
    }
}

/// A guest's memory, as its devices reach it.
///
/// The guest goes on running and may write to the same bytes at the same time; nothing that was
/// read once may be assumed to read the same again. A naturally aligned access of 2, 4 or 8 bytes
/// is one access of that width (virtio 1.2 §2.7 relies on it for the ring indices); for anything
/// else the order and width of the accesses is not specified. Implementations order nothing: where
/// order matters, the caller puts a fence.
pub trait GuestMemory {
    /// Fills `bytes` from the guest's memory at `ipa`.
    ///
    /// # Errors
    ///
    /// The first address that the guest has no memory at; part of `bytes` may have been filled.
    fn read(&self, ipa: Ipa, bytes: &mut [u8]) -> Result<(), MemoryFault>;

    /// Writes `bytes` to the guest's memory at `ipa`.
    ///
    /// # Errors
    ///
    /// The first address that the guest has no memory at; part of `bytes` may have been written.
    fn write(&self, ipa: Ipa, bytes: &[u8]) -> Result<(), MemoryFault>;

    /// Reads a little-endian number of 2 bytes.
    ///
    /// # Errors
    ///
    /// As [`GuestMemory::read`].
    fn read_u16(&self, ipa: Ipa) -> Result<u16, MemoryFault> {
        let mut bytes = [0; 2];
        self.read(ipa, &mut bytes)?;
        Ok(u16::from_le_bytes(bytes))
    }

    /// Reads a little-endian number of 4 bytes.
    ///
    /// # Errors
    ///
    /// As [`GuestMemory::read`].
    fn read_u32(&self, ipa: Ipa) -> Result<u32, MemoryFault> {
        let mut bytes = [0; 4];
        self.read(ipa, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Reads a little-endian number of 8 bytes.
    ///
    /// # Errors
    ///
    /// As [`GuestMemory::read`].
    fn read_u64(&self, ipa: Ipa) -> Result<u64, MemoryFault> {
        let mut bytes = [0; 8];
        self.read(ipa, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Writes a little-endian number of 2 bytes.
    ///
    /// # Errors
    ///
    /// As [`GuestMemory::write`].
    fn write_u16(&self, ipa: Ipa, value: u16) -> Result<(), MemoryFault> {
        self.write(ipa, &value.to_le_bytes())
    }

    /// Writes a little-endian number of 4 bytes.
    ///
    /// # Errors
    ///
    /// As [`GuestMemory::write`].
    fn write_u32(&self, ipa: Ipa, value: u32) -> Result<(), MemoryFault> {
        self.write(ipa, &value.to_le_bytes())
    }

    /// Writes a little-endian number of 8 bytes.
    ///
    /// # Errors
    ///
    /// As [`GuestMemory::write`].
    fn write_u64(&self, ipa: Ipa, value: u64) -> Result<(), MemoryFault> {
        self.write(ipa, &value.to_le_bytes())
    }
}

impl<M: GuestMemory + ?Sized> GuestMemory for &M {
    fn read(&self, ipa: Ipa, bytes: &mut [u8]) -> Result<(), MemoryFault> {
        (**self).read(ipa, bytes)
    }

    fn write(&self, ipa: Ipa, bytes: &[u8]) -> Result<(), MemoryFault> {
        (**self).write(ipa, bytes)
    }
}
