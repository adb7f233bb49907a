//! What giving memory away and having it back costs, request and answer included.

use super::Measurement;
use super::faults::touch;
use crate::arch::time;
use crate::memory::{self, BLOCK, PAGE, Range};
use crate::outcome::Verdict;
use crate::run::Stub;
use crate::virtio::balloon::{Balloon, feature, fresh_block};
use crate::virtio::queue::Silent;

/// How many blocks are used.
const BLOCKS: u64 = 32;

fn measured(
    range: Range,
    unit: u64,
    work: impl FnOnce() -> Result<(), Silent>,
) -> Result<Measurement, Verdict> {
    let start = time::now();
    work()?;
    Ok(Measurement { iterations: range.size() / unit, ticks: time::now() - start })
}

fn touched(stub: &Stub) -> Result<Range, Verdict> {
    let blocks = stub.orders.number("blocks", BLOCKS);
    let Some(memory) = memory::take(blocks * BLOCK, BLOCK) else {
        skip!("too little untouched memory")
    };
    for block in (memory.start..memory.end).step_by(BLOCK as usize) {
        touch(block);
    }
    Ok(memory)
}

/// Inflating by pages in requests of 256, a page: blocks that are split and, with the second request each, gone.
pub fn inflate(stub: &Stub) -> Result<Measurement, Verdict> {
    let mut balloon = Balloon::open(stub, feature::MUST_TELL_HOST)?;
    let memory = touched(stub)?;
    let measured = measured(memory, PAGE, || balloon.give(memory));
    balloon.take_back(memory)?;
    measured
}

/// Deflating by pages in requests of 256, a page.
pub fn deflate(stub: &Stub) -> Result<Measurement, Verdict> {
    let mut balloon = Balloon::open(stub, feature::MUST_TELL_HOST)?;
    let memory = touched(stub)?;
    balloon.give(memory)?;
    measured(memory, PAGE, || balloon.take_back(memory))
}

/// Inflating by one page a request.
pub fn inflate_single(stub: &Stub) -> Result<Measurement, Verdict> {
    let mut balloon = Balloon::open(stub, feature::MUST_TELL_HOST)?;
    let block = fresh_block()?;
    touch(block.start);
    let pages = Range { start: block.start, end: block.start + 64 * PAGE };
    let measured = measured(pages, PAGE, || {
        pages.pages().try_for_each(|page| balloon.give(Range::sized(page, PAGE)))
    });
    balloon.take_back(pages)?;
    measured
}

/// Reporting blocks of 2 MiB as free, one a request, a block.
pub fn report_block(stub: &Stub) -> Result<Measurement, Verdict> {
    let mut balloon = Balloon::open(stub, feature::MUST_TELL_HOST)?;
    if balloon.report.is_none() {
        skip!("the balloon has no reporting queue");
    }
    let memory = touched(stub)?;
    measured(memory, BLOCK, || {
        (memory.start..memory.end)
            .step_by(BLOCK as usize)
            .try_for_each(|block| balloon.report_free(&[Range::sized(block, BLOCK)]))
    })
}

/// Reporting blocks of 2 MiB as free, 32 a request, a block.
pub fn report_batch(stub: &Stub) -> Result<Measurement, Verdict> {
    let mut balloon = Balloon::open(stub, feature::MUST_TELL_HOST)?;
    if balloon.report.is_none() {
        skip!("the balloon has no reporting queue");
    }
    let memory = touched(stub)?;
    let step = 32 * BLOCK;
    measured(memory, BLOCK, || {
        (memory.start..memory.end).step_by(step as usize).try_for_each(|start| {
            let mut ranges = [Range::default(); 32];
            let mut count = 0;
            for block in (start..memory.end.min(start + step)).step_by(BLOCK as usize) {
                ranges[count] = Range::sized(block, BLOCK);
                count += 1;
            }
            balloon.report_free(&ranges[..count])
        })
    })
}
