//! The per-CPU window: on the host every frame is in the arena, so mapping is arithmetic.

use crate::addr::Frame;
use crate::mem::Order;
use core::ptr::NonNull;

/// Maps the block of 2^`order` frames from `first` in this CPU's window while `access` runs.
///
/// `order` is at most [`Order::BLOCK_2M`]. The pointer must not leave the closure.
pub fn with_frames<R>(first: Frame, order: Order, access: impl FnOnce(NonNull<u8>) -> R) -> R {
    assert!(order <= Order::BLOCK_2M, "the window holds blocks of at most 2 MiB");
    #[cfg(shuttle)]
    crate::sync::point();
    access(super::memory::pointer(first.pa()))
}
