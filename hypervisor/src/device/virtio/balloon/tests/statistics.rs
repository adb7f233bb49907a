//! The statistics queue: who holds the buffer, and what is made of it.

use super::ALL;
use crate::addr::{Ipa, PAGE_SIZE};
use crate::device::fake_memory::FakeMemory;
use crate::device::virtio::balloon::{NoStatistics, Tag};
use crate::device::virtio::driver::{BUFFERS, DriverQueue, Machine};

/// Puts packed statistics into the memory.
pub(super) fn stat_buffer(machine: &Machine, stats: &[(u16, u64)]) -> (Ipa, u32, bool) {
    let mut bytes = Vec::new();
    for (tag, value) in stats {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(value.to_le_bytes());
    }
    (machine.put(0x8000, &bytes), bytes.len() as u32, false)
}

/// `stats_request`, `stats_handle_request`: new values in the buffer that came back.
fn answer(machine: &mut Machine, queue: &mut DriverQueue, stats: &[(u16, u64)]) {
    let buffer = stat_buffer(machine, stats);
    queue.add(&machine.memory, &[buffer]);
    queue.kick(machine);
}

#[test]
fn statistics_come_when_they_are_asked_for() {
    let mut machine = Machine::new();
    assert_eq!(
        machine.transport.update(|balloon| balloon.request_stats()),
        Err(NoStatistics::NotNegotiated)
    );
    // As Linux does it: the first buffer is queued before DRIVER_OK.
    machine.negotiate(ALL);
    let mut queue = machine.queue(2, ALL);
    machine.now = 10;
    answer(&mut machine, &mut queue, &[(0, 1), (5, 1 << 30)]);
    machine.ready();
    let statistics = *machine.transport.device().statistics();
    assert_eq!((statistics.updated, statistics.updates), (Some(10), 1));
    assert_eq!(statistics.get(Tag::TotalMemory), Some(1 << 30));
    assert_eq!(statistics.get(Tag::FreeMemory), None);
    assert!(queue.take(&machine.memory).is_none(), "the device keeps the buffer");
    assert_eq!(machine.interrupt(), 0);

    machine.now = 20;
    assert_eq!(machine.transport.update(|balloon| balloon.request_stats()), Ok(()));
    assert_eq!(
        machine.transport.update(|balloon| balloon.request_stats()),
        Err(NoStatistics::Outstanding),
        "once is enough"
    );
    machine.work();
    assert_eq!(machine.interrupt(), 1);
    assert!(queue.take(&machine.memory).is_some());
    assert_eq!(
        machine.transport.update(|balloon| balloon.request_stats()),
        Err(NoStatistics::Outstanding)
    );
    let all: Vec<_> = (0..16).map(|tag| (tag, 1000 + u64::from(tag))).collect();
    answer(&mut machine, &mut queue, &all);
    let statistics = *machine.transport.device().statistics();
    assert_eq!((statistics.updated, statistics.updates), (Some(20), 2));
    for (i, (tag, value)) in statistics.iter().enumerate() {
        assert_eq!(tag, Tag::ALL[i]);
        assert_eq!(value, 1000 + i as u64);
    }
    assert_eq!(statistics.iter().count(), 16);
}

#[test]
fn unknown_tags_and_torn_entries_are_passed_over() {
    let mut machine = Machine::new();
    let mut queues = machine.probe(ALL);
    let buffer = stat_buffer(&machine, &[(16, 1), (0xffff, 2), (4, 3), (4, 4), (7, 5)]);
    queues[2].add(&machine.memory, &[(buffer.0, buffer.1 - 1, false)]);
    queues[2].kick(&mut machine);
    let values: Vec<_> = machine.transport.device().statistics().iter().collect();
    assert_eq!(values, [(Tag::FreeMemory, 4)], "the last of a tag, and no half entry");
}

#[test]
fn a_huge_statistics_buffer_is_read_in_part() {
    let mut machine = Machine::new();
    let mut queues = machine.probe(ALL);
    let start = FakeMemory::at(BUFFERS);
    queues[2].add(&machine.memory, &[(start, (16 * PAGE_SIZE) as u32, false)]);
    queues[2].kick(&mut machine);
    assert!(machine.transport.is_live());
    assert_eq!(machine.transport.device().statistics().updates, 1);
}

#[test]
fn of_several_statistics_buffers_one_is_held() {
    let mut machine = Machine::new();
    let mut queues = machine.probe(ALL);
    for value in 0..5 {
        answer(&mut machine, &mut queues[2], &[(4, value)]);
    }
    for head in 0..4 {
        assert_eq!(queues[2].take(&machine.memory), Some((head, 0)));
    }
    assert_eq!(queues[2].take(&machine.memory), None);
    assert_eq!(machine.transport.device().statistics().get(Tag::FreeMemory), Some(4));
}

#[test]
fn a_reset_forgets_the_statistics_buffer() {
    let mut machine = Machine::new();
    let mut queues = machine.probe(ALL);
    answer(&mut machine, &mut queues[2], &[(4, 1)]);
    machine.probe(ALL);
    let request = machine.transport.update(|balloon| balloon.request_stats());
    assert_eq!(request, Err(NoStatistics::Outstanding));
    assert_eq!(machine.transport.device().statistics().updated, None);
}
