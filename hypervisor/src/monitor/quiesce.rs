//! `quiesce`: waits for the frames that have left guests.

use super::job::{Job, Step};
use super::report::{Report, Value};
use crate::addr::PAGE_SIZE;
use crate::arch::time;
use crate::system::System;

/// Waits until all that was retired when it began is free.
pub(super) struct Quiesce {
    /// How many frames had ever been retired then.
    through: u64,
    began: u64,
}

impl Quiesce {
    pub(super) fn new(system: &System) -> Self {
        let retired = system.memory().counts().retired_detail;
        Self { through: retired.total, began: time::now() }
    }

    fn left(&self, system: &System) -> u64 {
        let counts = system.memory().counts();
        let free_again = counts.retired_detail.total.saturating_sub(counts.retired);
        self.through.saturating_sub(free_again)
    }
}

impl Job for Quiesce {
    fn step(&mut self, system: &'static System, report: &mut Report<'_>) -> Step {
        // It also ends grace periods where no CPU is idle.
        let more = system.memory().idle_step();
        let left = self.left(system);
        if left == 0 {
            let micros = crate::logger::microseconds(time::now().saturating_sub(self.began));
            report.value("quiet", Value::Flag(true));
            report.value("waited_us", Value::Number(micros));
            return Step::Done;
        }
        // Somebody is pinned: that ends soon.
        if more { Step::Again } else { Step::At(time::now() + time::frequency() / 10_000) }
    }

    fn cancel(&mut self, system: &'static System, report: &mut Report<'_>) {
        report.value("retired", Value::Size(self.left(system) * PAGE_SIZE));
    }
}
