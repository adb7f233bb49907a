//! The register interface: virtio 1.2 §4.2.2 and the status of §2.1.

use crate::addr::PAGE_SIZE;
use crate::device::fake_memory::FakeMemory;
use crate::device::virtio::driver::{Machine, status};
use crate::device::virtio::mmio::{Status, read_empty_slot};
use crate::device::virtio::registers::register;
use crate::device::virtio::{Progress, QueueFault, balloon, feature};
use crate::device::{GuestMemory, Width};

const ALL: u64 = feature::COMMON | balloon::feature::OFFERED;

#[test]
fn a_driver_recognises_the_device() {
    let mut machine = Machine::new();
    assert_eq!(machine.read(register::MAGIC).to_le_bytes(), *b"virt");
    assert_eq!(machine.read(register::VERSION), 2);
    assert_eq!(machine.read(register::DEVICE_ID), 5);
    assert_ne!(machine.read(register::VENDOR_ID), 0);
    assert_eq!(machine.read(register::STATUS), 0);
    assert_eq!(machine.offered(), ALL);
    machine.write(register::DEVICE_FEATURES_SEL, 2);
    assert_eq!(machine.read(register::DEVICE_FEATURES), 0);
}

#[test]
fn a_driver_passes_over_an_empty_slot() {
    assert_eq!(read_empty_slot(register::MAGIC, Width::Word).to_le_bytes()[..4], *b"virt");
    assert_eq!(read_empty_slot(register::VERSION, Width::Word), 2);
    for offset in (register::DEVICE_ID..0x200).step_by(4) {
        if offset != register::VENDOR_ID {
            assert_eq!(read_empty_slot(offset, Width::Word), 0, "{offset:#x}");
        }
    }
}

#[test]
fn any_subset_of_the_features_with_version_1_is_accepted() {
    for wanted in [ALL, feature::VERSION_1, feature::VERSION_1 | balloon::feature::REPORTING] {
        let mut machine = Machine::new();
        assert_ne!(machine.negotiate(wanted) & status::FEATURES_OK, 0, "{wanted:#x}");
        let features = machine.transport.device().negotiated_features();
        assert_eq!(features, wanted & balloon::feature::OFFERED);
    }
}

#[test]
fn features_not_offered_are_refused() {
    // Legacy, free page hints, packed rings, notification data, a bit of no meaning.
    let bad =
        [ALL & !feature::VERSION_1, ALL | 1 << 3, ALL | 1 << 34, ALL | 1 << 38, ALL | 1 << 63];
    for wanted in bad {
        let mut machine = Machine::new();
        assert_eq!(machine.negotiate(wanted) & status::FEATURES_OK, 0, "{wanted:#x}");
        assert_eq!(machine.transport.device().negotiated_features(), 0);
    }
}

#[test]
fn a_feature_above_63_is_refused_until_the_reset() {
    let mut machine = Machine::new();
    machine.write(register::DRIVER_FEATURES_SEL, 2);
    machine.write(register::DRIVER_FEATURES, 1);
    machine.write(register::DRIVER_FEATURES_SEL, 1);
    machine.write(register::DRIVER_FEATURES, 1);
    machine.write(register::STATUS, status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK);
    assert_eq!(machine.read(register::STATUS), status::ACKNOWLEDGE | status::DRIVER);
    assert_ne!(machine.negotiate(ALL) & status::FEATURES_OK, 0);
}

#[test]
fn a_refused_driver_may_ask_for_less() {
    let mut machine = Machine::new();
    machine.negotiate(ALL | 1 << 63);
    machine.write(register::DRIVER_FEATURES_SEL, 1);
    machine.write(register::DRIVER_FEATURES, 1);
    machine.write(register::STATUS, status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK);
    assert_ne!(machine.read(register::STATUS) & status::FEATURES_OK, 0);
}

#[test]
fn agreed_features_stay() {
    let mut machine = Machine::new();
    machine.negotiate(feature::VERSION_1);
    machine.write(register::DRIVER_FEATURES_SEL, 0);
    machine.write(register::DRIVER_FEATURES, balloon::feature::STATS_VQ as u32);
    machine.ready();
    assert!(machine.transport.is_live());
    assert_eq!(machine.transport.device().negotiated_features(), 0);
}

#[test]
fn driver_ok_needs_features_ok() {
    let mut machine = Machine::new();
    machine.write(register::STATUS, status::ACKNOWLEDGE | status::DRIVER | status::DRIVER_OK);
    assert_eq!(machine.read(register::STATUS), status::ACKNOWLEDGE | status::DRIVER);
    machine.negotiate(ALL);
    machine.ready();
    assert!(machine.transport.is_live());
}

#[test]
fn the_driver_adds_status_bits_only_and_cannot_break_the_device_by_hand() {
    let mut machine = Machine::new();
    machine.probe(ALL);
    machine.write(register::STATUS, status::NEEDS_RESET | status::ACKNOWLEDGE);
    assert_eq!(machine.read(register::STATUS), 0xf);
    machine.write(register::STATUS, 0x8f);
    assert!(!machine.transport.is_live(), "given up by the driver");
}

#[test]
fn a_queue_needs_agreed_features_and_a_number_that_exists() {
    let mut machine = Machine::new();
    machine.write(register::QUEUE_SEL, 0);
    machine.write(register::QUEUE_NUM, 128);
    machine.write(register::QUEUE_READY, 1);
    assert_eq!(machine.read(register::QUEUE_READY), 0);

    machine.negotiate(feature::VERSION_1);
    for (index, exists) in [(0, true), (1, true), (2, false), (4, false), (u32::MAX, false)] {
        machine.write(register::QUEUE_SEL, index);
        assert_eq!(machine.read(register::QUEUE_NUM_MAX) != 0, exists, "{index}");
        machine.write(register::QUEUE_NUM, 128);
        machine.write(register::QUEUE_READY, 1);
        assert_eq!(machine.read(register::QUEUE_READY) != 0, exists, "{index}");
    }
}

#[test]
fn a_queue_that_cannot_be_breaks_the_device() {
    let bad = [
        (register::QUEUE_NUM, 0),
        (register::QUEUE_NUM, 96),
        (register::QUEUE_NUM, 256),
        (register::QUEUE_DESC_LOW, 8),
        (register::QUEUE_DRIVER_LOW, 1),
        (register::QUEUE_DEVICE_LOW, 2),
    ];
    for (offset, value) in bad {
        let mut machine = Machine::new();
        machine.negotiate(ALL);
        let queue = |machine: &mut Machine, last: Option<(u64, u32)>| {
            machine.write(register::QUEUE_SEL, 1);
            machine.write(register::QUEUE_NUM, 128);
            if let Some((offset, value)) = last {
                machine.write(offset, value);
            }
            machine.write(register::QUEUE_READY, 1);
            machine.read(register::QUEUE_READY)
        };
        assert_eq!(queue(&mut machine, Some((offset, value))), 0);
        assert_ne!(machine.read(register::STATUS) & status::NEEDS_RESET, 0);
        assert!(machine.transport.fault().is_some());
        assert!(!machine.transport.line(), "no driver to be told yet");

        // The good twin, behind a reset.
        machine.negotiate(ALL);
        assert_eq!(queue(&mut machine, None), 1);
        assert_eq!(machine.transport.fault(), None);
    }
}

#[test]
fn a_ready_queue_does_not_move() {
    let mut machine = Machine::new();
    let mut queues = machine.probe(ALL);
    machine.write(register::QUEUE_SEL, 0);
    machine.write(register::QUEUE_NUM, 2);
    machine.write(register::QUEUE_DESC_LOW, 0);
    machine.write(register::QUEUE_READY, 1);
    let pages = machine.put_pages(0, &[0x40100]);
    queues[0].add(&machine.memory, &[pages]);
    queues[0].kick(&mut machine);
    assert!(queues[0].take(&machine.memory).is_some());
}

#[test]
fn a_stopped_queue_is_left_alone_and_starts_again_at_zero() {
    let mut machine = Machine::new();
    let mut queues = machine.probe(ALL);
    let pages = machine.put_pages(0, &[0x40100]);
    queues[0].add(&machine.memory, &[pages]);
    machine.write(register::QUEUE_SEL, 0);
    machine.write(register::QUEUE_READY, 0);
    assert_eq!(machine.read(register::QUEUE_READY), 0);
    queues[0].kick(&mut machine);
    assert!(queues[0].take(&machine.memory).is_none());
    assert!(machine.backend.ballooned.is_empty());

    let mut queue = machine.queue(0, ALL);
    queue.add(&machine.memory, &[pages]);
    queue.kick(&mut machine);
    assert_eq!(queue.take(&machine.memory), Some((0, 0)));
}

#[test]
fn what_was_queued_before_driver_ok_is_served_then() {
    let mut machine = Machine::new();
    machine.negotiate(ALL);
    let mut queue = machine.queue(0, ALL);
    let pages = machine.put_pages(0, &[0x40100]);
    queue.add(&machine.memory, &[pages]);
    queue.kick(&mut machine);
    assert!(queue.take(&machine.memory).is_none(), "not before DRIVER_OK");
    machine.ready();
    assert!(queue.take(&machine.memory).is_some());
}

#[test]
fn notifying_a_queue_that_does_not_exist_does_nothing() {
    let mut machine = Machine::new();
    machine.probe(feature::VERSION_1);
    for index in [2, 3, 4, 31, 32, u32::MAX] {
        let progress = machine.transport.write(register::QUEUE_NOTIFY, Width::Word, index.into());
        assert_eq!(progress, Progress::Done);
    }
    assert!(machine.transport.is_live());
}

#[test]
fn causes_are_acknowledged_one_by_one() {
    let mut machine = Machine::new();
    let mut queues = machine.probe(ALL);
    let pages = machine.put_pages(0, &[0x40100]);
    queues[0].add(&machine.memory, &[pages]);
    queues[0].kick(&mut machine);
    machine.transport.update(|balloon| balloon.set_target(1));
    assert_eq!(machine.read(register::INTERRUPT_STATUS), 3);
    machine.write(register::INTERRUPT_ACK, 1);
    assert_eq!(machine.read(register::INTERRUPT_STATUS), 2);
    assert!(machine.transport.line());
    machine.write(register::INTERRUPT_ACK, 0xffff_fffd);
    assert!(machine.transport.line());
    machine.write(register::INTERRUPT_ACK, 2);
    assert!(!machine.transport.line());
}

#[test]
fn a_changed_configuration_has_a_new_generation_and_interrupts_a_live_driver() {
    let mut machine = Machine::new();
    machine.transport.update(|balloon| balloon.set_target(5));
    assert!(!machine.transport.line(), "nobody there to be told");
    machine.probe(ALL);
    let generation = machine.read(register::CONFIG_GENERATION);
    machine.transport.update(|balloon| balloon.set_target(5));
    assert_eq!(machine.read(register::CONFIG_GENERATION), generation, "nothing new");
    assert!(!machine.transport.line());
    machine.transport.update(|balloon| balloon.set_target(6));
    assert_ne!(machine.read(register::CONFIG_GENERATION), generation);
    assert_eq!(machine.interrupt(), 2);
    assert_eq!(machine.read(register::CONFIG), 6);
}

#[test]
fn the_configuration_space_takes_any_width() {
    let mut machine = Machine::new();
    machine.probe(ALL);
    machine.transport.update(|balloon| balloon.set_target(0x0403_0201));
    let transport = &mut machine.transport;
    let config = register::CONFIG;
    for byte in 0..4 {
        assert_eq!(transport.read(config + byte, Width::Byte), byte + 1);
    }
    assert_eq!(transport.read(config + 2, Width::Half), 0x0403);
    assert_eq!(transport.read(config, Width::Word), 0x0403_0201);
    assert_eq!(transport.read(config, Width::Double), 0x0403_0201);
    for (place, byte) in [(4, 0x11_u64), (5, 0x22), (6, 0x33), (7, 0x44)] {
        assert_eq!(transport.write(config + place, Width::Byte, byte), Progress::Done);
    }
    assert_eq!(transport.device().actual(), 0x4433_2211);
    let _ = transport.write(config, Width::Double, 0x7777_7777_6666_6666);
    assert_eq!(transport.device().actual(), 0x7777_7777);
    assert_eq!(transport.device().target(), 0x0403_0201, "not the driver's to set");
    for offset in [config + 16, config + 0xff, 0xfff, u64::MAX] {
        assert_eq!(transport.read(offset, Width::Double), 0);
        let _ = transport.write(offset, Width::Double, u64::MAX);
    }
    assert_eq!(transport.read(config + 12, Width::Double), 0, "zero behind the end");
}

#[test]
fn registers_take_aligned_words_only() {
    let mut machine = Machine::new();
    for width in [Width::Byte, Width::Half, Width::Double] {
        assert_eq!(machine.transport.read(register::MAGIC, width), 0);
        let _ = machine.transport.write(register::STATUS, width, 1);
        assert_eq!(machine.transport.status(), Status::empty());
    }
    assert_eq!(machine.transport.read(2, Width::Word), 0);
}

#[test]
fn a_reset_gives_the_balloon_back_before_anything_else_happens() {
    let mut machine = Machine::new();
    let mut queues = machine.probe(ALL);
    let pages = machine.put_pages(0, &[0x40100, 0x40101]);
    queues[0].add(&machine.memory, &[pages]);
    queues[0].kick(&mut machine);
    assert_eq!(machine.backend.ballooned.len(), 2);
    machine.backend.releases_left = 3;
    let write = machine.transport.write(register::STATUS, Width::Word, 0);
    assert_eq!(write, Progress::MoreWork);
    assert_eq!(machine.read(register::STATUS), 0);
    assert!(!machine.transport.line());
    let slices = machine.slices;
    machine.work();
    assert_eq!(machine.slices - slices, 4, "a bounded piece each");
    assert!(machine.backend.ballooned.is_empty());

    let mut queues = machine.probe(ALL);
    queues[0].add(&machine.memory, &[pages]);
    queues[0].kick(&mut machine);
    assert_eq!(machine.backend.ballooned.len(), 2);
    assert_eq!(machine.transport.device().counters().mistakes.count(), 0);
}

#[test]
fn a_reset_with_nothing_inflated_leaves_nothing_to_do() {
    let mut machine = Machine::new();
    let write = machine.transport.write(register::STATUS, Width::Word, 0);
    assert_eq!(write, Progress::Done);
    let mut queues = machine.probe(ALL);
    let pages = machine.put_pages(0, &[0x40100]);
    queues[0].add(&machine.memory, &[pages]);
    queues[0].kick(&mut machine);
    machine.write(register::STATUS, 0);
    assert!(machine.backend.ballooned.is_empty());
    let write = machine.transport.write(register::STATUS, Width::Word, 0);
    assert_eq!(write, Progress::Done, "released by the reset before");
}

#[test]
fn power_on_keeps_the_target_and_leaves_nothing_to_do() {
    let mut machine = Machine::new();
    machine.probe(ALL);
    machine.transport.update(|balloon| balloon.set_target(7));
    machine.transport.power_on();
    assert_eq!(machine.read(register::STATUS), 0);
    let sel = machine.transport.write(register::QUEUE_SEL, Width::Word, 0);
    assert_eq!(sel, Progress::Done);
    assert_eq!(machine.read(register::CONFIG), 7);
}

#[test]
fn a_broken_device_says_so_once_and_a_reset_heals_it() {
    let mut machine = Machine::new();
    let mut queues = machine.probe(ALL);
    queues[0].set_available_index(&machine.memory, 200);
    machine.write(register::QUEUE_NOTIFY, 0);
    let fault = QueueFault::IndexRanAway { available: 200, next: 0 };
    assert_eq!(machine.transport.fault(), Some(fault));
    assert_eq!(machine.interrupt(), 2);
    assert_ne!(machine.read(register::STATUS) & status::NEEDS_RESET, 0);

    // Nothing is served any more, whichever queue.
    let pages = machine.put_pages(0, &[0x40100]);
    queues[1].add(&machine.memory, &[pages]);
    let accesses = machine.memory.accesses();
    machine.write(register::QUEUE_NOTIFY, 1);
    machine.write(register::QUEUE_NOTIFY, 0);
    assert_eq!(machine.memory.accesses(), accesses);
    assert!(!machine.transport.line());

    let mut queues = machine.probe(ALL);
    assert_eq!(machine.transport.fault(), None);
    queues[0].add(&machine.memory, &[pages]);
    queues[0].kick(&mut machine);
    assert!(queues[0].take(&machine.memory).is_some());
}

#[test]
fn there_is_no_shared_memory() {
    let mut machine = Machine::new();
    for offset in [0xb0, 0xb4, 0xb8, 0xbc] {
        assert_eq!(machine.read(offset), u32::MAX);
    }
}

#[test]
fn the_test_memory_has_holes() {
    let memory = FakeMemory::new(2);
    let second = FakeMemory::at(PAGE_SIZE);
    assert!(memory.read(FakeMemory::at(PAGE_SIZE - 2), &mut [0; 4]).is_ok());
    memory.take(second);
    assert!(memory.read(FakeMemory::at(PAGE_SIZE - 2), &mut [0; 4]).is_err());
    assert!(memory.read(FakeMemory::at(PAGE_SIZE - 4), &mut [0; 4]).is_ok());
    memory.give_back(second);
    assert!(memory.write(FakeMemory::at(PAGE_SIZE - 2), &[0; 4]).is_ok());
    assert!(memory.write(FakeMemory::at(2 * PAGE_SIZE - 2), &[0; 4]).is_err());
}
