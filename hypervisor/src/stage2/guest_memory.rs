//! Reading and writing a guest's memory from EL2: for virtqueues, and for loading.
#![expect(unsafe_code, reason = "copies between a window and a slice")]

use super::descriptor::Mark;
use super::populate::{PopulateError, Populated};
use super::space::Space;
use crate::addr::{Ipa, PAGE_SIZE};
use crate::arch;
use crate::mem::Order;
use core::ptr;

/// Why a guest's memory cannot be accessed.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct AccessError {
    /// The page where it failed.
    pub ipa: Ipa,
    /// Why.
    pub cause: PopulateError,
}

/// How often a page that was populated may be gone again before it could be written.
const ATTEMPTS: usize = 4;

impl Space<'_> {
    /// Reads `bytes` from `ipa` on. RAM that was never touched reads as zero, and stays untouched.
    ///
    /// The guest may be writing meanwhile: what is read may be torn, and must not be read twice to
    /// be checked once. On an error some bytes may have been read.
    pub fn read(&self, ipa: Ipa, bytes: &mut [u8]) -> Result<(), AccessError> {
        let mut at = ipa;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (part, after) = rest.split_at_mut(rest.len().min(left_in_page(at)));
            if !self.read_in_page(at, part) {
                match self.why_absent(at) {
                    Some(cause) => return Err(AccessError { ipa: at, cause }),
                    None => part.fill(0),
                }
            }
            at = after_part(at, part.len())?;
            rest = after;
        }
        Ok(())
    }

    /// Writes `bytes` from `ipa` on, populating RAM that was never touched. On an error some bytes
    /// may have been written.
    pub fn write(&self, ipa: Ipa, bytes: &[u8]) -> Result<(), AccessError> {
        self.write_as(ipa, bytes, Seen::Coherently)
    }

    /// Writes as [`Space::write`] does, for a guest that runs with its caches off: what it starts
    /// with.
    pub fn load(&self, ipa: Ipa, bytes: &[u8]) -> Result<(), AccessError> {
        self.write_as(ipa, bytes, Seen::WithoutCaches)
    }

    fn write_as(&self, ipa: Ipa, bytes: &[u8], seen: Seen) -> Result<(), AccessError> {
        let mut at = ipa;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (part, after) = rest.split_at(rest.len().min(left_in_page(at)));
            let mut attempts = 0;
            while !self.write_in_page(at, part, seen) {
                attempts += 1;
                match self.populate(at, Order::BLOCK_2M) {
                    Ok(Populated::Moving) => self.stay(at),
                    Ok(_) => {}
                    Err(cause) => return Err(AccessError { ipa: at, cause }),
                }
                if attempts == ATTEMPTS {
                    // The guest takes the page away as fast as it comes: as if it were not there.
                    return Err(AccessError { ipa: at, cause: PopulateError::Ballooned });
                }
            }
            at = after_part(at, part.len())?;
            rest = after;
        }
        Ok(())
    }

    /// Reads within one page, if it is mapped. The pin is held while bytes are copied, so that
    /// the frame is still the guest's.
    fn read_in_page(&self, ipa: Ipa, part: &mut [u8]) -> bool {
        if !self.covers(ipa) {
            return false;
        }
        let pin = self.memory.pin();
        let Some(frame) = self.translate(&pin, ipa).ok().and_then(|leaf| leaf.frame()) else {
            return false;
        };
        arch::window::with_frames(frame, Order::PAGE, |page| {
            // SAFETY:
            // - the part ends within the page, which is mapped at `page` while this runs
            // - the slice is the caller's own, and no guest's frame
            // - the guest may write meanwhile; the bytes are plain data, whatever they are
            unsafe {
                let from = page.as_ptr().add(ipa.page_offset() as usize);
                copy(from, part.as_mut_ptr(), part.len());
            }
        });
        true
    }

    /// Writes within one page, if it is mapped and stays where it is: what is written to a page that is being copied
    /// would be lost. The copying begins when this pin has gone.
    fn write_in_page(&self, ipa: Ipa, part: &[u8], seen: Seen) -> bool {
        if !self.covers(ipa) {
            return false;
        }
        let pin = self.memory.pin();
        let leaf = self.translate(&pin, ipa).ok().filter(|leaf| !leaf.is_moving());
        let Some(frame) = leaf.and_then(|leaf| leaf.frame()) else { return false };
        arch::window::with_frames(frame, Order::PAGE, |page| {
            // SAFETY: as in `read_in_page`, the other way round.
            unsafe {
                let to = page.add(ipa.page_offset() as usize);
                copy(part.as_ptr(), to.as_ptr(), part.len());
                if seen == Seen::WithoutCaches {
                    arch::memory::clean_to_poc(to, part.len());
                }
            }
        });
        true
    }

    /// Returns why `ipa` is absent for good; `None` where a touch would populate it.
    fn why_absent(&self, ipa: Ipa) -> Option<PopulateError> {
        if !self.covers(ipa) {
            return Some(PopulateError::Outside);
        }
        match self.translate(&self.memory.pin(), ipa) {
            Err(absent) if absent.mark == Mark::Ballooned => Some(PopulateError::Ballooned),
            Err(absent) if absent.mark == Mark::Unplugged => Some(PopulateError::Unplugged),
            Err(absent) if absent.mark == Mark::Poisoned => Some(PopulateError::Poisoned),
            _ => None,
        }
    }
}

/// Whether a guest sees what is written through its caches.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Seen {
    Coherently,
    WithoutCaches,
}

/// Copies `bytes` bytes; 2, 4 or 8 of them by one access where both ends are aligned to as many, as
/// the indices of virtqueues need.
///
/// # Safety
///
/// As [`ptr::copy_nonoverlapping`], but that others may write to what is read.
unsafe fn copy(from: *const u8, to: *mut u8, bytes: usize) {
    macro_rules! single {
        ($word:ty) => {
            // SAFETY: the caller's promise. Only one of the ends is shared, and aligned; the other
            // may be anywhere.
            unsafe {
                if from.cast::<$word>().is_aligned() && to.cast::<$word>().is_aligned() {
                    to.cast::<$word>().write_volatile(from.cast::<$word>().read_volatile());
                } else if from.cast::<$word>().is_aligned() {
                    let word = from.cast::<$word>().read_volatile();
                    to.cast::<$word>().write_unaligned(word);
                } else if to.cast::<$word>().is_aligned() {
                    let word = from.cast::<$word>().read_unaligned();
                    to.cast::<$word>().write_volatile(word);
                } else {
                    ptr::copy_nonoverlapping(from, to, bytes);
                }
            }
        };
    }
    match bytes {
        2 => single!(u16),
        4 => single!(u32),
        8 => single!(u64),
        // SAFETY: the caller's promise.
        _ => unsafe { ptr::copy_nonoverlapping(from, to, bytes) },
    }
}

fn left_in_page(ipa: Ipa) -> usize {
    (PAGE_SIZE - ipa.page_offset()) as usize
}

fn after_part(at: Ipa, bytes: usize) -> Result<Ipa, AccessError> {
    at.checked_add(bytes as u64).ok_or(AccessError { ipa: at, cause: PopulateError::Outside })
}
