//! What somebody outside orders, by lines typed at the console, with what he does in between. Each is answered by one
//! line, `driven <line>: <answer>`, or `driven <line> failed: <why>`:
//!
//! | line | what it does |
//! |---|---|
//! | `request START BYTES`, `release START BYTES` | by the service |
//! | `take` | requests all of the region for more memory, piece by piece until there is no more |
//! | `listen` | says that we ask for what is wished of us |
//! | `follow`, `decline` | waits for a wish, and does it or declines it |
//! | `fill START BYTES` | writes a pattern to every word |
//! | `check START BYTES` | looks whether `fill`'s pattern is there still |
//! | `search START BYTES` | looks for anything but zeroes |
//! | `hammer START BYTES` | has the other CPUs read and write there until `gone`, which says that the range was taken: from then on they must see external aborts and nothing else |
//! | `end` | |
#![expect(unsafe_code, reason = "reads and writes memory that is free")]

use super::hammer;
use crate::arch::cpu;
use crate::console;
use crate::memory::{BLOCK, Range};
use crate::outcome::{Outcome, Verdict};
use crate::run::Stub;
use crate::service::{self, Refused, Service, Wish};
use core::str::SplitAsciiWhitespace;

/// The longest line.
type Line = crate::outcome::Text<80>;

fn number(words: &mut SplitAsciiWhitespace<'_>) -> Option<u64> {
    let word = words.next()?;
    match word.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => word.parse().ok(),
    }
}

fn range(words: &mut SplitAsciiWhitespace<'_>) -> Result<Range, Verdict> {
    match (number(words), number(words)) {
        (Some(start), Some(bytes)) => Ok(Range::sized(start, bytes)),
        _ => fail!("no start and no size"),
    }
}

fn words(range: Range) -> impl Iterator<Item = *mut u64> {
    (range.start..range.end).step_by(8).map(|address| address as *mut u64)
}

fn pattern(word: *const u64) -> u64 {
    word.addr() as u64 ^ 0xd01d_d01d_d01d_d01d
}

fn fill(range: Range) {
    for word in words(range) {
        // SAFETY: whoever drives us says that it is memory, and none that the stub lives in.
        unsafe { word.write_volatile(pattern(word)) }
    }
}

fn expect(range: Range, expected: impl Fn(*const u64) -> u64) -> Outcome {
    for word in words(range) {
        // SAFETY: as for writes.
        let found = unsafe { word.read_volatile() };
        ensure!(found == expected(word), "{:#x} holds {found:#x}", word.addr());
    }
    Ok(())
}

/// Requests all there is, and returns it.
fn take(service: Service) -> Result<Range, Verdict> {
    let mut had = Range { end: service.region.start, ..service.region };
    while had.end < service.region.end {
        let piece = Range { start: had.end, end: (had.end + BLOCK).min(service.region.end) };
        match service.request(piece) {
            Ok(()) => had.end = piece.end,
            Err(Refused { error: service::NO_MEMORY, done }) => {
                had.end += done;
                break;
            }
            Err(refused) => return Err(refused.into()),
        }
    }
    Ok(had)
}

/// Waits for what is wished of us, and does it or declines.
fn follow(service: Service, declines: bool) -> Result<Range, Verdict> {
    loop {
        let (range, done) = match service.pending() {
            Ok(Some(Wish::Offer(range) | Wish::Release(range))) if declines => {
                (range, service.decline().map_err(|error| Refused { error, done: 0 }))
            }
            Ok(Some(Wish::Offer(range))) => (range, service.accept(range)),
            Ok(Some(Wish::Release(range))) => (range, service.release(range)),
            Ok(None) => {
                cpu::relax();
                continue;
            }
            Err(error) => fail!("MEMORY_PENDING gives {error}"),
        };
        done?;
        ensure!(service.pending() == Ok(None), "still pending: {:x?}", service.pending());
        return Ok(range);
    }
}

fn obey(stub: &Stub, service: Service, line: &str) -> Result<Range, Verdict> {
    let mut words = line.split_ascii_whitespace();
    let verb = words.next().unwrap_or("");
    match verb {
        "take" => return take(service),
        "follow" | "decline" => return follow(service, verb == "decline"),
        "listen" => {
            return match service.listen(true) {
                Ok(()) => Ok(service.region),
                Err(error) => fail!("MEMORY_LISTEN gives {error}"),
            };
        }
        _ => {}
    }
    let range = range(&mut words)?;
    match verb {
        "request" => service.request(range)?,
        "release" => service.release(range)?,
        "fill" => fill(range),
        "check" => expect(range, pattern)?,
        "search" => expect(range, |_| 0)?,
        "hammer" => hammer::while_taken(stub, range, || {
            say!("driven {line}: begun");
            let said: Line = console::read_line(stub.machine.uart.interrupt);
            ensure!(said.as_str() == "gone", "'{}' is not 'gone'", said.as_str());
            Ok(())
        })?,
        _ => fail!("no such order"),
    }
    Ok(range)
}

/// Does what is typed, until `end`.
pub fn driven(stub: &Stub) -> Outcome {
    let service = Service::find()?;
    say!("driven: ready, {:#x} {:#x}", service.region.start, service.region.size());
    loop {
        let line: Line = console::read_line(stub.machine.uart.interrupt);
        let line = line.as_str();
        if line == "end" {
            return Ok(());
        }
        match obey(stub, service, line) {
            Ok(range) => say!("driven {line}: done, {:#x} {:#x}", range.start, range.size()),
            Err(Verdict::Fail(why)) => say!("driven {line} failed: {}", why.as_str()),
            Err(Verdict::Skip(why)) => say!("driven {line} failed: {why}"),
        }
    }
}
