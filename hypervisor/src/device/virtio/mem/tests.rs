//! The memory device under a driver that does what Linux's `virtio_mem.c` does, and under others.

use std::collections::BTreeSet;

use super::super::driver::{BUFFERS, DriverQueue, Machine};
use super::super::mmio::Label;
use super::super::registers::register;
use super::super::{Transport, feature as common};
use super::{MemoryBackend, MemoryDevice, Step, feature};
use crate::addr::{BLOCK_2M, Ipa, IpaRange};
use crate::device::fake_memory::FakeMemory;
use proptest::prelude::*;

const START: u64 = 0x1_0000_0000;
const BLOCKS: u64 = 300;
const ALL: u64 = common::COMMON | feature::UNPLUGGED_INACCESSIBLE;
/// Half a block: steps end within blocks.
const PIECE: u64 = BLOCK_2M / 2;

/// Keeps which half blocks the guest has.
struct Backend {
    present: BTreeSet<u64>,
    /// How many half blocks there are for guests.
    free: usize,
    admits: bool,
}

impl Default for Backend {
    fn default() -> Self {
        Self { present: BTreeSet::new(), free: usize::MAX, admits: true }
    }
}

fn check(range: &IpaRange) {
    assert!(range.start.as_u64() >= START && range.start < range.end);
    assert!(range.end.as_u64() <= START + BLOCKS * BLOCK_2M);
    assert!(range.end.as_u64().is_multiple_of(PIECE));
}

fn next(range: &IpaRange) -> Step {
    let next = Ipa::new(range.start.as_u64() + PIECE);
    if next < range.end { Step::Next(next) } else { Step::Done }
}

impl MemoryBackend for Backend {
    fn admits(&mut self, _bytes: u64) -> bool {
        self.admits
    }

    fn plug(&mut self, range: IpaRange) -> Step {
        check(&range);
        assert!(range.end.as_u64().is_multiple_of(BLOCK_2M), "whole blocks are plugged");
        if self.present.len() >= self.free || !self.present.insert(range.start.as_u64()) {
            return Step::OutOfMemory;
        }
        next(&range)
    }

    fn unplug(&mut self, range: IpaRange) -> Step {
        check(&range);
        self.present.remove(&range.start.as_u64());
        next(&range)
    }
}

struct Guest {
    machine: Machine<MemoryDevice<Backend>>,
    queue: DriverQueue,
}

impl Guest {
    fn new(features: u64, requested_blocks: u64) -> Self {
        let label = Label { guest: 1, slot: 1 };
        let region = Ipa::new(START)..Ipa::new(START + BLOCKS * BLOCK_2M);
        let transport = Transport::new(label, MemoryDevice::new(label, region));
        let mut machine = Machine::with(transport, Backend::default());
        machine.transport.update(|device| device.request(requested_blocks * BLOCK_2M));
        let queue = machine.probe(features).remove(0);
        Self { machine, queue }
    }

    fn offer(&mut self, kind: u16, address: u64, blocks: u16) {
        let mut bytes = [0; 24];
        bytes[..2].copy_from_slice(&kind.to_le_bytes());
        bytes[8..16].copy_from_slice(&address.to_le_bytes());
        bytes[16..18].copy_from_slice(&blocks.to_le_bytes());
        let request = self.machine.put(0, &bytes);
        let response = self.machine.put(64, &[0xff; 10]);
        self.queue.add(&self.machine.memory, &[(request, 24, false), (response, 10, true)]);
        self.queue.kick(&mut self.machine);
    }

    /// Asks, and returns the type and the state of the answer.
    fn ask(&mut self, kind: u16, address: u64, blocks: u16) -> (u16, u16) {
        self.offer(kind, address, blocks);
        let (_, written) = self.queue.take(&self.machine.memory).expect("it was answered");
        assert_eq!(written, 10);
        let read = |at| {
            use crate::device::GuestMemory;
            self.machine.memory.read_u16(FakeMemory::at(BUFFERS + 64 + at)).unwrap()
        };
        (read(0), read(8))
    }

    fn field(&mut self, index: u64) -> u64 {
        let place = register::CONFIG + 8 * index;
        let low = u64::from(self.machine.read(place));
        low | u64::from(self.machine.read(place + 4)) << 32
    }

    fn plugged(&mut self) -> u64 {
        self.field(5) / BLOCK_2M
    }

    /// What the device says and what the guest has must agree.
    fn check(&mut self) {
        let present = self.machine.backend.present.len() as u64;
        assert_eq!(self.plugged() * 2, present, "half a block was left");
    }
}

const ACK: (u16, u16) = (0, 0);
const NACK: u16 = 1;
const BUSY: u16 = 2;
const ERROR: u16 = 3;
const PLUG: u16 = 0;
const UNPLUG: u16 = 1;
const UNPLUG_ALL: u16 = 2;
const STATE: u16 = 3;

fn block(number: u64) -> u64 {
    START + number * BLOCK_2M
}

#[test]
fn the_configuration_says_where_memory_can_be() {
    let mut guest = Guest::new(ALL, 10);
    let fields: Vec<u64> = (0..7).map(|index| guest.field(index)).collect();
    let bytes = BLOCKS * BLOCK_2M;
    assert_eq!(fields, [BLOCK_2M, 0, START, bytes, bytes, 0, 10 * BLOCK_2M]);
    assert_eq!(guest.machine.read(register::DEVICE_ID), 24);
}

#[test]
fn blocks_are_plugged_and_unplugged() {
    let mut guest = Guest::new(ALL, 10);
    assert_eq!(guest.ask(PLUG, block(3), 4), ACK);
    assert_eq!(guest.plugged(), 4);
    guest.check();
    assert_eq!(guest.ask(STATE, block(3), 4), (0, 0), "plugged");
    assert_eq!(guest.ask(STATE, block(7), 9), (0, 1), "unplugged");
    assert_eq!(guest.ask(STATE, block(2), 2), (0, 2), "mixed");
    assert_eq!(guest.ask(UNPLUG, block(4), 2), ACK);
    assert_eq!(guest.plugged(), 2);
    guest.check();
    assert_eq!(guest.ask(UNPLUG_ALL, 0, 0), ACK);
    assert_eq!(guest.plugged(), 0);
    guest.check();
}

#[test]
fn no_more_is_plugged_than_was_asked_for() {
    let mut guest = Guest::new(ALL, 10);
    assert_eq!(guest.ask(PLUG, block(0), 11).0, NACK);
    assert_eq!(guest.ask(PLUG, block(0), 10), ACK);
    assert_eq!(guest.ask(PLUG, block(20), 1).0, NACK);
    guest.machine.transport.update(|device| device.request(11 * BLOCK_2M));
    assert_eq!(guest.machine.interrupt() & 2, 2, "the configuration has changed");
    assert_eq!(guest.ask(PLUG, block(20), 1), ACK);
    guest.check();
    guest.machine.interrupt();
    guest.machine.transport.update(|device| device.remind());
    assert_eq!(guest.machine.interrupt() & 2, 2, "the driver is to look again");
}

#[test]
fn what_is_wrong_is_refused_and_changes_nothing() {
    let mut guest = Guest::new(ALL, 10);
    assert_eq!(guest.ask(PLUG, block(0), 2), ACK);
    for (kind, address, blocks) in [
        (PLUG, block(1), 2),
        (PLUG, block(2), 0),
        (PLUG, block(2) + 4096, 1),
        (PLUG, START - BLOCK_2M, 1),
        (PLUG, block(BLOCKS), 1),
        (PLUG, block(BLOCKS - 1), 2),
        (PLUG, !(BLOCK_2M - 1), 1),
        (UNPLUG, block(1), 2),
        (UNPLUG, block(5), 1),
        (UNPLUG, block(0), u16::MAX),
        (STATE, block(0), 0),
        (STATE, block(BLOCKS), 1),
        (4, block(0), 1),
        (u16::MAX, 0, 0),
    ] {
        assert_eq!(guest.ask(kind, address, blocks).0, ERROR, "{kind} {address:#x} {blocks}");
        assert_eq!(guest.plugged(), 2);
    }
    guest.check();
}

#[test]
fn a_driver_that_would_read_unplugged_memory_gets_none() {
    let mut guest = Guest::new(common::COMMON, 10);
    assert_eq!(guest.ask(PLUG, block(0), 1).0, ERROR);
    guest.check();
}

#[test]
fn what_cannot_be_plugged_as_a_whole_is_not_plugged_at_all() {
    let mut guest = Guest::new(ALL, 10);
    guest.machine.backend.free = 5;
    assert_eq!(guest.ask(PLUG, block(0), 4).0, BUSY);
    guest.check();
    assert_eq!(guest.plugged(), 0);
    guest.machine.backend.admits = false;
    assert_eq!(guest.ask(PLUG, block(0), 1).0, BUSY);
    guest.machine.backend.admits = true;
    guest.machine.backend.free = usize::MAX;
    assert_eq!(guest.ask(PLUG, block(0), 4), ACK);
    guest.check();
}

/// Memory that the operator has put into the region is not the device's to take.
#[test]
fn what_is_in_the_way_of_a_plug_stays() {
    let mut guest = Guest::new(ALL, 10);
    for patience in [4, u64::MAX] {
        guest.machine.backend.present.extend([block(2), block(2) + PIECE]);
        guest.machine.patience = patience;
        guest.offer(PLUG, block(0), 4);
        guest.machine.patience = u64::MAX;
        guest.queue = guest.machine.probe(ALL).remove(0);
        let present: Vec<u64> = guest.machine.backend.present.iter().copied().collect();
        assert_eq!(present, [block(2), block(2) + PIECE]);
        assert_eq!(guest.plugged(), 0);
    }
}

#[test]
fn a_reset_of_the_driver_keeps_what_is_plugged_and_no_half_of_it() {
    for kind in [PLUG, UNPLUG, UNPLUG_ALL] {
        for patience in 0..12 {
            let mut guest = Guest::new(ALL, 10);
            if kind != PLUG {
                assert_eq!(guest.ask(PLUG, block(2), 4), ACK);
            }
            guest.machine.patience = patience;
            guest.offer(kind, block(2), 4);
            guest.machine.patience = u64::MAX;
            guest.queue = guest.machine.probe(ALL).remove(0);
            guest.check();
            let plugged = guest.plugged();
            let state = guest.ask(STATE, block(2), 4);
            assert_eq!(
                state.1,
                if plugged == 4 {
                    0
                } else if plugged == 0 {
                    1
                } else {
                    2
                }
            );
        }
    }
}

#[test]
fn requests_too_short_or_without_room_for_an_answer_are_survived() {
    let mut guest = Guest::new(ALL, 10);
    let request = guest.machine.put(0, &[0; 24]);
    for buffers in [
        vec![(request, 4, false)],
        vec![(request, 24, false)],
        vec![(request, 0, false), (request, 0, true)],
        vec![(request, 10, true)],
        vec![(request, 12, false), (request, 12, false), (request, 3, true)],
    ] {
        guest.queue.add(&guest.machine.memory, &buffers);
        guest.queue.kick(&mut guest.machine);
        assert!(guest.queue.take(&guest.machine.memory).is_some());
    }
    guest.check();
}

#[test]
fn a_large_region_has_larger_blocks() {
    assert_eq!(super::block_size(64 << 30), BLOCK_2M);
    assert_eq!(super::block_size(512 << 30), 16 << 20);
}

proptest! {
    #[test]
    fn the_device_does_what_a_plain_set_does(
        requests in prop::collection::vec((0..5_u16, 0..BLOCKS + 5, 0..40_u16, 0..400_u64), 1..60),
    ) {
        let mut guest = Guest::new(ALL, 0);
        let mut model = BTreeSet::new();
        for (kind, first, count, requested) in requests {
            guest.machine.transport.update(|device| device.request(requested * BLOCK_2M));
            let requested = requested.min(BLOCKS);
            let named: BTreeSet<u64> = (first..first + u64::from(count)).collect();
            let inside = count > 0 && named.iter().all(|block| *block < BLOCKS);
            let here = named.intersection(&model).count();
            let expected = match kind {
                PLUG if !inside || here > 0 => ERROR,
                PLUG if model.len() + named.len() > requested as usize => NACK,
                UNPLUG if !inside || here < named.len() => ERROR,
                STATE if !inside => ERROR,
                4 => ERROR,
                _ => 0,
            };
            prop_assert_eq!(guest.ask(kind, block(first), count).0, expected);
            match (kind, expected) {
                (PLUG, 0) => model.extend(named),
                (UNPLUG, 0) => model.retain(|block| !named.contains(block)),
                (UNPLUG_ALL, 0) => model.clear(),
                _ => {}
            }
            guest.check();
            prop_assert_eq!(guest.plugged() as usize, model.len());
        }
    }
}
