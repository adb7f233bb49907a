//! Where a guest's machine has what: the memory map of QEMU's `virt`, so that kernels built for it
//! run.

use crate::addr::{BLOCK_2M, Ipa, IpaRange};

const fn range(start: u64, size: u64) -> IpaRange {
    Ipa::new(start)..Ipa::new(start + size)
}

/// The flash bank in which firmware keeps its variables: empty, reads as zero, and writes are ignored.
pub const FLASH: IpaRange = range(0x0400_0000, 0x0400_0000);
/// The GIC's distributor.
pub const DISTRIBUTOR: IpaRange = range(0x0800_0000, 0x1_0000);
/// The CPU interface of a GICv2: two pages, which are the machine's own GICV.
pub const CPU_INTERFACE: IpaRange = range(0x0801_0000, 0x2000);
/// The redistributors of the most vCPUs, [`REDISTRIBUTOR_SIZE`] bytes each.
pub const REDISTRIBUTORS: IpaRange = range(0x080a_0000, REDISTRIBUTOR_SIZE * MAX_VCPUS as u64);
/// The size of a vCPU's redistributor in bytes: two frames of 64 KiB (GICv3 architecture, 12.10).
pub const REDISTRIBUTOR_SIZE: u64 = 0x2_0000;
/// The PL011.
pub const UART: IpaRange = range(0x0900_0000, 0x1000);
/// The PL011's interrupt, as the number of an SPI (its INTID is 32 more).
pub const UART_SPI: u32 = 1;
/// The virtio-mmio slots, [`VIRTIO_SLOT_SIZE`] bytes each.
pub const VIRTIO: IpaRange = range(0x0a00_0000, VIRTIO_SLOT_SIZE * VIRTIO_SLOTS as u64);
/// The size of a virtio-mmio slot in bytes.
pub const VIRTIO_SLOT_SIZE: u64 = 0x200;
/// The number of virtio-mmio slots that a guest is told of.
pub const VIRTIO_SLOTS: usize = 8;
/// The interrupt of the first virtio-mmio slot, as the number of an SPI; the others follow it.
pub const VIRTIO_FIRST_SPI: u32 = 16;
/// The slot of the balloon.
pub const BALLOON_SLOT: usize = 0;
/// The slot of the memory device, of a guest whose memory can grow.
pub const MEMORY_SLOT: usize = 1;
/// Where memory begins.
pub const RAM_START: Ipa = Ipa::new(0x4000_0000);
/// The most memory that a guest can have: what 36 bits of address leave above [`RAM_START`].
pub const MAX_RAM: u64 = (1 << 36) - (1 << 30);
/// What the beginning of memory that is added is aligned to, in bytes: whole tables.
pub const HOTPLUG_ALIGNMENT: u64 = 1 << 30;

/// Returns where a guest with `ram` can have `bytes` more, a multiple of 2 MiB; `None` where that ends above 36 bits
/// of address.
pub fn hotplug(ram: &IpaRange, bytes: u64) -> Option<IpaRange> {
    let bytes = bytes.checked_next_multiple_of(BLOCK_2M)?;
    if bytes == 0 {
        return Some(ram.end..ram.end);
    }
    let start = ram.end.align_up(HOTPLUG_ALIGNMENT)?;
    let end = start.checked_add(bytes)?;
    (end.as_u64() <= RAM_START.as_u64() + MAX_RAM).then_some(start..end)
}

/// The most vCPUs.
pub const MAX_VCPUS: usize = 16;

/// Returns the redistributors of `vcpus` vCPUs.
pub fn redistributors(vcpus: usize) -> IpaRange {
    let size = REDISTRIBUTOR_SIZE * vcpus.min(MAX_VCPUS) as u64;
    REDISTRIBUTORS.start..Ipa::new(REDISTRIBUTORS.start.as_u64() + size)
}

/// Returns the registers of virtio-mmio slot `slot`, 0 to [`VIRTIO_SLOTS`] - 1.
pub fn virtio_slot(slot: usize) -> IpaRange {
    let slot = slot.min(VIRTIO_SLOTS - 1) as u64;
    let start = Ipa::new(VIRTIO.start.as_u64() + slot * VIRTIO_SLOT_SIZE);
    start..Ipa::new(start.as_u64() + VIRTIO_SLOT_SIZE)
}
