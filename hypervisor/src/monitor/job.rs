//! Commands that take their time: each is a job that does a bounded step at a time, on the first CPU, while guests
//! run. What it says comes out on the port that started it; Ctrl-C on the console or `cancel` ends it early.

use super::report::{Format, Report, Value};
use crate::system::System;
use crate::{arch, console, control};
use alloc::boxed::Box;
use core::fmt::Write;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use spin::Mutex;

/// Ctrl-C.
const CTRL_C: u8 = 0x03;
/// The most jobs at a time.
const MOST: usize = 8;

/// When a job wants its next step.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// As soon as guests have had their turn.
    Again,
    /// At this time, in ticks.
    At(u64),
    /// Never: it is done.
    Done,
}

/// A command in steps.
pub trait Job: Send {
    /// Does a bounded step, of 20,000 instructions at most, and says in `report` what there is to say: what is said
    /// in one step is one object for programs.
    fn step(&mut self, system: &'static System, report: &mut Report<'_>) -> Step;

    /// Ends it early: leaves everything consistent, and says what was done.
    fn cancel(&mut self, system: &'static System, report: &mut Report<'_>);

    /// Says whether a key that is typed meanwhile cancels it.
    fn cancelled_by(&self, key: u8) -> bool {
        key == CTRL_C
    }
}

/// Where commands come from and answers go.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Port {
    /// The console that people see.
    Console,
    /// The control port.
    Control,
}

/// A job that has begun.
struct Running {
    number: u64,
    job: Box<dyn Job>,
    port: Port,
    format: Format,
    due: u64,
}

static JOBS: Mutex<heapless::Vec<Running, MOST>> = Mutex::new(heapless::Vec::new());
static LAST_NUMBER: AtomicU64 = AtomicU64::new(0);
/// How many of them are of the console.
static OF_CONSOLE: AtomicUsize = AtomicUsize::new(0);
/// When the next step is due, in ticks: 0 for at once, `u64::MAX` where there is no job.
static DUE: AtomicU64 = AtomicU64::new(u64::MAX);

/// Begins a job; its first step comes soon. Returns its number; `None` where there are too many.
pub(super) fn start(job: Box<dyn Job>, port: Port, format: Format) -> Option<u64> {
    let number = LAST_NUMBER.fetch_add(1, Ordering::Relaxed) + 1;
    JOBS.lock().push(Running { number, job, port, format, due: 0 }).ok()?;
    if port == Port::Console {
        OF_CONSOLE.fetch_add(1, Ordering::Relaxed);
    }
    DUE.store(0, Ordering::Release);
    Some(number)
}

/// Returns when the next step is due, in ticks; `u64::MAX` where there is no job.
#[inline]
pub fn due() -> u64 {
    DUE.load(Ordering::Relaxed)
}

/// Does a step of each job that is due. On the first CPU, between other things. Says whether there was one.
pub fn step(system: &'static System) -> bool {
    let now = arch::time::now();
    if due() > now {
        return false;
    }
    let mut jobs = JOBS.lock();
    let mut index = 0;
    while let Some(running) = jobs.get_mut(index) {
        if running.due > now {
            index += 1;
            continue;
        }
        match running.step(system) {
            Step::Again => running.due = 0,
            Step::At(time) => running.due = time,
            Step::Done => {
                end(&mut jobs, index);
                continue;
            }
        }
        index += 1;
    }
    set_due(&jobs);
    true
}

/// Cancels the job with this number, or all that were begun on the control port. Returns how many there were.
pub(super) fn cancel(system: &'static System, number: Option<u64>) -> usize {
    cancel_those(system, |running| match number {
        Some(number) => running.number == number,
        None => running.port == Port::Control,
    })
}

/// Says whether a job of the console runs. Takes no lock: a job's own step may ask.
pub fn has_console() -> bool {
    OF_CONSOLE.load(Ordering::Relaxed) > 0
}

/// Takes a key that was typed while a job of the console runs.
pub fn key(system: &'static System, key: u8) {
    cancel_those(system, |running| running.port == Port::Console && running.job.cancelled_by(key));
}

fn cancel_those(system: &'static System, those: impl Fn(&Running) -> bool) -> usize {
    let mut jobs = JOBS.lock();
    let (mut index, mut cancelled) = (0, 0);
    while let Some(running) = jobs.get_mut(index) {
        if those(running) {
            running.cancel(system);
            end(&mut jobs, index);
            cancelled += 1;
        } else {
            index += 1;
        }
    }
    set_due(&jobs);
    cancelled
}

fn end(jobs: &mut heapless::Vec<Running, MOST>, index: usize) {
    let ended = jobs.remove(index);
    if ended.port == Port::Console {
        OF_CONSOLE.fetch_sub(1, Ordering::Relaxed);
        console::job_is_done();
    }
}

fn set_due(jobs: &[Running]) {
    let due = jobs.iter().map(|running| running.due).min();
    DUE.store(due.unwrap_or(u64::MAX), Ordering::Release);
}

impl Running {
    fn step(&mut self, system: &'static System) -> Step {
        let job = &mut self.job;
        say(self.number, self.port, self.format, |report| {
            let step = job.step(system, report);
            if step == Step::Done && report.is_for_programs() {
                report.value("done", Value::Flag(true));
            }
            step
        })
    }

    fn cancel(&mut self, system: &'static System) {
        let job = &mut self.job;
        say(self.number, self.port, self.format, |report| {
            job.cancel(system, report);
            if report.is_for_programs() {
                report.value("cancelled", Value::Flag(true));
                report.value("done", Value::Flag(true));
            }
        });
    }
}

/// Has a job speak on its port.
fn say<R>(number: u64, port: Port, format: Format, speak: impl FnOnce(&mut Report<'_>) -> R) -> R {
    let render = |out: &mut dyn Write| speak(&mut Report::of_job(out, format, number));
    match port {
        Port::Console => render(&mut console::JobOutput),
        Port::Control => control::answer(render),
    }
}
