//! The balloon: what is given away is gone, what is had back is zero, and nothing else changes.
#![expect(unsafe_code, reason = "reads and writes memory that is free")]

use crate::arch::cpu;
use crate::arch::probe::{self, Access, Class};
use crate::arch::time;
use crate::memory::{BLOCK, PAGE, Range};
use crate::outcome::{Outcome, Verdict};
use crate::run::Stub;
use crate::virtio::balloon::{self, Balloon, feature, fresh_block};
use crate::virtio::queue::{Silent, WRITE};

fn mark(address: u64) -> u64 {
    address ^ 0x5a5a_0000_0000_a5a5
}

/// Marks each page of a range at its start and its end.
pub fn fill(range: Range) {
    for page in range.pages() {
        // SAFETY: the callers pass memory that they took for themselves.
        unsafe {
            (page as *mut u64).write_volatile(mark(page));
            ((page + PAGE - 8) as *mut u64).write_volatile(mark(page));
        }
    }
}

/// What a page is like.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// As [`fill`] left it.
    Marked,
    /// Zero.
    Zero,
    /// It cannot be reached: a synchronous external abort.
    Gone,
    /// Anything else.
    Other(u64),
}

/// Looks at one page.
pub fn look(page: u64) -> Seen {
    match (probe::read(page), probe::read(page + PAGE - 8)) {
        (Ok(first), Ok(last)) if first == mark(page) && last == mark(page) => Seen::Marked,
        (Ok(0), Ok(0)) => Seen::Zero,
        (Err(a), Err(b)) if a.class() == Class::External && b.class() == Class::External => {
            Seen::Gone
        }
        (Ok(first), _) => Seen::Other(first),
        (Err(fault), _) => Seen::Other(fault.esr),
    }
}

/// Ends the test unless all pages are as `expected`.
pub fn expect(range: Range, what: &str, expected: impl Fn(Seen) -> bool) -> Outcome {
    for page in range.pages() {
        let seen = look(page);
        ensure!(expected(seen), "{what}: page {page:#x} is {seen:x?}");
    }
    Ok(())
}

/// Returns what a page in the balloon looks like when `MUST_TELL_HOST` was agreed on: gone; without a hypervisor that
/// keeps it away, zero.
pub fn in_balloon(stub: &Stub, balloon: &Balloon) -> impl Fn(Seen) -> bool + use<> {
    let told = balloon.has(feature::MUST_TELL_HOST);
    let plain = stub.orders.plain();
    move |seen| match seen {
        Seen::Gone => told,
        Seen::Zero => !told || plain,
        _ => false,
    }
}

/// The device offers what its driver needs, and its configuration space says sensible things.
pub fn identity(stub: &Stub) -> Outcome {
    let balloon = Balloon::open(stub, !feature::PAGE_POISON)?;
    say!(
        "note balloon-identity: features {:#x}, target {} pages",
        balloon.features,
        balloon.target()
    );
    ensure!(balloon.has(1 << 32), "not of virtio 1");
    ensure!(
        balloon.has(feature::MUST_TELL_HOST) || stub.orders.plain(),
        "MUST_TELL_HOST is not offered"
    );
    ensure!(balloon.actual() == 0, "a new balloon holds {} pages", balloon.actual());
    balloon.set_actual(123);
    ensure!(balloon.actual() == 123, "'actual' reads {} after 123", balloon.actual());
    balloon.set_actual(0);
    Ok(())
}

/// A whole block goes, page after page in requests of 256, and comes back as zeroes, usable.
pub fn whole_block(stub: &Stub) -> Outcome {
    let mut balloon = Balloon::open(stub, feature::MUST_TELL_HOST)?;
    let block = fresh_block()?;
    fill(block);
    balloon.give(block)?;
    expect(block, "in the balloon", in_balloon(stub, &balloon))?;
    if !stub.orders.plain() {
        for way in [
            Access::Write8,
            Access::Read16,
            Access::WritePair,
            Access::ReadIndexed,
            Access::Exclusive,
        ] {
            let answer = way.at(block.start + 64, 0);
            ensure!(
                answer.is_err_and(|fault| fault.class() == Class::External),
                "{way:?} gives {answer:x?}"
            );
        }
    }
    balloon.take_back(block)?;
    expect(block, "had back", |seen| seen == Seen::Zero)?;
    fill(block);
    expect(block, "written again", |seen| seen == Seen::Marked)
}

/// Every other page of a block goes; those in between stay as they were.
pub fn scattered(stub: &Stub) -> Outcome {
    let mut balloon = Balloon::open(stub, feature::MUST_TELL_HOST)?;
    let block = fresh_block()?;
    fill(block);
    let odd = |page: u64| (page / PAGE) % 2 == 1;
    let numbers = || block.pages().filter(move |page| odd(*page)).map(|page| (page / PAGE) as u32);
    let gone = in_balloon(stub, &balloon);
    let list = balloon.list(numbers());
    balloon.inflate.submit([(list, 0)].into_iter())?;
    for page in block.pages() {
        let seen = look(page);
        ensure!(
            if odd(page) { gone(seen) } else { seen == Seen::Marked },
            "given: page {page:#x} is {seen:x?}"
        );
    }
    let list = balloon.list(numbers());
    balloon.deflate.submit([(list, 0)].into_iter())?;
    for page in block.pages() {
        let seen = look(page);
        let expected = if odd(page) { Seen::Zero } else { Seen::Marked };
        ensure!(seen == expected, "had back: page {page:#x} is {seen:x?}");
    }
    Ok(())
}

/// Page numbers in more than one buffer of a request, and not in order.
pub fn many_buffers(stub: &Stub) -> Outcome {
    let mut balloon = Balloon::open(stub, feature::MUST_TELL_HOST)?;
    let block = fresh_block()?;
    fill(block);
    let pages = Range { start: block.start, end: block.start + 32 * PAGE };
    let first = pages.start / PAGE;
    let list = balloon.list((0..32).rev().map(|index| (first + index) as u32));
    let ends = [0, 4, 20, 64, list.size()].map(|offset| list.start + offset);
    let parts: [_; 4] =
        core::array::from_fn(|index| (Range { start: ends[index], end: ends[index + 1] }, 0));
    balloon.inflate.submit(parts.into_iter())?;
    expect(pages, "given", in_balloon(stub, &balloon))?;
    expect(Range { start: pages.end, end: block.end }, "kept", |seen| seen == Seen::Marked)?;
    balloon.take_back(pages)?;
    expect(pages, "had back", |seen| seen == Seen::Zero)
}

/// Without MUST_TELL_HOST a driver may use a page before the device says so (§5.5.6): it is zero.
pub fn untold(stub: &Stub) -> Outcome {
    let mut balloon = Balloon::open(stub, 0)?;
    let block = fresh_block()?;
    fill(block);
    balloon.give(block)?;
    expect(block, "in the balloon, used untold", |seen| seen == Seen::Zero)?;
    fill(block);
    balloon.take_back(block)?;
    Ok(())
}

/// Memory goes and comes, again and again, its neighbours keep their contents.
pub fn cycle(stub: &Stub) -> Outcome {
    let mut balloon = Balloon::open(stub, feature::MUST_TELL_HOST)?;
    let Some(memory) = crate::memory::take(8 * BLOCK, BLOCK) else {
        skip!("no untouched memory left")
    };
    // Not whole blocks: the first ends and the last begins in the middle of one.
    let given = Range { start: memory.start + BLOCK / 2, end: memory.end - BLOCK / 2 };
    let edges = [Range { end: given.start, ..memory }, Range { start: given.end, ..memory }];
    edges.into_iter().for_each(fill);
    for round in 0..stub.orders.number("rounds", 20) {
        fill(Range { start: given.start, end: given.start + round % 7 * PAGE });
        balloon.give(given)?;
        balloon.set_actual((given.size() / PAGE) as u32);
        ensure!(
            in_balloon(stub, &balloon)(look(given.start)),
            "round {round}: {:x?}",
            look(given.start)
        );
        balloon.take_back(given)?;
        balloon.set_actual(0);
        expect(given, "had back", |seen| seen == Seen::Zero)?;
        for edge in edges {
            expect(edge, "kept", |seen| seen == Seen::Marked)?;
        }
    }
    Ok(())
}

/// Reported blocks and pages come back as zeroes when they are touched, without being asked for.
pub fn reporting(stub: &Stub) -> Outcome {
    let mut balloon = Balloon::open(stub, feature::MUST_TELL_HOST)?;
    if balloon.report.is_none() {
        skip!("the balloon has no reporting queue");
    }
    let Some(memory) = crate::memory::take(4 * BLOCK, BLOCK) else {
        skip!("no untouched memory left")
    };
    fill(memory);
    let page = memory.start + 2 * BLOCK + 7 * PAGE;
    let reported = [
        Range::sized(memory.start, BLOCK),
        Range::sized(page, PAGE),
        Range::sized(page + 100 * PAGE, 16 * PAGE),
    ];
    balloon.report_free(&reported)?;
    for page in memory.pages() {
        let given = reported.iter().any(|range| range.contains(page));
        let seen = look(page);
        let expected = if given { Seen::Zero } else { Seen::Marked };
        ensure!(seen == expected, "page {page:#x} is {seen:x?}");
    }
    fill(memory);
    expect(memory, "written again", |seen| seen == Seen::Marked)
}

/// A driver that poisons its free pages finds its poison, or zeroes where the device has agreed on neither.
pub fn poison(stub: &Stub) -> Outcome {
    let mut balloon = Balloon::open(stub, feature::MUST_TELL_HOST | feature::PAGE_POISON)?;
    if balloon.report.is_none() || !balloon.has(feature::PAGE_POISON) {
        skip!("the balloon does not offer page poison and reporting");
    }
    balloon.set_poison(0xaaaa_aaaa);
    let block = fresh_block()?;
    fill(block);
    balloon.report_free(&[block])?;
    // The device may keep the page or fill it with the poison, but must not show anything else (§5.5.6.7.2).
    let poison = 0xaaaa_aaaa_aaaa_aaaa;
    expect(block, "reported by a poisoning driver", |seen| {
        seen == Seen::Marked || seen == Seen::Other(poison)
    })
}

/// A reset of the device lets the guest use all that was in the balloon again.
pub fn reset_returns(stub: &Stub) -> Outcome {
    let mut balloon = Balloon::open(stub, feature::MUST_TELL_HOST)?;
    let block = fresh_block()?;
    fill(block);
    balloon.give(block)?;
    drop(balloon);
    expect(block, "after a reset", |seen| seen == Seen::Zero)
}

/// The device interrupts when it returns a request.
pub fn interrupts(stub: &Stub) -> Outcome {
    let mut balloon = Balloon::open(stub, feature::MUST_TELL_HOST)?;
    let interrupt = balloon.transport.interrupt;
    let block = fresh_block()?;
    let before = cpu::this().count(interrupt);
    balloon.give(Range::sized(block.start, PAGE))?;
    ensure!(
        time::poll(1_000_000, || cpu::this().count(interrupt) != before),
        "no interrupt after a request"
    );
    let before = cpu::this().count(interrupt);
    balloon.take_back(Range::sized(block.start, PAGE))?;
    ensure!(
        time::poll(1_000_000, || cpu::this().count(interrupt) != before),
        "no second interrupt"
    );
    Ok(())
}

/// The statistics queue keeps the driver's buffer until the host asks.
pub fn statistics(stub: &Stub) -> Outcome {
    let mut balloon = Balloon::open(stub, feature::MUST_TELL_HOST)?;
    let buffer = balloon.buffer;
    // Tags and values, packed (§5.5.6.4): 4 free memory, 5 total memory.
    let statistics = [(4u16, 100 << 20), (5, 512 << 20), (0x7777, 1u64)];
    for (index, (tag, value)) in statistics.into_iter().enumerate() {
        let place = buffer.start + index as u64 * 10;
        for (offset, byte) in tag.to_le_bytes().into_iter().chain(value.to_le_bytes()).enumerate() {
            // SAFETY: the place is within the buffer's page.
            unsafe { ((place + offset as u64) as *mut u8).write_volatile(byte) }
        }
    }
    let Some(queue) = &mut balloon.stats else { skip!("the balloon has no statistics queue") };
    queue.describe(
        0,
        crate::virtio::queue::Descriptor {
            address: buffer.start,
            length: statistics.len() as u32 * 10,
            flags: 0,
            next: 0,
        },
    );
    queue.offer(0);
    queue.notify();
    match queue.wait(100_000) {
        Ok(()) => say!("note balloon-statistics: the host asked for more at once"),
        Err(Silent) => ensure!(queue.used() == 0, "the buffer was returned though nobody asked"),
    }
    // Whatever the host did with it, the others still work.
    let block = fresh_block()?;
    balloon.give(block)?;
    balloon.take_back(block)?;
    Ok(())
}

/// Follows the host's target for `seconds=<n>`; only by its full name, for whoever drives the host meanwhile. With
/// `touch=1` it writes to all that it has.
pub fn follow(stub: &Stub) -> Outcome {
    let touch = stub.orders.number("touch", 0) != 0;
    let mut balloon = Balloon::open(stub, feature::MUST_TELL_HOST)?;
    let mut free = Range::default();
    for piece in crate::memory::take_rest() {
        if piece.size() > free.size() {
            free = piece;
        }
    }
    if touch {
        fill(free);
    }
    let step = balloon::BATCH as u64 * PAGE;
    let mut held = 0;
    let end = time::now() + stub.orders.number("seconds", 10) * time::frequency();
    while time::now() < end {
        let wanted = (u64::from(balloon.target()) * PAGE).min(free.size());
        if held < wanted {
            let part = Range::sized(free.start + held, step.min(wanted - held));
            balloon.give(part)?;
            held += part.size();
        } else if held > wanted {
            let size = step.min(held - wanted);
            held -= size;
            let back = Range::sized(free.start + held, size);
            balloon.take_back(back)?;
            if touch {
                fill(back);
            }
        } else {
            cpu::relax();
            continue;
        }
        balloon.set_actual((held / PAGE) as u32);
        if held == wanted {
            say!("note balloon-follow: {} MiB in the balloon", held >> 20);
        }
    }
    let all = Range { start: free.start, end: free.start + held };
    balloon.take_back(all)?;
    balloon.set_actual(0);
    Ok(())
}

/// A buffer for the device to write where it is only to read, and the other way round, is passed over.
pub fn wrong_direction(stub: &Stub) -> Outcome {
    let mut balloon = Balloon::open(stub, feature::MUST_TELL_HOST)?;
    let block = fresh_block()?;
    fill(block);
    let list = balloon.list([(block.start / PAGE) as u32].into_iter());
    balloon
        .inflate
        .submit([(list, WRITE)].into_iter())
        .map_err(|Silent| -> Verdict { Silent.into() })?;
    expect(block, "named where the device may only write", |seen| {
        seen == Seen::Marked || stub.orders.plain()
    })
}
