//! Inflating and deflating, the target, and which queue is which.

use super::statistics::stat_buffer;
use super::{ALL, PAGE, run, tell};
use crate::addr::{BLOCK_2M, Ipa};
use crate::device::virtio::balloon::{Tag, feature};
use crate::device::virtio::driver::{DriverQueue, Machine, status};
use crate::device::virtio::registers::register;
use crate::device::virtio::{Device, Progress, feature as common};
use crate::device::{GuestMemory, Width};

#[test]
fn inflating_and_deflating_follow_the_target() {
    let mut machine = Machine::new();
    let mut queues = machine.probe(ALL);
    machine.transport.update(|balloon| balloon.set_target(1000));
    assert_eq!(machine.interrupt(), 2);
    let target = machine.read(register::CONFIG);
    for start in (0..target).step_by(256) {
        tell(&mut machine, &mut queues[0], &run(start..target.min(start + 256)));
        assert!(queues[0].take(&machine.memory).is_some());
        assert_eq!(machine.interrupt(), 1);
    }
    machine.write(register::CONFIG + 4, target);
    assert_eq!(machine.transport.device().actual(), 1000);
    assert_eq!(machine.backend.ballooned.len(), 1000);
    assert_eq!(machine.backend.calls, 4, "a batch a buffer");

    machine.transport.update(|balloon| balloon.set_target(0));
    assert_eq!(machine.interrupt(), 2);
    for start in (0..1000).step_by(256) {
        tell(&mut machine, &mut queues[1], &run(start..1000.min(start + 256)));
        assert!(queues[1].take(&machine.memory).is_some());
    }
    assert!(machine.backend.ballooned.is_empty());
    let counters = machine.transport.device().counters();
    assert_eq!((counters.inflated, counters.deflated), (1000, 1000));
    assert_eq!(counters.mistakes.count(), 0);
}

#[test]
fn queues_move_up_where_a_feature_is_absent() {
    let (stats, report) = (feature::STATS_VQ, feature::REPORTING);
    // Features, how many queues, which is the one for statistics, which for reporting.
    let cases = [
        (0, 2, None, None),
        (stats, 3, Some(2), None),
        (report, 3, None, Some(2)),
        (stats | report, 4, Some(2), Some(3)),
    ];
    for (features, count, stats, report) in cases {
        let mut machine = Machine::new();
        let mut queues = machine.probe(common::VERSION_1 | features);
        assert_eq!(machine.transport.device().queue_count(), count);
        machine.write(register::QUEUE_SEL, count);
        assert_eq!(machine.read(register::QUEUE_NUM_MAX), 0);
        tell(&mut machine, &mut queues[0], &[PAGE]);
        assert!(machine.backend.ballooned.contains(&PAGE));
        tell(&mut machine, &mut queues[1], &[PAGE]);
        assert!(machine.backend.ballooned.is_empty());
        if let Some(index) = stats {
            let buffer = stat_buffer(&machine, &[(4, 77)]);
            let queue: &mut DriverQueue = &mut queues[index];
            queue.add(&machine.memory, &[buffer]);
            queue.kick(&mut machine);
            let statistics = machine.transport.device().statistics();
            assert_eq!(statistics.get(Tag::FreeMemory), Some(77));
        }
        if let Some(index) = report {
            let block = (Ipa::new(0x4020_0000), BLOCK_2M as u32, true);
            queues[index].add(&machine.memory, &[block]);
            queues[index].kick(&mut machine);
            assert_eq!(machine.backend.reported.len(), 1);
        }
    }
}

#[test]
fn a_buffer_longer_than_a_batch_is_worked_in_slices() {
    let mut machine = Machine::new();
    let mut queues = machine.probe(ALL);
    let slices = machine.slices;
    tell(&mut machine, &mut queues[0], &run(0..2000));
    assert_eq!(machine.backend.ballooned.len(), 2000);
    assert_eq!(machine.backend.calls, 8);
    assert!(machine.slices - slices >= 8);
    assert_eq!(queues[0].take(&machine.memory), Some((0, 0)), "returned once");
    assert_eq!(queues[0].take(&machine.memory), None);
}

#[test]
fn numbers_may_be_cut_anywhere() {
    for piece in [1, 2, 3, 5, 7, 1021, 1023] {
        let mut machine = Machine::new();
        let mut queues = machine.probe(ALL);
        let pages = if piece < 20 { run(0..30) } else { run(0..700) };
        let (start, length, _) = machine.put_pages(0, &pages);
        let buffers: Vec<_> = (0..length)
            .step_by(piece as usize)
            .map(|at| (start.checked_add(at.into()).unwrap(), (length - at).min(piece), false))
            .collect();
        queues[0].add(&machine.memory, &buffers);
        queues[0].kick(&mut machine);
        let taken: Vec<u32> = machine.backend.ballooned.iter().copied().collect();
        assert_eq!(taken, pages, "pieces of {piece}");
        assert!(queues[0].take(&machine.memory).is_some());
    }
}

#[test]
fn a_number_cut_between_two_slices_is_whole() {
    // A slice ends after 64 descriptors: with these first pieces within a number.
    for first in 1..8 {
        let mut machine = Machine::new();
        let mut queues = machine.probe(ALL);
        let pages = run(0..30);
        let (start, length, _) = machine.put_pages(0, &pages);
        let rest = (first..length).map(|at| (start.checked_add(at.into()).unwrap(), 1, false));
        let buffers: Vec<_> = [(start, first, false)].into_iter().chain(rest).collect();
        queues[0].add(&machine.memory, &buffers);
        queues[0].kick(&mut machine);
        let taken: Vec<u32> = machine.backend.ballooned.iter().copied().collect();
        assert_eq!(taken, pages, "first piece of {first}");
    }
}

#[test]
fn a_reset_drops_what_was_in_work() {
    let mut machine = Machine::new();
    let mut queues = machine.probe(ALL);
    machine.backend.pace = 0;
    machine.patience = 3;
    for (queue, start) in [(0, 0), (1, 0x400)] {
        let buffer = machine.put_pages(start, &run(0..10));
        queues[queue].add(&machine.memory, &[buffer]);
        queues[queue].kick(&mut machine);
    }
    queues[3].add(&machine.memory, &[(Ipa::new(0x5000_0000), BLOCK_2M as u32, true)]);
    queues[3].kick(&mut machine);
    machine.backend.pace = usize::MAX;
    machine.patience = u64::MAX;
    let mut queues = machine.probe(ALL);
    for index in 0..4 {
        machine.write(register::QUEUE_NOTIFY, index);
    }
    assert!(machine.backend.ballooned.is_empty() && machine.backend.reported.is_empty());
    assert_eq!(machine.transport.device().counters().mistakes.count(), 0);
    assert!(queues.iter_mut().all(|queue| queue.take(&machine.memory).is_none()));
}

#[test]
fn bytes_that_make_no_number_are_passed_over() {
    let mut machine = Machine::new();
    let mut queues = machine.probe(ALL);
    let (start, length, _) = machine.put_pages(0, &[PAGE, PAGE + 1]);
    for (bytes, pages) in [(length - 1, 1), (3, 1), (0, 1), (length, 2)] {
        queues[0].add(&machine.memory, &[(start, bytes, false)]);
        queues[0].kick(&mut machine);
        assert!(queues[0].take(&machine.memory).is_some());
        assert_eq!(machine.backend.ballooned.len(), pages);
    }
}

#[test]
fn a_slow_backend_gets_the_rest_again_and_no_page_twice() {
    for pace in [1, 7, 100, 255] {
        let mut machine = Machine::new();
        let mut queues = machine.probe(ALL);
        machine.backend.pace = pace;
        tell(&mut machine, &mut queues[0], &run(0..300));
        assert_eq!(machine.backend.ballooned.len(), 300);
        let counters = machine.transport.device().counters();
        assert_eq!((counters.inflated, counters.mistakes.count()), (300, 0));
        assert!(queues[0].take(&machine.memory).is_some());
    }
}

#[test]
fn a_busy_backend_holds_the_buffer_up_and_nothing_is_lost() {
    let mut machine = Machine::new();
    let mut queues = machine.probe(ALL);
    machine.backend.pace = 0;
    machine.patience = 10;
    tell(&mut machine, &mut queues[0], &run(0..10));
    assert!(queues[0].take(&machine.memory).is_none());
    machine.backend.pace = usize::MAX;
    machine.patience = u64::MAX;
    machine.work();
    assert!(queues[0].take(&machine.memory).is_some());
    assert_eq!(machine.backend.ballooned.len(), 10);
}

#[test]
fn a_queue_stopped_half_way_drops_its_rest() {
    let mut machine = Machine::new();
    let mut queues = machine.probe(ALL);
    machine.patience = 1;
    tell(&mut machine, &mut queues[0], &run(0..1000));
    assert_eq!(machine.backend.ballooned.len(), 256);
    // Past the machine, which would go on working.
    let _ = machine.transport.write(register::QUEUE_SEL, Width::Word, 0);
    let stop = machine.transport.write(register::QUEUE_READY, Width::Word, 0);
    assert_eq!(stop, Progress::Done, "nothing left to do");
    machine.patience = u64::MAX;
    machine.work();
    assert_eq!(machine.backend.ballooned.len(), 256);
    let mut queue = machine.queue(0, ALL);
    tell(&mut machine, &mut queue, &[PAGE + 5000]);
    assert_eq!(machine.backend.ballooned.len(), 257);
    assert_eq!(queue.take(&machine.memory), Some((0, 0)));
    assert_eq!(queue.take(&machine.memory), None);
}

#[test]
fn wrong_and_repeated_pages_are_counted_and_the_others_go() {
    let mut machine = Machine::new();
    let mut queues = machine.probe(ALL);
    tell(&mut machine, &mut queues[0], &[PAGE, PAGE, 0, u32::MAX, PAGE + 1]);
    assert!(machine.transport.is_live());
    assert!(queues[0].take(&machine.memory).is_some());
    assert_eq!(machine.backend.ballooned.len(), 2);
    assert_eq!(machine.transport.device().counters().mistakes.count(), 3);
    tell(&mut machine, &mut queues[1], &[PAGE + 7, PAGE]);
    assert_eq!(machine.backend.ballooned.len(), 1);
    assert_eq!(machine.transport.device().counters().mistakes.count(), 4);
}

#[test]
fn memory_that_the_hypervisor_lacks_is_not_the_guests_mistake() {
    let mut machine = Machine::new();
    let mut queues = machine.probe(ALL);
    machine.backend.exhausted = true;
    tell(&mut machine, &mut queues[0], &run(0..5));
    let counters = machine.transport.device().counters();
    assert_eq!((counters.no_memory.count(), counters.mistakes.count()), (5, 0));
    assert!(queues[0].take(&machine.memory).is_some(), "the driver is not held up");
}

#[test]
fn writable_buffers_name_no_pages() {
    let mut machine = Machine::new();
    let mut queues = machine.probe(ALL);
    let (start, length, _) = machine.put_pages(0, &[PAGE]);
    queues[0].add(&machine.memory, &[(start, length, true)]);
    queues[0].kick(&mut machine);
    assert!(machine.backend.ballooned.is_empty());
    assert!(queues[0].take(&machine.memory).is_some());
}

#[test]
fn the_configuration_of_a_new_driver_is_fresh_except_for_the_target() {
    let mut machine = Machine::new();
    machine.probe(ALL);
    machine.transport.update(|balloon| balloon.set_target(9));
    machine.write(register::CONFIG + 4, 8);
    machine.write(register::CONFIG + 12, 7);
    machine.probe(ALL);
    let config: Vec<u32> = (0..4).map(|i| machine.read(register::CONFIG + 4 * i)).collect();
    assert_eq!(config, [9, 0, 0, 0]);
}

#[test]
fn a_driver_without_optional_features_works() {
    let mut machine = Machine::new();
    let mut queues = machine.probe(common::VERSION_1);
    tell(&mut machine, &mut queues[0], &run(0..256));
    assert_eq!(machine.backend.ballooned.len(), 256);
    assert_eq!(machine.interrupt(), 1);
    assert_eq!(machine.read(register::STATUS) & status::NEEDS_RESET, 0);
    assert_eq!(machine.memory.read_u16(queues[0].used).unwrap(), 0, "always notify");
}
