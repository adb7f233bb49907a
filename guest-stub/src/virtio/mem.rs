//! A driver of the memory device (virtio 1.2, §5.15).
#![expect(unsafe_code, reason = "writes requests where the device reads them")]

use super::mmio::{self, Found, Transport};
use super::queue::{Queue, Silent, WRITE};
use crate::arch::{mmu, time};
use crate::gic;
use crate::memory::{self, PAGE, Range};
use crate::outcome::{Outcome, Verdict};
use crate::run::Stub;
use core::sync::atomic::{AtomicBool, Ordering};
use spin::Once;

/// Feature bits (§5.15.3).
pub mod feature {
    pub const UNPLUGGED_INACCESSIBLE: u64 = 1 << 1;
}

/// The device type.
const DEVICE: u32 = 24;
/// Where in the driver's page the response is.
const RESPONSE: u64 = 64;
/// The size of a request in bytes.
pub const REQUEST_BYTES: u64 = 24;
/// The size of a response in bytes.
pub const RESPONSE_BYTES: u64 = 10;

/// What a request asks for.
pub mod kind {
    pub const PLUG: u16 = 0;
    pub const UNPLUG: u16 = 1;
    pub const UNPLUG_ALL: u16 = 2;
    pub const STATE: u16 = 3;
}

/// The response to a request.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done. What the blocks are is said only where that was asked.
    Ack(u16),
    /// Not now.
    Nack,
    /// Not now either.
    Busy,
    /// The request is wrong.
    Error,
    /// Nothing that is in the specification.
    Odd(u16),
}

/// The answer of a request that is not about the state of blocks.
pub const ACK: Answer = Answer::Ack(0);

/// What blocks are, in the answer to [`kind::STATE`].
pub mod state {
    pub const PLUGGED: u16 = 0;
    pub const UNPLUGGED: u16 = 1;
    pub const MIXED: u16 = 2;
}

/// The configuration space (§5.15.4).
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The size of a block in bytes.
    pub block: u64,
    /// Where blocks can be.
    pub region: Range,
    /// How much of the region, from its start, can be plugged now.
    pub usable: u64,
    /// How many bytes are plugged.
    pub plugged: u64,
    /// How many bytes the host wants to be plugged.
    pub requested: u64,
}

/// A queue and a page for requests, used by one driver after the other.
static PAGES: Once<Option<Range>> = Once::new();

/// The host was waited for once, and did not want the guest to have more.
static IN_VAIN: AtomicBool = AtomicBool::new(false);

/// A memory device and its driver. When it is dropped the device is reset; what is plugged stays so.
pub struct Mem {
    /// The device's registers.
    pub transport: Transport,
    /// What was agreed on.
    pub features: u64,
    /// Requests go here.
    pub queue: Queue,
    /// A page for requests and responses.
    pub buffer: Range,
}

impl Mem {
    /// Finds the device and brings it up with those of the `wanted` features that it offers. Its region is mapped.
    ///
    /// # Errors
    ///
    /// A [`Verdict`] where there is none, or it does not play along.
    pub fn open_with(stub: &Stub, wanted: u64) -> Result<Self, Verdict> {
        let transport = match Transport::find(stub.machine, DEVICE) {
            Found::Modern(transport) => transport,
            Found::Legacy => skip!("the memory device has the legacy interface only"),
            Found::Nothing => skip!("no memory device"),
        };
        let Some(features) = transport.negotiate(wanted) else {
            fail!("the memory device does not accept features {wanted:#x}")
        };
        let Some(pages) = *PAGES.call_once(|| memory::take(2 * PAGE, PAGE)) else {
            skip!("no memory")
        };
        let Some(queue) = Queue::open(transport, 0, Range::sized(pages.start, PAGE)) else {
            fail!("the memory device has no queue of 64 descriptors")
        };
        gic::enable(transport.interrupt, mmio::acknowledge);
        transport.go();
        let buffer = Range::sized(pages.start + PAGE, PAGE);
        let mem = Self { transport, features, queue, buffer };
        let region = mem.config().region;
        if region.end > mmu::LIMIT {
            fail!("the memory device's region ends at {:#x}", region.end)
        }
        mmu::add_memory(region.start, region.end);
        Ok(mem)
    }

    /// Finds the device and brings it up as a driver that knows that unplugged memory is not to be touched.
    ///
    /// # Errors
    ///
    /// A [`Verdict`] where there is none, or it does not play along.
    pub fn open(stub: &Stub) -> Result<Self, Verdict> {
        Self::open_with(stub, feature::UNPLUGGED_INACCESSIBLE)
    }

    /// As [`Self::open`], with nothing plugged, and `blocks` that may be. Waits for the host to want so many, for
    /// `seconds=<n>`.
    ///
    /// # Errors
    ///
    /// A [`Verdict`] where that cannot be had.
    pub fn open_empty(stub: &Stub, blocks: u64) -> Result<Self, Verdict> {
        let mut mem = Self::open(stub)?;
        let answer = mem.unplug_all()?;
        ensure!(answer == ACK, "unplugging everything: {answer:?}");
        let enough = || {
            let config = mem.config();
            config.requested >= blocks * config.block
        };
        let patience = stub.orders.number("seconds", 10) * 1_000_000;
        if !enough() && (IN_VAIN.load(Ordering::Relaxed) || !time::poll(patience, enough)) {
            IN_VAIN.store(true, Ordering::Relaxed);
            skip!("the host does not want this guest to have more memory");
        }
        Ok(mem)
    }

    /// Returns the configuration space, as it was at one moment.
    pub fn config(&self) -> Config {
        let pair = |index: u64| {
            let low = self.transport.read(mmio::CONFIG + index * 8);
            u64::from(low) | u64::from(self.transport.read(mmio::CONFIG + index * 8 + 4)) << 32
        };
        loop {
            let generation = self.transport.read(mmio::CONFIG_GENERATION);
            let config = Config {
                block: pair(0),
                region: Range::sized(pair(2), pair(3)),
                usable: pair(4),
                plugged: pair(5),
                requested: pair(6),
            };
            if self.transport.read(mmio::CONFIG_GENERATION) == generation {
                return config;
            }
        }
    }

    /// Returns the addresses of `count` blocks from block `first` on.
    pub fn blocks(&self, first: u64, count: u64) -> Range {
        let Config { block, region, .. } = self.config();
        Range::sized(region.start + first * block, count * block)
    }

    /// Writes a request to the buffer and clears the response; returns where they are.
    pub fn write_request(&self, kind: u16, address: u64, blocks: u16) -> (Range, Range) {
        let words = [kind.into(), address, blocks.into()];
        for (index, word) in words.into_iter().enumerate() {
            // SAFETY: the place is within the buffer's page.
            unsafe { ((self.buffer.start + index as u64 * 8) as *mut u64).write_volatile(word) }
        }
        for index in 0..2 {
            // SAFETY: as above.
            unsafe { ((self.buffer.start + RESPONSE + index * 8) as *mut u64).write_volatile(!0) }
        }
        let response = Range::sized(self.buffer.start + RESPONSE, RESPONSE_BYTES);
        (Range::sized(self.buffer.start, REQUEST_BYTES), response)
    }

    /// Returns the response in the buffer.
    pub fn response(&self) -> Answer {
        let half = |offset: u64| {
            // SAFETY: the place is within the buffer's page.
            unsafe { ((self.buffer.start + RESPONSE + offset) as *const u16).read_volatile() }
        };
        match half(0) {
            0 => Answer::Ack(half(8)),
            1 => Answer::Nack,
            2 => Answer::Busy,
            3 => Answer::Error,
            odd => Answer::Odd(odd),
        }
    }

    /// Sends a request and returns the response.
    ///
    /// # Errors
    ///
    /// [`Silent`] where the device does not answer.
    pub fn request(&mut self, kind: u16, address: u64, blocks: u16) -> Result<Answer, Silent> {
        let (request, response) = self.write_request(kind, address, blocks);
        self.queue.submit([(request, 0), (response, WRITE)].into_iter())?;
        Ok(self.response())
    }

    fn about(&mut self, kind: u16, range: Range) -> Result<Answer, Silent> {
        let blocks = range.size() / self.config().block;
        self.request(kind, range.start, u16::try_from(blocks).unwrap_or(u16::MAX))
    }

    /// Asks for memory at `range`, of whole blocks.
    ///
    /// # Errors
    ///
    /// [`Silent`] where the device does not answer.
    pub fn plug(&mut self, range: Range) -> Result<Answer, Silent> {
        self.about(kind::PLUG, range)
    }

    /// Gives up the memory at `range`, of whole blocks.
    ///
    /// # Errors
    ///
    /// [`Silent`] where the device does not answer.
    pub fn unplug(&mut self, range: Range) -> Result<Answer, Silent> {
        self.about(kind::UNPLUG, range)
    }

    /// Asks what the blocks of `range` are.
    ///
    /// # Errors
    ///
    /// [`Silent`] where the device does not answer.
    pub fn state(&mut self, range: Range) -> Result<Answer, Silent> {
        self.about(kind::STATE, range)
    }

    /// Gives up all that is plugged.
    ///
    /// # Errors
    ///
    /// [`Silent`] where the device does not answer.
    pub fn unplug_all(&mut self) -> Result<Answer, Silent> {
        self.request(kind::UNPLUG_ALL, 0, 0)
    }

    /// Plugs, and ends the test where that is refused.
    ///
    /// # Errors
    ///
    /// A [`Verdict`] with the answer.
    pub fn must_plug(&mut self, range: Range) -> Outcome {
        let answer = self.plug(range)?;
        ensure!(answer == ACK, "plugging {range:x?}: {answer:?}");
        Ok(())
    }

    /// Unplugs, and ends the test where that is refused.
    ///
    /// # Errors
    ///
    /// A [`Verdict`] with the answer.
    pub fn must_unplug(&mut self, range: Range) -> Outcome {
        let answer = self.unplug(range)?;
        ensure!(answer == ACK, "unplugging {range:x?}: {answer:?}");
        Ok(())
    }
}

impl Drop for Mem {
    fn drop(&mut self) {
        self.transport.reset();
        gic::disable(self.transport.interrupt);
    }
}
