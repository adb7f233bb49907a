//! All by which a guest changes its memory: the balloon and the memory device behind their registers and rings, the
//! hypervisor's service, and touching it.

use super::uart::WIDTHS;
use crate::Input;
use crate::driver::{QUEUES, Slot, queue_page, register};
use crate::world::{Behind, HOTPLUG, Owner, RAM, Watched, World, at};
use sluice::addr::{Ipa, PAGE_SIZE};
use sluice::device::GuestMemory;
use sluice::device::virtio::balloon::Balloon;
use sluice::device::virtio::mem::MemoryDevice;
use sluice::device::virtio::mmio::Label;
use sluice::device::virtio::{Device, Transport};
use sluice::guest::balloon::Hands;
use sluice::guest::layout::RAM_START;
use sluice::guest::plug::PlugHands;
use sluice::guest::service::Service;
use sluice::service::{self, Wish};

/// The pages into which requests are written, behind the rings.
const BUFFERS: u64 = 40;
/// Descriptors: there is another; the device writes.
const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// A guest and its devices.
struct Machine<'w> {
    owner: &'w Owner,
    memory: Watched<'w>,
    balloon: Slot<Balloon<Hands<&'w Owner>>>,
    plug: Slot<MemoryDevice<PlugHands<&'w Owner>>>,
    service: Service,
}

/// Does with both devices, the service and the memory what the input says, then resets them: the balloon is empty, a
/// driver that does as it should is served, tables and frames agree, no TLB holds what the tables do not, nothing is
/// lost, and the other guest has what it had.
pub fn run(input: &[u8]) {
    World::with_guest(|owner| {
        let mut machine = Machine::new(owner);
        let mut input = Input::new(input);
        while !input.is_empty() {
            machine.step(&mut input);
            owner.check_tlb();
        }
        machine.finish();
    });
}

fn label(slot: u8) -> Label {
    Label { guest: 1, slot }
}

/// An address: of a ring or a buffer, of memory that it has, may have, or has not.
fn address(input: &mut Input<'_>) -> Ipa {
    let hotplug = at(RAM_START, 1 << 30);
    match input.byte() {
        page @ 0..0x80 => {
            at(RAM_START, u64::from(page) * PAGE_SIZE + u64::from(input.half()) % PAGE_SIZE)
        }
        0x80..0xb0 => at(RAM_START, u64::from(input.half()) * PAGE_SIZE % RAM),
        0xb0..0xe0 => at(hotplug, u64::from(input.half()) * PAGE_SIZE % HOTPLUG),
        0xe0..0xe8 => at(RAM_START, RAM - u64::from(input.byte())),
        0xe8..0xf0 => at(hotplug, HOTPLUG.wrapping_sub(u64::from(input.byte()))),
        _ => Ipa::new(input.double()),
    }
}

impl<'w> Machine<'w> {
    fn new(owner: &'w Owner) -> Self {
        let device = MemoryDevice::new(label(1), owner.space.hotplug());
        Self {
            owner,
            memory: Watched::new(owner),
            balloon: Slot::new(Transport::new(label(0), Balloon::new(label(0))), 0),
            plug: Slot::new(Transport::new(label(1), device), 1),
            service: Service::default(),
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let kind = input.byte();
        let is_plug = kind & 0x80 != 0;
        match kind % 16 {
            0 => {
                let (features, size) = (input.number(), 1 << (input.byte() % 10));
                let features = if features == 0 { u64::MAX } else { features };
                if is_plug {
                    self.plug.reset();
                    self.plug.probe(self.owner, features, size);
                } else {
                    self.balloon.reset();
                    self.balloon.probe(self.owner, features, size);
                }
            }
            1 | 2 => {
                let width = if kind & 0x40 == 0 { WIDTHS[2] } else { input.one_of(&WIDTHS) };
                let offset = u64::from(input.byte()) * 4;
                let offset = if kind & 0x20 == 0 { offset } else { input.half().into() };
                if kind % 16 == 1 {
                    let value =
                        if kind & 0x10 == 0 { input.number() } else { address(input).as_u64() };
                    let _ = match is_plug {
                        true => self.plug.transport.write(offset, width, value),
                        false => self.balloon.transport.write(offset, width, value),
                    };
                } else {
                    let value = match is_plug {
                        true => self.plug.transport.read(offset, width),
                        false => self.balloon.transport.read(offset, width),
                    };
                    assert_eq!(width.truncate(value), value, "a value wider than its access");
                }
            }
            3 => {
                let (queue, index) = (u64::from(input.byte()) % QUEUES, input.byte());
                let descriptor = (
                    address(input),
                    input.number() as u32,
                    input.byte().into(),
                    input.byte().into(),
                );
                match is_plug {
                    true => self.plug.describe(&self.memory, queue, index, descriptor),
                    false => self.balloon.describe(&self.memory, queue, index, descriptor),
                }
            }
            4 => {
                let (queue, head) = (u64::from(input.byte()), input.byte());
                match is_plug {
                    true => self.plug.offer(&self.memory, queue, head),
                    false => self.balloon.offer(&self.memory, queue, head),
                }
                self.tell(is_plug, queue % QUEUES);
            }
            5 => {
                // An index that runs away.
                let page = queue_page(is_plug.into(), input.byte().into());
                let _ = self.memory.write_u16(at(page, PAGE_SIZE + 2), input.half());
            }
            6 => self.tell(is_plug, input.byte().into()),
            7 => self.work(is_plug, 1 + usize::from(input.byte() % 64)),
            8 => {
                let _ = self.memory.write_u64(address(input), input.number());
            }
            9 => {
                let every = 1 + u64::from(input.byte() % 32);
                self.memory.disturb(Behind { every, ipa: address(input), value: input.number() });
            }
            10 => self.pages(input),
            11 => self.reports(input),
            12 => self.plug_request(input),
            13 => self.call(input),
            14 => self.host(input),
            _ => {
                let ipa = address(input);
                self.owner.touch(ipa);
                if kind & 0x40 != 0 {
                    let _ = self.memory.write_u64(ipa, u64::MAX);
                }
            }
        }
    }

    fn tell(&mut self, is_plug: bool, queue: u64) {
        match is_plug {
            true => self.plug.notify(queue),
            false => self.balloon.notify(queue),
        }
        self.work(is_plug, 8);
    }

    fn work(&mut self, is_plug: bool, slices: usize) {
        // What is left is done at another time, as by a CPU that has a guest to run in between.
        let _ = match is_plug {
            true => self.plug.work(&self.memory, &mut PlugHands(self.owner), slices),
            false => self.balloon.work(&self.memory, &mut Hands(self.owner), slices),
        };
    }

    /// A request of the balloon's: pages, by number.
    fn pages(&mut self, input: &mut Input<'_>) {
        let (queue, head) = (u64::from(input.byte() % 2), input.byte());
        let (first, count, stride) = (address(input).page(), input.byte(), input.byte());
        let buffer = at(RAM_START, (BUFFERS + queue) * PAGE_SIZE);
        for index in 0..u64::from(count) {
            let page = first.wrapping_add(index * u64::from(stride)) as u32;
            let _ = self.memory.write_u32(at(buffer, 4 * index), page);
        }
        let descriptor = (buffer, 4 * u32::from(count), 0, 0);
        self.balloon.describe(&self.memory, queue, head, descriptor);
        self.balloon.offer(&self.memory, queue, head);
        self.tell(false, queue);
    }

    /// Ranges that are reported as free.
    fn reports(&mut self, input: &mut Input<'_>) {
        let (queue, count) = (2 + u64::from(input.byte() % 2), 1 + input.byte() % 8);
        for index in 0..count {
            let length = u32::from(input.byte()) << (input.byte() % 20);
            let flags = if index + 1 < count { WRITE | NEXT } else { WRITE };
            let descriptor = (address(input), length, flags, u16::from(index) + 1);
            self.balloon.describe(&self.memory, queue, index, descriptor);
        }
        self.balloon.offer(&self.memory, queue, 0);
        self.tell(false, queue);
    }

    /// A request of the memory device.
    fn plug_request(&mut self, input: &mut Input<'_>) {
        let block = self.plug.transport.device().block();
        let kind = u64::from(input.byte() % 5);
        let first = match input.byte() {
            0xff => address(input),
            index => at(self.owner.space.hotplug().start, u64::from(index % 40) * block),
        };
        let count = u64::from(input.byte() % 40);
        let buffer = at(RAM_START, (BUFFERS + 4) * PAGE_SIZE);
        for (place, value) in [(0, kind), (8, first.as_u64()), (16, count)] {
            let _ = self.memory.write_u64(at(buffer, place), value);
        }
        self.plug.describe(&self.memory, 0, 0, (buffer, 24, NEXT, 1));
        self.plug.describe(&self.memory, 0, 1, (at(buffer, 64), 10, WRITE, 0));
        self.plug.offer(&self.memory, 0, 0);
        self.tell(true, 0);
    }

    /// A call of the hypervisor's service.
    fn call(&mut self, input: &mut Input<'_>) {
        let function = 0x8600_0000 | u64::from(input.byte() % 9);
        let low = match input.byte() {
            0 => 1,
            _ => !(PAGE_SIZE - 1),
        };
        let start = address(input).as_u64() & low;
        let bytes = u64::from(input.byte()) << (12 + input.byte() % 10);
        let Some(Ok(call)) = service::decode([function, start, bytes]) else { return };
        let device = &self.plug.transport;
        let region = self.owner.space.hotplug();
        let is_taken = |range: &sluice::addr::IpaRange| {
            let outside = range.end <= region.start || region.end <= range.start;
            !outside && (device.is_live() || device.device().plugged() > 0)
        };
        self.service.serve(&self.owner.space, call, is_taken);
    }

    /// What the host does meanwhile.
    fn host(&mut self, input: &mut Input<'_>) {
        let hotplug = self.owner.space.hotplug();
        match input.byte() % 8 {
            0 => self.balloon.transport.update(|balloon| balloon.set_target(input.half().into())),
            1 => drop(self.balloon.transport.update(|balloon| balloon.request_stats())),
            2 => {
                let bytes = u64::from(input.byte()) << 20;
                self.plug.transport.update(|device| device.request(bytes));
            }
            3 => self.plug.transport.update(MemoryDevice::remind),
            4 => {
                let start = at(hotplug.start, u64::from(input.byte()) << 20);
                let range = start..at(start, u64::from(input.byte()) << 20);
                let wish =
                    if input.byte() & 1 == 0 { Wish::Offer(range) } else { Wish::Release(range) };
                self.service.wish(Some(wish));
            }
            5 => self.memory.leave_alone(),
            _ => {
                for _ in 0..=input.byte() {
                    if !self.owner.space.memory().idle_step() {
                        break;
                    }
                }
            }
        }
    }

    /// Leaves the devices as a guest's end does, and begins anew as it should be done.
    fn finish(&mut self) {
        let owner = self.owner;
        self.memory.leave_alone();
        self.plug.finish(owner, &self.memory, &mut PlugHands(owner));
        self.balloon.finish(owner, &self.memory, &mut Hands(owner));
        assert!(!owner.has_ballooned(owner.space.ram()), "a reset balloon holds pages");
        owner.check_tlb();
        // The frames that were plugged are missing for what follows.
        let hotplug = owner.space.hotplug();
        owner.remove(hotplug);
        owner.remove(at(RAM_START, 8 << 20)..owner.space.ram().end);
        while owner.space.memory().idle_step() {}
        self.balloon.probe(owner, u64::MAX, 8);
        let page = at(RAM_START, 100 * PAGE_SIZE);
        owner.touch(page);
        for (queue, answered) in [(0, true), (1, false)] {
            let buffer = at(RAM_START, BUFFERS * PAGE_SIZE);
            self.memory.write_u32(buffer, page.page() as u32).expect("there is memory again");
            self.balloon.describe(&self.memory, queue, 0, (buffer, 4, 0, 0));
            self.balloon.offer(&self.memory, queue, 0);
            self.tell(false, queue);
            assert_eq!(self.balloon.used(owner, queue), 1, "a good request goes unanswered");
            assert_eq!(owner.has_ballooned(page..at(page, PAGE_SIZE)), answered);
            owner.check_tlb();
        }
        assert_eq!(self.balloon.transport.fault(), None);
        let _ = self.balloon.transport.write(register::STATUS, WIDTHS[2], 0);
        let _: u64 = self.balloon.transport.device().features();
        self.work(false, 64);
    }
}
