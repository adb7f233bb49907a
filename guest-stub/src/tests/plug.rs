//! The memory device: what is plugged is there and zero, what is not cannot be reached, and answers say so.

use crate::arch::probe::{Access, Class};
use crate::arch::{cpu, time};
use crate::memory::{BLOCK, PAGE, Range};
use crate::outcome::Outcome;
use crate::run::Stub;
use crate::tests::balloon::{Seen, expect, fill, look};
use crate::virtio::balloon::{self, Balloon};
use crate::virtio::mem::{ACK, Answer, Config, Mem, feature, state};

/// How many blocks the tests want.
const BLOCKS: u64 = 8;

/// Returns the first and the last page of each block in a range.
fn edges(range: Range) -> impl Iterator<Item = u64> {
    let block = |start: u64| [start, start + BLOCK / 2, start + BLOCK - PAGE];
    (range.start..range.end).step_by(BLOCK as usize).flat_map(block)
}

/// Ends the test unless a range is seen as `expected` where its blocks begin and end.
pub fn expect_edges(range: Range, what: &str, expected: Seen) -> Outcome {
    for page in edges(range) {
        let seen = look(page);
        ensure!(seen == expected, "{what}: page {page:#x} is {seen:x?}");
    }
    Ok(())
}

/// Ends the test unless the device says so of the blocks in a range.
fn expect_state(mem: &mut Mem, range: Range, state: u16) -> Outcome {
    let answer = mem.state(range)?;
    ensure!(answer == Answer::Ack(state), "the state of {range:x?} is {answer:?}");
    Ok(())
}

fn expect_plugged(mem: &Mem, bytes: u64) -> Outcome {
    let config = mem.config();
    ensure!(config.plugged == bytes, "{bytes:#x} should be plugged: {config:x?}");
    Ok(())
}

/// The configuration space makes sense, and the region is not in the way of anything.
pub fn identity(stub: &Stub) -> Outcome {
    let mem = Mem::open(stub)?;
    let config = mem.config();
    say!("note plug-identity: features {:#x}, {config:x?}", mem.features);
    let Config { block, region, usable, plugged, requested } = config;
    ensure!(mem.features & (1 << 32) != 0, "not of virtio 1");
    ensure!(
        mem.features & feature::UNPLUGGED_INACCESSIBLE != 0,
        "UNPLUGGED_INACCESSIBLE is not offered"
    );
    ensure!(block.is_power_of_two() && block >= BLOCK, "blocks of {block:#x}");
    ensure!(region.size() > 0 && region.start.is_multiple_of(block), "{region:x?}");
    ensure!(usable <= region.size() && plugged <= usable && requested <= usable, "{config:x?}");
    ensure!(plugged.is_multiple_of(block) && requested.is_multiple_of(block), "{config:x?}");
    for other in stub.machine.ram() {
        ensure!(!region.overlaps(other), "the region overlaps memory at {other:x?}");
    }
    ensure!(plugged == 0, "{plugged:#x} is plugged from the start");
    expect_edges(Range { end: region.start + usable, ..region }, "from the start", Seen::Gone)
}

/// A block comes zeroed and goes for good, its neighbours stay what they are.
pub fn block(stub: &Stub) -> Outcome {
    let mut mem = Mem::open_empty(stub, BLOCKS)?;
    let (block, next) = (mem.blocks(1, 1), mem.blocks(2, 1));
    expect_state(&mut mem, block, state::UNPLUGGED)?;
    for round in 0..stub.orders.number("rounds", 20) {
        mem.must_plug(block)?;
        expect(block, "plugged", |seen| seen == Seen::Zero)?;
        fill(block);
        expect_edges(mem.blocks(0, 1), "before it", Seen::Gone)?;
        expect_edges(next, "behind it", Seen::Gone)?;
        expect_state(&mut mem, block, state::PLUGGED)?;
        expect_plugged(&mem, block.size())?;
        if round == 0 {
            // A neighbour comes and goes.
            mem.must_plug(next)?;
            mem.must_unplug(next)?;
        }
        expect(block, "kept", |seen| seen == Seen::Marked)?;
        mem.must_unplug(block)?;
        expect_edges(block, "unplugged", Seen::Gone)?;
        expect_state(&mut mem, block, state::UNPLUGGED)?;
        expect_plugged(&mem, 0)?;
    }
    Ok(())
}

/// Whatever instruction touches unplugged memory takes a synchronous external abort there.
pub fn absent(stub: &Stub) -> Outcome {
    let mut mem = Mem::open_empty(stub, 1)?;
    let block = mem.blocks(0, 1);
    for unplugged in [false, true] {
        if unplugged {
            mem.must_plug(block)?;
            fill(block);
            mem.must_unplug(block)?;
        }
        for way in [
            Access::Read8,
            Access::Read32,
            Access::Write8,
            Access::Write64,
            Access::ReadPair,
            Access::WritePair,
            Access::ReadIndexed,
            Access::Exclusive,
            Access::Execute,
        ] {
            let address = block.start + BLOCK / 2 + 64;
            match way.at(address, 0) {
                Ok(value) => fail!("{way:?} gives {value:#x}"),
                Err(fault) => {
                    ensure!(fault.class() == Class::External, "{way:?}: {fault}");
                    ensure!(fault.far == address, "{way:?}: FAR {:#x}", fault.far);
                }
            }
        }
    }
    Ok(())
}

/// Several blocks in one request; a request of which a part does not fit is refused as a whole.
pub fn many(stub: &Stub) -> Outcome {
    let mut mem = Mem::open_empty(stub, BLOCKS)?;
    let all = mem.blocks(0, BLOCKS);
    let (first, middle, last) = (mem.blocks(0, 3), mem.blocks(3, 2), mem.blocks(5, 3));
    mem.must_plug(all)?;
    expect_edges(all, "plugged", Seen::Zero)?;
    expect_state(&mut mem, all, state::PLUGGED)?;
    fill(all);
    mem.must_unplug(middle)?;
    expect_state(&mut mem, all, state::MIXED)?;
    for (answer, what) in [
        (mem.plug(all)?, "plugging what is plugged in part"),
        (mem.plug(first)?, "plugging what is plugged"),
        (mem.unplug(all)?, "unplugging what is unplugged in part"),
        (mem.unplug(middle)?, "unplugging what is unplugged"),
    ] {
        ensure!(answer == Answer::Error, "{what}: {answer:?}");
    }
    expect_plugged(&mem, first.size() + last.size())?;
    expect(first, "kept", |seen| seen == Seen::Marked)?;
    expect_edges(middle, "unplugged", Seen::Gone)?;
    expect(last, "kept", |seen| seen == Seen::Marked)?;
    mem.must_plug(middle)?;
    expect(middle, "plugged again", |seen| seen == Seen::Zero)?;
    let answer = mem.unplug_all()?;
    ensure!(answer == ACK, "unplugging everything: {answer:?}");
    expect_edges(all, "after everything was unplugged", Seen::Gone)?;
    expect_state(&mut mem, all, state::UNPLUGGED)?;
    expect_plugged(&mem, 0)
}

/// No more can be plugged than the host wants.
pub fn limit(stub: &Stub) -> Outcome {
    let mut mem = Mem::open_empty(stub, BLOCKS)?;
    let Config { block, usable, requested, .. } = mem.config();
    let wanted = requested / block;
    if usable / block <= wanted {
        skip!("the host wants all to be plugged");
    }
    let answer = mem.plug(mem.blocks(0, wanted + 1))?;
    ensure!(answer == Answer::Nack, "plugging too much at once: {answer:?}");
    expect_plugged(&mem, 0)?;
    mem.must_plug(mem.blocks(1, wanted))?;
    let answer = mem.plug(mem.blocks(0, 1))?;
    ensure!(answer == Answer::Nack, "plugging one too many: {answer:?}");
    expect_edges(mem.blocks(0, 1), "refused", Seen::Gone)?;
    expect_plugged(&mem, requested)?;
    let answer = mem.unplug_all()?;
    ensure!(answer == ACK, "unplugging everything: {answer:?}");
    Ok(())
}

/// A reset of the device leaves plugged what is plugged, and its contents (§5.15.6.2).
pub fn reset(stub: &Stub) -> Outcome {
    let mut mem = Mem::open_empty(stub, 2)?;
    let block = mem.blocks(1, 1);
    mem.must_plug(block)?;
    fill(block);
    drop(mem);
    expect(block, "after a reset", |seen| seen == Seen::Marked)?;
    let mut mem = Mem::open(stub)?;
    expect_plugged(&mem, block.size())?;
    expect_state(&mut mem, block, state::PLUGGED)?;
    let both = mem.blocks(0, 2);
    expect_state(&mut mem, both, state::MIXED)?;
    let answer = mem.unplug_all()?;
    ensure!(answer == ACK, "unplugging everything: {answer:?}");
    expect_edges(block, "unplugged", Seen::Gone)
}

/// A driver that might read unplugged memory is refused, or is given nothing that it does not plug.
pub fn old_driver(stub: &Stub) -> Outcome {
    drop(Mem::open_empty(stub, 1)?);
    // Not even brought up: as it should be.
    let Ok(mut mem) = Mem::open_with(stub, 0) else { return Ok(()) };
    let block = mem.blocks(0, 1);
    expect_edges(block, "never plugged", Seen::Gone)?;
    let answer = mem.plug(block)?;
    say!("note plug-old-driver: plugging: {answer:?}");
    expect_edges(block, "plugged", if answer == ACK { Seen::Zero } else { Seen::Gone })
}

/// The device interrupts when it has answered.
pub fn interrupts(stub: &Stub) -> Outcome {
    let mut mem = Mem::open_empty(stub, 1)?;
    let interrupt = mem.transport.interrupt;
    let block = mem.blocks(0, 1);
    for _ in 0..2 {
        for plug in [true, false] {
            let before = cpu::this().count(interrupt);
            if plug {
                mem.must_plug(block)?
            } else {
                mem.must_unplug(block)?
            }
            ensure!(
                time::poll(1_000_000, || cpu::this().count(interrupt) != before),
                "no interrupt after a request"
            );
        }
    }
    Ok(())
}

/// The balloon works in plugged memory; what is in it goes when its block is unplugged, and is not in it any more when
/// the block is plugged again.
pub fn with_balloon(stub: &Stub) -> Outcome {
    let mut mem = Mem::open_empty(stub, 2)?;
    let mut balloon = Balloon::open(stub, balloon::feature::MUST_TELL_HOST)?;
    let block = mem.blocks(0, 1);
    mem.must_plug(block)?;
    fill(block);
    let pages = Range::sized(block.start + 3 * PAGE, 5 * PAGE);
    balloon.give(pages)?;
    expect(pages, "in the balloon", |seen| seen == Seen::Gone)?;
    balloon.take_back(pages)?;
    expect(pages, "had back", |seen| seen == Seen::Zero)?;
    balloon.report_free(&[block])?;
    expect(block, "reported", |seen| seen == Seen::Zero)?;
    balloon.give(pages)?;
    mem.must_unplug(block)?;
    expect_edges(block, "unplugged", Seen::Gone)?;
    mem.must_plug(block)?;
    expect(block, "plugged again", |seen| seen == Seen::Zero)?;
    mem.must_unplug(block)
}

/// Follows the host's target for `seconds=<n>`; only by its full name, for whoever drives the host meanwhile. Keeps
/// `keep=<blocks>` of what it once had, as a guest does that cannot spare them. With `patient=1` it asks again for what
/// the device refuses for now.
pub fn follow(stub: &Stub) -> Outcome {
    let mut mem = Mem::open(stub)?;
    let Config { block, mut plugged, .. } = mem.config();
    let keep = stub.orders.number("keep", 0) * block;
    let patient = stub.orders.number("patient", 0) != 0;
    let mut refused = 0;
    let interrupt = mem.transport.interrupt;
    let before = cpu::this().count(interrupt);
    let mut told = false;
    say!("note plug-follow: ready");
    let end = time::now() + stub.orders.number("seconds", 10) * time::frequency();
    while time::now() < end {
        let requested = mem.config().requested;
        if plugged < requested {
            told |= cpu::this().count(interrupt) != before;
            let next = mem.blocks(plugged / block, 1);
            match mem.plug(next)? {
                Answer::Nack | Answer::Busy if patient => {
                    refused += 1;
                    continue;
                }
                answer => ensure!(answer == ACK, "plugging {next:x?}: {answer:?}"),
            }
            expect_edges(next, "plugged", Seen::Zero)?;
            fill(Range::sized(next.start, PAGE));
            plugged += block;
        } else if plugged > requested.max(keep) {
            let last = mem.blocks(plugged / block - 1, 1);
            match mem.unplug(last)? {
                Answer::Nack | Answer::Busy if patient => {
                    refused += 1;
                    continue;
                }
                answer => ensure!(answer == ACK, "unplugging {last:x?}: {answer:?}"),
            }
            plugged -= block;
        } else {
            cpu::relax();
            continue;
        }
        if plugged == requested {
            say!("note plug-follow: {} MiB plugged, {refused} times refused", plugged >> 20);
        }
    }
    ensure!(told || plugged == 0, "the host's wish came without an interrupt");
    Ok(())
}
