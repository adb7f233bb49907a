//! The log: the `log` crate's back end, and a ring that keeps the last lines.
//!
//! Every line at or above the level goes to the ring. To the console go all lines until the first guest
//! has it, and from then on those that come while the monitor is shown; errors always.

use crate::arch::{cpu, time};
use core::fmt::{self, Write};
use log::{Level, LevelFilter, Log, Metadata, Record};
use spin::Mutex;

/// How many lines are kept.
const LINES: usize = 256;
/// The longest line in bytes; what is longer is cut.
const MAX_TEXT: usize = 184;

#[derive(Copy, Clone)]
struct Entry {
    ticks: u64,
    /// [`Level`] as a number; 0 is none, so that an empty ring takes no room in the image.
    level: u8,
    cpu: u8,
    length: u8,
    text: [u8; MAX_TEXT],
}

impl Entry {
    const EMPTY: Self = Self { ticks: 0, level: 0, cpu: 0, length: 0, text: [0; MAX_TEXT] };

    fn level(&self) -> Level {
        Level::iter().find(|level| *level as u8 == self.level).unwrap_or(Level::Trace)
    }

    fn text(&self) -> &str {
        let text = self.text.get(..usize::from(self.length)).unwrap_or(&[]);
        core::str::from_utf8(text).unwrap_or("(a line that was cut within a character)")
    }
}

impl Write for Entry {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            if let Some(place) = self.text.get_mut(usize::from(self.length)) {
                *place = byte;
                self.length += 1;
            }
        }
        Ok(())
    }
}

/// A line of the log.
#[derive(Copy, Clone)]
pub struct Line<'a> {
    /// Its number since boot.
    pub number: u64,
    /// When, in microseconds since the counter began.
    pub microseconds: u64,
    /// The CPU that wrote it.
    pub cpu: u64,
    /// How important it is.
    pub level: Level,
    /// What it says.
    pub text: &'a str,
}

struct Ring {
    entries: [Entry; LINES],
    written: u64,
}

static RING: Mutex<Ring> = Mutex::new(Ring { entries: [Entry::EMPTY; LINES], written: 0 });

impl Ring {
    fn place(number: u64) -> usize {
        (number % LINES as u64) as usize
    }

    fn each(&self, last: usize, each: &mut dyn FnMut(&Line<'_>)) {
        let kept = self.written.min(LINES as u64).min(last as u64);
        for number in self.written - kept..self.written {
            let entry = &self.entries[Self::place(number)];
            each(&Line {
                number,
                microseconds: microseconds(entry.ticks),
                cpu: entry.cpu.into(),
                level: entry.level(),
                text: entry.text(),
            });
        }
    }
}

/// Turns ticks of the counter into microseconds.
pub fn microseconds(ticks: u64) -> u64 {
    (u128::from(ticks) * 1_000_000 / u128::from(time::frequency())) as u64
}

struct Logger;

static LOGGER: Logger = Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut entry = Entry {
            ticks: time::now(),
            level: record.level() as u8,
            cpu: cpu::current().index() as u8,
            ..Entry::EMPTY
        };
        // What does not fit is cut.
        let _ = write!(entry, "{}", record.args());
        {
            let mut ring = RING.lock();
            let place = Ring::place(ring.written);
            ring.entries[place] = entry;
            ring.written += 1;
        }
        crate::console::log_line(record.level(), entry.text());
    }

    fn flush(&self) {}
}

/// Begins to log, at the level of `loglevel=` in the command line; `info` where there is none, or an unknown one.
pub fn init(level: Option<&str>) {
    let filter = level.and_then(|level| level.parse().ok()).unwrap_or(LevelFilter::Info);
    log::set_max_level(filter);
    // It fails only where a logger is set already.
    let _ = log::set_logger(&LOGGER);
    if let Some(unknown) = level.filter(|level| level.parse::<LevelFilter>().is_err()) {
        log::warn!("loglevel={unknown}: there are error, warn, info, debug, trace and off");
    }
}

/// Gives the last `last` lines that are kept, oldest first.
pub fn last(last: usize, mut each: impl FnMut(&Line<'_>)) {
    RING.lock().each(last, &mut each);
}

/// Gives the last lines as [`last`] does, if nobody is writing one: for a panic.
pub fn last_in_panic(last: usize, mut each: impl FnMut(&Line<'_>)) {
    if let Some(ring) = RING.try_lock() {
        ring.each(last, &mut each);
    }
}
