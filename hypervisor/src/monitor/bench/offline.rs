//! What it costs to empty 256 MiB that a guest has, beside the copying alone.

use super::{Cost, add};
use crate::addr::{BLOCK_2M, Frame, Ipa, PAGE_SIZE, Pa};
use crate::evacuation::{Evacuation, Progress, Spaces};
use crate::guest::Guest;
use crate::mem::{GuestId, Memory, Order, Use};
use crate::monitor::report::{Column, Report};
use crate::stage2::{BATCH, Mark, Space, copy_piece};

/// What is emptied, in bytes.
const BYTES: u64 = 256 << 20;
/// How much is copied in a step of an evacuation, in pages.
const PIECE: u32 = BATCH as u32;

/// The guest alone.
struct One<'a>(&'a Guest);

impl Spaces for One<'_> {
    fn with(&self, guest: GuestId, with: &mut dyn FnMut(&Space<'_>)) {
        if guest == self.0.id {
            with(&self.0.space);
        }
    }
}

/// Measures with memory mapped by blocks and by pages, in the guest's region for hot-plug.
pub(super) fn offline(memory: &Memory, guest: &Guest, report: &mut Report<'_>) {
    const COLUMNS: &[Column] = &[
        ("operation", 10),
        ("mapped", 10),
        ("moved", 10),
        ("ticks", 10),
        ("steps", 6),
        ("longest", 8),
        ("writes", 8),
        ("tlbis", 6),
        ("barriers", 9),
    ];
    let region = guest.space.hotplug();
    report.table("offline", COLUMNS);
    for (mapped, piece, bytes) in
        [("2M blocks", BLOCK_2M, BYTES), ("4K pages", PAGE_SIZE, BYTES / 8)]
    {
        // The first memory that is taken lies beside what cannot move; so much more is taken before.
        let end = Ipa::new(region.start.as_u64() + 2 * BYTES);
        let middle = Ipa::new(end.as_u64() - bytes);
        if end > region.end {
            return report.remark(format_args!("guest {} has too small a region", guest.name()));
        }
        while memory.counts().clean_large * PAGE_SIZE < 2 * BYTES && memory.idle_step() {}
        let before = add(guest, &(region.start..middle), BLOCK_2M, &mut Cost::default());
        let added = before.and_then(|()| add(guest, &(middle..end), piece, &mut Cost::default()));
        let emptied = match added {
            Ok(()) => empty(memory, guest, Ipa::new(end.as_u64() - PAGE_SIZE), bytes),
            Err(error) => return report.error(format_args!("{mapped}: {error:?}"), None),
        };
        match emptied {
            Some((moved, cost)) => {
                cost.row(report, "offline", mapped, moved);
                copy_alone(memory, moved).row(report, "copy", mapped, moved);
            }
            None => report.remark(format_args!("{mapped}: something beside them cannot move")),
        }
        let mut left = Some(region.start);
        while let Some(from) = left {
            let Ok(taken) = guest.space.take_range(from..end, Mark::Unplugged) else { return };
            left = taken.next;
            let _ = taken.flushed.retire();
        }
        while memory.counts().retired > 0 {
            memory.idle_step();
        }
    }
}

/// Empties the `bytes` of memory around what `ipa` is mapped to; returns how many bytes were moved, and the cost.
fn empty(memory: &Memory, guest: &Guest, ipa: Ipa, bytes: u64) -> Option<(u64, Cost)> {
    let start = guest.space.translate(&memory.pin(), ipa).ok()?.pa().align_down(bytes);
    let range = start..Pa::new(start.as_u64() + bytes);
    let mut evacuation = Evacuation::new(range.clone(), Use::Offline);
    let mut cost = Cost::default();
    loop {
        match cost.of(|| evacuation.step(memory, &One(guest))) {
            Progress::Working => _ = cost.of(|| memory.reclaim_step()),
            Progress::Emptied => break,
            Progress::Refused(_) => return None,
        }
    }
    let mut from = Some(range.start);
    while let Some(at) = from {
        from = memory.online_some(&range, at).ok()?.0;
    }
    Some((evacuation.done().moved * PAGE_SIZE, cost))
}

/// Copies so many bytes from block to block, as an evacuation does, and nothing else.
fn copy_alone(memory: &Memory, bytes: u64) -> Cost {
    let mut cost = Cost::default();
    let order = Order::BLOCK_2M;
    let (Ok(from), Ok(to)) = (memory.allocate_unclean(order), memory.allocate_unclean(order))
    else {
        return cost;
    };
    for piece in 0..bytes / (u64::from(PIECE) * PAGE_SIZE) {
        let first = (piece as u32 * PIECE) % order.frames();
        let source: Frame = from.first();
        cost.of(|| copy_piece(source, &to, first, PIECE));
    }
    memory.give_back_unclean(from);
    memory.give_back_unclean(to);
    cost
}
