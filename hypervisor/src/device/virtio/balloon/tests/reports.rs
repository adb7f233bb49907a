//! Free page reporting.

use super::ALL;
use crate::addr::{BLOCK_1G, BLOCK_2M, Ipa, PAGE_SIZE};
use crate::device::virtio::balloon::feature;
use crate::device::virtio::driver::{DriverQueue, Machine};
use crate::device::virtio::registers::register;

/// Offers ranges for reporting and notifies.
fn report(machine: &mut Machine, queue: &mut DriverQueue, ranges: &[(u64, u32, bool)]) {
    let buffers: Vec<_> =
        ranges.iter().map(|(start, bytes, w)| (Ipa::new(*start), *bytes, *w)).collect();
    queue.add(&machine.memory, &buffers);
    queue.kick(machine);
}

#[test]
fn reported_blocks_come_in_one_batch() {
    let mut machine = Machine::new();
    let mut queues = machine.probe(ALL);
    let ranges: Vec<_> =
        (0..32).map(|i| (0x5000_0000 + i * BLOCK_2M, BLOCK_2M as u32, true)).collect();
    report(&mut machine, &mut queues[3], &ranges);
    assert_eq!(machine.backend.calls, 1);
    let starts: Vec<u64> = machine.backend.reported.iter().map(|r| r.start.as_u64()).collect();
    assert_eq!(starts, ranges.iter().map(|r| r.0).collect::<Vec<_>>());
    assert_eq!(machine.transport.device().counters().reported, 32 * 512);
    assert_eq!(queues[3].take(&machine.memory), Some((0, 0)));
    assert_eq!(machine.interrupt(), 1);
}

#[test]
fn a_report_longer_than_a_batch_and_a_slow_backend_lose_nothing() {
    for pace in [1, 5, 31, usize::MAX] {
        let mut machine = Machine::new();
        let mut queues = machine.probe(ALL);
        machine.backend.pace = pace;
        let ranges: Vec<_> =
            (0..100).map(|i| (0x5000_0000 + i * BLOCK_2M, BLOCK_2M as u32, true)).collect();
        report(&mut machine, &mut queues[3], &ranges);
        assert_eq!(machine.backend.reported.len(), 100);
        assert!(queues[3].take(&machine.memory).is_some());
    }
}

#[test]
fn a_range_that_takes_several_calls_is_reported_to_its_end() {
    let page = PAGE_SIZE;
    let mut machine = Machine::new();
    let mut queues = machine.probe(ALL);
    machine.backend.piece = 93 * page;
    let ranges = [(0x5000_1000, 511 * page as u32, true), (0x5020_0000, BLOCK_2M as u32, true)];
    report(&mut machine, &mut queues[3], &ranges);
    assert_eq!(machine.transport.device().counters().reported, 511 + 512);
    assert!(machine.backend.reported.is_sorted_by(|a, b| a.end <= b.start), "each page once");
    assert!(queues[3].take(&machine.memory).is_some());
}

#[test]
fn reports_shrink_to_whole_pages() {
    let page = PAGE_SIZE as u32;
    // Start, length, expected start and end.
    let cases = [
        (0x5000_0000, page, Some((0x5000_0000, 0x5000_1000))),
        (0x5000_0001, page, None),
        (0x5000_0001, 2 * page, Some((0x5000_1000, 0x5000_2000))),
        (0x5000_0000, page - 1, None),
        (0x5000_0000, 0, None),
        (0x5000_0fff, page + 1, Some((0x5000_1000, 0x5000_2000))),
    ];
    for (start, length, expected) in cases {
        let mut machine = Machine::new();
        let mut queues = machine.probe(ALL);
        report(&mut machine, &mut queues[3], &[(start, length, true)]);
        let range = machine.backend.reported.first();
        let range = range.map(|range| (range.start.as_u64(), range.end.as_u64()));
        assert_eq!(range, expected, "{start:#x} + {length:#x}");
        assert!(queues[3].take(&machine.memory).is_some());
    }
}

#[test]
fn a_report_is_cut_at_every_gibibyte() {
    let mut machine = Machine::new();
    let mut queues = machine.probe(ALL);
    let start = 0x4000_0000 + BLOCK_1G - PAGE_SIZE;
    report(&mut machine, &mut queues[3], &[(start, 0x8000_0000, true)]);
    let ranges: Vec<_> =
        machine.backend.reported.iter().map(|r| (r.start.as_u64(), r.end.as_u64())).collect();
    let end = start + 0x8000_0000;
    let expected = [(start, 2 << 30), (2 << 30, 3 << 30), (3 << 30, end)];
    assert_eq!(ranges, expected);
}

#[test]
fn reports_outside_of_memory_are_mistakes_and_readable_ones_are_none() {
    let mut machine = Machine::new();
    let mut queues = machine.probe(ALL);
    report(&mut machine, &mut queues[3], &[(0x1000, 0x1000, true)]);
    assert_eq!(machine.transport.device().counters().mistakes.count(), 1);
    report(&mut machine, &mut queues[3], &[(0x5000_0000, 0x1000, false)]);
    assert!(machine.backend.reported.is_empty());
    assert!(queues[3].take(&machine.memory).is_some());
    assert!(queues[3].take(&machine.memory).is_some());
}

#[test]
fn with_poison_reported_pages_stay() {
    for (features, poison, taken) in
        [(ALL, 0xaaaa_aaaa, 0), (ALL, 0, 1), (ALL & !feature::PAGE_POISON, 0xaaaa_aaaa, 1)]
    {
        let mut machine = Machine::new();
        let mut queues = machine.probe(features);
        machine.write(register::CONFIG + 12, poison);
        let kept = if features & feature::PAGE_POISON != 0 { poison } else { 0 };
        assert_eq!(machine.read(register::CONFIG + 12), kept);
        report(&mut machine, &mut queues[3], &[(0x5000_0000, BLOCK_2M as u32, true)]);
        assert_eq!(machine.backend.reported.len(), taken);
        assert!(queues[3].take(&machine.memory).is_some(), "answered all the same");
    }
}
