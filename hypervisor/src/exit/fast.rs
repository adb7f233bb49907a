//! The exits that are over in a few instructions: they are handled on the way out of the guest, before the rest of
//! its registers is saved, and the guest goes on at once.
//!
//! Only what touches nothing but the guest's own state may be handled here. x19 to x28 are not in `registers` yet:
//! they are still the guest's, in the CPU, where the calling convention keeps them.

use super::skip_instruction;
use super::syndrome::{Access, fault_ipa};
use crate::arch::entry::{self, GuestRegisters};
use crate::device::Width;
use crate::device::gic::{Gic, Place};
use crate::guest::layout;
use crate::psci::{self, Call};
use crate::service;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

/// What is needed of the vCPU whose registers are at hand.
pub struct Whose {
    /// Its guest's interrupt controller.
    pub gic: Arc<Gic>,
    /// Its number in its guest.
    pub vcpu: usize,
    /// Its guest's number of vCPUs.
    pub vcpus: usize,
    /// How often it came out.
    pub exits: Arc<AtomicU64>,
}

const HYPERCALL: u64 = 0x16;
const DATA_ABORT: u64 = 0x24;
/// In the syndrome of a data abort: ISV is 1; FnV, EA, CM, S1PTW and WnR are 0.
const PLAIN_LOAD: (u64, u64) = (1 << 24 | 0x7c0, 1 << 24);

/// Handles the exit that this CPU has just taken, if it is such a one. Says whether it was.
#[inline(always)]
pub fn handle(registers: &mut GuestRegisters) -> bool {
    let syndrome = entry::syndrome();
    let GuestRegisters { x, whose: Some(whose) } = registers else { return false };
    let handled = match syndrome >> 26 & 0x3f {
        HYPERCALL => hypercall(x),
        DATA_ABORT if syndrome & PLAIN_LOAD.0 == PLAIN_LOAD.1 => load(x, whose, syndrome),
        _ => false,
    };
    if handled {
        whose.exits.store(whose.exits.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
    handled
}

/// Answers a call that can be answered at once.
#[inline(always)]
fn hypercall(x: &mut [u64; 31]) -> bool {
    match psci::decode([x[0], x[1], x[2], x[3]]) {
        // To `psci` the service's functions are none: what it does not know is looked at again.
        Call::Answer(psci::result::NOT_SUPPORTED) if service::owns(x[0]) => false,
        Call::Answer(answer) => {
            x[0] = answer as u64;
            true
        }
        _ => false,
    }
}

/// Reads a register of the GIC that does not depend on what is in the list registers.
#[inline(always)]
fn load(x: &mut [u64; 31], whose: &Whose, syndrome: u64) -> bool {
    let register = (syndrome >> 16 & 0x1f) as usize;
    if (19..=28).contains(&register) {
        return false;
    }
    let ipa = fault_ipa(entry::fault_page(), entry::fault_address());
    let from_distributor = ipa.as_u64().wrapping_sub(layout::DISTRIBUTOR.start.as_u64());
    let from_redistributors = ipa.as_u64().wrapping_sub(layout::REDISTRIBUTORS.start.as_u64());
    let place = if from_distributor < crate::device::gic::DISTRIBUTOR_BYTES {
        Place::of_distributor(whose.gic.version(), whose.vcpu, from_distributor)
    } else if from_redistributors < crate::device::gic::REDISTRIBUTOR_BYTES * whose.vcpus as u64 {
        Place::of_redistributors(whose.gic.version(), from_redistributors)
    } else {
        None
    };
    let Some(place) = place.filter(|place| !place.shows_live_state()) else { return false };
    let access = Access {
        size: 1 << (syndrome >> 22 & 3),
        register: register as u8,
        sign_extend: syndrome & 1 << 21 != 0,
        wide: syndrome & 1 << 15 != 0,
    };
    let width = match access.size {
        1 => Width::Byte,
        2 => Width::Half,
        4 => Width::Word,
        _ => Width::Double,
    };
    let value = whose.gic.read(place, width);
    if let Some(register) = x.get_mut(register) {
        *register = access.extend(value);
    }
    skip_instruction();
    true
}
