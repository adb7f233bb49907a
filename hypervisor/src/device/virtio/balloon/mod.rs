//! The traditional memory balloon (virtio 1.2 §5.5).
//!
//! The device counts, batches and answers; what a page is, whether it may go and how it goes, the
//! [`BalloonBackend`] decides. Free page hints (`VIRTIO_BALLOON_F_FREE_PAGE_HINT`) serve live
//! migration and are not offered.

mod backend;
#[cfg(all(test, not(loom)))]
pub(crate) mod fake_backend;
mod pages;
mod report;
mod stats;
#[cfg(all(test, not(loom)))]
mod tests;

pub use backend::{BalloonBackend, Mistake, Outcome};
pub use pages::BATCH;
pub use report::RANGES;
pub use stats::{NoStatistics, Statistics, Tag};

use core::marker::PhantomData;

use pages::PageQueue;
use report::ReportQueue;
use stats::StatsQueue;

use super::mmio::Label;
use super::{Context, Device, Progress, Queue, QueueFault, Signals};
use crate::device::GuestMemory;
use crate::device::sparse::Sparse;

/// Feature bits (§5.5.3).
pub mod feature {
    /// The driver tells the device before it uses pages from the balloon.
    pub const MUST_TELL_HOST: u64 = 1 << 0;
    /// There is a statistics queue.
    pub const STATS_VQ: u64 = 1 << 1;
    /// The driver may deflate, below the target, when it is out of memory.
    pub const DEFLATE_ON_OOM: u64 = 1 << 2;
    /// The driver says what it fills free pages with.
    pub const PAGE_POISON: u64 = 1 << 4;
    /// There is a reporting queue.
    pub const REPORTING: u64 = 1 << 5;

    /// All that is offered.
    pub const OFFERED: u64 = MUST_TELL_HOST | STATS_VQ | DEFLATE_ON_OOM | PAGE_POISON | REPORTING;
}

/// The device type (§5.5.1).
const ID: u32 = 5;

/// The configuration space (§5.5.4).
const CONFIG_BYTES: usize = 16;
const ACTUAL: usize = 4;
const POISON: usize = 12;

/// What a queue is for.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Role {
    Inflate,
    Deflate,
    Stats,
    Report,
}

/// What has happened since the device was made.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Pages of 4 KiB taken by inflating.
    pub inflated: u64,
    /// Pages of 4 KiB given back by deflating.
    pub deflated: u64,
    /// Pages of 4 KiB taken as reported free.
    pub reported: u64,
    /// Pages and ranges that were the guest's mistake.
    pub mistakes: Sparse,
    /// Pages and ranges that stayed because the hypervisor had no memory for its tables.
    pub no_memory: Sparse,
}

/// A balloon.
#[derive(Debug)]
pub struct Balloon<B: ?Sized> {
    label: Label,
    features: u64,
    /// How many pages the host wants in the balloon.
    target: u32,
    /// How many pages the driver says are in it.
    actual: u32,
    /// What the driver fills free pages with; 0 without the feature.
    poison: u32,
    /// Something was inflated since the backend released all.
    holds: bool,
    inflate: PageQueue,
    deflate: PageQueue,
    report: ReportQueue,
    stats: StatsQueue,
    counters: Counters,
    signals: Signals,
    backend: PhantomData<fn(&mut B)>,
}

impl<B: BalloonBackend + ?Sized> Balloon<B> {
    /// Makes an empty balloon with a target of no pages.
    pub fn new(label: Label) -> Self {
        Self {
            label,
            features: 0,
            target: 0,
            actual: 0,
            poison: 0,
            holds: false,
            inflate: PageQueue::default(),
            deflate: PageQueue::default(),
            report: ReportQueue::default(),
            stats: StatsQueue::default(),
            counters: Counters::default(),
            signals: Signals::default(),
            backend: PhantomData,
        }
    }

    /// Says how many pages of 4 KiB the balloon shall hold: the driver is told where that is new.
    pub fn set_target(&mut self, pages: u32) {
        self.signals.config_changed |= self.target != pages;
        self.target = pages;
    }

    /// Returns how many pages of 4 KiB the host wants in the balloon.
    pub fn target(&self) -> u32 {
        self.target
    }

    /// Returns how many pages of 4 KiB the driver says are in the balloon.
    pub fn actual(&self) -> u32 {
        self.actual
    }

    /// Returns the [feature bits](feature) that the driver has accepted; 0 before it has.
    pub fn negotiated_features(&self) -> u64 {
        self.features
    }

    /// Returns what has happened.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Returns what the driver said last of the guest's memory.
    pub fn statistics(&self) -> &Statistics {
        self.stats.statistics()
    }

    /// Asks the driver for new statistics; they come when it is ready, seen by
    /// [`Statistics::updates`].
    ///
    /// # Errors
    ///
    /// There is no driver that could be asked, or it owes an answer.
    pub fn request_stats(&mut self) -> Result<(), NoStatistics> {
        let index = (0..self.queue_count())
            .find(|index| self.role(*index) == Some(Role::Stats))
            .ok_or(NoStatistics::NotNegotiated)?;
        self.stats.request()?;
        self.signals.queues |= 1 << index;
        Ok(())
    }

    fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    /// Returns what queue `index` is for. A queue without its feature does not exist, and those
    /// behind it move up (Linux `vm_find_vqs`).
    fn role(&self, index: u32) -> Option<Role> {
        let optional = [
            self.has(feature::STATS_VQ).then_some(Role::Stats),
            self.has(feature::REPORTING).then_some(Role::Report),
        ];
        let roles = [Role::Inflate, Role::Deflate].into_iter();
        roles.chain(optional.into_iter().flatten()).nth(index as usize)
    }

    /// Returns the configuration space as the driver sees it.
    fn config(&self) -> [u8; CONFIG_BYTES] {
        // The third field is for free page hints.
        let fields = [self.target, self.actual, 0, self.poison];
        let mut bytes = [0; CONFIG_BYTES];
        for (place, field) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(fields) {
            *place = field.to_le_bytes();
        }
        bytes
    }
}

impl Counters {
    /// Adds what became of a batch, and says what went wrong, ever more rarely.
    fn add(&mut self, label: Label, what: Role, outcome: &Outcome) {
        let pages = match what {
            Role::Inflate => &mut self.inflated,
            Role::Deflate => &mut self.deflated,
            Role::Report | Role::Stats => &mut self.reported,
        };
        *pages = pages.saturating_add(outcome.pages);
        if let Some((ipa, mistake)) = outcome.first_mistake
            && let Some(count) = self.mistakes.add(outcome.mistakes.into())
        {
            log::warn!("{label}: {what:?} of {ipa}: {mistake}, ignored ({count} so far)");
        }
        if let Some(count) = self.no_memory.add(outcome.no_memory.into()) {
            log::warn!("{label}: {what:?}: no memory for tables, left in place ({count} so far)");
        }
    }
}

impl<B: BalloonBackend + ?Sized> Device for Balloon<B> {
    type Backend = B;

    fn id(&self) -> u32 {
        ID
    }

    fn features(&self) -> u64 {
        feature::OFFERED
    }

    fn negotiated(&mut self, features: u64) {
        self.features = features & feature::OFFERED;
    }

    fn queue_count(&self) -> u32 {
        2 + u32::from(self.has(feature::STATS_VQ)) + u32::from(self.has(feature::REPORTING))
    }

    fn read_config(&self, offset: u64, bytes: &mut [u8]) {
        let config = self.config();
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        bytes.fill(0);
        for (byte, value) in bytes.iter_mut().zip(config.get(offset..).unwrap_or_default()) {
            *byte = *value;
        }
    }

    fn write_config(&mut self, offset: u64, bytes: &[u8]) {
        let mut config = self.config();
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        for (place, byte) in config.get_mut(offset..).unwrap_or_default().iter_mut().zip(bytes) {
            *place = *byte;
        }
        let field = |at: usize| {
            let bytes = config.get(at..).and_then(|rest| rest.first_chunk());
            bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
        };
        self.actual = field(ACTUAL);
        if self.has(feature::PAGE_POISON) {
            self.poison = field(POISON);
        }
    }

    fn reset(&mut self) -> Progress {
        self.features = 0;
        self.actual = 0;
        self.poison = 0;
        self.inflate.reset();
        self.deflate.reset();
        self.report.reset();
        self.stats.reset();
        self.signals = Signals::default();
        // Drivers reset a device when they find it: mostly, there is nothing to release.
        if self.holds { Progress::MoreWork } else { Progress::Done }
    }

    fn finish_reset(&mut self, backend: &mut B) -> Progress {
        let progress = backend.release_all();
        self.holds = progress.is_more();
        progress
    }

    fn queue_stopped(&mut self, index: u32) {
        match self.role(index) {
            Some(Role::Inflate) => self.inflate.reset(),
            Some(Role::Deflate) => self.deflate.reset(),
            Some(Role::Stats) => self.stats.stop(),
            Some(Role::Report) => self.report.reset(),
            None => {}
        }
    }

    fn serve<M: GuestMemory + ?Sized>(
        &mut self,
        index: u32,
        queue: &mut Queue,
        context: &mut Context<'_, M, B>,
    ) -> Result<Progress, QueueFault> {
        let Some(role) = self.role(index) else {
            return Ok(Progress::Done);
        };
        let Context { memory, backend, now } = context;
        // Reported pages come back as zeroes; a driver that poisons its free pages would take that
        // for a write to freed memory (§5.5.6.7.2).
        let poisoned = self.poison != 0;
        let (label, counters, holds) = (self.label, &mut self.counters, &mut self.holds);
        let mut note = |outcome: Outcome| {
            counters.add(label, role, &outcome);
            outcome
        };
        match role {
            Role::Inflate => self.inflate.serve(queue, *memory, |pages| {
                *holds = true;
                note(backend.inflate(pages))
            }),
            Role::Deflate => {
                self.deflate.serve(queue, *memory, |pages| note(backend.deflate(pages)))
            }
            Role::Stats => self.stats.serve(queue, *memory, *now),
            Role::Report => self.report.serve(queue, *memory, |ranges| {
                if poisoned {
                    return Outcome { handled: ranges.len(), ..Outcome::default() };
                }
                note(backend.report(ranges))
            }),
        }
    }

    fn take_signals(&mut self) -> Signals {
        core::mem::take(&mut self.signals)
    }
}
