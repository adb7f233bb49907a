//! The four orders between a device and a driver on another CPU, by name, so that a model can take
//! each away and show that it was needed.

use crate::sync::Ordering;

/// A fence here and its partner in the driver (Linux `drivers/virtio/virtio_ring.c`).
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Pair {
    /// The driver writes a ring entry and its descriptors, then the available index. We read the
    /// index, *acquire*, then the entry: otherwise (message passing) an entry of the last lap.
    Available,
    /// We write a used element, *release*, then the used index: otherwise (message passing) the
    /// driver takes an element of the last lap.
    Used,
    /// We write the available event, *full*, then read the available index once more; the driver
    /// writes the index, full, then reads the event. Otherwise (store buffering) both read the old
    /// value: the driver does not notify, we do not look, and the request waits for ever.
    Notification,
    /// We write the used index, *full*, then read the used event; the driver writes the event,
    /// full, then reads the index. Otherwise the interrupt is lost in the same way.
    Interrupt,
}

/// Executes our fence of `pair`.
#[inline(always)]
pub(super) fn fence(pair: Pair) {
    let order = match pair {
        Pair::Available => Ordering::Acquire,
        Pair::Used => Ordering::Release,
        Pair::Notification | Pair::Interrupt => Ordering::SeqCst,
    };
    #[cfg(all(test, loom))]
    if super::model::is_missing(pair) {
        return;
    }
    crate::sync::fence(order);
}
