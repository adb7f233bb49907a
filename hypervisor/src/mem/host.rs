//! Memory for tests on the host, out of the arena that stands for physical memory.

use super::{FrameTable, Memory, Record};
use crate::addr::{BLOCK_1G, BLOCK_2M, Pa, PaRange};
use crate::arch;

/// Makes memory of `bytes` (a multiple of 2 MiB, at least 4 MiB) that nobody else has: the first
/// 2 MiB are the table pool, the rest is free and dirty. It begins at a multiple of its own size
/// rounded up to a power of two, or of 1 GiB.
pub fn memory(bytes: u64) -> &'static Memory {
    memory_with(bytes, |_| ())
}

/// Makes memory, as [`memory`] does, and has `set` set what can be set before anybody uses it.
pub fn memory_with(bytes: u64, set: impl FnOnce(&mut Memory)) -> &'static Memory {
    make(arch::memory::take(bytes, bytes.next_power_of_two().min(BLOCK_1G)), set)
}

/// Makes memory, as [`memory`] does, of a range of the arena, and forgets what was there before.
pub fn memory_in(range: PaRange) -> &'static Memory {
    make(range, |_| ())
}

fn make(range: PaRange, set: impl FnOnce(&mut Memory)) -> &'static Memory {
    let mut memory = Memory::new(frame_table(core::slice::from_ref(&range)));
    set(&mut memory);
    let pool = range.start..Pa::new(range.start.as_u64() + BLOCK_2M);
    memory.claim_hypervisor(pool.clone()).expect("nothing is claimed yet");
    memory.claim_table_chunk(pool).expect("this was claimed");
    memory.add_free(range).expect("this is memory");
    Box::leak(Box::new(memory))
}

/// Makes a frame table for `regions`, which is never freed.
pub fn frame_table(regions: &[PaRange]) -> FrameTable {
    let records = FrameTable::records_for(regions);
    let storage: Vec<Record> = core::iter::repeat_with(Record::new).take(records).collect();
    FrameTable::new(regions, storage.leak()).expect("the regions ascend")
}
