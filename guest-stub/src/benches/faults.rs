//! What the first touch of memory costs.
#![expect(unsafe_code, reason = "touches memory that nobody has touched")]

use super::Measurement;
use crate::arch::time;
use crate::memory::{self, BLOCK, PAGE, Range};
use crate::outcome::Verdict;
use crate::run::Stub;
use crate::virtio::balloon::{Balloon, feature, fresh_block};
use spin::Once;

/// How many blocks are touched.
const BLOCKS: u64 = 32;

/// Memory for the benchmarks that need it to be there.
static ROW: Once<Option<Range>> = Once::new();

/// Returns a row of blocks that are there, always the same.
///
/// # Errors
///
/// A [`Verdict::Skip`] where there is not that much memory.
pub fn touched_blocks(stub: &Stub) -> Result<Range, Verdict> {
    let bytes = stub.orders.number("blocks", BLOCKS) * BLOCK;
    let Some(row) = *ROW.call_once(|| memory::take(bytes, BLOCK)) else {
        skip!("too little untouched memory")
    };
    for block in (row.start..row.end).step_by(BLOCK as usize) {
        touch(block);
    }
    Ok(row)
}

/// Reads 8 bytes.
#[inline(always)]
pub fn touch(address: u64) -> u64 {
    // SAFETY: the callers pass addresses of memory that they took for themselves.
    unsafe { (address as *const u64).read_volatile() }
}

/// Leaves the machine idle, so that a hypervisor can zero memory in the background.
pub fn rest() {
    let deadline = time::now() + time::ticks(50_000);
    let interrupt = crate::run::machine().map_or(27, |machine| machine.virtual_timer);
    crate::gic::enable(interrupt, super::wakeups::disarm);
    while time::now() < deadline {
        time::Timer::Virtual.fire_at(deadline);
        crate::arch::cpu::sleep_until(|| time::now() >= deadline);
        crate::arch::cpu::unmask();
    }
    crate::gic::disable(interrupt);
}

/// The first touch of a block of 2 MiB, of which there is a row.
pub fn block(stub: &Stub) -> Result<Measurement, Verdict> {
    let blocks = stub.orders.number("blocks", BLOCKS);
    let Some(memory) = memory::take(blocks * BLOCK, BLOCK) else {
        skip!("too little untouched memory")
    };
    rest();
    let start = time::now();
    for block in (memory.start..memory.end).step_by(BLOCK as usize) {
        touch(block);
    }
    Ok(Measurement { iterations: blocks, ticks: time::now() - start })
}

/// The second touch of those blocks' like: what of the above is the CPU's own.
pub fn block_again(stub: &Stub) -> Result<Measurement, Verdict> {
    let blocks = stub.orders.number("blocks", BLOCKS);
    let Some(memory) = memory::take(blocks * BLOCK, BLOCK) else {
        skip!("too little untouched memory")
    };
    for block in (memory.start..memory.end).step_by(BLOCK as usize) {
        touch(block);
    }
    crate::arch::mmu::invalidate_all();
    let start = time::now();
    for block in (memory.start..memory.end).step_by(BLOCK as usize) {
        touch(block);
    }
    Ok(Measurement { iterations: blocks, ticks: time::now() - start })
}

/// The first touch of a page of 4 KiB: one that was in the balloon, within a block that is mapped by pages.
pub fn page(stub: &Stub) -> Result<Measurement, Verdict> {
    let mut balloon = Balloon::open(stub, feature::MUST_TELL_HOST)?;
    let block = fresh_block()?;
    touch(block.start);
    touch(block.end - PAGE);
    // The first and the last page stay, so that the block does not come back as a whole.
    let pages = Range { start: block.start + PAGE, end: block.end - PAGE };
    balloon.give(pages)?;
    balloon.take_back(pages)?;
    rest();
    let start = time::now();
    for page in pages.pages() {
        touch(page);
    }
    Ok(Measurement { iterations: pages.size() / PAGE, ticks: time::now() - start })
}
