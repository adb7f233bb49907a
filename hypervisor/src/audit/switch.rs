//! The continuous audit on the machine: on the first CPU, a bounded step at a time, at a bounded rate.

use super::continuous::Continuous;
use super::{Asked, Report};
use crate::arch::cpu::CpuId;
use crate::arch::time;
use crate::control;
use crate::system::System;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Mutex;

/// How many steps are done in a second, at most: of 64 entries each, that is some percent of one CPU.
pub const STEPS_A_SECOND: u64 = 1000;

struct Switched {
    audit: Continuous,
    /// When it was turned on, and off, in ticks.
    since: u64,
    until: Option<u64>,
}

static AUDIT: Mutex<Option<Switched>> = Mutex::new(None);
/// When the next step is due, in ticks; `u64::MAX` for never.
static DUE: AtomicU64 = AtomicU64::new(u64::MAX);

/// How the continuous audit is.
#[derive(Clone, Debug)]
pub struct Status {
    /// It is on.
    pub on: bool,
    /// How long it was on, in ticks.
    pub ticks: u64,
    /// How many rounds it has completed.
    pub rounds: u64,
    /// How many frames it has looked at.
    pub frames: u64,
    /// What it saw.
    pub report: Report,
}

/// Turns it on, from the beginning, or off. One that is on goes on.
pub fn set_on(system: &'static System, on: bool) {
    let mut audit = AUDIT.lock();
    let is_on = audit.as_ref().is_some_and(|switched| switched.until.is_none());
    if on && !is_on {
        *audit = Some(Switched { audit: Continuous::new(), since: time::now(), until: None });
        DUE.store(0, Ordering::Release);
        system.kick(CpuId::FIRST);
    } else if !on && let Some(switched) = audit.as_mut().filter(|_| is_on) {
        switched.until = Some(time::now());
        DUE.store(u64::MAX, Ordering::Release);
    }
}

/// Returns how it is, if it was ever on.
pub fn status() -> Option<Status> {
    let audit = AUDIT.lock();
    let Switched { audit, since, until } = audit.as_ref()?;
    Some(Status {
        on: until.is_none(),
        ticks: until.unwrap_or_else(time::now).saturating_sub(*since),
        rounds: audit.rounds(),
        frames: audit.frames(),
        report: audit.report().clone(),
    })
}

/// Returns when the next step is due, in ticks; `u64::MAX` for never.
#[inline]
pub fn due() -> u64 {
    DUE.load(Ordering::Relaxed)
}

/// Does a step, if one is due. On the first CPU. What is found is logged, and told on the control port.
pub fn step(system: &'static System) {
    let now = time::now();
    if due() > now {
        return;
    }
    let mut audit = AUDIT.lock();
    let Some(Switched { audit, until: None, .. }) = audit.as_mut() else { return };
    let found = audit.step(system.memory(), &|guest, look| match system.guest(guest.index()) {
        Some(guest) => {
            look(&guest.space);
            Asked::Looked
        }
        None if system.is_number_taken(guest) => Asked::Changing,
        None => Asked::Nobody,
    });
    for finding in found {
        let text = alloc::format!("{finding:?}");
        log::error!("audit: {text}");
        control::event("audit", "finding", &text);
    }
    DUE.store(now + time::frequency() / STEPS_A_SECOND, Ordering::Relaxed);
}
