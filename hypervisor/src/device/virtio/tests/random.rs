//! Drivers that do anything, and good ones that do much: no panic, bounded work, nothing lost.

use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::addr::{Ipa, PAGE_SIZE};
use crate::device::fake_memory::FakeMemory;
use crate::device::virtio::driver::{BUFFERS, DriverQueue, Machine};
use crate::device::virtio::mmio::SLOT_BYTES;
use crate::device::virtio::registers::register;
use crate::device::virtio::{balloon, feature};
use crate::device::{GuestMemory, Width};

const ALL: u64 = feature::COMMON | balloon::feature::OFFERED;

/// A guest that keeps a device busy for ever gets no further than this in a test.
const PATIENCE: u64 = 200;

fn width() -> impl Strategy<Value = Width> {
    prop::sample::select(vec![Width::Byte, Width::Half, Width::Word, Width::Double])
}

/// Values that get somewhere more often than random ones do.
fn telling() -> impl Strategy<Value = u64> {
    prop_oneof![
        0_u64..16,
        Just(128),
        Just(0x4000_0000),
        (0_u64..64).prop_map(|page| 0x4000_0000 + page * PAGE_SIZE),
        Just(ALL >> 32),
        Just(ALL & 0xffff_ffff),
        Just(0xf),
        any::<u64>(),
    ]
}

/// A descriptor that is good, or nearly.
fn descriptor() -> impl Strategy<Value = (Ipa, u32, u16, u16)> {
    let address = prop_oneof![
        (0..64 * PAGE_SIZE).prop_map(FakeMemory::at),
        (0_u64..16).prop_map(|n| FakeMemory::at(BUFFERS + 16 * n)),
        any::<u64>().prop_map(Ipa::new),
    ];
    let length = prop_oneof![Just(0), Just(4), Just(16), Just(160), 0_u32..70_000, any::<u32>()];
    let flags = prop_oneof![0_u16..8, Just(0), Just(1), Just(4), any::<u16>()];
    (address, length, flags, prop_oneof![0_u16..16, any::<u16>()])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_registers_may_be_written_with_anything(
        probed in any::<bool>(),
        accesses in prop::collection::vec(
            (any::<bool>(), prop_oneof![0..SLOT_BYTES, any::<u64>()], any::<bool>(), width(),
                telling()),
            0..200),
    ) {
        let mut machine = Machine::new();
        machine.patience = PATIENCE;
        if probed {
            machine.probe(ALL);
        }
        for (read, offset, word, width, value) in accesses {
            let (offset, width) = if word { (offset & !3, Width::Word) } else { (offset, width) };
            if read {
                machine.transport.read(offset, width);
            } else if machine.transport.write(offset, width, value).is_more() {
                machine.work();
            }
            let cause = machine.read(register::INTERRUPT_STATUS);
            prop_assert_eq!(machine.transport.line(), cause != 0);
        }
    }

    /// A driver sets everything up as it should, then fills tables and rings with whatever; `fate`
    /// rewrites memory behind the device's back.
    #[test]
    fn rings_may_hold_anything(
        which in 0_usize..4,
        table in prop::collection::vec(descriptor(), 1..32),
        inside in prop::collection::vec(descriptor(), 1..32),
        heads in prop::collection::vec(prop_oneof![0_u16..32, any::<u16>()], 1..64),
        available in prop_oneof![0_u16..64, any::<u16>()],
        pace in prop_oneof![Just(usize::MAX), 0_usize..10],
        features in prop_oneof![Just(ALL), Just(feature::VERSION_1 | balloon::feature::OFFERED)],
        gone in prop::option::of(0_u64..64),
        fate in prop::option::of(prop::collection::vec((0..64 * PAGE_SIZE, any::<u8>()), 1..64)),
    ) {
        let mut machine = Machine::new();
        machine.patience = PATIENCE;
        let mut queue = machine.probe(features).remove(which);
        machine.backend.pace = pace;
        for (i, descriptor) in (0..).zip(table) {
            DriverQueue::describe(&machine.memory, queue.descriptors, i, descriptor);
        }
        for (i, descriptor) in (0..).zip(inside) {
            DriverQueue::describe(&machine.memory, FakeMemory::at(BUFFERS), i, descriptor);
        }
        for head in heads {
            queue.offer(&machine.memory, head);
        }
        queue.set_available_index(&machine.memory, available);
        if let Some(page) = gone {
            machine.memory.take(FakeMemory::at(page * PAGE_SIZE));
        }
        if let Some(fate) = fate {
            machine.memory.set_adversary(move |bytes, access| {
                if let Some((place, byte)) = fate.get(access as usize % (2 * fate.len())) {
                    bytes[*place as usize] = *byte;
                }
            });
        }
        machine.write(register::QUEUE_NOTIFY, which as u32);
        // A broken device stays broken, a live one goes on.
        let broken = machine.transport.fault().is_some();
        prop_assert_eq!(machine.transport.is_live(), !broken);
        machine.write(register::QUEUE_NOTIFY, which as u32);
        if broken {
            prop_assert!(machine.transport.fault().is_some());
        }
    }

    /// A good driver, buffers cut in any way, some indirect, a backend of any pace: the balloon
    /// holds what it should, every buffer comes back once and in order.
    #[test]
    fn a_good_driver_loses_nothing(
        features in prop_oneof![Just(ALL), Just(feature::VERSION_1)],
        pace in prop_oneof![Just(usize::MAX), 1_usize..300],
        requests in prop::collection::vec(
            (any::<bool>(), 0_u32..1500, 1_u32..600, 1_u32..2000, any::<bool>(), any::<bool>()),
            1..20),
    ) {
        let mut machine = Machine::new();
        let mut queues = machine.probe(features);
        machine.backend.pace = pace;
        let mut expected = BTreeSet::new();
        let mut outstanding = [Vec::new(), Vec::new()];
        for (inflate, first, count, piece, indirect, kick) in requests {
            let pages: Vec<u32> = (first..first + count).map(|page| 0x40100 + page).collect();
            let which = usize::from(!inflate);
            let queue = &mut queues[which];
            let (start, length, _) = machine.put_pages(0, &pages);
            // At most 64 pieces.
            let piece = piece.max(length.div_ceil(64));
            let buffers: Vec<_> = (0..length)
                .step_by(piece as usize)
                .map(|at| (start.checked_add(at.into()).unwrap(), piece.min(length - at), false))
                .collect();
            let memory = &machine.memory;
            let head = if indirect && features == ALL {
                queue.add_indirect(memory, FakeMemory::at(BUFFERS + 0x4000), &buffers)
            } else {
                queue.add(memory, &buffers)
            };
            outstanding[which].push(u32::from(head));
            if inflate {
                expected.extend(&pages);
            } else {
                expected.retain(|page| !pages.contains(page));
            }
            // The pages are in one place: the device has to be done before the next request. Some
            // requests are seen by it without a notification, as it works on the other queue.
            queue.kick(&mut machine);
            if kick {
                machine.write(register::QUEUE_NOTIFY, 1 - which as u32);
            }
            prop_assert_eq!(&machine.backend.ballooned, &expected);
            for (queue, outstanding) in queues.iter_mut().zip(&mut outstanding) {
                let returned: Vec<_> =
                    core::iter::from_fn(|| queue.take(&machine.memory)).collect();
                let heads: Vec<_> = outstanding.drain(..).map(|head| (head, 0)).collect();
                prop_assert_eq!(returned, heads);
            }
            prop_assert_eq!(machine.interrupt(), 1);
        }
        prop_assert_eq!(machine.transport.fault(), None);
        prop_assert!(machine.memory.read_u16(queues[0].used).is_ok());
    }
}
