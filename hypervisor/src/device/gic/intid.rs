//! The interrupt numbers of the guest's machine, which are those of QEMU's `virt`.
//!
//! An INTID says what kind of interrupt it is (IHI 0069 §2.2): 0 to 15 are software generated (SGI)
//! and 16 to 31 private peripheral interrupts (PPI), which each vCPU has its own of; from 32 on
//! they are shared peripheral interrupts (SPI).

/// The number of SGIs and PPIs together, which each vCPU has its own of.
pub const PRIVATE: u32 = 32;
/// The first PPI.
pub const FIRST_PPI: u32 = 16;

/// The PPI of the EL1 virtual timer.
pub const VIRTUAL_TIMER: u32 = 27;
/// The PPI of the EL1 physical timer.
pub const PHYSICAL_TIMER: u32 = 30;
/// The SPI of the PL011.
pub const UART: u32 = spi(1);
/// How many virtio-mmio transports have an interrupt.
pub const VIRTIO_TRANSPORTS: u32 = 32;

/// Returns the INTID of SPI `number`, as device trees count them: from 0.
pub const fn spi(number: u32) -> u32 {
    PRIVATE + number
}

/// Returns the INTID of virtio-mmio transport `number`; `None` from [`VIRTIO_TRANSPORTS`] on.
pub const fn virtio(number: u32) -> Option<u32> {
    if number < VIRTIO_TRANSPORTS { Some(spi(16 + number)) } else { None }
}

/// Says whether a vCPU has its own of the interrupt.
pub(super) const fn is_private(intid: u32) -> bool {
    intid < PRIVATE
}
