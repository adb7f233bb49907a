//! What the governor decided, and how it came out: the last decisions.

use super::policy::Decision;
use super::transfer::{Progress, Short};

/// How many decisions are kept.
const KEPT: usize = 32;

/// One decision.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its number since boot, from 1.
    pub number: u64,
    /// When it was made, in ticks.
    pub at: u64,
    /// What was decided, and why.
    pub decision: Decision,
    /// How far it is, or how it came out.
    pub progress: Progress,
    /// Why less than decided was moved.
    pub short: Option<Short>,
}

/// The last decisions.
#[derive(Debug, Default)]
pub struct Journal {
    entries: heapless::Deque<Entry, KEPT>,
    made: u64,
}

impl Journal {
    /// Makes an empty one.
    pub const fn new() -> Self {
        Self { entries: heapless::Deque::new(), made: 0 }
    }

    /// Notes a decision made at `at`, in ticks, and returns its number.
    pub fn note(&mut self, at: u64, decision: Decision) -> u64 {
        if self.entries.is_full() {
            self.entries.pop_front();
        }
        self.made += 1;
        let (number, progress) = (self.made, Progress::default());
        // There is room.
        let _ = self.entries.push_back(Entry { number, at, decision, progress, short: None });
        number
    }

    /// Notes how far decision `number` is, if it is still kept.
    pub fn update(&mut self, number: u64, progress: Progress, short: Option<Short>) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.number == number) {
            (entry.progress, entry.short) = (progress, short);
        }
    }

    /// Returns the last `count`, the oldest first.
    pub fn last(&self, count: usize) -> impl Iterator<Item = &Entry> {
        self.entries.iter().skip(self.entries.len().saturating_sub(count))
    }

    /// Returns how many were ever made.
    pub const fn made(&self) -> u64 {
        self.made
    }
}
