//! The heap: for boot, for making guests, for what the monitor prints. Nothing that a guest does allocates.
#![expect(unsafe_code, reason = "gives the allocator its memory")]

use core::cell::UnsafeCell;
use linked_list_allocator::LockedHeap;

/// The size of the heap in bytes. The most guests, of the most vCPUs each, take 385,792 of them; the rest is for what the
/// monitor does. What guests should have is kept in it too, where that is checked.
const SIZE: usize = if cfg!(feature = "checking") { 16 << 20 } else { 512 << 10 };

#[repr(C, align(4096))]
struct Memory(UnsafeCell<[u8; SIZE]>);

// SAFETY: the allocator alone uses it.
unsafe impl Sync for Memory {}

static MEMORY: Memory = Memory(UnsafeCell::new([0; SIZE]));

#[global_allocator]
static HEAP: LockedHeap = LockedHeap::empty();

/// Gives the heap its memory. Called once, before the first allocation.
pub fn init() {
    // SAFETY: the memory is a static's, and nobody else's.
    unsafe { HEAP.lock().init(MEMORY.0.get().cast(), SIZE) };
}

/// Returns the bytes in use and those that are free.
pub fn usage() -> (usize, usize) {
    let heap = HEAP.lock();
    (heap.used(), heap.free())
}
