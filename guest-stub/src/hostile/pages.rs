//! Page numbers and ranges that a driver has no right to, or has no sense in naming.

use super::still_works;
use crate::memory::{BLOCK, PAGE, Range};
use crate::outcome::Outcome;
use crate::run::Stub;
use crate::tests::balloon::{Seen, expect, fill, in_balloon};
use crate::virtio::balloon::{Balloon, feature, fresh_block};

/// Page numbers where the guest has no memory.
fn nowhere(stub: &Stub) -> [u32; 12] {
    let end = stub.machine.ram().map(|ram| ram.end).max().unwrap_or(0) / PAGE;
    let uart = stub.machine.uart.registers.start / PAGE;
    let distributor = stub.machine.distributor.start / PAGE;
    [
        0,
        1,
        uart as u32,
        distributor as u32,
        end as u32,
        end as u32 + 1,
        0x0003_ffff,
        0x07ff_ffff,
        0x1000_0000,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
    ]
}

/// Pages outside of memory are passed over, those between them in the list are taken.
pub fn outside(stub: &Stub) -> Outcome {
    let mut balloon = Balloon::open(stub, feature::MUST_TELL_HOST)?;
    let block = fresh_block()?;
    fill(block);
    let gone = in_balloon(stub, &balloon);
    let pages = Range::sized(block.start, 12 * PAGE);
    let mixed = || {
        pages.pages().map(|page| (page / PAGE) as u32).zip(nowhere(stub)).flat_map(|(a, b)| [a, b])
    };
    let list = balloon.list(mixed());
    balloon.inflate.submit([(list, 0)].into_iter())?;
    expect(pages, "named between pages outside of memory", gone)?;
    let list = balloon.list(mixed());
    balloon.deflate.submit([(list, 0)].into_iter())?;
    expect(pages, "had back", |seen| seen == Seen::Zero)?;
    still_works(stub, "after pages outside of memory")
}

/// A page named twice in a list, in two lists, given back twice, given back without ever having been taken.
pub fn repeated(stub: &Stub) -> Outcome {
    let mut balloon = Balloon::open(stub, feature::MUST_TELL_HOST)?;
    let block = fresh_block()?;
    fill(block);
    let gone = in_balloon(stub, &balloon);
    let page = Range::sized(block.start + 5 * PAGE, PAGE);
    let number = (page.start / PAGE) as u32;
    let untouched = Range { start: page.end, end: block.end };
    for _ in 0..3 {
        let list = balloon.list([number; 256].into_iter());
        balloon.inflate.submit([(list, 0)].into_iter())?;
        expect(page, "given 256 times", &gone)?;
    }
    for _ in 0..3 {
        let list = balloon.list([number; 256].into_iter());
        balloon.deflate.submit([(list, 0)].into_iter())?;
        expect(page, "had back 256 times", |seen| seen == Seen::Zero)?;
    }
    // A page that was never in the balloon keeps its contents; a hypervisor that drops them loses the guest's data.
    balloon.take_back(untouched)?;
    expect(untouched, "had back without having been given", |seen| seen == Seen::Marked)?;
    still_works(stub, "after pages named twice")
}

/// Ranges that are reported as free and are no memory, not aligned, too long, or in the balloon.
pub fn reported(stub: &Stub) -> Outcome {
    let mut balloon = Balloon::open(stub, feature::MUST_TELL_HOST)?;
    if balloon.report.is_none() {
        skip!("the balloon has no reporting queue");
    }
    let block = fresh_block()?;
    fill(block);
    let end = stub.machine.ram().map(|ram| ram.end).max().unwrap_or(0);
    let wrong = [
        Range::sized(0, PAGE),
        Range::sized(stub.machine.uart.registers.start, PAGE),
        Range::sized(end, BLOCK),
        Range::sized(end - PAGE / 2, PAGE),
        Range::sized(1 << 40, BLOCK),
        Range::sized(!0 - PAGE, PAGE),
        Range::sized(block.start + 8, 16),
        Range::sized(block.start + 1, PAGE - 1),
    ];
    if stub.orders.plain() {
        skip!("QEMU wants a reset after a range that is no memory");
    }
    for range in wrong {
        balloon.report_free(&[range])?;
    }
    balloon.report_free(&wrong)?;
    expect(block, "no whole page of which was reported", |seen| seen == Seen::Marked)?;
    // In the balloon, and reported: still in the balloon.
    let page = Range::sized(block.start, PAGE);
    balloon.give(page)?;
    balloon.report_free(&[page, page])?;
    let gone = in_balloon(stub, &balloon);
    expect(page, "in the balloon, reported", gone)?;
    balloon.take_back(page)?;
    expect(page, "had back", |seen| seen == Seen::Zero)?;
    // Reported twice at once.
    let rest = Range { start: block.start + PAGE, end: block.end };
    balloon.report_free(&[rest, rest, rest])?;
    expect(rest, "reported three times", |seen| seen == Seen::Zero)?;
    still_works(stub, "after wrong ranges")
}

/// Lists that are no whole numbers, empty, or in memory that is not there or in the balloon.
pub fn lists(stub: &Stub) -> Outcome {
    let mut balloon = Balloon::open(stub, feature::MUST_TELL_HOST)?;
    let block = fresh_block()?;
    fill(block);
    let number = (block.start / PAGE) as u32;
    for bytes in [1u64, 2, 3, 5, 7] {
        let list = balloon.list([number + 1, number + 2].into_iter());
        balloon.inflate.submit([(Range::sized(list.start, bytes), 0)].into_iter())?;
    }
    expect(Range::sized(block.start, PAGE), "not named", |seen| seen == Seen::Marked)?;
    balloon.take_back(Range::sized(block.start + PAGE, 2 * PAGE))?;
    drop(balloon);
    let end = stub.machine.ram().map(|ram| ram.end).max().unwrap_or(0);
    let gone = Range::sized(block.start + 8 * PAGE, PAGE);
    for list in [
        Range::sized(end, PAGE),
        Range::sized(end - 8, 64),
        Range::sized(stub.machine.uart.registers.start, 64),
        Range::sized(1 << 45, 1024),
        Range::sized(!0 - 16, 16),
        gone,
        Range::sized(gone.start - 8, 16),
    ] {
        let mut balloon = Balloon::open(stub, feature::MUST_TELL_HOST)?;
        balloon.give(gone)?;
        let answer = balloon.inflate.submit([(list, 0)].into_iter()).is_ok();
        let broken = balloon.transport.is_broken();
        say!(
            "note hostile-lists: list at {:#x}: returned {answer}, needs reset {broken}",
            list.start
        );
    }
    still_works(stub, "after lists that are not there")
}
