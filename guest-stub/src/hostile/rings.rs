//! Queues in places where no queue can be, and registers of virtio used in the wrong order.

use super::still_works;
use crate::arch::time;
use crate::memory::{PAGE, Range};
use crate::outcome::Outcome;
use crate::run::Stub;
use crate::virtio::balloon::{self, Balloon, feature, fresh_block};
use crate::virtio::mmio::{self, status};
use crate::virtio::queue::Queue;

/// Where the three parts of a queue are: descriptors, available ring, used ring.
type Places = [u64; 3];

fn one(stub: &Stub, name: &str, places: Places) -> Outcome {
    let mut balloon = Balloon::open(stub, feature::MUST_TELL_HOST)?;
    let list = balloon.list([0u32; 4].into_iter());
    let transport = balloon.transport;
    // Once more, with the inflate queue elsewhere.
    let features = transport.negotiate(balloon.features);
    ensure!(features == Some(balloon.features), "{name}: the device no longer negotiates");
    let Some(queue) = Queue::open(transport, 0, balloon.inflate.memory()) else {
        fail!("{name}: the device has lost its queue")
    };
    balloon.inflate = queue;
    transport.write(mmio::QUEUE_SEL, 0);
    transport.write(mmio::QUEUE_READY, 0);
    let [descriptors, available, used] = places;
    balloon.inflate.place(descriptors, available, used);
    transport.write(mmio::QUEUE_READY, 1);
    transport.go();
    balloon.inflate.describe(
        0,
        crate::virtio::queue::Descriptor { address: list.start, length: 16, flags: 0, next: 0 },
    );
    balloon.inflate.offer(0);
    balloon.inflate.notify();
    balloon.inflate.notify();
    time::poll(5_000, || transport.is_broken());
    say!("note hostile-rings: {name}: needs reset {}", transport.is_broken());
    drop(balloon);
    still_works(stub, name)
}

/// Rings outside of memory, in devices, wrapped around, not aligned.
pub fn placed(stub: &Stub) -> Outcome {
    let good = Balloon::open(stub, feature::MUST_TELL_HOST)?.inflate.memory().start;
    let end = stub.machine.ram().map(|ram| ram.end).max().unwrap_or(0);
    let device = stub.machine.distributor.start;
    let (available, used) = (good + 1024, good + 2048);
    one(stub, "descriptors behind memory", [end, available, used])?;
    one(stub, "available ring behind memory", [good, end, used])?;
    one(stub, "used ring behind memory", [good, available, end])?;
    one(stub, "used ring across the end of memory", [good, available, end - 8])?;
    one(stub, "descriptors in a device", [device, available, used])?;
    one(stub, "used ring in a device", [good, available, device])?;
    one(stub, "available ring at address 0", [good, 0, used])?;
    one(stub, "rings that wrap", [!15, !1, !3])?;
    one(stub, "rings far beyond", [1 << 52, 1 << 56, 1 << 60])?;
    one(stub, "rings that are not aligned", [good + 1, available + 1, used + 1])?;
    one(stub, "all rings in one place", [good, good, good])
}

/// A queue that goes into the balloon by its own hand, or whose list does.
pub fn own_page(stub: &Stub) -> Outcome {
    for list_too in [false, true] {
        let mut balloon = Balloon::open(stub, feature::MUST_TELL_HOST)?;
        let block = fresh_block()?;
        let transport = balloon.transport;
        let page = Range::sized(block.start, PAGE);
        ensure!(transport.negotiate(balloon.features).is_some(), "the device no longer negotiates");
        let Some(queue) = Queue::open(transport, 0, page) else {
            fail!("the device has lost its queue")
        };
        balloon.inflate = queue;
        transport.go();
        if list_too {
            balloon.buffer = Range::sized(block.start + PAGE, PAGE);
        }
        let numbers = [page.start / PAGE, page.start / PAGE + 1].map(|number| number as u32);
        let list = balloon.list(numbers.into_iter());
        balloon.inflate.describe(
            0,
            crate::virtio::queue::Descriptor { address: list.start, length: 8, flags: 0, next: 0 },
        );
        balloon.inflate.offer(0);
        balloon.inflate.notify();
        time::poll(5_000, || transport.is_broken());
        balloon.inflate.notify();
        say!("note hostile-own-page: list too {list_too}: needs reset {}", transport.is_broken());
        drop(balloon);
        still_works(stub, "after a queue in the balloon")?;
    }
    Ok(())
}

/// Registers in the wrong order, queues that are not there, sizes that no queue has, features that nobody offers.
pub fn protocol(stub: &Stub) -> Outcome {
    let transport = balloon::find(stub)?;
    for queue in [0, 1, 2, 3, 4, 5, 7, 64, 0x8000_0000, !0] {
        // Before anything has been agreed on.
        transport.write(mmio::QUEUE_NOTIFY, queue);
    }
    transport.write(mmio::STATUS, status::DRIVER_OK);
    transport.write(mmio::QUEUE_NOTIFY, 0);
    transport.reset();
    transport.write(mmio::STATUS, 0xff & !status::NEEDS_RESET);
    transport.write(mmio::QUEUE_NOTIFY, 0);
    transport.reset();
    ensure!(transport.negotiate(0).is_some(), "the device no longer negotiates");
    for index in [0, 1, 5, 1000, !0] {
        transport.write(mmio::QUEUE_SEL, index);
        for size in [0, 1, 3, 65, 1000, 0x8000, 0x1_0000, 0x8000_0000, !0] {
            transport.write(mmio::QUEUE_NUM, size);
            transport.write(mmio::QUEUE_READY, 1);
            transport.write(mmio::QUEUE_NOTIFY, index);
            transport.write(mmio::QUEUE_READY, 0);
        }
        // Ready without a place.
        transport.write(mmio::QUEUE_READY, 1);
        transport.write(mmio::QUEUE_READY, !0);
    }
    transport.go();
    for queue in [0, 1, 2, 3, 4, 5, 7, 64, 0x8000_0000, !0] {
        transport.write(mmio::QUEUE_NOTIFY, queue);
    }
    // Features after the fact, and those that nobody offers.
    transport.write(mmio::DRIVER_FEATURES_SEL, 0);
    transport.write(mmio::DRIVER_FEATURES, !0);
    transport.write(mmio::DRIVER_FEATURES_SEL, 77);
    transport.write(mmio::DRIVER_FEATURES, !0);
    transport.reset();
    transport.write(mmio::STATUS, status::ACKNOWLEDGE | status::DRIVER);
    for half in 0..2 {
        transport.write(mmio::DRIVER_FEATURES_SEL, half);
        transport.write(mmio::DRIVER_FEATURES, !0);
    }
    transport.write(mmio::STATUS, status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK);
    let accepted = transport.read(mmio::STATUS) & status::FEATURES_OK != 0;
    ensure!(!accepted || stub.orders.plain(), "FEATURES_OK with features that nobody offers");
    // What may only be read.
    for register in
        [mmio::MAGIC, mmio::VERSION, mmio::DEVICE_ID, mmio::DEVICE_FEATURES, mmio::QUEUE_NUM_MAX]
    {
        transport.write(register, !0);
    }
    // Reset without an end.
    for round in 0..200 {
        transport.write(mmio::STATUS, round % 16);
        transport.write(mmio::STATUS, 0);
    }
    still_works(stub, "after registers in the wrong order")
}
