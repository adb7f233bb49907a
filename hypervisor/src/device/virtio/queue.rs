//! A split virtqueue (virtio 1.2 §2.7), the device's side.
//!
//! The guest's driver runs at the same time on other CPUs. Four pairs of fences order the two
//! sides: `order::Pair` names them and says what each forbids.

use super::chain::{Chain, DESCRIPTOR_BYTES};
use super::order::{self, Pair};
use super::{QueueFault, feature};
use crate::addr::Ipa;
use crate::device::{GuestMemory, MemoryFault};

/// `VIRTQ_AVAIL_F_NO_INTERRUPT`.
const NO_INTERRUPT: u16 = 1;
/// The bytes before the entries of either ring: flags and index.
const RING_HEADER: u64 = 4;
const USED_ELEMENT: u64 = 8;

/// Where a driver wants a queue, as it wrote it: unchecked until the queue starts.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// How many descriptors.
    pub size: u32,
    /// The descriptor table's address.
    pub descriptors: u64,
    /// The available ring's address ("driver area").
    pub available: u64,
    /// The used ring's address ("device area").
    pub used: u64,
}

impl Layout {
    /// Checks size, alignment and that no part leaves the address space (§2.7).
    fn check(&self) -> Result<u16, QueueFault> {
        let size = match u16::try_from(self.size) {
            Ok(size) if size.is_power_of_two() && size <= Queue::MAX_SIZE => size,
            _ => return Err(QueueFault::Size(self.size)),
        };
        let count = u64::from(size);
        let parts = [
            ("descriptor table", self.descriptors, 16, count * u64::from(DESCRIPTOR_BYTES)),
            // Each ring is followed by the 2 bytes of the other side's event.
            ("available ring", self.available, 2, RING_HEADER + count * 2 + 2),
            ("used ring", self.used, 4, RING_HEADER + count * USED_ELEMENT + 2),
        ];
        for (part, address, alignment, bytes) in parts {
            if !address.is_multiple_of(alignment) || address.checked_add(bytes).is_none() {
                return Err(QueueFault::Placement { part, address });
            }
        }
        Ok(size)
    }
}

/// A split virtqueue as the device works it.
#[derive(Debug, Default)]
pub struct Queue {
    /// What the driver has asked for; takes effect when the queue starts.
    pub(super) layout: Layout,
    /// The checked size; 0 while the queue is not ready.
    size: u16,
    indirect: bool,
    event_index: bool,
    next_available: u16,
    /// The available index as last read: entries up to it are there.
    seen_available: u16,
    next_used: u16,
    /// The used index when the driver was last told.
    told: u16,
    /// The available event as last written.
    armed: Option<u16>,
}

impl Queue {
    /// The largest queue offered. Free page reporting needs at least 32 (Linux
    /// `PAGE_REPORTING_CAPACITY`); 128 is what other machines offer.
    pub const MAX_SIZE: u16 = 128;

    /// Says whether the driver has made the queue ready.
    pub fn is_ready(&self) -> bool {
        self.size != 0
    }

    /// Checks what the driver has asked for, and starts at index 0 with the features negotiated.
    ///
    /// # Errors
    ///
    /// What is wrong with the layout; the queue is not ready then.
    pub(super) fn start(&mut self, features: u64) -> Result<(), QueueFault> {
        let layout = self.layout;
        *self = Self {
            layout,
            size: layout.check()?,
            indirect: features & feature::INDIRECT_DESC != 0,
            event_index: features & feature::EVENT_IDX != 0,
            ..Self::default()
        };
        Ok(())
    }

    /// Stops the queue; the layout stays.
    pub(super) fn stop(&mut self) {
        *self = Self { layout: self.layout, ..Self::default() };
    }

    /// Takes the next chain that the driver has made available. Where there is none, asks to be
    /// told of the next one and looks once more, so that none is missed.
    ///
    /// # Errors
    ///
    /// The ring is not in memory, or the driver broke it.
    pub fn pop<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
    ) -> Result<Option<Chain>, QueueFault> {
        if !self.is_ready() {
            return Ok(None);
        }
        if self.next_available == self.seen_available
            && !self.look(memory)?
            && !(self.arm(memory)? && self.look(memory)?)
        {
            return Ok(None);
        }
        order::fence(Pair::Available);
        let slot = u64::from(self.next_available & (self.size - 1));
        let head = memory.read_u16(at(self.layout.available, RING_HEADER + slot * 2))?;
        let table = Ipa::new(self.layout.descriptors);
        let chain = Chain::new(table, self.size, head, self.indirect)?;
        self.next_available = self.next_available.wrapping_add(1);
        Ok(Some(chain))
    }

    /// Reads the available index; says whether there is something to take.
    fn look<M: GuestMemory + ?Sized>(&mut self, memory: &M) -> Result<bool, QueueFault> {
        let available = memory.read_u16(at(self.layout.available, 2))?;
        let ahead = available.wrapping_sub(self.next_available);
        if ahead > self.size {
            return Err(QueueFault::IndexRanAway { available, next: self.next_available });
        }
        self.seen_available = available;
        Ok(ahead != 0)
    }

    /// Asks the driver for a notification of the next entry. Returns whether anything was written,
    /// and the index therefore has to be looked at again.
    fn arm<M: GuestMemory + ?Sized>(&mut self, memory: &M) -> Result<bool, MemoryFault> {
        // Without the event index the driver notifies always: our flags stay 0.
        if !self.event_index || self.armed == Some(self.next_available) {
            return Ok(false);
        }
        let event = RING_HEADER + u64::from(self.size) * USED_ELEMENT;
        memory.write_u16(at(self.layout.used, event), self.next_available)?;
        self.armed = Some(self.next_available);
        order::fence(Pair::Notification);
        Ok(true)
    }

    /// Gives the chain with this `head` back to the driver, with `written` bytes written into it.
    ///
    /// # Errors
    ///
    /// The used ring is not in memory.
    pub fn push<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
        head: u16,
        written: u32,
    ) -> Result<(), QueueFault> {
        if !self.is_ready() {
            return Ok(());
        }
        let slot = u64::from(self.next_used & (self.size - 1));
        let element = u64::from(head) | u64::from(written) << 32;
        // Two halves: the ring is aligned to 4 bytes only.
        let place = at(self.layout.used, RING_HEADER + slot * USED_ELEMENT);
        memory.write(place, &element.to_le_bytes())?;
        self.next_used = self.next_used.wrapping_add(1);
        order::fence(Pair::Used);
        memory.write_u16(at(self.layout.used, 2), self.next_used)?;
        Ok(())
    }

    /// Says whether the driver wants an interrupt for what has been pushed since it was last told
    /// (§2.7.7), and takes it as told.
    ///
    /// # Errors
    ///
    /// The available ring is not in memory.
    pub(super) fn tell<M: GuestMemory + ?Sized>(&mut self, memory: &M) -> Result<bool, QueueFault> {
        if self.told == self.next_used {
            return Ok(false);
        }
        order::fence(Pair::Interrupt);
        let wanted = if self.event_index {
            let event = RING_HEADER + u64::from(self.size) * 2;
            let event = memory.read_u16(at(self.layout.available, event))?;
            passed(event, self.told, self.next_used)
        } else {
            memory.read_u16(Ipa::new(self.layout.available))? & NO_INTERRUPT == 0
        };
        self.told = self.next_used;
        Ok(wanted)
    }
}

/// Says whether the index passed `event` on its way from `old` to `new` (§2.7.7.1, Linux
/// `vring_need_event`).
fn passed(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// Returns the address `offset` bytes into a ring, which [`Layout::check`] saw not to wrap.
fn at(ring: u64, offset: u64) -> Ipa {
    Ipa::new(ring.wrapping_add(offset))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn layout() -> Layout {
        Layout { size: 128, descriptors: 0x1000, available: 0x2000, used: 0x3000 }
    }

    #[test]
    fn accepts_a_layout_as_the_specification_wants_it() {
        assert_eq!(layout().check(), Ok(128));
        let tight = Layout { available: 0x2002, used: 0x3004, descriptors: 0x1010, size: 1 };
        assert_eq!(tight.check(), Ok(1));
    }

    #[test]
    fn refuses_bad_sizes() {
        for size in [0, 3, 100, 256, 0x1_0000, 0x8000_0000, u32::MAX] {
            assert_eq!(Layout { size, ..layout() }.check(), Err(QueueFault::Size(size)));
        }
    }

    #[test]
    fn refuses_misaligned_and_wrapping_parts() {
        let bad = [
            Layout { descriptors: 0x1008, ..layout() },
            Layout { available: 0x2001, ..layout() },
            Layout { used: 0x3002, ..layout() },
            Layout { descriptors: u64::MAX - 15, ..layout() },
            Layout { available: u64::MAX - 1, ..layout() },
            Layout { used: u64::MAX - 3, ..layout() },
        ];
        for layout in bad {
            assert!(matches!(layout.check(), Err(QueueFault::Placement { .. })), "{layout:?}");
        }
    }

    #[test]
    fn an_event_is_passed_exactly_once_also_over_the_wrap() {
        assert!(passed(0, 0, 1));
        assert!(!passed(1, 0, 1));
        assert!(passed(5, 3, 9));
        assert!(!passed(9, 3, 9));
        assert!(!passed(2, 3, 9));
        assert!(passed(0xffff, 0xfffe, 2));
        assert!(!passed(2, 0xfffe, 2));
    }
}
