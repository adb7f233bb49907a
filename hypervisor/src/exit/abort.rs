//! Stage-2 faults: memory to be populated, devices, and what is not there.

use super::syndrome::{DataAbort, Fault, fault_ipa, injected};
use super::{Next, mmio, skip_instruction};
use crate::addr::{Ipa, PAGE_SIZE};
use crate::arch::{context, entry};
use crate::sched::Loaded;
use crate::stage2::{PopulateError, Populated};
use crate::system::System;
use crate::{control, govern};
use core::sync::atomic::Ordering;

/// How much is asked of other guests when one finds no memory, in bytes.
const RECLAIM: u64 = 16 << 20;

/// Handles a load or store that stage 2 did not allow.
pub fn data(system: &'static System, loaded: &mut Loaded, abort: DataAbort) -> Next {
    let ipa = fault_ipa(entry::fault_page(), entry::fault_address());
    if loaded.guest.space.covers(ipa) && abort.fault != (Fault::Other { status: 0x10 }) {
        return memory(system, loaded, ipa, false, abort.write);
    }
    if abort.cache_maintenance {
        // There is nothing to maintain where no memory is.
        skip_instruction();
        return Next::Resume;
    }
    let Some(access) = abort.access.filter(|_| !abort.walk && !abort.address_unknown) else {
        absent(loaded, ipa, false, abort.write, "an access that its syndrome does not describe");
        return Next::Resume;
    };
    if mmio::access(system, loaded, ipa, access, abort.write) {
        skip_instruction();
    } else {
        absent(loaded, ipa, false, abort.write, "nothing is there");
    }
    Next::Resume
}

/// Handles an instruction fetch that stage 2 did not allow.
pub fn instruction(system: &'static System, loaded: &mut Loaded, _fault: Fault) -> Next {
    let ipa = fault_ipa(entry::fault_page(), entry::fault_address());
    if loaded.guest.space.covers(ipa) {
        return memory(system, loaded, ipa, true, false);
    }
    absent(loaded, ipa, true, false, "no instruction can be fetched there");
    Next::Resume
}

fn memory(
    system: &'static System,
    loaded: &mut Loaded,
    ipa: Ipa,
    instruction: bool,
    write: bool,
) -> Next {
    match loaded.guest.space.populate_step(ipa) {
        // The move goes on when this CPU, or another, looks at its other work.
        Ok(Populated::Moving) => return Next::Yield,
        Ok(Populated::Mapped(_) | Populated::Already) if loaded.vcpu.is_starved() => resume(loaded),
        Ok(_) => {}
        Err(PopulateError::Ballooned) if loaded.guest.may_use_untold() => {
            // As if it had asked for the page back; the access, tried again, populates it.
            return return_page(system, loaded, ipa);
        }
        Err(PopulateError::Ballooned) => {
            absent(loaded, ipa, instruction, write, "the page is in the balloon");
        }
        Err(PopulateError::Unplugged) => {
            absent(loaded, ipa, instruction, write, "no memory is plugged there");
        }
        Err(PopulateError::Poisoned) => {
            absent(loaded, ipa, instruction, write, "the memory there has failed");
        }
        Err(PopulateError::Outside) => absent(loaded, ipa, instruction, write, "nothing is there"),
        Err(PopulateError::OutOfMemory) => {
            return out_of_memory(system, loaded, ipa);
        }
    }
    Next::Resume
}

#[cold]
fn return_page(system: &'static System, loaded: &Loaded, ipa: Ipa) -> Next {
    match loaded.guest.space.return_pages(&[ipa.align_down(PAGE_SIZE)]) {
        Ok((_, flushed)) => {
            flushed.retire();
            Next::Resume
        }
        Err(_) => out_of_memory(system, loaded, ipa),
    }
}

/// Has a vCPU wait for memory: the guest is not to blame, and goes on as soon as there is some.
#[cold]
fn out_of_memory(system: &'static System, loaded: &Loaded, ipa: Ipa) -> Next {
    govern::reclaim_now(system, RECLAIM);
    if loaded.vcpu.set_starved(true) {
        let (name, index) = (loaded.guest.name(), loaded.vcpu.index);
        log::error!(
            "guest {name}: vCPU {index} is paused at {ipa}: no memory is free; take some from a guest, or destroy one"
        );
        control::event("paused", "guest", name);
    }
    Next::Pause
}

/// Tells that a vCPU has the memory that it was paused for.
#[cold]
fn resume(loaded: &Loaded) {
    if loaded.vcpu.set_starved(false) {
        log::info!("guest {}: vCPU {} goes on", loaded.guest.name(), loaded.vcpu.index);
        control::event("resumed", "guest", loaded.guest.name());
    }
}

/// Gives the guest a synchronous external abort, and the log a line.
#[cold]
fn absent(loaded: &Loaded, ipa: Ipa, instruction: bool, write: bool, why: &str) {
    let faults = loaded.guest.faults.fetch_add(1, Ordering::Relaxed) + 1;
    if faults < 16 || faults.is_power_of_two() {
        log::warn!(
            "guest {}: vCPU {}: {} at {ipa} (pc {:#x}): {why}; it gets an external abort ({faults} so far)",
            loaded.guest.name(),
            loaded.vcpu.index,
            match (instruction, write) {
                (true, _) => "fetch",
                (_, true) => "store",
                _ => "load",
            },
            entry::guest_pc()
        );
    }
    let syndrome = injected::external_abort(entry::guest_pstate(), instruction, write);
    context::inject(syndrome, Some(entry::fault_address()));
}
