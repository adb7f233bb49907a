//! Physical interrupts, and a guest's on their way into the list registers.

use crate::arch::gic;
use crate::arch::{cpu, time};
use crate::device::gic::{ListRegister, ListRegisters, MAX_LIST_REGISTERS, Synced, intid};
use crate::guest::Guest;
use crate::panic;
use crate::sched::Loaded;
use crate::system::System;
use crate::vcpu::{Own, Vcpu};

/// ICH_HCR_EL2.En.
const VIRTUAL_INTERFACE_ON: u64 = 1;

fn write_out(list: &ListRegisters, count: usize) {
    gic::write_out(&list.lr, count);
    gic::set_virtual_control(list.hcr | VIRTUAL_INTERFACE_ON);
}

fn carry_out(system: &System, guest: &Guest, synced: Synced) {
    let mut deactivate = synced.deactivate;
    while deactivate != 0 {
        gic::deactivate(deactivate.trailing_zeros());
        deactivate &= deactivate - 1;
    }
    if !synced.kick.is_empty() {
        guest.kick(system, synced.kick);
    }
}

/// Brings the list registers up to date before the guest is entered. To be called when
/// [`crate::device::gic::Gic::is_dirty`].
#[cold]
pub fn sync(system: &System, loaded: &mut Loaded) {
    let list = &mut loaded.own.list;
    gic::read_back(list);
    let synced = loaded.guest.gic.sync(loaded.vcpu.index, list, system.list_registers());
    write_out(list, synced.write);
    carry_out(system, &loaded.guest, synced);
}

/// Takes what the list registers hold back into the model: before the vCPU waits, or reads the state of its interrupts.
pub fn fold(system: &System, loaded: &mut Loaded) {
    let list = &mut loaded.own.list;
    gic::read_back(list);
    let synced = loaded.guest.gic.fold(loaded.vcpu.index, list);
    write_out(list, synced.write);
    carry_out(system, &loaded.guest, synced);
}

/// Makes this CPU's interrupts those of the vCPU that comes.
pub fn load(system: &System, guest: &Guest, vcpu: &Vcpu, own: &mut Own) {
    gic::load(&own.interface);
    own.list.vmcr = own.interface.control;
    guest.gic.mark_dirty(vcpu.index);
    gic::write_out(&[ListRegister::default(); MAX_LIST_REGISTERS], system.list_registers());
    own.list.live = 0;
    gic::set_virtual_control(VIRTUAL_INTERFACE_ON);
    let held = guest.gic.physical_held(vcpu.index);
    for intid in [intid::VIRTUAL_TIMER, intid::PHYSICAL_TIMER] {
        if held & 1 << intid != 0 {
            system.private_interrupts(cpu::current()).set_active(intid, true);
        }
    }
}

/// Takes the interrupts of the vCPU that leaves, whose timers have been stopped.
pub fn save(system: &System, guest: &Guest, vcpu: &Vcpu, own: &mut Own) {
    gic::read_back(&mut own.list);
    let synced = guest.gic.fold(vcpu.index, &mut own.list);
    write_out(&own.list, synced.write);
    carry_out(system, guest, synced);
    gic::save(&mut own.interface);
    gic::set_virtual_control(0);
    // What the guest has yet to deactivate is active again on the CPU that takes the vCPU next.
    let held = guest.gic.physical_held(vcpu.index);
    for intid in [intid::VIRTUAL_TIMER, intid::PHYSICAL_TIMER] {
        if held & 1 << intid != 0 {
            system.private_interrupts(cpu::current()).set_active(intid, false);
        }
    }
}

/// Handles the physical interrupts that are pending on this CPU. Says whether the scheduler must look at them.
pub fn take(system: &'static System, mut loaded: Option<&mut Loaded>) -> bool {
    let mut look = false;
    while let Some(acknowledged) = gic::acknowledge() {
        gic::drop_priority(acknowledged);
        let intid = acknowledged & 0x3ff;
        match intid {
            gic::KICK => {
                panic::stop_if_panicked();
                look = true;
            }
            gic::MAINTENANCE => {
                // It is asserted for as long as its cause is in the list registers: they are brought up to
                // date before it is looked for again.
                match loaded.as_deref_mut() {
                    Some(loaded) => sync(system, loaded),
                    None => gic::set_virtual_control(0),
                }
            }
            intid::VIRTUAL_TIMER | intid::PHYSICAL_TIMER => {
                if let Some(loaded) = loaded.as_deref_mut() {
                    // It stays active until the guest deactivates it. The kick is for this vCPU.
                    let _ = loaded.guest.gic.inject_ppi(loaded.vcpu.index, intid, true);
                    continue;
                }
            }
            time::HYPERVISOR_TIMER => {
                time::disarm();
                look = true;
            }
            other => {
                system.device_interrupt(other);
                look = true;
            }
        }
        gic::deactivate(acknowledged);
    }
    look
}
