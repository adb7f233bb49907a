//! The inflate and the deflate queue (virtio 1.2 §5.5.6): arrays of page numbers.

use zerocopy::IntoBytes;

use super::super::reader::Reader;
use super::super::{Progress, Queue, QueueFault};
use super::Outcome;
use crate::device::GuestMemory;

/// How many pages are handed to the backend at once: what Linux puts into one buffer
/// (`VIRTIO_BALLOON_ARRAY_PFNS_MAX`).
pub const BATCH: usize = 256;
const NUMBER_BYTES: usize = size_of::<u32>();

/// One of the two queues, and what is in work of it.
#[derive(Debug)]
pub(super) struct PageQueue {
    chain: Option<Reader>,
    /// Page numbers, as read: little-endian until a batch is handed over.
    batch: [u32; BATCH],
    /// How many bytes of `batch` have been read. The last number may not be whole.
    filled: usize,
    /// How many numbers of `batch` the backend has dealt with.
    handled: usize,
}

impl Default for PageQueue {
    fn default() -> Self {
        Self { chain: None, batch: [0; BATCH], filled: 0, handled: 0 }
    }
}

impl PageQueue {
    /// Forgets what was in work.
    pub(super) fn reset(&mut self) {
        self.chain = None;
        self.filled = 0;
        self.handled = 0;
    }

    /// Reads and hands over at most one batch.
    pub(super) fn serve<M: GuestMemory + ?Sized>(
        &mut self,
        queue: &mut Queue,
        memory: &M,
        hand_over: impl FnOnce(&[u32]) -> Outcome,
    ) -> Result<Progress, QueueFault> {
        if self.chain.is_none() {
            self.chain = queue.pop(memory)?.map(Reader::new);
        }
        let Some(mut chain) = self.chain else {
            return Ok(Progress::Done);
        };
        if self.handled == self.whole() {
            self.read(&mut chain, memory)?;
            self.chain = Some(chain);
        }
        let batch = self.batch.get(self.handled..self.whole()).unwrap_or_default();
        if !batch.is_empty() {
            let outcome = hand_over(batch);
            self.handled += outcome.handled.min(batch.len());
        }
        if self.handled < self.whole() || !chain.ended() {
            return Ok(Progress::MoreWork);
        }
        queue.push(memory, chain.head(), 0)?;
        self.reset();
        self.chain = queue.pop(memory)?.map(Reader::new);
        Ok(if self.chain.is_some() { Progress::MoreWork } else { Progress::Done })
    }

    /// Returns how many whole numbers have been read.
    fn whole(&self) -> usize {
        self.filled / NUMBER_BYTES
    }

    /// Reads the next batch behind the bytes of a number that the last one ended in.
    fn read<M: GuestMemory + ?Sized>(
        &mut self,
        chain: &mut Reader,
        memory: &M,
    ) -> Result<(), QueueFault> {
        let bytes = self.batch.as_mut_bytes();
        let whole = self.filled / NUMBER_BYTES * NUMBER_BYTES;
        bytes.copy_within(whole..self.filled, 0);
        let kept = self.filled - whole;
        let read = chain.fill(memory, bytes.get_mut(kept..).unwrap_or_default())?;
        self.filled = kept + read;
        self.handled = 0;
        for number in self.batch.iter_mut().take(self.filled / NUMBER_BYTES) {
            *number = u32::from_le(*number);
        }
        Ok(())
    }
}
