//! Requests to the memory device that make no sense, or that change what they themselves stand in.
#![expect(unsafe_code, reason = "spoils requests that a device reads")]

use super::{Random, still_works};
use crate::arch::{probe, time};
use crate::memory::{PAGE, Range};
use crate::outcome::{Outcome, Verdict};
use crate::run::Stub;
use crate::tests::balloon::{Seen, fill};
use crate::tests::plug::expect_edges;
use crate::virtio::balloon::{self, Balloon};
use crate::virtio::mem::{ACK, Answer, Config, Mem, RESPONSE_BYTES, kind, state};
use crate::virtio::mmio;
use crate::virtio::queue::{Queue, Silent, WRITE};

/// How long the device gets to do nothing wrong.
const MOMENT: u64 = 5_000;
/// The most blocks that the model of the random requests knows of.
const MOST: usize = 128;

/// Which blocks ought to be plugged.
struct Model {
    config: Config,
    plugged: [bool; MOST],
}

impl Model {
    fn count(&self) -> u64 {
        self.plugged.iter().filter(|plugged| **plugged).count() as u64
    }

    /// Returns the blocks that a request names, where they are blocks.
    fn named(&mut self, address: u64, blocks: u16) -> Option<&mut [bool]> {
        let offset = address.checked_sub(self.config.region.start)?;
        let (first, size) = (offset / self.config.block, self.config.usable / self.config.block);
        let end = first.checked_add(blocks.into())?;
        if !offset.is_multiple_of(self.config.block) || blocks == 0 || end > size {
            return None;
        }
        self.plugged.get_mut(first as usize..end as usize)
    }

    /// Does what a request says and returns the answer (§5.15.6).
    fn answer(&mut self, kind: u16, address: u64, blocks: u16) -> Answer {
        let room = self.config.requested / self.config.block - self.count();
        if kind == kind::UNPLUG_ALL {
            self.plugged = [false; MOST];
            return ACK;
        }
        let Some(named) = self.named(address, blocks) else { return Answer::Error };
        let count = named.iter().filter(|plugged| **plugged).count();
        match (kind, count) {
            (kind::PLUG, 0) if u64::from(blocks) > room => return Answer::Nack,
            (kind::PLUG, 0) => named.fill(true),
            (kind::UNPLUG, _) if count == named.len() => named.fill(false),
            (kind::STATE, 0) => return Answer::Ack(state::UNPLUGGED),
            (kind::STATE, _) if count == named.len() => return Answer::Ack(state::PLUGGED),
            (kind::STATE, _) => return Answer::Ack(state::MIXED),
            _ => return Answer::Error,
        }
        ACK
    }
}

/// Ends the test unless each block is what the device says that it is.
fn says_what_is(mem: &mut Mem) -> Outcome {
    let Config { block, usable, plugged, .. } = mem.config();
    let mut counted = 0;
    for index in 0..usable / block {
        let range = mem.blocks(index, 1);
        let answer = mem.state(range)?;
        let there = [range.start, range.end - 8].map(|address| probe::read(address).is_ok());
        let expected = match answer {
            Answer::Ack(state::PLUGGED) => [true; 2],
            Answer::Ack(state::UNPLUGGED) => [false; 2],
            other => fail!("the state of a block is {other:?}"),
        };
        ensure!(there == expected, "block {index} is {answer:?}, and reached: {there:?}");
        counted += u64::from(expected == [true; 2]) * block;
    }
    ensure!(counted == plugged, "{counted:#x} bytes are plugged, it says {plugged:#x}");
    Ok(())
}

/// Requests of all types for blocks anywhere: each answer is what a model says, and so is memory in the end.
pub fn random(stub: &Stub) -> Outcome {
    let mut mem = Mem::open_empty(stub, 8)?;
    let mut random = Random::new(stub);
    let mut model = Model { config: mem.config(), plugged: [false; MOST] };
    let Config { block, region, usable, .. } = model.config;
    if usable / block > MOST as u64 {
        skip!("more blocks than this test keeps in mind");
    }
    for round in 0..stub.orders.number("rounds", 20) * 50 {
        let kind = match random.below(40) {
            0 => random.next() as u16,
            1 => kind::UNPLUG_ALL,
            2..16 => kind::PLUG,
            16..28 => kind::UNPLUG,
            _ => kind::STATE,
        };
        let within = region.start + random.below(usable / block) * block;
        let address = match random.below(16) {
            0 => random.next(),
            1 => within + random.below(block),
            2 => within.wrapping_sub(region.size()),
            3 => region.end,
            4 => !0 << 21,
            _ => within,
        };
        let blocks = match random.below(16) {
            0 => random.next() as u16,
            1 => 0,
            2 => (usable / block) as u16,
            _ => random.below(4) as u16 + 1,
        };
        let expected = model.answer(kind, address, blocks);
        let answer = mem.request(kind, address, blocks)?;
        ensure!(
            answer == expected || answer == Answer::Busy && expected == ACK && kind == kind::PLUG,
            "request {round}, type {kind}, {blocks} blocks at {address:#x}: {answer:?}, not {expected:?}"
        );
        if answer != expected {
            // The machine has no memory to spare.
            model.answer(kind::UNPLUG, address, blocks);
        }
    }
    says_what_is(&mut mem)?;
    let bytes = model.count() * block;
    ensure!(mem.config().plugged == bytes, "not {bytes:#x} bytes: {:x?}", mem.config());
    let answer = mem.unplug_all()?;
    ensure!(answer == ACK, "unplugging everything: {answer:?}");
    expect_edges(Range { end: region.start + usable, ..region }, "in the end", Seen::Gone)
}

/// The buffers of a request, and whether the device may write them.
type Shape = [Option<(Range, u16)>; 2];

/// Returns a driver with its block 0 plugged, and a request written that is about it, or about the next one to be plugged.
fn with_request(stub: &Stub, kind: u16) -> Result<(Mem, Range, Range), Verdict> {
    let mut mem = Mem::open_empty(stub, 2)?;
    let block = mem.blocks(0, 1);
    mem.must_plug(block)?;
    let address = if kind == kind::PLUG { block.end } else { block.start };
    let (request, response) = mem.write_request(kind, address, 1);
    Ok((mem, request, response))
}

/// Sends a request in such buffers, whatever comes of it, and wants the device to work after a reset.
fn one(stub: &Stub, kind: u16, name: &str, shape: impl Fn(&Mem, Range, Range) -> Shape) -> Outcome {
    let (mut mem, request, response) = with_request(stub, kind)?;
    match shape(&mem, request, response) {
        [Some(one), Some(two)] => mem.queue.chain([one, two].into_iter()),
        [one, two] => mem.queue.chain(one.or(two).into_iter()),
    }
    mem.queue.offer(0);
    mem.queue.notify();
    let answered = mem.queue.wait(MOMENT).is_ok();
    let broken = mem.transport.is_broken();
    say!(
        "note hostile-block-requests: type {kind}, {name}: returned {answered}, needs reset {broken}"
    );
    drop(mem);
    let mut mem = Mem::open(stub)?;
    says_what_is(&mut mem)?;
    let answer = mem.unplug_all()?;
    ensure!(answer == ACK, "{name}: unplugging everything afterwards: {answer:?}");
    Ok(())
}

/// Requests that are cut, in pieces, without room for the answer, in memory that is not there, or in the very block that
/// they unplug.
pub fn shapes(stub: &Stub) -> Outcome {
    pieces(stub)?;
    let cut = |range: Range, bytes: u64| Range::sized(range.start, bytes);
    for kind in [kind::PLUG, kind::UNPLUG, kind::UNPLUG_ALL, kind::STATE] {
        one(stub, kind, "a cut request", |_, request, response| {
            [Some((cut(request, 23), 0)), Some((response, WRITE))]
        })?;
        one(stub, kind, "a request of one byte", |_, request, response| {
            [Some((cut(request, 1), 0)), Some((response, WRITE))]
        })?;
        one(stub, kind, "a cut response", |_, request, response| {
            [Some((request, 0)), Some((cut(response, 1), WRITE))]
        })?;
        one(stub, kind, "no response", |_, request, _| [Some((request, 0)), None])?;
        one(stub, kind, "no request", |_, _, response| [None, Some((response, WRITE))])?;
        one(stub, kind, "a response to read", |_, request, response| {
            [Some((request, 0)), Some((response, 0))]
        })?;
        one(stub, kind, "one buffer for both", |_, request, _| {
            [Some((request, 0)), Some((request, WRITE))]
        })?;
        one(stub, kind, "a request in a hole", |mem, _, response| {
            [Some((mem.blocks(1, 1), 0)), Some((response, WRITE))]
        })?;
        one(stub, kind, "a response in a hole", |mem, request, _| {
            [Some((request, 0)), Some((mem.blocks(1, 1), WRITE))]
        })?;
        one(stub, kind, "all of it in its own block", |mem, request, _| {
            let request = copied(request, mem.blocks(0, 1).start);
            [Some((request, 0)), Some((Range::sized(request.end, RESPONSE_BYTES), WRITE))]
        })?;
    }
    own_queue(stub)?;
    still_works(stub, "after requests to the memory device")
}

/// Copies a request to an address, and returns where it is then.
fn copied(request: Range, to: u64) -> Range {
    for offset in (0..request.size()).step_by(8) {
        // SAFETY: the request is the driver's own, the place is in a block that is plugged.
        unsafe {
            let word = ((request.start + offset) as *const u64).read_volatile();
            ((to + offset) as *mut u64).write_volatile(word);
        }
    }
    Range::sized(to, request.size())
}

/// A request and a response in many pieces are as good as whole ones (§2.7.4.1).
fn pieces(stub: &Stub) -> Outcome {
    let (mut mem, request, response) = with_request(stub, kind::STATE)?;
    let ends = [0, 1, 7, 8, 17, request.size()].map(|offset| request.start + offset);
    let parts = [0, 3, RESPONSE_BYTES].map(|offset| response.start + offset);
    let part = |ends: &[u64], index: usize| Range { start: ends[index], end: ends[index + 1] };
    let buffers: [_; 7] = core::array::from_fn(|index| match index {
        0..5 => (part(&ends, index), 0),
        _ => (part(&parts, index - 5), WRITE),
    });
    mem.queue.submit(buffers.into_iter())?;
    let answer = mem.response();
    ensure!(answer == Answer::Ack(state::PLUGGED), "a request in pieces: {answer:?}");
    Ok(())
}

/// The queue itself is in the block that is unplugged.
fn own_queue(stub: &Stub) -> Outcome {
    let (mem, request, response) = with_request(stub, kind::UNPLUG)?;
    let block = mem.blocks(0, 1);
    let transport = mem.transport;
    ensure!(transport.negotiate(mem.features).is_some(), "the device no longer negotiates");
    let Some(mut queue) = Queue::open(transport, 0, Range::sized(block.start, PAGE)) else {
        fail!("the device has lost its queue")
    };
    transport.go();
    queue.chain([(request, 0), (response, WRITE)].into_iter());
    queue.offer(0);
    // From here on the queue may be gone.
    queue.notify();
    time::poll(1_000_000, || transport.is_broken() || probe::read(block.start).is_err());
    say!("note hostile-block-requests: its own queue: needs reset {}", transport.is_broken());
    drop(mem);
    let mut mem = Mem::open(stub)?;
    says_what_is(&mut mem)
}

/// The device is reset, or its queue stopped, while it is at work on many blocks: each block is then all there or all
/// gone, and as the device says.
pub fn resets(stub: &Stub) -> Outcome {
    let mut mem = Mem::open_empty(stub, 8)?;
    let all = mem.blocks(0, 8);
    let (rounds, mut at_work) = (stub.orders.number("rounds", 20), 0);
    for round in 0..rounds {
        let plugged = mem.config().plugged != 0;
        let kind = match (plugged, round % 4) {
            (false, _) => kind::PLUG,
            (true, 0 | 1) => kind::UNPLUG,
            _ => kind::UNPLUG_ALL,
        };
        let (request, response) = mem.write_request(kind, all.start, 8);
        mem.queue.chain([(request, 0), (response, WRITE)].into_iter());
        mem.queue.offer(0);
        mem.queue.notify();
        time::poll(round % 20 * 100, || false);
        if round % 3 == 0 {
            mem.transport.write(mmio::QUEUE_SEL, 0);
            mem.transport.write(mmio::QUEUE_READY, 0);
        }
        at_work += u32::from(mem.queue.used() == mem.queue.seen);
        drop(mem);
        mem = Mem::open(stub)?;
        says_what_is(&mut mem)?;
        if round % 2 == 0 || mem.state(all)? == Answer::Ack(state::MIXED) {
            let answer = mem.unplug_all()?;
            ensure!(answer == ACK, "unplugging everything: {answer:?}");
        }
    }
    say!("note hostile-block-resets: {at_work} of {rounds} resets found the device at work");
    let answer = mem.unplug_all()?;
    ensure!(answer == ACK, "unplugging everything: {answer:?}");
    expect_edges(all, "in the end", Seen::Gone)
}

/// Unplugged pages that are put into the balloon, had back from it or reported as free stay unplugged.
pub fn unplugged_in_balloon(stub: &Stub) -> Outcome {
    let mut mem = Mem::open_empty(stub, 2)?;
    let (block, hole) = (mem.blocks(0, 1), mem.blocks(1, 1));
    mem.must_plug(block)?;
    fill(block);
    let mut balloon = Balloon::open(stub, balloon::feature::MUST_TELL_HOST)?;
    let pages = Range::sized(hole.start, 16 * PAGE);
    // From the last page of what is plugged into what is not.
    let across = Range { start: block.end - PAGE, end: block.end + PAGE };
    for range in [pages, hole, across] {
        let done = balloon.give(range).and_then(|()| balloon.take_back(range));
        ensure!(done != Err(Silent), "the balloon does not answer");
        expect_edges(hole, "had back", Seen::Gone)?;
    }
    let last = Range { start: across.start, end: block.end };
    crate::tests::balloon::expect(last, "had back", |seen| seen == Seen::Zero)?;
    balloon.take_back(pages)?;
    expect_edges(hole, "had back without having been given", Seen::Gone)?;
    if balloon.report.is_some() {
        for range in [hole, pages, across] {
            balloon.report_free(&[range])?;
            expect_edges(hole, "reported", Seen::Gone)?;
        }
    }
    drop(balloon);
    expect_edges(hole, "after the balloon was reset", Seen::Gone)?;
    says_what_is(&mut mem)?;
    mem.must_unplug(block)
}
