//! Sluice's own service, as a guest uses it: memory by the range, by hypercalls. `docs/service.md` is the specification.

use crate::arch::mmu;
use crate::arch::probe::{self, Fault};
use crate::firmware;
use crate::memory::Range;
use crate::outcome::{Verdict, failure};

/// `a3f0c9d2-71b4-4e5a-8c36-2d9be47f1068` as CALL_UID returns it.
const UID: [u64; 4] = [0xd2c9_f0a3, 0x5a4e_b471, 0x9b2d_368c, 0x6810_7fe4];

pub const CALL_UID: u32 = 0x8600_ff01;
pub const REVISION: u32 = 0x8600_ff03;
pub const FEATURES: u32 = 0xc600_0000;
pub const QUERY: u32 = 0xc600_0001;
pub const LISTEN: u32 = 0xc600_0002;
pub const PENDING: u32 = 0xc600_0003;
pub const REQUEST: u32 = 0xc600_0004;
pub const ACCEPT: u32 = 0xc600_0005;
pub const RELEASE: u32 = 0xc600_0006;
pub const DECLINE: u32 = 0xc600_0007;

pub const NOT_SUPPORTED: i64 = -1;
pub const INVALID_PARAMETER: i64 = -3;
pub const DENIED: i64 = -4;
pub const NO_MEMORY: i64 = -5;
pub const PRESENT: i64 = -6;

/// How many calls in a row may get nowhere: each has zeroed a piece of what the next adds.
const FRUITLESS: u32 = 100_000;

/// What Sluice wishes of the guest.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// It can have memory here.
    Offer(Range),
    /// It shall release what it has here.
    Release(Range),
}

/// Why a range was not added, or not released, as a whole.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The error.
    pub error: i64,
    /// What was done before, from the start.
    pub done: u64,
}

impl From<Refused> for Verdict {
    fn from(refused: Refused) -> Self {
        failure(format_args!("error {} after {:#x} bytes", refused.error, refused.done))
    }
}

/// Calls a function: x0 to x3.
///
/// # Errors
///
/// The [`Fault`] where the conduit is undefined.
pub fn raw(function: u32, a: u64, b: u64) -> Result<[u64; 4], Fault> {
    probe::firmware(firmware::conduit(), [function.into(), a, b, 0])
}

/// Returns the results of a function in x1 to x3.
///
/// # Errors
///
/// What it returned in x0; NOT_SUPPORTED where the conduit is undefined.
pub fn call(function: u32, a: u64, b: u64) -> Result<[u64; 3], i64> {
    let [x0, results @ ..] = raw(function, a, b).map_err(|_| NOT_SUPPORTED)?;
    if x0 == 0 { Ok(results) } else { Err(x0.cast_signed()) }
}

/// The service, which is there.
#[derive(Copy, Clone)]
pub struct Service {
    /// The memory that we started with.
    pub ram: Range,
    /// Where we can have more.
    pub region: Range,
}

impl Service {
    /// Finds the service, and makes the region for more memory normal memory.
    ///
    /// # Errors
    ///
    /// A [`Verdict::Skip`] where there is none; a failure where it does not say where memory can be.
    pub fn find() -> Result<Self, Verdict> {
        let words = |answer: [u64; 4]| answer.map(|word| u64::from(word as u32));
        if !raw(CALL_UID, 0, 0).is_ok_and(|answer| words(answer) == UID) {
            skip!("nobody has the service");
        }
        let range = |number| match call(QUERY, number, 0) {
            Ok([start, bytes, _]) => Ok(Range::sized(start, bytes)),
            Err(error) => fail!("MEMORY_QUERY({number}) gives {error}"),
        };
        let service = Self { ram: range(0)?, region: range(1)? };
        if service.region.size() > 0 {
            mmu::add_memory(service.region.start, service.region.end);
        }
        Ok(service)
    }

    fn whole(self, function: u32, range: Range) -> Result<(), Refused> {
        let mut done = 0;
        let mut fruitless = 0;
        while done < range.size() {
            match call(function, range.start + done, range.size() - done) {
                Ok([0, ..]) if fruitless < FRUITLESS => fruitless += 1,
                Ok([more, ..]) if (1..=range.size() - done).contains(&more) => {
                    done += more;
                    fruitless = 0;
                }
                // It gets nowhere, or did more than it was asked for.
                Ok(_) => return Err(Refused { error: 0, done }),
                Err(error) => return Err(Refused { error, done }),
            }
        }
        Ok(())
    }

    /// Has memory added at `range`.
    ///
    /// # Errors
    ///
    /// [`Refused`] with what is there nevertheless.
    pub fn request(self, range: Range) -> Result<(), Refused> {
        self.whole(REQUEST, range)
    }

    /// Takes what was offered at `range`.
    ///
    /// # Errors
    ///
    /// [`Refused`] with what is there nevertheless.
    pub fn accept(self, range: Range) -> Result<(), Refused> {
        self.whole(ACCEPT, range)
    }

    /// Gives what is at `range` back.
    ///
    /// # Errors
    ///
    /// [`Refused`] with what is gone nevertheless.
    pub fn release(self, range: Range) -> Result<(), Refused> {
        self.whole(RELEASE, range)
    }

    /// Says whether we ask for [`Self::pending`].
    ///
    /// # Errors
    ///
    /// What Sluice said.
    pub fn listen(self, listens: bool) -> Result<(), i64> {
        call(LISTEN, listens.into(), 0).map(|_| ())
    }

    /// Asks what is wished of us.
    ///
    /// # Errors
    ///
    /// What Sluice said, or the kind where nobody knows it.
    pub fn pending(self) -> Result<Option<Wish>, i64> {
        match call(PENDING, 0, 0)? {
            [0, ..] => Ok(None),
            [1, start, bytes] => Ok(Some(Wish::Offer(Range::sized(start, bytes)))),
            [2, start, bytes] => Ok(Some(Wish::Release(Range::sized(start, bytes)))),
            [kind, ..] => Err(kind.cast_signed()),
        }
    }

    /// Says that we will not do what is wished of us.
    ///
    /// # Errors
    ///
    /// What Sluice said.
    pub fn decline(self) -> Result<(), i64> {
        call(DECLINE, 0, 0).map(|_| ())
    }
}
