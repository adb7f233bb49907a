//! PPIs with a physical interrupt behind them: the timers.

use super::super::{State, intid};
use super::machine::{Machine, private};
use crate::device::Width;

const TIMER: u32 = intid::VIRTUAL_TIMER;
const BIT: u32 = 1 << TIMER;

/// A machine whose virtual timers are physical ones.
fn machine(vcpus: usize) -> Machine {
    let machine = Machine::booted(vcpus, 4);
    for vcpu in 0..vcpus {
        machine.gic.back_ppi(vcpu, TIMER, Some(TIMER));
    }
    machine
}

/// The physical timer's interrupt is taken at EL2.
fn fire(machine: &mut Machine, vcpu: usize) {
    assert_eq!(machine.cpus[vcpu].physical & BIT, 0, "an active interrupt does not come");
    machine.cpus[vcpu].physical |= BIT;
    machine.ppi(vcpu, TIMER, true);
}

#[test]
fn the_guest_deactivates_the_physical_timer() {
    let mut machine = machine(1);
    fire(&mut machine, 0);
    let listed = machine.cpus[0].of(TIMER).unwrap();
    assert_eq!(listed.physical(), Some(TIMER));
    assert!(!listed.notifies());
    assert_eq!(machine.acknowledge(0), Some(TIMER));
    assert_eq!(machine.cpus[0].physical, BIT);
    assert_eq!(machine.gic.physical_held(0), BIT);
    machine.end(0, TIMER);
    assert_eq!(machine.cpus[0].physical, 0);
    machine.fold(0);
    assert_eq!(machine.gic.physical_held(0), 0);
    fire(&mut machine, 0);
    assert_eq!(machine.acknowledge(0), Some(TIMER));
}

#[test]
fn without_backing_the_line_decides() {
    let mut machine = Machine::booted(1, 4);
    machine.ppi(0, TIMER, true);
    assert_eq!(machine.cpus[0].of(TIMER).unwrap().physical(), None);
    assert_eq!(machine.acknowledge(0), Some(TIMER));
    machine.end(0, TIMER);
    assert_eq!(machine.acknowledge(0), Some(TIMER));
}

#[test]
fn a_disabled_timer_is_held_until_it_is_enabled() {
    let mut machine = machine(1);
    machine.write_own(0, 0x180, BIT);
    fire(&mut machine, 0);
    assert_eq!(machine.acknowledge(0), None);
    assert_eq!(machine.cpus[0].physical, BIT, "it storms no one meanwhile");
    machine.write_own(0, 0x100, BIT);
    assert_eq!(machine.acknowledge(0), Some(TIMER));
    machine.end(0, TIMER);
    assert_eq!(machine.cpus[0].physical, 0);
}

#[test]
fn what_the_guest_clears_is_deactivated_for_it() {
    for listed in [true, false] {
        let mut machine = machine(2);
        if !listed {
            machine.write_own(0, 0x180, BIT);
        }
        fire(&mut machine, 0);
        machine.access(1, private(0, 0x280), Width::Word, BIT.into());
        assert_eq!(machine.cpus[0].physical, 0, "listed: {listed}");
        machine.write_own(0, 0x100, BIT);
        assert_eq!(machine.acknowledge(0), None);
    }
}

#[test]
fn what_the_guest_makes_inactive_is_deactivated_for_it() {
    let mut machine = machine(2);
    fire(&mut machine, 0);
    assert_eq!(machine.acknowledge(0), Some(TIMER));
    machine.access(1, private(0, 0x380), Width::Word, BIT.into());
    assert_eq!(machine.cpus[0].physical, 0);
    assert_eq!(machine.read_own(0, 0x300), 0);
}

#[test]
fn a_timer_that_is_not_wanted_any_more_is_withdrawn() {
    let mut machine = machine(1);
    fire(&mut machine, 0);
    machine.ppi(0, TIMER, false);
    assert_eq!(machine.acknowledge(0), None);
    assert_eq!(machine.cpus[0].physical, 0);
    // Acknowledged, it is the guest's to end.
    fire(&mut machine, 0);
    assert_eq!(machine.acknowledge(0), Some(TIMER));
    machine.ppi(0, TIMER, false);
    assert_eq!(machine.cpus[0].physical, BIT);
    machine.end(0, TIMER);
    assert_eq!(machine.cpus[0].physical, 0);
}

#[test]
fn set_pending_while_active_comes_again_and_ends_with_the_physical_one() {
    let mut machine = machine(1);
    fire(&mut machine, 0);
    assert_eq!(machine.acknowledge(0), Some(TIMER));
    machine.write_own(0, 0x200, BIT);
    let listed = machine.cpus[0].of(TIMER).unwrap();
    assert_eq!(listed.state(), State { pending: false, active: true });
    assert!(listed.notifies() && !listed.is_backed());
    machine.end(0, TIMER);
    assert_eq!(machine.acknowledge(0), Some(TIMER));
    machine.end(0, TIMER);
    assert_eq!(machine.cpus[0].physical, 0);
    assert_eq!(machine.acknowledge(0), None);
}

#[test]
fn set_pending_and_cleared_again_while_active_leaves_nothing_behind() {
    let mut machine = machine(1);
    fire(&mut machine, 0);
    assert_eq!(machine.acknowledge(0), Some(TIMER));
    machine.write_own(0, 0x200, BIT);
    machine.write_own(0, 0x280, BIT);
    machine.end(0, TIMER);
    assert_eq!(machine.cpus[0].physical, 0);
}

#[test]
fn a_reset_vcpu_holds_no_physical_interrupt() {
    let mut machine = machine(1);
    fire(&mut machine, 0);
    assert_eq!(machine.acknowledge(0), Some(TIMER));
    machine.fold(0);
    let kick = machine.gic.reset_vcpu(0);
    machine.obey(0, kick);
    assert_eq!(machine.cpus[0].physical, 0);
    assert_eq!(machine.gic.physical_held(0), 0);
    // It is still backed.
    machine.cpus[0].running.clear();
    machine.write_own(0, 0x80, u32::MAX);
    machine.write_own(0, 0x100, BIT);
    fire(&mut machine, 0);
    assert_eq!(machine.cpus[0].of(TIMER).unwrap().physical(), Some(TIMER));
}

#[test]
fn only_ppis_can_be_backed_and_only_by_ppis() {
    let machine = Machine::new(1, 4);
    for (intid, physical) in [(15, 27), (32, 27), (27, 15), (27, 32)] {
        machine.gic.back_ppi(0, intid, Some(physical));
        let _ = machine.gic.inject_ppi(0, intid, true);
        assert_eq!(machine.gic.physical_held(0), 0);
    }
}
