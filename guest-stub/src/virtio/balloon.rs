//! A driver of the balloon (virtio 1.2, §5.5).
#![expect(unsafe_code, reason = "writes page numbers where the device reads them")]

use super::mmio::{self, Found, Transport};
use super::queue::{Queue, Silent, WRITE};
use crate::gic;
use crate::memory::{self, BLOCK, PAGE, Range};
use crate::outcome::Verdict;
use crate::run::Stub;
use spin::Once;

/// Feature bits (§5.5.3).
pub mod feature {
    pub const MUST_TELL_HOST: u64 = 1 << 0;
    pub const STATS_VQ: u64 = 1 << 1;
    pub const FREE_PAGE_HINT: u64 = 1 << 3;
    pub const PAGE_POISON: u64 = 1 << 4;
    pub const REPORTING: u64 = 1 << 5;
}

/// The most page numbers in one request: what Linux sends.
pub const BATCH: usize = 256;
/// The device type.
const DEVICE: u32 = 5;
/// Configuration fields.
const NUM_PAGES: u64 = mmio::CONFIG;
const ACTUAL: u64 = mmio::CONFIG + 4;
const POISON: u64 = mmio::CONFIG + 12;

/// Four queues and a buffer, used by one driver after the other.
static PAGES: Once<Option<Range>> = Once::new();

/// A balloon and its driver. When it is dropped the device is reset.
pub struct Balloon {
    /// The device's registers.
    pub transport: Transport,
    /// What was agreed on.
    pub features: u64,
    /// Page numbers go here to give pages away.
    pub inflate: Queue,
    /// Page numbers go here to have pages back.
    pub deflate: Queue,
    /// Statistics, where agreed on.
    pub stats: Option<Queue>,
    /// Free ranges, where agreed on.
    pub report: Option<Queue>,
    /// A page for requests.
    pub buffer: Range,
}

/// Finds the balloon.
///
/// # Errors
///
/// A [`Verdict::Skip`] where there is none, or only one that cannot be used.
pub fn find(stub: &Stub) -> Result<Transport, Verdict> {
    match Transport::find(stub.machine, DEVICE) {
        Found::Modern(transport) => Ok(transport),
        Found::Legacy => skip!("the balloon has the legacy interface only"),
        Found::Nothing => skip!("no balloon"),
    }
}

impl Balloon {
    /// Finds the balloon and brings it up with those of the `wanted` features that it offers.
    ///
    /// # Errors
    ///
    /// A [`Verdict`] where there is none, or it does not play along.
    pub fn open(stub: &Stub, wanted: u64) -> Result<Self, Verdict> {
        let transport = find(stub)?;
        // The device counts queues by the features agreed on, some count those offered: taking all optional queues that
        // are offered makes both the same.
        let queues = feature::STATS_VQ | feature::FREE_PAGE_HINT | feature::REPORTING;
        let Some(features) = transport.negotiate(wanted | queues) else {
            fail!("the balloon does not accept features {wanted:#x}")
        };
        let Some(pages) = *PAGES.call_once(|| memory::take(5 * PAGE, PAGE)) else {
            skip!("no memory")
        };
        let page = |index: u64| Range::sized(pages.start + index * PAGE, PAGE);
        let mut next = 2;
        let mut optional = |bit: u64, place: u64| {
            if features & bit == 0 {
                return None;
            }
            next += 1;
            (place > 0).then(|| Queue::open(transport, next - 1, page(place)))?
        };
        let stats = optional(feature::STATS_VQ, 2);
        optional(feature::FREE_PAGE_HINT, 0);
        let report = optional(feature::REPORTING, 3);
        let (Some(inflate), Some(deflate)) =
            (Queue::open(transport, 0, page(0)), Queue::open(transport, 1, page(1)))
        else {
            fail!("the balloon has no inflate and deflate queues of 64 descriptors")
        };
        gic::enable(transport.interrupt, mmio::acknowledge);
        transport.go();
        Ok(Self { transport, features, inflate, deflate, stats, report, buffer: page(4) })
    }

    /// Returns whether a feature was agreed on.
    pub const fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    /// Returns how many pages the host wants in the balloon.
    pub fn target(&self) -> u32 {
        self.transport.read(NUM_PAGES)
    }

    /// Tells the host how many pages are in the balloon.
    pub fn set_actual(&self, pages: u32) {
        self.transport.write(ACTUAL, pages);
    }

    /// Returns how many pages the host believes to be in the balloon.
    pub fn actual(&self) -> u32 {
        self.transport.read(ACTUAL)
    }

    /// Tells the host what free pages are filled with.
    pub fn set_poison(&self, pattern: u32) {
        self.transport.write(POISON, pattern);
    }

    /// Writes page numbers to the buffer and returns the part that holds them.
    pub fn list(&self, numbers: impl Iterator<Item = u32>) -> Range {
        let mut end = self.buffer.start;
        for number in numbers.take((PAGE / 4) as usize) {
            // SAFETY: the place is within the buffer's page.
            unsafe { (end as *mut u32).write_volatile(number) }
            end += 4;
        }
        Range { start: self.buffer.start, end }
    }

    /// Gives the pages of a range away, in requests of [`BATCH`] pages.
    ///
    /// # Errors
    ///
    /// [`Silent`] where the device does not answer.
    pub fn give(&mut self, range: Range) -> Result<(), Silent> {
        for batch in batches(range) {
            let list = self.list(batch.pages().map(|page| (page / PAGE) as u32));
            self.inflate.submit([(list, 0)].into_iter())?;
        }
        Ok(())
    }

    /// Has the pages of a range back, in requests of [`BATCH`] pages.
    ///
    /// # Errors
    ///
    /// [`Silent`] where the device does not answer.
    pub fn take_back(&mut self, range: Range) -> Result<(), Silent> {
        for batch in batches(range) {
            let list = self.list(batch.pages().map(|page| (page / PAGE) as u32));
            self.deflate.submit([(list, 0)].into_iter())?;
        }
        Ok(())
    }

    /// Reports ranges, at most 32, as free in one request.
    ///
    /// # Errors
    ///
    /// [`Silent`] where the device does not answer, or was not asked for a reporting queue.
    pub fn report_free(&mut self, ranges: &[Range]) -> Result<(), Silent> {
        let queue = self.report.as_mut().ok_or(Silent)?;
        queue.submit(ranges.iter().map(|range| (*range, WRITE)))
    }
}

impl Drop for Balloon {
    fn drop(&mut self) {
        self.transport.reset();
        gic::disable(self.transport.interrupt);
    }
}

fn batches(range: Range) -> impl Iterator<Item = Range> {
    let step = BATCH as u64 * PAGE;
    (range.start..range.end)
        .step_by(step as usize)
        .map(move |start| Range { start, end: (start + step).min(range.end) })
}

/// Takes a fresh block of 2 MiB.
///
/// # Errors
///
/// A [`Verdict::Skip`] where memory has run out.
pub fn fresh_block() -> Result<Range, Verdict> {
    match memory::take(BLOCK, BLOCK) {
        Some(block) => Ok(block),
        None => skip!("no untouched memory left"),
    }
}

impl From<Silent> for Verdict {
    fn from(_: Silent) -> Self {
        crate::outcome::failure(format_args!("the device did not return a request within 5 s"))
    }
}
