//! Trapped system registers.

use super::id_registers::{guest_view, is_id_register};
use super::syndrome::{SystemRegister, SystemRegisterAccess, injected};
use super::{Next, skip_instruction};
use crate::arch::{context, id};
use crate::device::gic::SgiRegister;
use crate::sched::Loaded;
use crate::system::System;

const ICC_SGI1R_EL1: SystemRegister = SystemRegister::new(3, 0, 12, 11, 5);
const ICC_ASGI1R_EL1: SystemRegister = SystemRegister::new(3, 0, 12, 11, 6);
const ICC_SGI0R_EL1: SystemRegister = SystemRegister::new(3, 0, 12, 11, 7);
const ICC_DIR_EL1: SystemRegister = SystemRegister::new(3, 0, 12, 11, 1);
const ACTLR_EL1: SystemRegister = SystemRegister::new(3, 0, 1, 0, 1);
const OSLSR_EL1: SystemRegister = SystemRegister::new(2, 0, 1, 1, 4);

/// What becomes of an access.
enum Outcome {
    /// A read gives this; a write is done.
    Done(u64),
    /// There is no such register for guests.
    Undefined,
}

/// Handles a trapped MRS or MSR.
pub fn handle(system: &'static System, loaded: &mut Loaded, access: SystemRegisterAccess) -> Next {
    let transfer = usize::from(access.transfer);
    let value = loaded.own.registers.x.get(transfer).copied().unwrap_or(0);
    let outcome = if access.read {
        read(access.register)
    } else {
        write(system, loaded, access.register, value)
    };
    match outcome {
        Outcome::Done(value) => {
            if access.read
                && let Some(register) = loaded.own.registers.x.get_mut(transfer)
            {
                *register = value;
            }
            skip_instruction();
        }
        Outcome::Undefined => {
            log::debug!(
                "guest {}: {} of {} is undefined",
                loaded.guest.name(),
                if access.read { "a read" } else { "a write" },
                access.register
            );
            context::inject(injected::UNDEFINED, None);
        }
    }
    Next::Resume
}

/// The registers of self-hosted debug that Armv8-A demands and no guest can do harm with: MDSCR_EL1, the OS lock, and as
/// many break- and watchpoints as ID_AA64DFR0_EL1 says there are. They read as zero and ignore writes: nothing
/// ever breaks.
fn is_inert_debug(register: SystemRegister) -> bool {
    let SystemRegister { op0, op1, crn, crm, op2 } = register;
    match (op0, op1, crn) {
        // DBGBVR, DBGBCR, DBGWVR, DBGWCR 0 and 1; MDSCR_EL1.
        (2, 0, 0) => (matches!(op2, 4..=7) && crm < 2) || (crm == 2 && op2 == 2),
        // OSLAR_EL1, OSLSR_EL1, OSDLR_EL1, DBGPRCR_EL1.
        (2, 0, 1) => op2 == 4 && matches!(crm, 0 | 1 | 3 | 4),
        _ => false,
    }
}

fn read(register: SystemRegister) -> Outcome {
    if is_id_register(register) {
        return Outcome::Done(guest_view(register, id::read(register)));
    }
    match register {
        ACTLR_EL1 => Outcome::Done(0),
        // OSLM: the OS lock is there, and open.
        OSLSR_EL1 => Outcome::Done(1 << 3),
        _ if is_inert_debug(register) => Outcome::Done(0),
        _ => Outcome::Undefined,
    }
}

fn write(system: &System, loaded: &Loaded, register: SystemRegister, value: u64) -> Outcome {
    let sgi = match register {
        ICC_SGI1R_EL1 => SgiRegister::Sgi1,
        ICC_SGI0R_EL1 => SgiRegister::Sgi0,
        ICC_ASGI1R_EL1 => SgiRegister::Asgi1,
        ICC_DIR_EL1 => {
            let kick = loaded.guest.gic.deactivate(loaded.vcpu.index, value as u32 & 0xff_ffff);
            loaded.guest.kick(system, kick);
            return Outcome::Done(0);
        }
        ACTLR_EL1 => return Outcome::Done(0),
        _ if is_inert_debug(register) => return Outcome::Done(0),
        _ => return Outcome::Undefined,
    };
    let kick = loaded.guest.gic.send_sgi(loaded.vcpu.index, sgi, value);
    loaded.guest.kick(system, kick);
    Outcome::Done(0)
}
