//! Physical memory that the hypervisor owns, zeroing and cache maintenance.
#![expect(unsafe_code, reason = "turns physical addresses into pointers, runs DC instructions")]

use crate::addr::{Pa, PaRange};
use core::arch::asm;
use core::ptr::NonNull;

/// Returns where EL2 reaches the byte at `pa` of a frame that the hypervisor owns: at the same
/// address, EL2's own mappings being identical.
#[inline(always)]
pub fn pointer(pa: Pa) -> NonNull<u8> {
    // SAFETY: no frame of the hypervisor is at address 0; `claim`s and boot see to it.
    unsafe { NonNull::new_unchecked(core::ptr::with_exposed_provenance_mut(pa.as_u64() as usize)) }
}

/// Returns the physical address of what EL2 reaches at `address` and owns.
#[inline(always)]
pub const fn physical(address: usize) -> u64 {
    address as u64
}

/// Makes `range`, which the hypervisor has just come to own, and which is whole blocks of 2 MiB or lies within one,
/// reachable by [`pointer()`]. Where there is no table for a part of a block, `table` is asked for a zeroed frame that
/// is. Says whether `range` was mapped.
#[must_use = "what is not mapped cannot be used"]
pub fn map_hypervisor(range: PaRange, table: impl FnOnce() -> Option<Pa>) -> bool {
    super::stage1::map_data(range, table)
}

/// Fills `bytes` bytes at `start` with zeroes, so that a guest with its caches off sees them too.
///
/// # Safety
///
/// The bytes are valid for writes and nobody else accesses them.
pub unsafe fn zero(start: NonNull<u8>, bytes: usize) {
    let features = super::features();
    let block = features.zva_bytes as usize;
    let first = start.as_ptr().addr();
    let turn = UNROLLED * block;
    if block == features.cache_line as usize && bytes > 0 && bytes.is_multiple_of(turn.max(1)) {
        // SAFETY: the caller's promise, of whole turns.
        return unsafe { zero_and_clean(first, first + bytes, block) };
    }
    if block == 0 || !first.is_multiple_of(block) || !bytes.is_multiple_of(block) {
        // SAFETY: the caller's promise.
        unsafe { start.write_bytes(0, bytes) };
    } else {
        let mut at = first;
        let end = first + bytes;
        while at < end {
            // SAFETY: the caller's promise: the block lies within the bytes.
            unsafe { asm!("dc zva, {}", in(reg) at, options(nostack, preserves_flags)) };
            at += block;
        }
    }
    // SAFETY: the caller's promise.
    unsafe { clean_to_poc(start, bytes) };
}

/// How many cache lines a turn of [`zero_and_clean`] does.
const UNROLLED: usize = 8;

/// Zeroes and cleans the cache lines of `line` bytes from `at` to `end`, in one loop: of what is zeroed, this is most
/// of the cost.
///
/// # Safety
///
/// As for [`zero`]; there is at least one turn, and there are whole ones only. `DC ZVA` zeroes lines of this size.
unsafe fn zero_and_clean(at: usize, end: usize, line: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "2:",
            ".rept {turn}",
            "dc zva, {at}",
            "dc cvac, {at}",
            "add {at}, {at}, {line}",
            ".endr",
            "cmp {at}, {end}",
            "b.lo 2b",
            turn = const UNROLLED,
            at = inout(reg) at => _,
            line = in(reg) line,
            end = in(reg) end,
            options(nostack)
        );
    }
    aarch64_cpu::asm::barrier::dsb(aarch64_cpu::asm::barrier::SY);
}

/// Cleans the data cache to the point of coherency for `bytes` bytes from `start`.
///
/// # Safety
///
/// The bytes are mapped.
pub unsafe fn clean_to_poc(start: NonNull<u8>, bytes: usize) {
    let line = super::features().cache_line as usize;
    let mut at = start.as_ptr().addr() & !(line - 1);
    let end = start.as_ptr().addr() + bytes;
    while at < end {
        // SAFETY: the caller's promise; cleaning changes no byte.
        unsafe { asm!("dc cvac, {}", in(reg) at, options(nostack, preserves_flags)) };
        at += line;
    }
    aarch64_cpu::asm::barrier::dsb(aarch64_cpu::asm::barrier::SY);
}

/// Copies `bytes` bytes, whole pages, from `from` to `to`, as a guest with its caches off has left them and will see
/// them.
///
/// # Safety
///
/// The bytes are valid, those at `to` are nobody else's, and nobody writes to those at `from`.
pub unsafe fn copy(to: NonNull<u8>, from: NonNull<u8>, bytes: usize) {
    // With FEAT_S2FWB a guest's accesses are coherent whatever it does.
    if !super::features().s2fwb {
        // What the guest wrote past the caches lies below lines that may be cached.
        // SAFETY: the caller's promise; nobody writes there, so no line is dirty by another's doing.
        unsafe { clean_and_invalidate(from, bytes) };
    }
    let (mut read, mut write) = (from.as_ptr(), to.as_ptr());
    let end = write.addr() + bytes;
    while write.addr() < end {
        // SAFETY: the caller's promise, of whole pages.
        unsafe {
            asm!(
                "ldp {a}, {b}, [{read}]",
                "ldp {c}, {d}, [{read}, 16]",
                "ldp {e}, {f}, [{read}, 32]",
                "ldp {g}, {h}, [{read}, 48]",
                "stp {a}, {b}, [{write}]",
                "stp {c}, {d}, [{write}, 16]",
                "stp {e}, {f}, [{write}, 32]",
                "stp {g}, {h}, [{write}, 48]",
                "add {read}, {read}, 64",
                "add {write}, {write}, 64",
                read = inout(reg) read,
                write = inout(reg) write,
                a = out(reg) _,
                b = out(reg) _,
                c = out(reg) _,
                d = out(reg) _,
                e = out(reg) _,
                f = out(reg) _,
                g = out(reg) _,
                h = out(reg) _,
                options(nostack, preserves_flags)
            );
        }
    }
    // For a guest with its caches off, and for instruction fetches.
    // SAFETY: the caller's promise.
    unsafe { clean_to_poc(to, bytes) };
}

/// Lets what was copied be executed: instruction caches forget what was at the new frames before.
pub fn finish_copies() {
    // SAFETY: invalidating instruction caches only costs fetches; the copies were written before.
    unsafe {
        asm!("dsb ish", "ic ialluis", "dsb ish", "isb", options(nostack, preserves_flags));
    }
}

/// Cleans and invalidates the data cache to the point of coherency for `bytes` bytes from `start`.
///
/// # Safety
///
/// The bytes are mapped.
unsafe fn clean_and_invalidate(start: NonNull<u8>, bytes: usize) {
    let line = super::features().cache_line as usize;
    let mut at = start.as_ptr().addr() & !(line - 1);
    let end = start.as_ptr().addr() + bytes;
    while at < end {
        // SAFETY: the caller's promise; what is dirty is written back first.
        unsafe { asm!("dc civac, {}", in(reg) at, options(nostack, preserves_flags)) };
        at += line;
    }
    aarch64_cpu::asm::barrier::dsb(aarch64_cpu::asm::barrier::SY);
}
