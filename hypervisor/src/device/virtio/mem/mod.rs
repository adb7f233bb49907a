//! The memory device (virtio 1.2 §5.15): memory that is plugged and unplugged in blocks while the guest runs.
//!
//! The host says how much is wanted; the driver asks for blocks to be plugged and unplugged until there is as much,
//! or as near to it as it can come. Blocks are unplugged at first, and inaccessible then: a driver that would read
//! unplugged memory (one without `VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE`) is given none.

mod backend;
mod blocks;
mod request;
#[cfg(all(test, not(loom)))]
mod tests;

pub use backend::{MemoryBackend, Step};
pub use request::Answer;

use core::marker::PhantomData;
use core::ops::Range;

use blocks::Blocks;
use request::{Kind, Request, State, respond};

use super::chain::Chain;
use super::mmio::Label;
use super::{Context, Device, Progress, Queue, QueueFault, Signals};
use crate::addr::{BLOCK_2M, Ipa, IpaRange};
use crate::device::GuestMemory;
use crate::device::sparse::Sparse;

/// Feature bits (§5.15.3).
pub mod feature {
    /// The driver does not touch unplugged memory.
    pub const UNPLUGGED_INACCESSIBLE: u64 = 1 << 1;
}

/// The device type (§5.15.1).
const ID: u32 = 24;
/// The size of the configuration space in bytes (§5.15.4).
const CONFIG_BYTES: usize = 56;
/// The most blocks of 2 MiB; a larger region has larger blocks.
const MOST_BLOCKS: u64 = 1 << 15;
/// The most blocks that one step of unplugging everything takes.
const RUN: u32 = 64;

/// What has happened since the device was made.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes plugged.
    pub plugged: u64,
    /// Bytes unplugged.
    pub unplugged: u64,
    /// Requests by their answer: ack, nack, busy, error.
    pub answers: [u64; 4],
    wrong: Sparse,
}

/// A request that is being carried out.
#[derive(Copy, Clone, Debug)]
struct Work {
    chain: Chain,
    kind: Kind,
    /// The blocks that it is about, and how far they are done.
    first: u32,
    end: u32,
    at: Ipa,
}

/// A memory device.
#[derive(Debug)]
pub struct MemoryDevice<B: ?Sized> {
    label: Label,
    features: u64,
    region: IpaRange,
    block: u64,
    requested: u64,
    blocks: Blocks,
    work: Option<Work>,
    /// What was plugged for a request that then failed or was given up, and no more than that, for what is behind it may
    /// be there for another reason: to be unplugged again.
    undo: Option<IpaRange>,
    counters: Counters,
    signals: Signals,
    backend: PhantomData<fn(&mut B)>,
}

/// Returns the size of a block of a region of `bytes`: 2 MiB, or what keeps the number of blocks in bounds.
fn block_size(bytes: u64) -> u64 {
    let mut block = BLOCK_2M;
    while bytes / block > MOST_BLOCKS {
        block *= 2;
    }
    block
}

impl<B: MemoryBackend + ?Sized> MemoryDevice<B> {
    /// Makes a device for `region`, which begins at a block and of which whole blocks are used, all unplugged.
    pub fn new(label: Label, region: IpaRange) -> Self {
        let bytes = region.end.as_u64().saturating_sub(region.start.as_u64());
        let block = block_size(bytes);
        Self {
            label,
            features: 0,
            region,
            block,
            requested: 0,
            blocks: Blocks::new((bytes / block) as u32),
            work: None,
            undo: None,
            counters: Counters::default(),
            signals: Signals::default(),
            backend: PhantomData,
        }
    }

    /// Says how many bytes the guest shall have plugged, rounded down to blocks and to the region: the driver is told,
    /// once more where it has not come there yet. Returns what it came to.
    pub fn request(&mut self, bytes: u64) -> u64 {
        let bytes = bytes.min(self.limit()) / self.block * self.block;
        self.signals.config_changed |= self.requested != bytes || self.plugged() != bytes;
        self.requested = bytes;
        bytes
    }

    /// Has the driver look at what is requested, once more.
    pub fn remind(&mut self) {
        self.signals.config_changed = true;
    }

    /// Returns how many bytes the guest shall have plugged.
    pub fn requested(&self) -> u64 {
        self.requested
    }

    /// Returns how many bytes are plugged.
    pub fn plugged(&self) -> u64 {
        u64::from(self.blocks.plugged()) * self.block
    }

    /// Returns how many bytes there can be.
    pub fn limit(&self) -> u64 {
        u64::from(self.blocks.count()) * self.block
    }

    /// Returns the size of a block in bytes.
    pub fn block(&self) -> u64 {
        self.block
    }

    /// Returns what has happened.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Notes that the guest's machine was made anew, and has nothing plugged. What is requested stays.
    pub fn power_on(&mut self) {
        self.blocks.clear();
        self.undo = None;
    }

    fn config(&self) -> [u8; CONFIG_BYTES] {
        let fields = [
            self.block,
            // The node, and padding.
            0,
            self.region.start.as_u64(),
            self.limit(),
            // All of the region is usable.
            self.limit(),
            self.plugged(),
            self.requested,
        ];
        let mut bytes = [0; CONFIG_BYTES];
        for (place, field) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(fields) {
            *place = field.to_le_bytes();
        }
        bytes
    }

    fn address(&self, block: u32) -> Ipa {
        Ipa::new(self.region.start.as_u64() + u64::from(block) * self.block)
    }

    /// Returns the blocks that a request names; `None` where they are not whole blocks of the region.
    fn named(&self, request: &Request) -> Option<Range<u32>> {
        let offset = request.address.checked_sub(self.region.start)?;
        if !offset.is_multiple_of(self.block) || request.blocks == 0 {
            return None;
        }
        let first = u32::try_from(offset / self.block).ok()?;
        let end = first.checked_add(request.blocks.into())?;
        (end <= self.blocks.count()).then_some(first..end)
    }

    /// Decides on a request: answers it, or returns the work that it makes.
    fn decide(
        &mut self,
        chain: Chain,
        request: Option<Request>,
        backend: &mut B,
    ) -> Result<Work, (Answer, Option<State>)> {
        let error = (Answer::Error, None);
        let request = request.ok_or(error)?;
        let kind = request.kind.ok_or(error)?;
        if self.features & feature::UNPLUGGED_INACCESSIBLE == 0 {
            return Err(error);
        }
        let all = 0..self.blocks.count();
        let blocks =
            if kind == Kind::UnplugAll { all } else { self.named(&request).ok_or(error)? };
        let plugged = self.blocks.plugged_in(blocks.clone());
        let count = blocks.end - blocks.start;
        match kind {
            Kind::State => {
                let state = match plugged {
                    0 => State::Unplugged,
                    all if all == count => State::Plugged,
                    _ => State::Mixed,
                };
                return Err((Answer::Ack, Some(state)));
            }
            Kind::Plug if plugged != 0 => return Err(error),
            Kind::Unplug if plugged != count => return Err(error),
            Kind::Plug => {
                let bytes = u64::from(count) * self.block;
                if self.plugged() + bytes > self.requested {
                    return Err((Answer::Nack, None));
                }
                if !backend.admits(bytes) {
                    return Err((Answer::Busy, None));
                }
            }
            Kind::Unplug | Kind::UnplugAll => {}
        }
        let at = self.address(blocks.start);
        Ok(Work { chain, kind, first: blocks.start, end: blocks.end, at })
    }

    /// Does a bounded piece of `work`. Returns the answer when it is done.
    fn carry_out(&mut self, work: &mut Work, backend: &mut B) -> Option<Answer> {
        let range = work.at..self.address(work.end);
        match work.kind {
            Kind::Plug => match backend.plug(range) {
                Step::Next(next) => {
                    work.at = next;
                    None
                }
                Step::Done => {
                    self.blocks.set(work.first..work.end, true);
                    let bytes = u64::from(work.end - work.first) * self.block;
                    self.counters.plugged = self.counters.plugged.saturating_add(bytes);
                    Some(Answer::Ack)
                }
                Step::OutOfMemory => {
                    self.undo = Some(self.address(work.first)..work.at);
                    Some(Answer::Busy)
                }
            },
            Kind::Unplug => match backend.unplug(range) {
                Step::Next(next) => {
                    work.at = next;
                    None
                }
                Step::Done => {
                    self.has_unplugged(work.first..work.end);
                    Some(Answer::Ack)
                }
                // What is gone cannot be had back: the rest follows when there is a table for it.
                Step::OutOfMemory => None,
            },
            Kind::UnplugAll => {
                let Some(run) = self.blocks.run(work.first, RUN) else { return Some(Answer::Ack) };
                let start = work.at.max(self.address(run.start));
                match backend.unplug(start..self.address(run.end)) {
                    Step::Next(next) => work.at = next,
                    Step::Done => {
                        work.first = run.end;
                        self.has_unplugged(run);
                    }
                    Step::OutOfMemory => {}
                }
                None
            }
            Kind::State => Some(Answer::Error),
        }
    }

    fn has_unplugged(&mut self, blocks: Range<u32>) {
        let bytes = u64::from(blocks.end - blocks.start) * self.block;
        self.blocks.set(blocks, false);
        self.counters.unplugged = self.counters.unplugged.saturating_add(bytes);
    }

    /// Does a bounded piece of undoing what was plugged in vain.
    fn undo_step(&mut self, backend: &mut B) -> Progress {
        let undo = self.undo.take().filter(|range| !range.is_empty());
        let Some(range) = undo else { return Progress::Done };
        let from = match backend.unplug(range.clone()) {
            Step::Done => return Progress::Done,
            Step::Next(next) => next,
            Step::OutOfMemory => range.start,
        };
        self.undo = Some(from..range.end);
        Progress::MoreWork
    }

    fn answered(&mut self, answer: Answer) {
        if let Some(count) = self.counters.answers.get_mut(answer as usize) {
            *count = count.saturating_add(1);
        }
        if answer == Answer::Error
            && let Some(count) = self.counters.wrong.add(1)
        {
            log::warn!(
                "{}: a request for what cannot be plugged or unplugged, refused ({count} so far)",
                self.label
            );
        }
    }
}

impl<B: MemoryBackend + ?Sized> Device for MemoryDevice<B> {
    type Backend = B;

    fn id(&self) -> u32 {
        ID
    }

    fn features(&self) -> u64 {
        feature::UNPLUGGED_INACCESSIBLE
    }

    fn negotiated(&mut self, features: u64) {
        self.features = features;
    }

    fn queue_count(&self) -> u32 {
        1
    }

    fn read_config(&self, offset: u64, bytes: &mut [u8]) {
        let config = self.config();
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        bytes.fill(0);
        for (byte, value) in bytes.iter_mut().zip(config.get(offset..).unwrap_or_default()) {
            *byte = *value;
        }
    }

    fn write_config(&mut self, _offset: u64, _bytes: &[u8]) {
        // Nothing in it is for the driver to write.
    }

    /// Forgets the driver, and a request that is half carried out. What is plugged stays so (§5.15.6.2).
    fn reset(&mut self) -> Progress {
        self.features = 0;
        self.give_up();
        self.signals = Signals::default();
        if self.undo.is_some() { Progress::MoreWork } else { Progress::Done }
    }

    fn finish_reset(&mut self, backend: &mut B) -> Progress {
        self.undo_step(backend)
    }

    fn queue_stopped(&mut self, _index: u32) {
        self.give_up();
    }

    fn serve<M: GuestMemory + ?Sized>(
        &mut self,
        _index: u32,
        queue: &mut Queue,
        context: &mut Context<'_, M, B>,
    ) -> Result<Progress, QueueFault> {
        if self.undo_step(context.backend).is_more() {
            return Ok(Progress::MoreWork);
        }
        let memory = context.memory;
        let (chain, (answer, state)) = match self.work.take() {
            Some(mut work) => match self.carry_out(&mut work, context.backend) {
                Some(answer) => (work.chain, (answer, None)),
                None => {
                    self.work = Some(work);
                    return Ok(Progress::MoreWork);
                }
            },
            None => {
                let Some(chain) = queue.pop(memory)? else { return Ok(Progress::Done) };
                let request = Request::read(chain, memory)?;
                match self.decide(chain, request, context.backend) {
                    Ok(work) => {
                        self.work = Some(work);
                        return Ok(Progress::MoreWork);
                    }
                    Err(answer) => (chain, answer),
                }
            }
        };
        self.answered(answer);
        let written = respond(chain, memory, answer, state)?;
        queue.push(memory, chain.head(), written)?;
        Ok(Progress::MoreWork)
    }

    fn take_signals(&mut self) -> Signals {
        core::mem::take(&mut self.signals)
    }
}

impl<B: MemoryBackend + ?Sized> MemoryDevice<B> {
    /// Gives up the request that is being carried out: what was plugged for it is unplugged again, what was unplugged
    /// stays so.
    fn give_up(&mut self) {
        let Some(work) = self.work.take() else { return };
        match work.kind {
            Kind::Plug => self.undo = Some(self.address(work.first)..work.at),
            Kind::Unplug => {
                // Half a block cannot stay: what has begun is ended, and no more.
                let begun = (work.at.as_u64() - self.region.start.as_u64()).div_ceil(self.block);
                let begun = (begun as u32).clamp(work.first, work.end);
                self.has_unplugged(work.first..begun);
                self.undo = (work.at < self.address(begun)).then(|| work.at..self.address(begun));
            }
            Kind::UnplugAll => {
                let begun = (work.at.as_u64() - self.region.start.as_u64()).div_ceil(self.block);
                let begun = (begun as u32).max(work.first);
                self.has_unplugged_run(work.first, begun);
                self.undo = (work.at < self.address(begun)).then(|| work.at..self.address(begun));
            }
            Kind::State => {}
        }
    }

    /// Notes that of the plugged blocks from `first` on those below `end` are unplugged.
    fn has_unplugged_run(&mut self, first: u32, end: u32) {
        if let Some(run) = self.blocks.run(first, RUN)
            && run.start < end
        {
            self.has_unplugged(run.start..run.end.min(end));
        }
    }
}
