//! What a guest's balloon does to its memory, and how its devices reach it.

use super::holder::Holder;
use crate::addr::{Ipa, IpaRange, PAGE_SIZE, byte_count};
use crate::device::virtio::Progress;
#[cfg(target_os = "none")]
use crate::device::virtio::balloon::feature;
use crate::device::virtio::balloon::{BalloonBackend, Mistake, Outcome};
use crate::device::{GuestMemory, MemoryFault, MemoryFaultReason};
use crate::stage2::{AccessError, Pages, PopulateError, Space, TakeError};
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
/// How many reported ranges one step takes, none of them further than a step of removing goes.
const RANGES_A_STEP: usize = 6;

/// The balloon's hands on a guest's memory.
pub struct Hands<H>(pub H);

impl<H: Holder> Hands<H> {
    /// Takes or returns some of `pages`. `again`: where there is no memory for it, it is tried again.
    fn each(
        &self,
        pages: &[u32],
        again: bool,
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
                    let outside = ipas.iter().find(|&&ipa| !self.0.space().covers(ipa));
                    let kind = if outside.is_some() { Mistake::Outside } else { Mistake::Repeated };
                    let first = outside.or(ipas.first()).copied().unwrap_or(Ipa::new(0));
                    outcome.mistake(first, kind);
                    outcome.mistakes = mistakes;
                }
                outcome
            }
            Err(_) => Outcome {
                handled: if again { 0 } else { count },
                no_memory: count as u32,
                ..Outcome::default()
            },
        }
    }
}

impl<H: Holder> BalloonBackend for Hands<H> {
    fn inflate(&mut self, pages: &[u32]) -> Outcome {
        let space = self.0.space();
        // What cannot be taken stays the guest's, which has no use for it.
        self.each(pages, false, |ipas| {
            let (done, flushed) = space.take_pages(ipas)?;
            flushed.retire();
            Ok(done)
        })
    }

    fn deflate(&mut self, pages: &[u32]) -> Outcome {
        let space = self.0.space();
        // A driver that is told that it has pages back uses them: until there is a frame for a table, it is not told.
        self.each(pages, true, |ipas| {
            let (done, flushed) = space.return_pages(ipas)?;
            flushed.retire();
            Ok(done)
        })
    }

    fn report(&mut self, ranges: &[IpaRange]) -> Outcome {
        let mut outcome = Outcome::default();
        for range in ranges.iter().take(RANGES_A_STEP) {
            match self.0.space().take_reported(range.clone()) {
                Ok(taken) => {
                    let next = taken.next.filter(|&next| next > range.start);
                    taken.flushed.retire();
                    let done = range.start..next.unwrap_or(range.end);
                    outcome.pages += byte_count(&done) / PAGE_SIZE;
                    if next.is_some() {
                        outcome.goes_on = next;
                        return outcome;
                    }
                }
                Err(TakeError::Outside) => outcome.mistake(range.start, Mistake::Outside),
                // A report is a hint: where nothing can be taken, it stays the guest's.
                Err(TakeError::OutOfMemory) => outcome.no_memory += 1,
            }
            outcome.handled += 1;
        }
        outcome
    }

    fn release_all(&mut self) -> Progress {
        let ram = self.0.space().extent();
        let start = Ipa::new(self.0.release_from().load(Ordering::Relaxed)).max(ram.start);
        let returned = self.0.space().return_range(start..ram.end);
        let next = match returned {
            Ok(returned) => {
                returned.flushed.retire();
                returned.next
            }
            // There is no frame for a table now. What is not returned must not be left: the next driver would use it.
            Err(_) => Some(start),
        };
        let (next, progress) =
            next.map_or((ram.start, Progress::Done), |next| (next, Progress::MoreWork));
        self.0.release_from().store(next.as_u64(), Ordering::Relaxed);
        progress
    }
}

#[cfg(target_os = "none")]
impl super::Guest {
    /// Says whether its driver may use a page of the balloon before it has told so: unless it accepted
    /// `VIRTIO_BALLOON_F_MUST_TELL_HOST` (virtio 1.2, section 5.5.6.1).
    pub fn may_use_untold(&self) -> bool {
        self.balloon.lock().device().negotiated_features() & feature::MUST_TELL_HOST == 0
    }
}
