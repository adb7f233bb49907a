//! A trace of everything that is done to tables, TLBs and the frames in them, for checkers of other people's making.
//!
//! Without the feature `trace` every function here is empty. With it, each event takes the next number of an order
//! that all CPUs share and is kept in a buffer of its CPU; the CPU that fills a buffer writes it out itself, so that
//! nothing is ever lost (`stream.rs`). What the events mean is in [`record`]; `tests/src/trace/` has the tools that read
//! them.
//!
//! An event takes its number while what it tells of cannot be overtaken: a lock's after it was taken and before it is
//! released, a pin's after it was announced and before it ends, a retirement's before the epoch is read, a frame's
//! before anybody can be given it. So of two events of which one must come before the other, it has the lower number.

#[cfg(all(feature = "trace", not(target_os = "none")))]
mod host;
pub mod record;
#[cfg(all(feature = "trace", target_os = "none"))]
mod stage1;
#[cfg(all(feature = "trace", target_os = "none"))]
mod stream;

#[cfg(all(feature = "trace", not(target_os = "none")))]
pub use host::{begin, emit, end};
#[cfg(all(feature = "trace", target_os = "none"))]
pub use stream::{begin, emit, end};

use crate::addr::{Frame, Ipa, Pa};
use crate::mem::{GuestId, Order};
use record::Kind;
pub use record::{Barrier, EL2, Register, Tlbi};

#[cfg(not(feature = "trace"))]
#[inline(always)]
fn emit(_kind: Kind, _what: u16, _count: u32, _a: u64, _b: u64) {}

/// Begins to record. Not before memory is cacheable at EL2.
#[cfg(not(feature = "trace"))]
#[inline(always)]
pub fn begin() {}

/// Writes out what was recorded; whoever has more to record from now on stops for good.
#[cfg(not(feature = "trace"))]
#[inline(always)]
pub fn end() {}

/// A descriptor was stored, at `slot`, where EL2 reaches it.
#[inline(always)]
pub fn table_write<T>(slot: &T, bits: u64) {
    if cfg!(feature = "trace") {
        emit(Kind::Write, 0, 0, physical(slot), bits);
    }
}

/// The access flag of the descriptor at `slot` was changed, which says `bits` now.
#[inline(always)]
pub fn access_flag<T>(slot: &T, bits: u64) {
    if cfg!(feature = "trace") {
        emit(Kind::Flag, 0, 0, physical(slot), bits);
    }
}

/// The descriptors `slots` were stored, the first is `bits`, each further one `step` bytes more: none, or a power of
/// two.
#[inline(always)]
pub fn table_run<T>(slots: &[T], bits: u64, step: u64) {
    if cfg!(feature = "trace")
        && let Some(first) = slots.first()
    {
        let step = if step == 0 { record::SAME } else { step.trailing_zeros() as u16 };
        emit(Kind::Run, step, slots.len() as u32, physical(first), bits);
    }
}

/// All descriptors of the table `from` were copied to `to`.
#[inline(always)]
pub fn table_copy(to: Pa, from: Pa) {
    emit(Kind::Copy, 0, 0, to.as_u64(), from.as_u64());
}

/// A barrier was executed.
#[inline(always)]
pub fn barrier(which: Barrier) {
    emit(Kind::Barrier, which as u16, 0, 0, 0);
}

/// A TLBI was executed with this operand.
#[inline(always)]
pub fn tlbi(which: Tlbi, operand: u64) {
    emit(Kind::Tlbi, which as u16, 1, operand, 0);
}

/// This CPU's entries for `pages` pages of EL2's were invalidated, one by one, from the one with this number on.
#[inline(always)]
pub fn tlbi_own_pages(first: u64, pages: usize) {
    emit(Kind::Tlbi, Tlbi::Vae2 as u16, pages as u32, first, 0);
}

/// A system register was written.
#[inline(always)]
pub fn sysreg_write(which: Register, value: u64) {
    emit(Kind::Register, which as u16, 0, value, 0);
}

/// The lock on the tables below `root` was taken.
#[inline(always)]
pub fn lock(root: Pa) {
    emit(Kind::Lock, 0, 0, root.as_u64(), 0);
}

/// The lock on the tables below `root` is about to be released.
#[inline(always)]
pub fn unlock(root: Pa) {
    emit(Kind::Unlock, 0, 0, root.as_u64(), 0);
}

/// `root` is the root table of `owner`, a guest's number or [`EL2`].
#[inline(always)]
pub fn root(owner: u16, root: Pa, vmid: u16) {
    emit(Kind::Root, owner, 0, root.as_u64(), u64::from(vmid));
}

/// `root` is no root table any more.
#[inline(always)]
pub fn root_end(owner: u16, root: Pa) {
    emit(Kind::RootEnd, owner, 0, root.as_u64(), 0);
}

/// A zeroed frame is a table of `owner` now, a guest's number or [`EL2`].
#[inline(always)]
pub fn table(owner: u16, table: Pa) {
    emit(Kind::Table, owner, 0, table.as_u64(), 0);
}

/// A table's frame is about to be given back unused.
#[inline(always)]
pub fn table_back(table: Pa) {
    emit(Kind::TableBack, 0, 0, table.as_u64(), 0);
}

/// A block is the guest's from now on. `copied` says that it holds the guest's bytes, and not zeroes.
#[inline(always)]
pub fn allocate(first: Frame, order: Order, guest: GuestId, ipa: Ipa, copied: bool) {
    let kind = if copied { Kind::AssignCopy } else { Kind::Assign };
    emit(kind, guest.index() as u16, order.get().into(), first.pa().as_u64(), ipa.as_u64());
}

/// A frame is the hypervisor's own from now on.
#[inline(always)]
pub fn own(frame: Frame) {
    emit(Kind::Own, 0, 0, frame.pa().as_u64(), 0);
}

/// A frame of the hypervisor's own is about to be given back.
#[inline(always)]
pub fn own_back(frame: Frame) {
    emit(Kind::OwnBack, 0, 0, frame.pa().as_u64(), 0);
}

/// A block is about to be retired: the epoch was not read yet.
#[inline(always)]
pub fn retire(first: Frame, order: Order) {
    emit(Kind::Retire, 0, order.get().into(), first.pa().as_u64(), 0);
}

/// What this CPU has just retired is retired in `epoch`.
#[inline(always)]
pub fn retired_in(epoch: u64) {
    emit(Kind::RetiredIn, 0, 0, epoch, 0);
}

/// The epoch is `epoch` from now on.
#[inline(always)]
pub fn grace(epoch: u64) {
    emit(Kind::Grace, 0, 0, epoch, 0);
}

/// A block whose grace period is over is about to become free, in `epoch`.
#[inline(always)]
pub fn free(first: Frame, order: Order, epoch: u64) {
    emit(Kind::Free, 0, order.get().into(), first.pa().as_u64(), epoch);
}

/// A block in hand was zeroed.
#[inline(always)]
pub fn zero(first: Frame, order: Order) {
    emit(Kind::Zero, 0, order.get().into(), first.pa().as_u64(), 0);
}

/// This CPU, which held no pin, holds one.
#[inline(always)]
pub fn pin() {
    emit(Kind::Pin, 0, 0, 0, 0);
}

/// This CPU is about to drop its last pin.
#[inline(always)]
pub fn unpin() {
    emit(Kind::Unpin, 0, 0, 0, 0);
}

/// A table of EL2's own was made.
#[inline(always)]
pub fn el2_table(table: usize) {
    #[cfg(all(feature = "trace", target_os = "none"))]
    stage1::made(table as u64);
    let _ = table;
}

/// `start..end` was mapped in EL2's own tables, those below `root`.
#[inline(always)]
pub fn el2_mapped(root: usize, start: usize, end: usize) {
    #[cfg(all(feature = "trace", target_os = "none"))]
    stage1::mapped(root as u64, start as u64, end as u64);
    let _ = (root, start, end);
}

/// Begins to record on the first CPU, whose stage 1 has just been turned on: with EL2's own tables as they are, those
/// below `common`, which all CPUs share, and those below `own`, with the `window` that this CPU has for itself.
#[inline(always)]
pub fn begin_el2(common: usize, own: usize, window: usize) {
    #[cfg(all(feature = "trace", target_os = "none"))]
    {
        begin();
        root(EL2, Pa::new(own as u64), 0);
        stage1::begin();
        stage1::all(common as u64, 0, true);
        stage1::all(window as u64, 1, true);
        stage1::all(own as u64, 0, false);
    }
    let _ = (common, own, window);
}

/// Returns the physical address of a word that EL2 reaches.
#[inline(always)]
fn physical<T>(word: &T) -> u64 {
    crate::arch::memory::physical(core::ptr::from_ref(word).addr())
}
