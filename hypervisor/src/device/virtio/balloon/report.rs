//! The reporting queue (virtio 1.2 §5.5.6.7): buffers that lie over free memory.

use super::super::chain::{Buffer, Chain};
use super::super::{Progress, Queue, QueueFault};
use super::Outcome;
use crate::addr::{BLOCK_1G, Ipa, IpaRange, PAGE_SIZE};
use crate::device::GuestMemory;

/// How many ranges are handed to the backend at once: what Linux puts into one chain
/// (`PAGE_REPORTING_CAPACITY`).
pub const RANGES: usize = 32;

/// The queue, and what is in work of it.
#[derive(Debug)]
pub(super) struct ReportQueue {
    chain: Option<Chain>,
    ended: bool,
    ranges: [IpaRange; RANGES],
    filled: usize,
    handled: usize,
    /// What is left of a range that was cut at a boundary.
    rest: Option<IpaRange>,
}

impl Default for ReportQueue {
    fn default() -> Self {
        Self {
            chain: None,
            ended: false,
            ranges: [const { Ipa::new(0)..Ipa::new(0) }; RANGES],
            filled: 0,
            handled: 0,
            rest: None,
        }
    }
}

impl ReportQueue {
    /// Forgets what was in work.
    pub(super) fn reset(&mut self) {
        self.start(None);
    }

    fn start(&mut self, chain: Option<Chain>) {
        self.chain = chain;
        self.ended = false;
        self.filled = 0;
        self.handled = 0;
        self.rest = None;
    }

    /// Reads and hands over at most one batch.
    pub(super) fn serve<M: GuestMemory + ?Sized>(
        &mut self,
        queue: &mut Queue,
        memory: &M,
        hand_over: impl FnOnce(&[IpaRange]) -> Outcome,
    ) -> Result<Progress, QueueFault> {
        if self.chain.is_none() {
            let chain = queue.pop(memory)?;
            self.start(chain);
        }
        let Some(mut chain) = self.chain else {
            return Ok(Progress::Done);
        };
        if self.handled == self.filled {
            self.read(&mut chain, memory)?;
            self.chain = Some(chain);
        }
        let batch = self.ranges.get(self.handled..self.filled).unwrap_or_default();
        if !batch.is_empty() {
            let outcome = hand_over(batch);
            self.handled += outcome.handled.min(batch.len());
            let next = self.ranges.get_mut(self.handled);
            if let (Some(at), Some(range)) = (outcome.goes_on, next) {
                range.start = at.clamp(range.start, range.end);
            }
        }
        if self.handled < self.filled || !self.ended {
            return Ok(Progress::MoreWork);
        }
        queue.push(memory, chain.head(), 0)?;
        let chain = queue.pop(memory)?;
        self.start(chain);
        Ok(if self.chain.is_some() { Progress::MoreWork } else { Progress::Done })
    }

    /// Reads the next batch of ranges.
    fn read<M: GuestMemory + ?Sized>(
        &mut self,
        chain: &mut Chain,
        memory: &M,
    ) -> Result<(), QueueFault> {
        self.filled = 0;
        self.handled = 0;
        // Twice the ranges: buffers without a whole page are work as well. One step more, and a
        // full chain of whole blocks is seen to have ended in the same call.
        for _ in 0..2 * RANGES {
            if let Some(range) = self.rest.take() {
                let Some(slot) = self.ranges.get_mut(self.filled) else {
                    self.rest = Some(range);
                    break;
                };
                let (first, rest) = cut(range);
                *slot = first;
                self.filled += 1;
                self.rest = rest;
            } else {
                match chain.next(memory)? {
                    Some(buffer) => self.rest = whole_pages(buffer),
                    None => {
                        self.ended = true;
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Returns the whole pages within a buffer. One that the device must not write is no free memory.
fn whole_pages(buffer: Buffer) -> Option<IpaRange> {
    if !buffer.writable {
        return None;
    }
    let start = buffer.address.align_up(PAGE_SIZE)?;
    let end = buffer.address.checked_add(buffer.length.into())?.align_down(PAGE_SIZE);
    (start < end).then_some(start..end)
}

/// Cuts a range at the first boundary of 1 GiB within it.
fn cut(range: IpaRange) -> (IpaRange, Option<IpaRange>) {
    let boundary = range.start.align_down(BLOCK_1G).checked_add(BLOCK_1G);
    match boundary {
        Some(boundary) if boundary < range.end => {
            (range.start..boundary, Some(boundary..range.end))
        }
        _ => (range, None),
    }
}
