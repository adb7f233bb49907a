//! Chains and indices that make no sense (virtio 1.2, §2.7).
#![expect(unsafe_code, reason = "scribbles over a queue that a device reads")]

use super::{Random, still_works};
use crate::arch::time;
use crate::memory::{self, PAGE, Range};
use crate::outcome::{Outcome, failure};
use crate::run::Stub;
use crate::smp;
use crate::virtio::balloon::{Balloon, feature, fresh_block};
use crate::virtio::queue::{Descriptor, INDIRECT, NEXT, Queue, SIZE, WRITE};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How long the device gets to do nothing wrong.
const MOMENT: u64 = 5_000;

/// Breaks the inflate queue in one way, lets the device see it, and wants it to work again after a reset.
fn one(stub: &Stub, name: &str, spoil: impl FnOnce(&mut Queue, Range)) -> Outcome {
    let mut balloon = Balloon::open(stub, feature::MUST_TELL_HOST)?;
    let list = balloon.list([0u32; 4].into_iter());
    spoil(&mut balloon.inflate, list);
    balloon.inflate.notify();
    time::poll(MOMENT, || balloon.inflate.used() != 0);
    let (used, broken) = (balloon.inflate.used(), balloon.transport.is_broken());
    say!("note hostile-chains: {name}: {used} returned, needs reset {broken}");
    drop(balloon);
    still_works(stub, name)
}

fn chain(queue: &mut Queue, descriptors: &[(u64, u32, u16, u16)]) {
    for (index, (address, length, flags, next)) in descriptors.iter().enumerate() {
        let descriptor =
            Descriptor { address: *address, length: *length, flags: *flags, next: *next };
        queue.describe(index as u16, descriptor);
    }
    queue.offer(0);
}

/// Chains that loop, lead out of the table, or are not what the queue takes.
pub fn chains(stub: &Stub) -> Outcome {
    one(stub, "a descriptor that follows itself", |queue, list| {
        chain(queue, &[(list.start, 16, NEXT, 0)]);
    })?;
    one(stub, "two descriptors in a loop", |queue, list| {
        chain(queue, &[(list.start, 16, NEXT, 1), (list.start, 16, NEXT, 0)]);
    })?;
    one(stub, "a loop through the whole table", |queue, list| {
        for index in 0..SIZE {
            let next = (index + 1) % SIZE;
            queue
                .describe(index, Descriptor { address: list.start, length: 16, flags: NEXT, next });
        }
        queue.offer(0);
    })?;
    one(stub, "a next descriptor out of the table", |queue, list| {
        chain(queue, &[(list.start, 16, NEXT, 1000)]);
    })?;
    one(stub, "a next descriptor just out of the table", |queue, list| {
        chain(queue, &[(list.start, 16, NEXT, SIZE)]);
    })?;
    one(stub, "an indirect table that nobody agreed on", |queue, list| {
        chain(queue, &[(list.start, 64, INDIRECT, 0)]);
    })?;
    one(stub, "an indirect table of odd length that goes on", |queue, list| {
        chain(queue, &[(list.start, 17, INDIRECT | NEXT, 1), (list.start, 16, INDIRECT, 0)]);
    })?;
    one(stub, "all flags", |queue, list| chain(queue, &[(list.start, 16, 0xffff, 1)]))?;
    one(stub, "a readable buffer after a writable one", |queue, list| {
        chain(queue, &[(list.start, 16, WRITE | NEXT, 1), (list.start, 16, 0, 0)]);
    })?;
    one(stub, "a length of 0", |queue, list| chain(queue, &[(list.start, 0, 0, 0)]))?;
    one(stub, "a length of 4 GiB", |queue, list| chain(queue, &[(list.start, !3, WRITE, 0)]))?;
    one(stub, "an address that wraps", |queue, _| chain(queue, &[(!0 - 3, 4096, 0, 0)]))?;
    one(stub, "an address in a device", |queue, _| {
        chain(queue, &[(stub.machine.distributor.start, 4096, 0, 0)]);
    })
}

/// Heads and indices that are out of range, run away or run back.
pub fn indices(stub: &Stub) -> Outcome {
    one(stub, "a head out of the table", |queue, _| queue.offer(0xffff))?;
    one(stub, "a head just out of the table", |queue, _| queue.offer(SIZE))?;
    one(stub, "an index 1000 ahead", |queue, _| queue.set_available(1000))?;
    one(stub, "an index just too far ahead", |queue, _| queue.set_available(SIZE + 1))?;
    one(stub, "an index behind", |queue, _| queue.set_available(0xffff))?;
    one(stub, "the same head 64 times", |queue, list| {
        chain(queue, &[(list.start, 16, 0, 0)]);
        queue.set_available(SIZE);
    })?;
    one(stub, "an index that runs away", |queue, list| {
        chain(queue, &[(list.start, 16, 0, 0)]);
        for turn in 1..200u16 {
            queue.set_available(turn.wrapping_mul(SIZE));
            queue.notify();
        }
    })
}

static SCRIBBLE: AtomicU64 = AtomicU64::new(0);
static STOP: AtomicBool = AtomicBool::new(false);

/// Writes at random into the queue's page, so that the device never sees the same twice. Addresses stay within two pages
/// that are given up for it, or are nowhere.
fn scribble(index: usize) {
    let base = SCRIBBLE.load(Ordering::Acquire);
    let mut random = Random(index as u64);
    while !STOP.load(Ordering::Acquire) {
        let value = match random.below(4) {
            0 => random.next() | 1 << 63,
            1 => base + PAGE + random.below(PAGE),
            2 => random.below(0x40) << 48 | random.below(8) << 32 | random.below(64),
            _ => random.below(1 << 16) | random.below(1 << 16) << 16,
        };
        // The rings, or the descriptors; words of 64 bits hold flags and indices as well.
        let word = random.below(PAGE / 8);
        // SAFETY: the page belongs to the queue that this test has made for being spoilt.
        unsafe { ((base + word * 8) as *mut u64).write_volatile(value) }
    }
}

/// Another vCPU rewrites the queue while the device works on it.
pub fn scribbled(stub: &Stub) -> Outcome {
    if stub.machine.cpus().len() < 2 {
        skip!("one CPU only");
    }
    // The queue, and a page of numbers which are all of the block that they are in.
    let Some(pages) = memory::take(2 * PAGE, PAGE) else { skip!("no untouched memory left") };
    let block = fresh_block()?;
    for word in 0..PAGE / 4 {
        let number = (block.start / PAGE + word % 512) as u32;
        // SAFETY: the page was taken for this.
        unsafe { ((pages.start + PAGE + word * 4) as *mut u32).write_volatile(number) }
    }
    let mut balloon = Balloon::open(stub, feature::MUST_TELL_HOST)?;
    SCRIBBLE.store(pages.start, Ordering::Release);
    STOP.store(false, Ordering::Release);
    let rounds = stub.orders.number("rounds", 300);
    let mut broken = 0;
    let mut outcome = Ok(());
    smp::with_others(stub.machine, scribble, || {
        for round in 0..rounds {
            let transport = balloon.transport;
            let Some(features) = transport.negotiate(balloon.features) else {
                outcome =
                    Err(failure(format_args!("round {round}: the device no longer negotiates")));
                break;
            };
            balloon.features = features;
            let Some(mut queue) =
                Queue::open(transport, round as u32 % 2, Range::sized(pages.start, PAGE))
            else {
                outcome =
                    Err(failure(format_args!("round {round}: the device has lost its queue")));
                break;
            };
            transport.go();
            for _ in 0..20 {
                queue.offer(round as u16 % SIZE);
                queue.notify();
            }
            broken += u32::from(transport.is_broken());
        }
        STOP.store(true, Ordering::Release);
    })
    .map_err(|(index, refused)| failure(format_args!("CPU {index}: {refused:?}")))?;
    outcome?;
    say!(
        "note hostile-scribbled: {broken} of {rounds} rounds ended with a device that needs a reset"
    );
    drop(balloon);
    still_works(stub, "after a queue that changed all the time")
}
