//! What giving memory away and having it back costs, from the notification to the answer; what the driver does before,
//! such as listing page numbers, is not counted.

use super::Measurement;
use super::faults::{touch, touched_blocks};
use crate::arch::time;
use crate::memory::{BLOCK, PAGE, Range};
use crate::outcome::Verdict;
use crate::run::Stub;
use crate::virtio::balloon::{BATCH, Balloon, feature, fresh_block};
use crate::virtio::queue::{Queue, Silent, WRITE};

/// The most reported blocks in a request, as many as Linux reports at once.
const RANGES: usize = 32;

fn open(stub: &Stub) -> Result<Balloon, Verdict> {
    Balloon::open(stub, feature::MUST_TELL_HOST)
}

/// Submits one request and returns the ticks that it took.
fn submit(queue: &mut Queue, buffers: &[(Range, u16)]) -> Result<u64, Silent> {
    let before = time::now();
    queue.submit(buffers.iter().copied())?;
    Ok(time::now() - before)
}

/// Puts the page numbers of `range` into the balloon, or out of it, `batch` pages a request.
fn pages(
    balloon: &mut Balloon,
    inflate: bool,
    range: Range,
    batch: usize,
) -> Result<Measurement, Verdict> {
    let mut measured = Measurement { iterations: range.size() / PAGE, ticks: 0 };
    for start in (range.start..range.end).step_by(batch * PAGE as usize) {
        let part = Range { start, end: range.end.min(start + batch as u64 * PAGE) };
        let list = balloon.list(part.pages().map(|page| (page / PAGE) as u32));
        let queue = if inflate { &mut balloon.inflate } else { &mut balloon.deflate };
        measured.ticks += submit(queue, &[(list, 0)])?;
    }
    Ok(measured)
}

/// Inflating by requests of 256 pages, a page: each block is split by the first and gone with the second.
pub fn inflate(stub: &Stub) -> Result<Measurement, Verdict> {
    let mut balloon = open(stub)?;
    let memory = touched_blocks(stub)?;
    let measured = pages(&mut balloon, true, memory, BATCH);
    balloon.take_back(memory)?;
    measured
}

/// Deflating by requests of 256 pages, a page.
pub fn deflate(stub: &Stub) -> Result<Measurement, Verdict> {
    let mut balloon = open(stub)?;
    let memory = touched_blocks(stub)?;
    balloon.give(memory)?;
    pages(&mut balloon, false, memory, BATCH)
}

/// Inflating by one page a request, within one block.
pub fn inflate_single(stub: &Stub) -> Result<Measurement, Verdict> {
    let mut balloon = open(stub)?;
    let block = fresh_block()?;
    touch(block.start);
    let range = Range { start: block.start, end: block.start + 64 * PAGE };
    let measured = pages(&mut balloon, true, range, 1);
    balloon.take_back(range)?;
    measured
}

fn report(stub: &Stub, batch: usize) -> Result<Measurement, Verdict> {
    let mut balloon = open(stub)?;
    let Some(queue) = &mut balloon.report else { skip!("the balloon has no reporting queue") };
    let memory = touched_blocks(stub)?;
    let mut measured = Measurement { iterations: memory.size() / BLOCK, ticks: 0 };
    let mut buffers = [(Range::default(), WRITE); RANGES];
    let mut count = 0;
    for start in (memory.start..memory.end).step_by(BLOCK as usize) {
        buffers[count].0 = Range::sized(start, BLOCK);
        count += 1;
        if count == batch || start + BLOCK == memory.end {
            measured.ticks += submit(queue, &buffers[..count])?;
            count = 0;
        }
    }
    Ok(measured)
}

/// Reporting blocks of 2 MiB as free, one a request, a block.
pub fn report_block(stub: &Stub) -> Result<Measurement, Verdict> {
    report(stub, 1)
}

/// Reporting blocks of 2 MiB as free, 32 a request, a block.
pub fn report_batch(stub: &Stub) -> Result<Measurement, Verdict> {
    report(stub, RANGES)
}
