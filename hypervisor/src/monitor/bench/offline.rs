//! What it costs to empty 256 MiB that a guest has, beside the copying alone.

use super::{Cost, add};
use crate::addr::{BLOCK_2M, Frame, Ipa, PAGE_SIZE, Pa};
use crate::evacuation::{Evacuation, Progress, Spaces};
use crate::guest::Guest;
use crate::mem::{GuestId, Memory, Order, Use};
use crate::monitor::report::{Column, Report};
use crate::stage2::{Mark, Space, copy_piece};

/// What is emptied, in bytes.
const BYTES: u64 = 256 << 20;
/// How much is copied in a step of an evacuation, in pages.
const PIECE: u32 = 16;

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
    for (mapped, piece) in [("2M blocks", BLOCK_2M), ("4K pages", PAGE_SIZE)] {
        // By pages the first 32 MiB are enough.
        let bytes = if piece == PAGE_SIZE { BYTES / 8 } else { BYTES };
        let range = region.start..Ipa::new(region.start.as_u64() + bytes);
        if range.end > region.end {
            return report.remark(format_args!("guest {} has too small a region", guest.name()));
        }
        while memory.counts().clean_large * PAGE_SIZE < bytes && memory.idle_step() {}
        if let Err(error) = add(guest, &range, piece, &mut Cost::default()) {
            return report.remark(format_args!("{mapped}: {error:?}"));
        }
        if let Some(cost) = empty(memory, guest, range.start, report) {
            cost.1.row(report, "offline", mapped, cost.0);
            copy_alone(memory, cost.0).row(report, "copy", mapped, cost.0);
        }
        if let Ok(taken) = guest.space.take_range(range, Mark::Unplugged) {
            let _ = taken.flushed.retire();
        }
        while memory.counts().retired > 0 {
            memory.idle_step();
        }
    }
}

/// Empties the memory around what `ipa` is mapped to; returns how many bytes were moved, and the cost.
fn empty(memory: &Memory, guest: &Guest, ipa: Ipa, report: &mut Report<'_>) -> Option<(u64, Cost)> {
    let pa = guest.space.translate(&memory.pin(), ipa).ok()?.pa();
    let start = pa.align_down(BYTES);
    let range = start..Pa::new(start.as_u64() + BYTES);
    let mut evacuation = Evacuation::new(range.clone(), Use::Offline);
    let mut cost = Cost::default();
    loop {
        match cost.of(|| evacuation.step(memory, &One(guest))) {
            Progress::Working => cost.of(|| memory.reclaim_step()),
            Progress::Emptied => break,
            Progress::Refused(why) => {
                report.remark(format_args!("{start}: {why:?}"));
                return None;
            }
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
