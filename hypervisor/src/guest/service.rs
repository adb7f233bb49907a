//! What a guest asks of Sluice itself: the ranges that it has, and memory that comes and goes by the range.

use super::holder::remove_step;
use crate::addr::{Ipa, IpaRange, PAGE_SIZE, byte_count};
use crate::service::{Call, FEATURES, UID, VERSION, Wish, result};
use crate::stage2::{AddError, Fill, Space};
use core::sync::atomic::{AtomicBool, Ordering};
use spin::Mutex;

/// What the service knows of one guest.
#[derive(Debug, Default)]
pub struct Service {
    /// The guest asks for what is wished of it.
    listens: AtomicBool,
    wish: Mutex<Option<Wish>>,
}

impl Service {
    /// Says whether the guest asks for what is wished of it.
    pub fn listens(&self) -> bool {
        self.listens.load(Ordering::Relaxed)
    }

    /// Wishes something of the guest, in the place of what was wished before.
    pub fn wish(&self, wish: Option<Wish>) {
        *self.wish.lock() = wish;
    }

    /// Returns what is wished of the guest and not done yet.
    pub fn wished(&self) -> Option<Wish> {
        self.wish.lock().clone()
    }

    /// Forgets the guest, whose machine was made anew.
    #[cfg(target_os = "none")]
    pub(super) fn power_on(&self) {
        self.listens.store(false, Ordering::Relaxed);
        self.wish(None);
    }

    /// Takes `range` off the beginning of what is wished, when it was done.
    fn done(&self, range: &IpaRange) {
        let mut wish = self.wish.lock();
        if let Some(Wish::Offer(left) | Wish::Release(left)) = wish.as_mut()
            && left.start == range.start
        {
            left.start = range.end.min(left.end);
            if left.is_empty() {
                *wish = None;
            }
        }
    }
}

/// What a call returns in x0 to x3.
pub type Answer = [u64; 4];

const fn plain(result: i64) -> Answer {
    [result as u64, 0, 0, 0]
}

/// Says that of `range` what lies before `next` is done.
fn progress(range: &IpaRange, next: Option<Ipa>) -> (Answer, IpaRange) {
    let done = range.start..next.unwrap_or(range.end);
    ([result::SUCCESS as u64, byte_count(&done), 0, 0], done)
}

/// A guest that calls.
struct Caller<'a, T> {
    service: &'a Service,
    space: &'a Space<'static>,
    /// Says whether somebody else has a range: the memory device.
    is_taken: T,
}

impl Service {
    /// Carries out a call of the guest that has `space`, or a bounded piece of it. `is_taken` says of a range whether
    /// the guest's memory device has it.
    pub fn serve(
        &self,
        space: &Space<'static>,
        call: Call,
        is_taken: impl Fn(&IpaRange) -> bool,
    ) -> Answer {
        Caller { service: self, space, is_taken }.serve(call)
    }
}

impl<T: Fn(&IpaRange) -> bool> Caller<'_, T> {
    fn serve(&self, call: Call) -> Answer {
        match call {
            Call::Uid => UID.map(u64::from),
            Call::Revision => [VERSION.0, VERSION.1, 0, 0],
            Call::Features => [FEATURES, 0, 0, 0],
            Call::Query(number) => self.query(number),
            Call::Listen(listens) => {
                self.service.listens.store(listens, Ordering::Relaxed);
                plain(result::SUCCESS)
            }
            Call::Pending => match self.service.wished() {
                Some(wish) => {
                    let range = wish.range();
                    [result::SUCCESS as u64, wish.kind(), range.start.as_u64(), byte_count(range)]
                }
                None => plain(result::SUCCESS),
            },
            Call::Request(range) => self.add_some(&range),
            Call::Accept(range) => match self.service.wished() {
                // What is accepted is accepted from the beginning on.
                Some(Wish::Offer(offer))
                    if offer.start == range.start && range.end <= offer.end =>
                {
                    self.add_some(&range)
                }
                _ => plain(result::DENIED),
            },
            Call::Release(range) => self.release_some(&range),
            Call::Decline => {
                self.service.wish(None);
                plain(result::SUCCESS)
            }
        }
    }

    fn query(&self, number: u64) -> Answer {
        let range = match number {
            0 => self.space.ram(),
            1 => self.space.hotplug(),
            _ => return plain(result::INVALID_PARAMETER),
        };
        [result::SUCCESS as u64, range.start.as_u64(), byte_count(&range), number]
    }

    fn add_some(&self, range: &IpaRange) -> Answer {
        if (self.is_taken)(range) {
            return plain(result::DENIED);
        }
        if !self.space.is_addable(range) {
            return plain(result::INVALID_PARAMETER);
        }
        if self.space.memory().counts().free() * PAGE_SIZE < byte_count(range) {
            return self.no_memory();
        }
        match self.space.add(range.clone(), Fill::Ready) {
            Ok(added) => {
                let (answer, done) = progress(range, added.next);
                self.service.done(&done);
                answer
            }
            Err(AddError::Outside) => plain(result::INVALID_PARAMETER),
            Err(AddError::Present(_)) => plain(result::PRESENT),
            Err(AddError::OutOfMemory) => self.no_memory(),
        }
    }

    /// Answers that there is no memory; but that it shall ask again, where some is about to become free.
    fn no_memory(&self) -> Answer {
        if self.space.memory().reclaim_step() {
            return [result::SUCCESS as u64, 0, 0, 0];
        }
        plain(result::NO_MEMORY)
    }

    fn release_some(&self, range: &IpaRange) -> Answer {
        if (self.is_taken)(range) {
            return plain(result::DENIED);
        }
        if !self.space.is_addable(range) {
            return plain(result::INVALID_PARAMETER);
        }
        match remove_step(self.space, range.clone()) {
            Some(next) => {
                let (answer, done) = progress(range, next);
                self.service.done(&done);
                answer
            }
            None => plain(result::NO_MEMORY),
        }
    }
}

#[cfg(target_os = "none")]
impl super::Guest {
    /// Carries out a call of the service, or a bounded piece of it.
    pub fn serve(&self, call: Call) -> Answer {
        self.service.serve(&self.space, call, |range| self.range_is_taken(range))
    }

    /// Says why `range` is not to be added or taken by its address: the memory device has it.
    pub fn range_is_taken(&self, range: &IpaRange) -> bool {
        let Some(device) = &self.memory_device else { return false };
        let region = self.space.hotplug();
        let outside = range.end <= region.start || region.end <= range.start;
        let device = device.lock();
        !outside && (device.is_live() || device.device().plugged() > 0)
    }

    /// Takes what the guest has at the beginning of `range`, as [`remove_step`] does.
    pub fn remove_step(&self, range: IpaRange) -> Option<Option<Ipa>> {
        remove_step(&self.space, range)
    }
}
