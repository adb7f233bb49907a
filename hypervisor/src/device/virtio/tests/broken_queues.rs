//! Every way to break a queue, each beside its good twin.

use crate::addr::{Ipa, PAGE_SIZE};
use crate::device::fake_memory::FakeMemory;
use crate::device::virtio::driver::{BUFFERS, DriverQueue, INDIRECT, Machine, NEXT, WRITE, status};
use crate::device::virtio::registers::register;
use crate::device::virtio::{QueueFault, balloon, feature};
use crate::device::{MemoryFault, MemoryFaultReason};

const ALL: u64 = feature::COMMON | balloon::feature::OFFERED;
const PAGE: u32 = 0x40100;

/// Lets a driver do `act` and sees whether the device breaks as `expected`.
fn outcome(features: u64, act: impl FnOnce(&mut Machine, &mut DriverQueue)) -> Option<QueueFault> {
    let mut machine = Machine::new();
    let mut queue = machine.probe(features).remove(0);
    machine.put_pages(0, &[PAGE]);
    act(&mut machine, &mut queue);
    machine.write(register::QUEUE_NOTIFY, 0);
    let fault = machine.transport.fault();
    let needs_reset = machine.read(register::STATUS) & status::NEEDS_RESET != 0;
    assert_eq!(needs_reset, fault.is_some());
    assert_eq!(machine.interrupt(), if needs_reset { 2 } else { 1 });
    assert_eq!(machine.backend.ballooned.len(), usize::from(!needs_reset));
    fault
}

fn buffer() -> Ipa {
    FakeMemory::at(BUFFERS)
}

fn table() -> Ipa {
    FakeMemory::at(BUFFERS + PAGE_SIZE)
}

/// Offers one chain that starts at descriptor 0, which is `descriptor`.
fn offer(descriptor: (Ipa, u32, u16, u16)) -> impl FnOnce(&mut Machine, &mut DriverQueue) {
    move |machine, queue| {
        DriverQueue::describe(&machine.memory, queue.descriptors, 0, descriptor);
        queue.offer(&machine.memory, 0);
    }
}

/// Offers one chain with an indirect table of which the first two descriptors are given.
fn offer_table(
    length: u32,
    first: (Ipa, u32, u16, u16),
    second: (Ipa, u32, u16, u16),
) -> impl FnOnce(&mut Machine, &mut DriverQueue) {
    move |machine, queue| {
        DriverQueue::describe(&machine.memory, table(), 0, first);
        DriverQueue::describe(&machine.memory, table(), 1, second);
        offer((table(), length, INDIRECT, 0))(machine, queue);
    }
}

fn gone(ipa: Ipa, reason: MemoryFaultReason) -> Option<QueueFault> {
    Some(QueueFault::Memory(MemoryFault { ipa, reason }))
}

#[test]
fn the_available_index_may_be_a_queue_ahead_and_no_more() {
    let fault = outcome(ALL, |machine, queue| {
        // All entries name the same chain; its page is in the balloon after the first.
        DriverQueue::describe(&machine.memory, queue.descriptors, 0, (buffer(), 4, 0, 0));
        queue.set_available_index(&machine.memory, 128);
    });
    assert_eq!(fault, None);
    for available in [129, 200, 0x8000, 0xffff] {
        let fault = outcome(ALL, |machine, queue| {
            queue.set_available_index(&machine.memory, available);
        });
        assert_eq!(fault, Some(QueueFault::IndexRanAway { available, next: 0 }));
    }
}

#[test]
fn the_available_index_does_not_run_backwards() {
    let mut machine = Machine::new();
    let mut queue = machine.probe(ALL).remove(0);
    let pages = machine.put_pages(0, &[PAGE]);
    queue.add(&machine.memory, &[pages]);
    queue.kick(&mut machine);
    queue.set_available_index(&machine.memory, 0);
    machine.write(register::QUEUE_NOTIFY, 0);
    let fault = QueueFault::IndexRanAway { available: 0, next: 1 };
    assert_eq!(machine.transport.fault(), Some(fault));
}

#[test]
fn a_head_is_inside_the_table() {
    for (head, good) in [(127, true), (128, false), (0xffff, false)] {
        let fault = outcome(ALL, |machine, queue| {
            DriverQueue::describe(&machine.memory, queue.descriptors, 127, (buffer(), 4, 0, 0));
            queue.offer(&machine.memory, head);
        });
        let bad = QueueFault::OutOfTable { index: head, length: 128 };
        assert_eq!(fault, (!good).then_some(bad));
    }
}

#[test]
fn a_next_descriptor_is_inside_the_table() {
    assert_eq!(outcome(ALL, offer((buffer(), 4, NEXT, 127))), None);
    for next in [128, 0xffff] {
        let fault = outcome(ALL, offer((buffer(), 4, NEXT, next)));
        assert_eq!(fault, Some(QueueFault::OutOfTable { index: next, length: 128 }));
    }
}

#[test]
fn a_next_that_is_not_flagged_does_not_count() {
    assert_eq!(outcome(ALL, offer((buffer(), 4, 0, 0xffff))), None);
}

#[test]
fn a_chain_that_bites_its_tail_ends() {
    assert_eq!(outcome(ALL, offer((buffer(), 0, NEXT, 0))), Some(QueueFault::TooLong));
    let two = |machine: &mut Machine, queue: &mut DriverQueue| {
        let memory = &machine.memory;
        DriverQueue::describe(memory, queue.descriptors, 1, (buffer(), 0, NEXT, 0));
        offer((buffer(), 0, NEXT, 1))(machine, queue);
    };
    assert_eq!(outcome(ALL, two), Some(QueueFault::TooLong));
}

#[test]
fn an_indirect_chain_that_bites_its_tail_ends() {
    let good = offer_table(32, (buffer(), 4, NEXT, 1), (buffer(), 0, 0, 0));
    assert_eq!(outcome(ALL, good), None);
    let bad = offer_table(32, (buffer(), 0, NEXT, 1), (buffer(), 0, NEXT, 0));
    assert_eq!(outcome(ALL, bad), Some(QueueFault::TooLong));
}

#[test]
fn an_indirect_next_is_inside_its_table() {
    let bad = offer_table(16, (buffer(), 4, NEXT, 1), (buffer(), 0, 0, 0));
    assert_eq!(outcome(ALL, bad), Some(QueueFault::OutOfTable { index: 1, length: 1 }));
}

#[test]
fn an_indirect_table_is_longer_than_the_queue_only_where_it_is_not_used() {
    // The table may have room; the chain through it may not be longer than the queue.
    let good = offer_table(16 * 1000, (buffer(), 4, NEXT, 1), (buffer(), 0, 0, 0));
    assert_eq!(outcome(ALL, good), None);
    let bad = |machine: &mut Machine, queue: &mut DriverQueue| {
        let buffers = vec![(buffer(), 0, false); 129];
        queue.add_indirect(&machine.memory, table(), &buffers);
    };
    assert_eq!(outcome(ALL, bad), Some(QueueFault::TooLong));
}

#[test]
fn an_indirect_table_has_a_length_of_whole_descriptors() {
    let entry = (buffer(), 4, 0, 0);
    assert_eq!(outcome(ALL, offer_table(16, entry, entry)), None);
    for length in [0, 8, 15, 17, u32::MAX] {
        let fault = outcome(ALL, offer_table(length, entry, entry));
        assert_eq!(fault, Some(QueueFault::IndirectLength(length)));
    }
}

#[test]
fn indirect_tables_do_not_nest_and_have_no_successor() {
    let nested = offer_table(32, (table(), 16, INDIRECT, 0), (buffer(), 4, 0, 0));
    assert_eq!(outcome(ALL, nested), Some(QueueFault::IndirectMisplaced));
    let chained = offer((table(), 16, INDIRECT | NEXT, 1));
    assert_eq!(outcome(ALL, chained), Some(QueueFault::IndirectMisplaced));
}

#[test]
fn indirect_tables_need_the_feature() {
    let entry = (buffer(), 4, 0, 0);
    let with = feature::VERSION_1 | feature::INDIRECT_DESC;
    assert_eq!(outcome(with, offer_table(16, entry, entry)), None);
    let fault = outcome(feature::VERSION_1, offer_table(16, entry, entry));
    assert_eq!(fault, Some(QueueFault::IndirectNotNegotiated));
}

#[test]
fn buffers_and_tables_stay_in_the_address_space() {
    let high = Ipa::new(u64::MAX - 7);
    let fault = outcome(ALL, offer((high, 64, 0, 0)));
    let address = high.as_u64();
    assert_eq!(fault, Some(QueueFault::BufferWraps { address, length: 64 }));
    let fault = outcome(ALL, offer((high, 16, INDIRECT, 0)));
    assert_eq!(fault, Some(QueueFault::BufferWraps { address, length: 16 }));
    // Not wrapping, but nowhere.
    let fault = outcome(ALL, offer((high, 7, 0, 0)));
    assert_eq!(fault, gone(high, MemoryFaultReason::Outside));
}

#[test]
fn readable_buffers_come_before_writable_ones() {
    let order = |first: u16, second: u16| {
        move |machine: &mut Machine, queue: &mut DriverQueue| {
            let memory = &machine.memory;
            DriverQueue::describe(memory, queue.descriptors, 1, (buffer(), 4, second, 0));
            offer((buffer(), 4, NEXT | first, 1))(machine, queue);
        }
    };
    assert_eq!(outcome(ALL, order(0, WRITE)), None);
    // The inflate queue stops at the first writable buffer; the reporting queue reads on.
    let mut machine = Machine::new();
    let mut queue = machine.probe(ALL).remove(3);
    order(WRITE, 0)(&mut machine, &mut queue);
    queue.kick(&mut machine);
    assert_eq!(machine.transport.fault(), Some(QueueFault::ReadableAfterWritable));
}

#[test]
fn rings_tables_and_buffers_are_in_memory() {
    let all_there = |machine: &mut Machine, queue: &mut DriverQueue| {
        let pages = machine.put_pages(0, &[PAGE]);
        queue.add(&machine.memory, &[pages]);
    };
    assert_eq!(outcome(ALL, all_there), None);
    for which in 0..4 {
        let mut expected = None;
        let mut machine = Machine::new();
        let mut queue = machine.probe(ALL).remove(0);
        all_there(&mut machine, &mut queue);
        let parts = [queue.descriptors, queue.available, queue.used, buffer()];
        for (i, part) in parts.into_iter().enumerate() {
            if i == which {
                machine.memory.take(part);
                expected = Some(part.page());
            }
        }
        machine.write(register::QUEUE_NOTIFY, 0);
        let Some(QueueFault::Memory(fault)) = machine.transport.fault() else {
            panic!("part {which}: {:?}", machine.transport.fault());
        };
        assert_eq!(Some(fault.ipa.page()), expected);
        assert_eq!(fault.reason, MemoryFaultReason::GivenAway);
        assert_eq!(machine.interrupt() & 2, 2);
    }
}

#[test]
fn a_guest_that_balloons_its_own_queue_breaks_that_device_alone() {
    let mut machine = Machine::new();
    let mut queue = machine.probe(ALL).remove(0);
    machine.backend.memory = Some(machine.memory.clone());
    let pages = machine.put_pages(0, &[queue.used.page() as u32]);
    queue.add(&machine.memory, &[pages]);
    queue.kick(&mut machine);
    let Some(QueueFault::Memory(fault)) = machine.transport.fault() else {
        panic!("{:?}", machine.transport.fault());
    };
    assert_eq!(fault.ipa.page(), queue.used.page());
    // The next driver starts with all of its memory.
    let mut queue = machine.probe(ALL).remove(0);
    let pages = machine.put_pages(0, &[PAGE]);
    queue.add(&machine.memory, &[pages]);
    queue.kick(&mut machine);
    assert!(queue.take(&machine.memory).is_some());
}

#[test]
fn rewriting_a_descriptor_while_it_is_read_fools_nobody() {
    // The guest turns each descriptor into a loop as soon as the device has read it.
    let mut machine = Machine::new();
    let mut queue = machine.probe(ALL).remove(0);
    let pages = machine.put_pages(0, &[PAGE]);
    queue.add(&machine.memory, &[pages, pages, pages]);
    let table = queue.descriptors.checked_sub(FakeMemory::START).unwrap() as usize;
    machine.memory.set_adversary(move |bytes, access| {
        for descriptor in bytes[table..table + 128 * 16].chunks_exact_mut(16) {
            descriptor[..8].copy_from_slice(&(u64::MAX - access).to_le_bytes());
            descriptor[12..].copy_from_slice(&[1, 0, 0, 0]);
        }
    });
    queue.kick(&mut machine);
    assert!(machine.transport.fault().is_some());
    assert!(machine.backend.ballooned.len() <= 1);
}
