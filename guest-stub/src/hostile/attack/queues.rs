//! virtio devices and their queues, at random: registers, descriptors, rings, lists of pages, requests.

use super::{Attacker, halves};
use crate::arch::cpu;
use crate::arch::mmio::write_64;
use crate::arch::probe::Access;
use crate::gic;
use crate::memory::{BLOCK, PAGE, Range};
use crate::virtio::mmio::{self, status};
use crate::virtio::queue::{NEXT, WRITE};

impl Attacker {
    /// Returns an address in `own` or `lost`, mostly, aligned as rings are; else one of a device or of nothing.
    fn place(&mut self, own: Range, lost: Range) -> u64 {
        match self.random.below(8) {
            0..5 => self.within(own) & !0xf,
            5 => self.within(lost) & !0xf,
            6 => {
                let machine = self.ground.machine;
                let devices = [machine.distributor, gic::own_registers(machine)];
                let device = self.pick(&devices);
                self.within(device)
            }
            _ => 0x2000_0000 | self.random.below(1 << 28),
        }
    }

    /// Returns the lower half of the address of a ring.
    fn ring(&mut self) -> u64 {
        self.place(self.ground.rings, halves(self.ground.lost)[0])
    }

    /// Returns the address of a buffer, or one far from all memory.
    fn buffer(&mut self) -> u64 {
        let place = self.place(self.ground.lists, halves(self.ground.lost)[1]);
        match self.random.below(16) {
            0 => self.random.next() | 1 << 63,
            1 => (self.random.below(1 << 30) + 1) << 32 | place,
            _ => place,
        }
    }

    /// Returns a word for where rings are, at `place`: the address of a buffer, or the rest of a descriptor, or indices.
    /// What is read as a length is short, or a range that is reported as free could begin before the stub and end
    /// behind it.
    fn ring_word(&mut self, place: u64) -> u64 {
        if place & 8 == 0 {
            return self.buffer();
        }
        let length = self.pick(&[1, 4, 10, 24, 24, 64, 4096, 1 << 20]);
        match self.random.below(2) {
            0 => self.random.below(64) << 48 | self.random.below(8) << 32 | length,
            _ => self.random.below(64) << 16 | self.random.below(64) << 32,
        }
    }

    /// Returns the numbers of two pages that may be lost.
    pub(super) fn pages(&mut self) -> u64 {
        let [first, other] = [0; 2].map(|_| self.within(self.ground.lost) / PAGE);
        first << 32 | other
    }

    /// Returns a word for where buffers are: numbers of pages, or a part of a request to the memory device.
    fn buffer_word(&mut self) -> u64 {
        match self.random.below(4) {
            0 | 1 => self.pages(),
            2 => self.within(self.ground.region) & !(BLOCK - 1),
            _ => self.random.below(6),
        }
    }

    fn scribble(&mut self) {
        for _ in 0..16 {
            let range = self.pick(&[self.ground.rings, self.ground.lists]);
            let place = self.within(range) & !7;
            let word =
                if range == self.ground.rings { self.ring_word(place) } else { self.buffer_word() };
            write_64(place, word);
        }
    }

    /// Writes what a driver might, to the queue in the page at `queue`: eight chains, mostly of a buffer that is read and
    /// one that is written.
    fn fill(&mut self, queue: u64) {
        for chain in 0..8 {
            let list = self.within(self.ground.lists) & !0xff;
            let block = self.within(self.ground.region) & !(BLOCK - 1);
            let request = [self.random.below(4), block, self.random.below(6)];
            let list_of_pages = [self.buffer_word(), self.buffer_word(), self.buffer_word()];
            let words = self.pick(&[request, list_of_pages]);
            (0..).step_by(8).zip(words).for_each(|(offset, word)| write_64(list + offset, word));
            let flags = self.pick(&[0, 0, u64::from(NEXT), u64::from(WRITE)]);
            let answer = self.pick(&[list + 64, list, self.random.0 | 1 << 63]);
            let next = 2 * chain + 1;
            let descriptors =
                [list, next << 48 | flags << 32 | 24, answer, u64::from(WRITE) << 32 | 10];
            for (offset, word) in (0..).step_by(8).zip(descriptors) {
                write_64(queue + chain * 32 + offset, word);
            }
        }
        // The available ring: no flags, index 8, the heads of all chains.
        for (offset, word) in
            [(0, 0x0002_0000_0008_0000), (8, 0x000a_0008_0006_0004), (16, 0xe_000c)]
        {
            write_64(queue + 1024 + offset, word);
        }
        // A used ring that nobody has written to.
        write_64(queue + 2048, 0);
    }

    /// One access to a register of a virtio device, with a value that means something now and then.
    pub(super) fn virtio(&mut self) {
        let Some(slot) = self.ground.machine.slots().get(self.slot()) else { return };
        let low = match self.random.below(4) {
            0 => self.random.below(0x200),
            _ => self.random.below(0x48) * 4,
        };
        let value = match low & !3 {
            // The places of a queue: each half, of whatever width, leads to no harm.
            0x80..0xb0 if low & 4 == 0 => self.ring(),
            0x80..0xb0 => self.pick(&[0, 0, 1, 1 << 31, !0]),
            mmio::QUEUE_SEL | mmio::QUEUE_NOTIFY => self.random.below(6),
            mmio::QUEUE_NUM => self.pick(&[0, 1, 8, 64, 65, 256, !0]),
            mmio::QUEUE_READY => self.random.below(3),
            mmio::STATUS => self.pick(&[0, 1, 3, 11, 15, 15, 0x4f, 0x8f, !0]),
            _ => self.random.next(),
        };
        let way = self.pick(&[Access::Read32, Access::Write32, Access::Write32, Access::Write32]);
        let way = if self.random.below(8) == 0 { self.pick(&Access::ON_DEVICES) } else { way };
        // A line, or a pair, holds more than one register.
        let wide = [Access::ZeroLine, Access::WritePair, Access::Write64].contains(&way);
        if !(wide && (0x40..0xc0).contains(&low)) {
            let answer = way.at(slot.registers.start + low, value);
            self.note(answer);
        }
    }

    /// Each vCPU has a device that it likes most, so that some get somewhere.
    fn slot(&mut self) -> usize {
        let slots = self.ground.machine.slots().len().max(1);
        let any = self.random.below(slots as u64) as usize;
        if self.random.below(4) == 0 { any } else { cpu::index() % slots }
    }

    fn write(&mut self, base: u64, register: u64, value: u64) {
        let answer = Access::Write32.at(base + register, value);
        self.note(answer);
    }

    /// A device is set up as a driver does it, but for where its queues are and what is in them, and goes to work.
    pub(super) fn drive(&mut self) {
        let Some(slot) = self.ground.machine.slots().get(self.slot()) else { return };
        let base = slot.registers.start;
        let acknowledged = u64::from(status::ACKNOWLEDGE | status::DRIVER);
        let agreed = acknowledged | u64::from(status::FEATURES_OK);
        for value in [0, acknowledged] {
            self.write(base, mmio::STATUS, value);
        }
        for half in [0, 1] {
            self.write(base, mmio::DEVICE_FEATURES_SEL, half);
            let offered = Access::Read32.at(base + mmio::DEVICE_FEATURES, 0);
            let wanted = self.pick(&[!0, self.random.0, 1]);
            self.note(offered);
            self.write(base, mmio::DRIVER_FEATURES_SEL, half);
            self.write(base, mmio::DRIVER_FEATURES, offered.unwrap_or(0) & (wanted | half));
        }
        self.write(base, mmio::STATUS, agreed);
        for queue in 0..5 {
            self.write(base, mmio::QUEUE_SEL, queue);
            let size = self.pick(&[64, 64, 64, 8, 1]);
            self.write(base, mmio::QUEUE_NUM, size);
            // Mostly a page that each vCPU has for each queue.
            let own = self.ground.rings.start + (cpu::index() as u64 % 3 * 5 + queue) * PAGE;
            let places = match self.random.below(8) {
                0 => [self.ring(), self.ring(), self.ring()],
                _ => [own, own + 1024, own + 2048],
            };
            self.fill(own);
            for (place, register) in
                places.into_iter().zip([mmio::QUEUE_DESC, mmio::QUEUE_DRIVER, mmio::QUEUE_DEVICE])
            {
                self.write(base, register, place);
                self.write(base, register + 4, 0);
            }
            self.write(base, mmio::QUEUE_READY, 1);
        }
        self.write(base, mmio::STATUS, agreed | u64::from(status::DRIVER_OK));
        for queue in 0..5 {
            self.write(base, mmio::QUEUE_NOTIFY, queue);
        }
        for _ in 0..self.random.below(20) {
            self.scribble();
            let queue = self.random.below(5);
            self.write(base, mmio::QUEUE_NOTIFY, queue);
        }
    }
}
