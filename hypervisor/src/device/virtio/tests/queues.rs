//! Well-formed queues: chains, indirect tables, notification and interrupt suppression, wrapping.

use crate::addr::Ipa;
use crate::device::GuestMemory;
use crate::device::fake_memory::FakeMemory;
use crate::device::virtio::driver::{BUFFERS, DriverQueue, INDIRECT, Machine, NEXT};
use crate::device::virtio::{balloon, feature};

const ALL: u64 = feature::COMMON | balloon::feature::OFFERED;
const PLAIN: u64 = feature::VERSION_1;
const PAGE: u32 = 0x40100;

fn machine(features: u64) -> (Machine, DriverQueue) {
    let mut machine = Machine::new();
    let queue = machine.probe(features).remove(0);
    (machine, queue)
}

fn ballooned(machine: &Machine) -> Vec<u32> {
    machine.backend.ballooned.iter().copied().collect()
}

#[test]
fn a_chain_of_direct_descriptors_is_one_request() {
    let (mut machine, mut queue) = machine(PLAIN);
    let first = machine.put_pages(0, &[PAGE, PAGE + 1]);
    let second = machine.put_pages(0x100, &[PAGE + 2]);
    let head = queue.add(&machine.memory, &[first, second]);
    queue.kick(&mut machine);
    assert_eq!(ballooned(&machine), [PAGE, PAGE + 1, PAGE + 2]);
    assert_eq!(queue.take(&machine.memory), Some((head.into(), 0)));
    assert_eq!(queue.take(&machine.memory), None);
}

#[test]
fn an_indirect_table_is_one_request() {
    let (mut machine, mut queue) = machine(ALL);
    let buffers = [machine.put_pages(0, &[PAGE]), machine.put_pages(0x100, &[PAGE + 1])];
    let table = FakeMemory::at(BUFFERS + 0x1008);
    let head = queue.add_indirect(&machine.memory, table, &buffers);
    queue.kick(&mut machine);
    assert_eq!(ballooned(&machine), [PAGE, PAGE + 1]);
    assert_eq!(queue.take(&machine.memory), Some((head.into(), 0)));
}

#[test]
fn an_indirect_table_may_end_a_direct_chain() {
    let (mut machine, mut queue) = machine(ALL);
    let direct = machine.put_pages(0, &[PAGE]);
    let inside = machine.put_pages(0x100, &[PAGE + 1]);
    let table = FakeMemory::at(BUFFERS + 0x1000);
    let memory = &machine.memory;
    DriverQueue::describe(memory, table, 0, (inside.0, inside.1, 0, 0));
    DriverQueue::describe(memory, queue.descriptors, 0, (direct.0, direct.1, NEXT, 9));
    DriverQueue::describe(memory, queue.descriptors, 9, (table, 16, INDIRECT, 0));
    queue.offer(memory, 0);
    queue.kick(&mut machine);
    assert_eq!(ballooned(&machine), [PAGE, PAGE + 1]);
    assert_eq!(queue.take(&machine.memory), Some((0, 0)));
}

#[test]
fn a_chain_may_be_as_long_as_the_queue() {
    for indirect in [false, true] {
        let (mut machine, mut queue) = machine(ALL);
        let buffers: Vec<_> = (0..u32::from(queue.size))
            .map(|i| machine.put_pages(u64::from(i) * 4, &[PAGE + i]))
            .collect();
        if indirect {
            queue.add_indirect(&machine.memory, FakeMemory::at(BUFFERS + 0x1000), &buffers);
        } else {
            queue.add(&machine.memory, &buffers);
        }
        queue.kick(&mut machine);
        assert_eq!(machine.backend.ballooned.len(), 128);
        assert!(queue.take(&machine.memory).is_some());
    }
}

#[test]
fn an_empty_buffer_is_no_mistake() {
    let (mut machine, mut queue) = machine(PLAIN);
    let nowhere = (FakeMemory::at(0xdead_0000), 0, false);
    let pages = machine.put_pages(0, &[PAGE]);
    queue.add(&machine.memory, &[nowhere, pages, nowhere]);
    queue.kick(&mut machine);
    assert_eq!(ballooned(&machine), [PAGE]);
    assert!(machine.transport.is_live());
}

#[test]
fn indices_wrap() {
    for features in [PLAIN, ALL] {
        let (mut machine, mut queue) = machine(features);
        let pages = machine.put_pages(0, &[PAGE]);
        for round in 0..70_000_u32 {
            machine.backend.ballooned.clear();
            let head = queue.add(&machine.memory, &[pages]);
            queue.kick(&mut machine);
            assert_eq!(queue.take(&machine.memory), Some((head.into(), 0)), "round {round}");
            assert_eq!(machine.interrupt(), 1, "round {round}");
        }
    }
}

#[test]
fn a_full_queue_is_served_with_one_notification() {
    let (mut machine, mut queue) = machine(ALL);
    for i in 0..u32::from(queue.size) {
        let pages = machine.put_pages(u64::from(i) * 4, &[PAGE + i]);
        queue.add(&machine.memory, &[pages]);
    }
    assert!(queue.kick(&mut machine));
    assert_eq!(machine.backend.ballooned.len(), 128);
    for head in 0..u32::from(queue.size) {
        assert_eq!(queue.take(&machine.memory), Some((head, 0)));
    }
}

#[test]
fn the_event_index_asks_for_exactly_the_next_notification() {
    let (mut machine, mut queue) = machine(ALL);
    let pages = machine.put_pages(0, &[PAGE]);
    for _ in 0..300 {
        queue.add(&machine.memory, &[pages]);
        assert!(queue.kick(&mut machine), "the device sleeps and wants to be woken");
        assert!(queue.take(&machine.memory).is_some());
    }
    // While the device is at work it does not ask.
    machine.backend.pace = 0;
    machine.patience = 1;
    queue.add(&machine.memory, &[pages]);
    assert!(queue.kick(&mut machine));
    queue.add(&machine.memory, &[pages]);
    assert!(!queue.wants_kick(&machine.memory), "it will look by itself");
    machine.backend.pace = usize::MAX;
    machine.patience = u64::MAX;
    machine.work();
    assert!(queue.take(&machine.memory).is_some());
    assert!(queue.take(&machine.memory).is_some());
}

#[test]
fn what_is_queued_while_the_device_falls_asleep_is_seen() {
    let (mut machine, mut queue) = machine(ALL);
    let pages = [machine.put_pages(0, &[PAGE]), machine.put_pages(0x100, &[PAGE + 1])];
    queue.add(&machine.memory, &pages[..1]);
    // The second chain is described already. It becomes available between the device's last look
    // and its asking to be notified, so the driver sees no need to notify.
    DriverQueue::describe(&machine.memory, queue.descriptors, 1, (pages[1].0, 4, 0, 0));
    let event = queue.used.checked_add(4 + 8 * 128).unwrap();
    let place = |ipa: Ipa| ipa.checked_sub(FakeMemory::START).unwrap() as usize;
    let (event, ring) = (place(event), place(queue.available));
    machine.memory.set_adversary(move |bytes, _| {
        if bytes[event] == 1 {
            bytes[ring + 6] = 1;
            bytes[ring + 2] = 2;
        }
    });
    queue.kick(&mut machine);
    assert_eq!(ballooned(&machine), [PAGE, PAGE + 1]);
}

#[test]
fn the_used_event_holds_interrupts_back() {
    let (mut machine, mut queue) = machine(ALL);
    let pages = machine.put_pages(0, &[PAGE]);
    queue.set_used_event(&machine.memory, 2);
    for expected in [0, 0, 1, 0] {
        queue.add(&machine.memory, &[pages]);
        machine.write(0x50, 0);
        assert_eq!(machine.interrupt(), expected);
    }
}

#[test]
fn the_no_interrupt_flag_holds_interrupts_back() {
    let (mut machine, mut queue) = machine(PLAIN);
    let pages = machine.put_pages(0, &[PAGE]);
    for (flags, expected) in [(0, 1), (1, 0), (0, 1)] {
        queue.set_flags(&machine.memory, flags);
        queue.add(&machine.memory, &[pages]);
        queue.kick(&mut machine);
        assert_eq!(machine.interrupt(), expected);
    }
}

#[test]
fn nothing_new_means_no_interrupt() {
    let (mut machine, _) = machine(PLAIN);
    machine.write(0x50, 0);
    machine.write(0x50, 1);
    assert_eq!(machine.interrupt(), 0);
}

#[test]
fn queues_take_turns() {
    let mut machine = Machine::new();
    let mut queues = machine.probe(ALL);
    let many: Vec<u32> = (0..2048).map(|i| PAGE + i).collect();
    let long = machine.put_pages(0, &many);
    let short = machine.put_pages(0x4000, &[PAGE]);
    machine.patience = 1;
    queues[0].add(&machine.memory, &[long]);
    queues[0].kick(&mut machine);
    queues[1].add(&machine.memory, &[short]);
    queues[1].kick(&mut machine);
    machine.work();
    assert!(queues[1].take(&machine.memory).is_some(), "the short one is through");
    assert!(queues[0].take(&machine.memory).is_none(), "the long one is not");
    machine.patience = u64::MAX;
    machine.work();
    assert!(queues[0].take(&machine.memory).is_some());
}

#[test]
fn the_used_ring_is_written_where_it_was_placed() {
    let (mut machine, mut queue) = machine(PLAIN);
    let pages = machine.put_pages(0, &[PAGE]);
    queue.add(&machine.memory, &[pages]);
    queue.kick(&mut machine);
    assert_eq!(machine.memory.read_u32(queue.used).unwrap(), 1 << 16, "flags 0, index 1");
}
