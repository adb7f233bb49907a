//! Where a guest's machine has what: the memory map of QEMU's `virt`, so that kernels built for it run.

use crate::addr::{Ipa, IpaRange};

const fn range(start: u64, size: u64) -> IpaRange {
    Ipa::new(start)..Ipa::new(start + size)
}

/// The GIC's distributor.
pub const DISTRIBUTOR: IpaRange = range(0x0800_0000, 0x1_0000);
/// The redistributors, 128 KiB for each vCPU.
pub const REDISTRIBUTORS: IpaRange = range(0x080a_0000, 0x2_0000 * MAX_VCPUS as u64);
/// The PL011.
pub const UART: IpaRange = range(0x0900_0000, 0x1000);
/// The virtio-mmio slots, [`VIRTIO_SLOT_SIZE`] bytes each.
pub const VIRTIO: IpaRange = range(0x0a00_0000, VIRTIO_SLOT_SIZE * VIRTIO_SLOTS as u64);
/// The size of a virtio-mmio slot in bytes.
pub const VIRTIO_SLOT_SIZE: u64 = 0x200;
/// The number of virtio-mmio slots that a guest is told of.
pub const VIRTIO_SLOTS: usize = 8;
/// The slot of the balloon.
pub const BALLOON_SLOT: usize = 0;
/// Where memory begins.
pub const RAM_START: Ipa = Ipa::new(0x4000_0000);
/// The most memory that a guest can have: what 36 bits of address leave above [`RAM_START`].
pub const MAX_RAM: u64 = (1 << 36) - (1 << 30);
/// The most vCPUs.
pub const MAX_VCPUS: usize = 16;
