//! Physical memory: one arena that all tests share, each taking ranges of its own.
#![expect(unsafe_code, reason = "hands out pointers into the arena")]

use crate::addr::{BLOCK_2M, Pa, PaRange};
use core::ptr::NonNull;
use std::alloc::{Layout, alloc_zeroed};
use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::{Mutex, OnceLock, PoisonError};

/// The physical address of the arena's first byte.
const BASE: u64 = 0x1_0000_0000;
/// The size of the arena in bytes; only what is touched takes the host's memory.
const SIZE: u64 = 16 << 30;

struct Arena(NonNull<u8>);

// SAFETY: the arena is memory that is never freed; who may touch which frame of it is what the code under test decides.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

fn arena() -> NonNull<u8> {
    static ARENA: OnceLock<Arena> = OnceLock::new();
    ARENA
        .get_or_init(|| {
            // Aligned below: an allocation that must be aligned is zeroed by writing all of it.
            const ALIGN: usize = 2 << 20;
            let layout =
                Layout::from_size_align(SIZE as usize + ALIGN, 16).expect("a constant layout");
            // SAFETY: the layout's size is not zero.
            let start = unsafe { alloc_zeroed(layout) };
            let start = NonNull::new(start).expect("the host has address space for the arena");
            // SAFETY: the layout is larger than the arena by the alignment.
            Arena(unsafe { start.add(start.align_offset(ALIGN)) })
        })
        .0
}

/// Takes `bytes` of physical memory, aligned to `align` bytes, that no other test has.
pub fn take(bytes: u64, align: u64) -> PaRange {
    // What must lie at large multiples comes from the end: so little is lost between, in whichever order tests run.
    const LARGE: u64 = 64 << 20;
    static FREE: Mutex<(u64, u64)> = Mutex::new((BASE, BASE + SIZE));
    let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    let (low, high) = *free;
    let from_end = align >= LARGE;
    let start = match from_end {
        true => high.saturating_sub(bytes) / align * align,
        false => low.next_multiple_of(align),
    };
    let end = start + bytes;
    assert!(low <= start && end <= high, "the arena is used up: enlarge SIZE");
    *free = if from_end { (low, start) } else { (end, high) };
    Pa::new(start)..Pa::new(end)
}

/// Returns where EL2 reaches the byte at `pa` of a frame that the hypervisor owns.
pub fn pointer(pa: Pa) -> NonNull<u8> {
    let offset = pa
        .as_u64()
        .checked_sub(BASE)
        .filter(|&offset| offset < SIZE)
        .expect("an address in the arena");
    // SAFETY: the offset is within the arena.
    unsafe { arena().add(offset as usize) }
}

/// Returns the physical address of what EL2 reaches at `address` and owns.
pub fn physical(address: usize) -> u64 {
    BASE.wrapping_add(address.wrapping_sub(arena().as_ptr().addr()) as u64)
}

std::thread_local! {
    /// The blocks that have tables, where not all have one.
    static TABLES: RefCell<Option<HashSet<Pa>>> = const { RefCell::new(None) };
}

/// From here on this thread needs tables to map parts of blocks.
pub fn use_up_tables() {
    TABLES.set(Some(HashSet::new()));
}

/// Makes `range`, which the hypervisor has just come to own, and which is whole blocks of 2 MiB or lies within one,
/// reachable by [`pointer()`]. Where there is no table for a part of a block, `table` is asked for a zeroed frame that
/// is. Says whether `range` was mapped.
#[must_use = "what is not mapped cannot be used"]
pub fn map_hypervisor(range: PaRange, table: impl FnOnce() -> Option<Pa>) -> bool {
    let whole = range.start.is_aligned(BLOCK_2M) && range.end.is_aligned(BLOCK_2M);
    let block = range.start.align_down(BLOCK_2M);
    let missing = |blocks: &HashSet<Pa>| !whole && !blocks.contains(&block);
    if !TABLES.with_borrow(|tables| tables.as_ref().is_some_and(missing)) {
        return true;
    }
    let given = table().is_some();
    if given {
        TABLES.with_borrow_mut(|tables| tables.get_or_insert_default().insert(block));
    }
    given
}

/// Fills `bytes` bytes at `start` with zeroes, so that a guest with its caches off sees them too.
///
/// # Safety
///
/// The bytes are valid for writes and nobody else accesses them.
pub unsafe fn zero(start: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe { start.write_bytes(0, bytes) }
}

/// Cleans the data cache to the point of coherency for `bytes` bytes from `start`.
///
/// # Safety
///
/// The bytes are mapped.
pub unsafe fn clean_to_poc(_start: NonNull<u8>, _bytes: usize) {}

/// Copies `bytes` bytes from `from` to `to`, as a guest with its caches off has left them and will see them.
///
/// # Safety
///
/// The bytes are valid, those at `to` are nobody else's, and nobody writes to those at `from`.
pub unsafe fn copy(to: NonNull<u8>, from: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), to.as_ptr(), bytes) }
}

/// Lets what was copied be executed.
pub fn finish_copies() {}
