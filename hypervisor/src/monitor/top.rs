//! `top`: how guests are, each second anew.

use super::balance;
use super::job::{Job, Step};
use super::report::{Column, Report, Value};
use crate::addr::PAGE_SIZE;
use crate::arch::cpu::CpuId;
use crate::arch::time;
use crate::govern::transfer::Guests;
use crate::govern::{self, Hands, snapshot};
use crate::mem::MAX_GUESTS;
use crate::system::System;
use core::sync::atomic::Ordering;

/// How many decisions are shown.
const DECISIONS: usize = 5;

/// Looks at guests until it is ended.
pub(super) struct Top {
    /// What each guest's vCPUs had run at the last look, in ticks.
    ran: [u64; MAX_GUESTS],
    /// When that was, in ticks.
    looked: u64,
}

impl Top {
    pub(super) fn new(system: &'static System) -> Self {
        Self { ran: ran(system), looked: time::now() }
    }
}

/// Returns how long each guest's vCPUs have run, in ticks.
fn ran(system: &'static System) -> [u64; MAX_GUESTS] {
    let mut ran = [0; MAX_GUESTS];
    for guest in system.guests() {
        let times = guest.vcpus.iter().map(|vcpu| vcpu.ran.load(Ordering::Relaxed));
        if let Some(place) = ran.get_mut(guest.id.index()) {
            *place = times.sum();
        }
    }
    ran
}

impl Job for Top {
    fn step(&mut self, system: &'static System, report: &mut Report<'_>) -> Step {
        let second = time::frequency();
        if time::now() < self.looked.saturating_add(second) {
            // A vCPU that runs alone is counted when it comes out.
            (0..system.cpus()).filter_map(CpuId::new).for_each(|cpu| system.kick(cpu));
            if !govern::is_on() {
                for guest in system.guests() {
                    guest.request_stats(system);
                }
            }
            return Step::At(self.looked + second);
        }
        let (before, now) = (core::mem::replace(&mut self.ran, ran(system)), time::now());
        let elapsed = now.saturating_sub(core::mem::replace(&mut self.looked, now)).max(1);
        // Home, and clear what is below.
        report
            .remark(format_args!("\x1b[H\x1b[J\x1b[1mSluice, each second; any key ends it\x1b[0m"));
        let shares = core::array::from_fn(|guest| {
            let more = |now: &[u64]| now.get(guest)?.checked_sub(*before.get(guest)?);
            more(&self.ran).unwrap_or(0).saturating_mul(100) / elapsed
        });
        guests(system, &shares, report);
        balance::decisions(system, DECISIONS, report);
        let counts = system.memory().counts();
        report.value("free", Value::Size(counts.free() * PAGE_SIZE));
        report.value("retired", Value::Size(counts.retired * PAGE_SIZE));
        report.value("total", Value::Size(counts.total * PAGE_SIZE));
        report.value("balance", Value::Flag(govern::is_on()));
        Step::Again
    }

    fn cancel(&mut self, _system: &'static System, _report: &mut Report<'_>) {}

    fn cancelled_by(&self, _key: u8) -> bool {
        true
    }
}

fn guests(system: &'static System, shares: &[u64; MAX_GUESTS], report: &mut Report<'_>) {
    const GUESTS: &[Column] = &[
        ("guest", 12),
        ("state", 5),
        ("cpu_percent", 11),
        ("boot", 9),
        ("ballooned", 9),
        ("plugged", 9),
        ("memory", 9),
        ("resident", 9),
        ("in_use", 9),
        ("available", 9),
        ("major_faults", 12),
        ("aborts", 6),
    ];
    let counts = system.memory().counts();
    report.table("guests", GUESTS);
    for guest in system.guests() {
        let number = guest.id.index();
        let view = Hands(system).view(number).unwrap_or_default();
        let sample = snapshot(system, number).unwrap_or_default();
        let told = sample.told.unwrap_or_default();
        let size = |bytes: Option<u64>| bytes.map_or(Value::Text("-"), Value::Size);
        report.row(&[
            Value::Text(guest.name()),
            Value::Text(if guest.is_on() { "on" } else { "off" }),
            Value::Number(shares.get(number).copied().unwrap_or(0)),
            Value::Size(guest.config.memory),
            Value::Size(view.ballooned),
            Value::Size(view.plugged),
            Value::Size(view.memory()),
            Value::Size(counts.guest(guest.id).frames * PAGE_SIZE),
            size(sample.used),
            size(told.spare()),
            told.major_faults.map_or(Value::Text("-"), Value::Number),
            Value::Number(guest.faults.load(Ordering::Relaxed)),
        ]);
    }
}
