//! What a guest's balloon does to its memory, and how its devices reach it.

use super::{BalloonSlot, Guest};
use crate::addr::{Ipa, IpaRange};
use crate::arch::time;
use crate::device::gic::intid;
use crate::device::virtio::balloon::{BalloonBackend, Mistake, Outcome, feature};
use crate::device::virtio::{Context, Progress};
use crate::device::{GuestMemory, MemoryFault, MemoryFaultReason, Width};
use crate::guest::layout;
use crate::mem::Order;
use crate::stage2::{AccessError, Pages, PopulateError, Space, TakeError};
use crate::system::System;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

/// A guest's memory, as its devices reach it.
pub struct DeviceView<'a>(pub &'a Space<'static>);

fn fault(error: AccessError) -> MemoryFault {
    let reason = match error.cause {
        PopulateError::Outside | PopulateError::Unplugged | PopulateError::Poisoned => {
            MemoryFaultReason::Outside
        }
        PopulateError::Ballooned => MemoryFaultReason::GivenAway,
        PopulateError::OutOfMemory => MemoryFaultReason::OutOfMemory,
    };
    MemoryFault { ipa: error.ipa, reason }
}

impl GuestMemory for DeviceView<'_> {
    fn read(&self, ipa: Ipa, bytes: &mut [u8]) -> Result<(), MemoryFault> {
        self.0.read(ipa, bytes).map_err(fault)
    }

    fn write(&self, ipa: Ipa, bytes: &[u8]) -> Result<(), MemoryFault> {
        self.0.write(ipa, bytes).map_err(fault)
    }
}

/// How many pages one step takes or returns: some 15,000 instructions, with one flush for all of them.
const PAGES_A_STEP: usize = 64;
/// How many pieces of reported ranges one step takes: enough for a block of 2 MiB that is mapped in pages.
const PIECES_A_STEP: usize = 6;

/// The balloon's hands on a guest's memory.
pub struct Hands(Arc<Guest>);

impl Hands {
    fn each(
        &self,
        pages: &[u32],
        take: impl FnOnce(&[Ipa]) -> Result<Pages, TakeError>,
    ) -> Outcome {
        let mut ipas = [Ipa::new(0); PAGES_A_STEP];
        let count = pages.len().min(PAGES_A_STEP);
        for (ipa, page) in ipas.iter_mut().zip(pages) {
            *ipa = Ipa::from_page(u64::from(*page));
        }
        let ipas = ipas.get(..count).unwrap_or(&[]);
        match take(ipas) {
            Ok(done) => {
                let mut outcome = Outcome {
                    handled: done.done,
                    pages: (done.taken + done.marked) as u64,
                    ..Outcome::default()
                };
                let mistakes = (done.repeated + done.outside) as u32;
                if mistakes > 0 {
                    // Which one it was is looked for only when there was one.
                    let outside = ipas.iter().find(|&&ipa| !self.0.space.covers(ipa));
                    let kind = if outside.is_some() { Mistake::Outside } else { Mistake::Repeated };
                    let first = outside.or(ipas.first()).copied().unwrap_or(Ipa::new(0));
                    outcome.mistake(first, kind);
                    outcome.mistakes = mistakes;
                }
                outcome
            }
            Err(_) => Outcome { handled: count, no_memory: count as u32, ..Outcome::default() },
        }
    }
}

impl BalloonBackend for Hands {
    fn inflate(&mut self, pages: &[u32]) -> Outcome {
        let space = &self.0.space;
        self.each(pages, |ipas| {
            let (done, flushed) = space.take_pages(ipas)?;
            flushed.retire();
            Ok(done)
        })
    }

    fn deflate(&mut self, pages: &[u32]) -> Outcome {
        let space = &self.0.space;
        self.each(pages, |ipas| {
            let (done, flushed) = space.return_pages(ipas)?;
            flushed.retire();
            Ok(done)
        })
    }

    fn report(&mut self, ranges: &[IpaRange]) -> Outcome {
        let mut outcome = Outcome::default();
        let mut left = PIECES_A_STEP;
        for range in ranges {
            let (mut from, mut pages) = (range.start, 0);
            while from < range.end && left > 0 {
                left -= 1;
                let next = match self.0.space.take_reported(from..range.end) {
                    Ok(taken) => {
                        let next = taken.next.unwrap_or(range.end);
                        taken.flushed.retire();
                        pages += next.as_u64().saturating_sub(from.as_u64()) / Order::PAGE.bytes();
                        next
                    }
                    Err(error) => {
                        match error {
                            TakeError::Outside => outcome.mistake(range.start, Mistake::Outside),
                            TakeError::OutOfMemory => outcome.no_memory += 1,
                        }
                        range.end
                    }
                };
                from = next;
            }
            // Its own step takes the most of it. A report is a hint: what that does not get to stays the guest's.
            if from < range.end && outcome.handled > 0 {
                break;
            }
            outcome.pages += pages;
            outcome.handled += 1;
        }
        outcome
    }

    fn release_all(&mut self) -> Progress {
        let ram = self.0.space.extent();
        let start = Ipa::new(self.0.release_from.load(Ordering::Relaxed)).max(ram.start);
        let returned = self.0.space.return_range(start..ram.end);
        let next = returned.ok().and_then(|returned| {
            returned.flushed.retire();
            returned.next
        });
        let (next, progress) =
            next.map_or((ram.start, Progress::Done), |next| (next, Progress::MoreWork));
        self.0.release_from.store(next.as_u64(), Ordering::Relaxed);
        progress
    }
}

impl Guest {
    /// Looks at the balloon's interrupt line, and notes whether its queues hold work: after each change of the
    /// device, whose lock is held so that the line's levels reach the interrupt controller in their order.
    pub(super) fn after_balloon(&self, system: &System, slot: &BalloonSlot) {
        if let Some(intid) = intid::virtio(layout::BALLOON_SLOT as u32) {
            self.kick(system, self.gic.inject_spi(intid, slot.line()));
        }
        self.note_work(super::WORK_OF_BALLOON, slot.outstanding().is_more());
    }

    /// Says whether its driver may use a page of the balloon before it has told so: unless it accepted
    /// `VIRTIO_BALLOON_F_MUST_TELL_HOST` (virtio 1.2, section 5.5.6.1).
    pub fn may_use_untold(&self) -> bool {
        self.balloon.lock().device().negotiated_features() & feature::MUST_TELL_HOST == 0
    }

    /// Does a bounded piece of what the balloon's queues hold; says whether, for another CPU may be about it.
    pub(super) fn balloon_step(self: &Arc<Self>, system: &System) -> bool {
        let Some(mut slot) = self.balloon.try_lock() else { return false };
        let view = DeviceView(&self.space);
        let mut hands = Hands(Arc::clone(self));
        let mut context = Context { memory: &view, backend: &mut hands, now: time::now() };
        // What is left is noted below.
        let _ = slot.process(&mut context);
        self.after_balloon(system, &slot);
        true
    }

    /// Reads a register of the balloon.
    pub fn read_balloon(&self, system: &System, register: u64, width: Width) -> u64 {
        let mut slot = self.balloon.lock();
        let value = slot.read(register, width);
        self.after_balloon(system, &slot);
        value
    }

    /// Writes a register of the balloon.
    pub fn write_balloon(&self, system: &System, register: u64, width: Width, value: u64) {
        let mut slot = self.balloon.lock();
        // What it leaves to do is noted below.
        let _ = slot.write(register, width, value);
        self.after_balloon(system, &slot);
    }
}
