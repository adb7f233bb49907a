//! What each CPU does: run its vCPUs, and when there is none to run, other work.

use super::choice::Turn;
use crate::arch::cpu::{self, CpuId};
use crate::arch::{gic, time};
use crate::audit::switch;
use crate::exit::{self, Next};
use crate::govern;
use crate::guest::Guest;
use crate::guest::layout::MAX_VCPUS;
use crate::guest::manifest::MAX_GUESTS;
use crate::monitor::job;
use crate::system::System;
use crate::vcpu::{Own, State, Vcpu};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

/// How long a vCPU runs while others of its CPU wait, in parts of a second: 10 ms.
const SLICES_A_SECOND: u64 = 100;
/// How long a vCPU and the devices of its guest take turns for while both have something to do, in parts of a second:
/// 1 ms each. A device's turn is of many bounded pieces of work, with a look at interrupts after each.
const TURNS_A_SECOND: u64 = 1000;

/// The vCPU whose context is in this CPU's registers.
pub struct Loaded {
    /// Its guest.
    pub guest: Arc<Guest>,
    /// Itself.
    pub vcpu: Arc<Vcpu>,
    /// What it has.
    pub own: Box<Own>,
}

impl Loaded {
    /// Loads `vcpu` of `guest`; `None` while another CPU has it, which does not happen: each has one home.
    fn load(system: &System, guest: Arc<Guest>, vcpu: Arc<Vcpu>) -> Option<Self> {
        let mut own = vcpu.take_own()?;
        if vcpu.state() == State::Starting {
            vcpu.reset_context(&mut own);
            guest.kick(system, guest.gic.reset_vcpu(vcpu.index));
            own.list = Default::default();
            vcpu.set_state(State::Ready);
        }
        exit::interrupts::load(system, &guest, &vcpu, &mut own);
        own.context.load(guest.space.vttbr());
        vcpu.deadline.store(u64::MAX, Ordering::Relaxed);
        Some(Self { guest, vcpu, own })
    }

    fn save(mut self, system: &System) {
        let own = &mut *self.own;
        own.context.save();
        exit::interrupts::save(system, &self.guest, &self.vcpu, own);
        let deadline = own.context.timers.deadline().unwrap_or(u64::MAX);
        self.vcpu.deadline.store(deadline, Ordering::Relaxed);
        self.vcpu.put_own(self.own);
    }

    /// Says whether it is `vcpu` of `guest`.
    fn is(&self, guest: &Guest, vcpu: &Vcpu) -> bool {
        core::ptr::eq(&*self.guest, guest) && self.vcpu.index == vcpu.index
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
fn is_runnable(system: &System, guest: &Guest, vcpu: &Vcpu, now: u64) -> bool {
    match vcpu.state() {
        State::Off => false,
        State::Starting | State::Ready => true,
        State::Waiting => wake(guest, vcpu, now) || guest.wants_device_step(),
        State::Paused => {
            let ends = guest.stop().is_some() || system.memory().some_is_free();
            if ends {
                vcpu.set_state(State::Ready);
            }
            ends
        }
    }
}

/// A vCPU of this CPU, with its guest.
type Mine = (Arc<Guest>, Arc<Vcpu>);

/// One CPU's own part of the scheduler.
struct Cpu {
    system: &'static System,
    id: CpuId,
    loaded: Option<Loaded>,
    /// The vCPUs whose home this is, of guests that there were when [`Cpu::edition`] was the system's.
    mine: heapless::Vec<Mine, { MAX_GUESTS * MAX_VCPUS }>,
    edition: u64,
    turn: Turn,
    /// When EL2's timer fires, in ticks.
    alarm: u64,
    /// When the turn of a guest's devices ends, or ended, in ticks.
    devices_until: u64,
}

impl Cpu {
    /// Lists this CPU's vCPUs anew if guests have come or gone, and lets go of those that have gone: the last CPU to do
    /// so gives back what they were made of.
    #[inline]
    fn look_at_guests(&mut self) {
        if self.edition != self.system.edition() {
            self.list_guests();
        }
    }

    #[cold]
    fn list_guests(&mut self) {
        // Read before the guests are: what changes from here on is listed the next time.
        self.edition = self.system.edition();
        self.mine.clear();
        for guest in self.system.guests() {
            for vcpu in guest.vcpus.iter().filter(|vcpu| vcpu.home == self.id) {
                // There is room for all vCPUs of the most guests.
                let _ = self.mine.push((Arc::clone(&guest), Arc::clone(vcpu)));
            }
        }
        self.turn = Turn::NOBODY;
    }

    /// Finds the place of the next vCPU of this CPU that has something to do, and returns how many there are.
    fn next(&mut self) -> (Option<usize>, usize) {
        let now = time::now();
        let Self { mine, turn, system, .. } = self;
        let runs = |place: usize| {
            mine.get(place).is_some_and(|(guest, vcpu)| is_runnable(system, guest, vcpu, now))
        };
        let slice = time::frequency() / SLICES_A_SECOND;
        turn.next(mine.len(), runs, now, slice)
    }

    fn switch_to(&mut self, place: usize) {
        let Some((guest, vcpu)) = self.mine.get(place) else { return };
        let starting = vcpu.state() == State::Starting;
        match &self.loaded {
            Some(loaded) if loaded.is(guest, vcpu) && !starting => {}
            _ => {
                if let Some(loaded) = self.loaded.take() {
                    loaded.save(self.system);
                }
                self.loaded = Loaded::load(self.system, Arc::clone(guest), Arc::clone(vcpu));
            }
        }
    }

    /// Has EL2's timer fire when this CPU must look again: at the end of a slice, when a vCPU that is not loaded has a
    /// timer that fires, or to see whether there is memory for one that is paused. At `latest` in any case, in ticks.
    fn arm_timer(&mut self, latest: u64) {
        let mut alarm = latest;
        for (_, vcpu) in &self.mine {
            match vcpu.state() {
                State::Waiting => alarm = alarm.min(vcpu.deadline.load(Ordering::Relaxed)),
                State::Paused => {
                    alarm = alarm.min(time::now() + time::frequency() / SLICES_A_SECOND);
                }
                _ => {}
            }
        }
        self.alarm = alarm.min(self.jobs_due());
        match self.alarm {
            u64::MAX => time::disarm(),
            deadline => time::arm(deadline),
        }
    }

    /// Returns when this CPU must look at the monitor's jobs, in ticks, having given guests a turn.
    fn jobs_due(&self) -> u64 {
        match job::due().min(govern::due()).min(switch::due()) {
            _ if self.id == CpuId::FIRST && self.system.is_life_going_on() => {
                time::now() + time::frequency() / TURNS_A_SECOND
            }
            0 if self.id == CpuId::FIRST => time::now() + time::frequency() / TURNS_A_SECOND,
            due if self.id == CpuId::FIRST => due,
            _ => u64::MAX,
        }
    }

    /// Does what is due of the monitor's jobs, for a turn.
    fn step_jobs(&mut self) {
        govern::step(self.system);
        switch::step(self.system);
        let end = time::now() + time::frequency() / TURNS_A_SECOND;
        while job::step(self.system) && time::now() < end {
            if exit::interrupts::take(self.system, self.loaded.as_mut()) {
                return;
            }
        }
        while self.step_lives() && time::now() < end {
            if exit::interrupts::take(self.system, self.loaded.as_mut()) {
                return;
            }
        }
    }

    /// Does a bounded step for guests that start or end. Says whether there was one.
    fn step_lives(&mut self) -> bool {
        let (system, loaded) = (self.system, &mut self.loaded);
        system.live(&mut || {
            // Whatever comes is looked at when the step is done.
            let _ = exit::interrupts::take(system, loaded.as_mut());
        })
    }

    /// Notes that the vCPU at `place` ran for so many ticks.
    fn note_time(&self, place: usize, ticks: u64) {
        if let Some((_, vcpu)) = self.mine.get(place) {
            vcpu.ran.fetch_add(ticks, Ordering::Relaxed);
        }
    }

    /// Runs the loaded vCPU until it gives the CPU up, its slice ends, or there is other work.
    fn run_loaded(&mut self) {
        let Some(loaded) = self.loaded.as_mut() else { return };
        loop {
            if loaded.guest.stop().is_some() {
                return self.leave();
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
                && !wake(&loaded.guest, &loaded.vcpu, time::now())
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
                Next::Pause => {
                    loaded.vcpu.set_state(State::Paused);
                    return;
                }
                Next::Off => {
                    let kick = loaded.guest.gic.power_off(loaded.vcpu.index);
                    loaded.guest.kick(self.system, kick);
                    return self.leave();
                }
            }
        }
    }

    /// Waits for an interrupt, there being nothing to do.
    fn sleep(&mut self) {
        let memory = self.system.memory();
        // A grace period that a pin has held up is over soon.
        let soon = memory.falls_asleep(self.id);
        let turn = time::frequency() / TURNS_A_SECOND;
        self.arm_timer(if soon { time::now() + turn } else { u64::MAX });
        gic::set_virtual_control(0);
        cpu::wait_for_interrupt();
        memory.is_awake(self.id);
    }

    /// Turns the loaded vCPU off, and has nothing of its guest loaded any more.
    fn leave(&mut self) {
        let Some(loaded) = self.loaded.take() else { return };
        let (guest, vcpu) = (Arc::clone(&loaded.guest), Arc::clone(&loaded.vcpu));
        loaded.save(self.system);
        crate::arch::context::set_stage2(0);
        vcpu.set_starved(false);
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
        mine: heapless::Vec::new(),
        edition: 0,
        turn: Turn::NOBODY,
        alarm: u64::MAX,
        devices_until: 0,
    };
    loop {
        exit::interrupts::take(system, own.loaded.as_mut());
        system.end_if_asked();
        if own.id == CpuId::FIRST {
            own.step_jobs();
        }
        own.look_at_guests();
        let (chosen, runnable) = own.next();
        if let Some(place) = chosen {
            own.switch_to(place);
            own.arm_timer(if runnable > 1 { own.turn.until() } else { u64::MAX });
            let began = time::now();
            own.run_loaded();
            own.note_time(place, time::now().saturating_sub(began));
            continue;
        }
        if own.step_lives() || system.background(own.id) {
            continue;
        }
        if own.id == CpuId::FIRST && job::due() == 0 {
            continue;
        }
        own.sleep();
    }
}
