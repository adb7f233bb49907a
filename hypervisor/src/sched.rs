//! Which vCPU a CPU runs: each in turn for a slice of time, those in WFI not at all; and what a CPU does when
//! there is none: background work in bounded steps, then WFI.
//!
//! The context of the vCPU that ran last stays loaded until another one is to run, so a CPU that goes idle
//! and comes back to the same vCPU moves nothing.

use crate::arch::cpu::{self, CpuId};
use crate::arch::{gic, time};
use crate::exit::{self, Next};
use crate::govern;
use crate::guest::{Guest, Stop};
use crate::monitor::job;
use crate::system::System;
use crate::vcpu::{Own, State, Vcpu};
use core::sync::atomic::Ordering;
use spin::MutexGuard;

/// How long a vCPU runs while others of its CPU wait, in parts of a second: 10 ms.
const SLICES_A_SECOND: u64 = 100;
/// How long a vCPU and the devices of its guest take turns for while both have something to do, in parts of a second:
/// 1 ms each. A device's turn is of many bounded pieces of work, with a look at interrupts after each.
const TURNS_A_SECOND: u64 = 1000;

/// The vCPU whose context is in this CPU's registers.
pub struct Loaded {
    /// Its guest.
    pub guest: &'static Guest,
    /// Itself.
    pub vcpu: &'static Vcpu,
    /// What it has.
    pub own: MutexGuard<'static, Own>,
}

impl Loaded {
    fn load(system: &System, guest: &'static Guest, vcpu: &'static Vcpu) -> Self {
        let mut own = vcpu.own.lock();
        if vcpu.state() == State::Starting {
            vcpu.reset_context(&mut own);
            guest.kick(system, guest.gic.reset_vcpu(vcpu.index));
            own.list = Default::default();
            vcpu.set_state(State::Ready);
        }
        exit::interrupts::load(system, guest, vcpu, &mut own);
        own.context.load(guest.space.vttbr());
        vcpu.deadline.store(u64::MAX, Ordering::Relaxed);
        Self { guest, vcpu, own }
    }

    fn save(mut self, system: &System) {
        let own = &mut *self.own;
        own.context.save();
        exit::interrupts::save(system, self.guest, self.vcpu, own);
        let deadline = own.context.timers.deadline().unwrap_or(u64::MAX);
        self.vcpu.deadline.store(deadline, Ordering::Relaxed);
    }

    /// Says whether it is `vcpu` of `guest`.
    fn is(&self, guest: &Guest, vcpu: &Vcpu) -> bool {
        core::ptr::eq(self.guest, guest) && self.vcpu.index == vcpu.index
    }
}

/// Says whether `vcpu` of `guest`, which waits, has been given something to do. Ends its wait if so.
fn wake(guest: &Guest, vcpu: &Vcpu, now: u64) -> bool {
    let woken = vcpu.take_wake()
        || guest.gic.pending_for(vcpu.index)
        || vcpu.deadline.load(Ordering::Relaxed) <= now
        || guest.stop().is_some();
    if woken {
        vcpu.set_state(State::Ready);
    }
    woken
}

/// Says whether `vcpu` has something to do, or its guest's devices have while it waits.
fn is_runnable(guest: &Guest, vcpu: &Vcpu, now: u64) -> bool {
    match vcpu.state() {
        State::Off => false,
        State::Starting | State::Ready => true,
        State::Waiting => wake(guest, vcpu, now) || guest.wants_device_step(),
    }
}

/// One CPU's own part of the scheduler.
struct Cpu {
    system: &'static System,
    id: CpuId,
    loaded: Option<Loaded>,
    /// The place in the list of vCPUs where the search for the next one begins.
    turn: usize,
    /// When EL2's timer fires, in ticks.
    alarm: u64,
    /// When the turn of a guest's devices ends, or ended, in ticks.
    devices_until: u64,
}

impl Cpu {
    /// Finds the next vCPU of this CPU that has something to do, and returns how many there are.
    fn next(&mut self) -> (Option<(&'static Guest, &'static Vcpu)>, usize) {
        let now = time::now();
        let mine = || {
            self.system.guests().flat_map(|guest| {
                guest
                    .vcpus
                    .iter()
                    .filter(|vcpu| vcpu.home == self.id)
                    .map(move |vcpu| (guest, vcpu))
            })
        };
        let count = mine().count();
        let mut chosen = None;
        let mut runnable = 0;
        for (place, (guest, vcpu)) in mine().chain(mine()).enumerate().skip(self.turn).take(count) {
            if is_runnable(guest, vcpu, now) {
                runnable += 1;
                if chosen.is_none() {
                    chosen = Some((place, guest, vcpu));
                }
            }
        }
        if let Some((place, guest, vcpu)) = chosen {
            self.turn = (place + 1) % count.max(1);
            (Some((guest, vcpu)), runnable)
        } else {
            (None, 0)
        }
    }

    fn switch_to(&mut self, guest: &'static Guest, vcpu: &'static Vcpu) {
        let starting = vcpu.state() == State::Starting;
        match &self.loaded {
            Some(loaded) if loaded.is(guest, vcpu) && !starting => {}
            _ => {
                if let Some(loaded) = self.loaded.take() {
                    loaded.save(self.system);
                }
                self.loaded = Some(Loaded::load(self.system, guest, vcpu));
            }
        }
    }

    /// Has EL2's timer fire when this CPU must look again: at the end of a slice, or when a vCPU that is not
    /// loaded has a timer that fires.
    fn arm_timer(&mut self, contended: bool) {
        let slice =
            if contended { time::now() + time::frequency() / SLICES_A_SECOND } else { u64::MAX };
        let waiting = self.system.guests().flat_map(|guest| guest.vcpus.iter());
        let waiting = waiting.filter(|vcpu| vcpu.home == self.id && vcpu.state() == State::Waiting);
        let deadline = waiting.map(|vcpu| vcpu.deadline.load(Ordering::Relaxed)).min();
        self.alarm = slice.min(deadline.unwrap_or(u64::MAX)).min(self.jobs_due());
        match self.alarm {
            u64::MAX => time::disarm(),
            deadline => time::arm(deadline),
        }
    }

    /// Returns when this CPU must look at the monitor's jobs, in ticks, having given guests a turn.
    fn jobs_due(&self) -> u64 {
        match job::due().min(govern::due()) {
            0 if self.id == CpuId::FIRST => time::now() + time::frequency() / TURNS_A_SECOND,
            due if self.id == CpuId::FIRST => due,
            _ => u64::MAX,
        }
    }

    /// Does what is due of the monitor's jobs, for a turn.
    fn step_jobs(&mut self) {
        govern::step(self.system);
        let end = time::now() + time::frequency() / TURNS_A_SECOND;
        while job::step(self.system) && time::now() < end {
            if exit::interrupts::take(self.system, self.loaded.as_mut()) {
                return;
            }
        }
    }

    /// Runs the loaded vCPU until it gives the CPU up, its slice ends, or there is other work.
    fn run_loaded(&mut self) {
        let Some(loaded) = self.loaded.as_mut() else { return };
        loop {
            if let Some(stop) = loaded.guest.stop() {
                return self.leave(stop);
            }
            if loaded.guest.has_device_work() {
                let (now, turn) = (time::now(), time::frequency() / TURNS_A_SECOND);
                if now >= self.devices_until.saturating_add(turn) {
                    self.devices_until = now + turn;
                }
                if now < self.devices_until || loaded.vcpu.state() == State::Waiting {
                    let done = loaded.guest.device_step(self.system);
                    let more = loaded.guest.has_device_work();
                    if !more {
                        // What comes next has a whole turn.
                        self.devices_until = 0;
                    }
                    if done && exit::interrupts::take(self.system, Some(loaded)) {
                        return;
                    }
                    if done && more {
                        continue;
                    }
                } else {
                    // The vCPU's turn, which may be the one to end the work: a guest can ask for more than it would
                    // ever live to see done.
                    time::arm(self.alarm.min(self.devices_until + turn));
                }
            }
            if loaded.vcpu.state() == State::Waiting
                && !wake(loaded.guest, loaded.vcpu, time::now())
            {
                if loaded.guest.wants_device_step() {
                    continue;
                }
                return;
            }
            match exit::run(self.system, loaded) {
                Next::Resume => {}
                Next::Wait => {
                    loaded.vcpu.set_state(State::Waiting);
                    return;
                }
                Next::Yield => return,
                Next::Off => {
                    let guest = loaded.guest;
                    let vcpu = loaded.vcpu;
                    self.forget();
                    guest.kick(self.system, guest.gic.power_off(vcpu.index));
                    vcpu.set_state(State::Off);
                    guest.vcpu_has_left(self.system);
                    return;
                }
            }
        }
    }

    /// Drops the loaded context, which nobody needs any more.
    fn forget(&mut self) {
        if let Some(loaded) = self.loaded.take() {
            loaded.save(self.system);
        }
    }

    /// Takes the loaded vCPU out of a guest that stops.
    fn leave(&mut self, _stop: Stop) {
        let Some(loaded) = &self.loaded else { return };
        let (guest, vcpu) = (loaded.guest, loaded.vcpu);
        self.forget();
        crate::arch::context::set_stage2(0);
        vcpu.set_state(State::Off);
        guest.vcpu_has_left(self.system);
    }
}

/// Runs this CPU's vCPUs for ever.
pub fn run(system: &'static System) -> ! {
    let mut own = Cpu {
        system,
        id: cpu::current(),
        loaded: None,
        turn: 0,
        alarm: u64::MAX,
        devices_until: 0,
    };
    loop {
        exit::interrupts::take(system, own.loaded.as_mut());
        system.end_if_asked();
        if own.id == CpuId::FIRST {
            own.step_jobs();
        }
        let (chosen, runnable) = own.next();
        if let Some((guest, vcpu)) = chosen {
            own.switch_to(guest, vcpu);
            own.arm_timer(runnable > 1);
            let began = time::now();
            own.run_loaded();
            vcpu.ran.fetch_add(time::now().saturating_sub(began), Ordering::Relaxed);
            continue;
        }
        if system.background(own.id) {
            continue;
        }
        if own.id == CpuId::FIRST && job::due() == 0 {
            continue;
        }
        own.arm_timer(false);
        gic::set_virtual_control(0);
        cpu::wait_for_interrupt();
    }
}
