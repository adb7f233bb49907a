//! Hypercalls: PSCI and SMCCC.

use super::Next;
use super::interrupts;
use crate::guest::Stop;
use crate::psci::{self, Call, affinity, result};
use crate::sched::Loaded;
use crate::service;
use crate::system::System;
use crate::vcpu::{Entry, State};

/// Handles HVC, and SMC, which is the same to a guest. The program counter is past it.
#[inline]
pub fn handle(system: &'static System, loaded: &mut Loaded) -> Next {
    let x = &mut loaded.own.registers.x;
    if let Some(call) = service::decode([x[0], x[1], x[2]]) {
        let answer = match call {
            Ok(call) => loaded.guest.serve(call),
            Err(error) => [error as u64, 0, 0, 0],
        };
        x[..answer.len()].copy_from_slice(&answer);
        return Next::Resume;
    }
    let answer = match psci::decode([x[0], x[1], x[2], x[3]]) {
        Call::Answer(answer) => answer,
        Call::CpuOn { target, entry, context } => {
            cpu_on(system, loaded, target, Entry { pc: entry, argument: context })
        }
        Call::AffinityInfo { target } => affinity_info(loaded, target),
        Call::CpuOff => return Next::Off,
        Call::CpuSuspend => {
            loaded.own.registers.x[0] = result::SUCCESS as u64;
            interrupts::fold(system, loaded);
            let pending = loaded.guest.gic.pending_for(loaded.vcpu.index);
            return if pending { Next::Resume } else { Next::Wait };
        }
        Call::SystemOff => return stop(system, loaded, Stop::Off),
        Call::SystemReset => return stop(system, loaded, Stop::Reset),
    };
    loaded.own.registers.x[0] = answer as u64;
    Next::Resume
}

fn stop(system: &System, loaded: &Loaded, stop: Stop) -> Next {
    loaded.guest.request_stop(system, stop);
    Next::Resume
}

/// The bits of an affinity that may be set in a target: Aff3 in 39:32, Aff2 to Aff0 in 23:0.
const AFFINITY: u64 = 0xff_00ff_ffff;

fn cpu_on(system: &System, loaded: &Loaded, target: u64, entry: Entry) -> i64 {
    let guest = &loaded.guest;
    if target & !AFFINITY != 0 {
        return result::INVALID_PARAMETERS;
    }
    let Some(vcpu) = guest.vcpus.iter().find(|vcpu| vcpu.affinity() == target) else {
        return result::INVALID_PARAMETERS;
    };
    let in_ram = guest.space.covers(crate::addr::Ipa::new(entry.pc));
    if !in_ram || entry.pc & 3 != 0 {
        return result::INVALID_ADDRESS;
    }
    match guest.turn_on(system, vcpu, entry) {
        Ok(()) => result::SUCCESS,
        Err(State::Starting) => result::ON_PENDING,
        Err(_) => result::ALREADY_ON,
    }
}

fn affinity_info(loaded: &Loaded, target: u64) -> i64 {
    let vcpu = loaded.guest.vcpus.iter().find(|vcpu| vcpu.affinity() == target);
    match vcpu.map(|vcpu| vcpu.state()) {
        None => result::INVALID_PARAMETERS,
        Some(State::Off) => affinity::OFF,
        Some(State::Starting) => affinity::ON_PENDING,
        Some(State::Ready | State::Waiting | State::Paused) => affinity::ON,
    }
}
