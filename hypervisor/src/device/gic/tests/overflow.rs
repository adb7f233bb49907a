//! More interrupts than list registers.

use super::super::{SgiRegister, hcr, vmcr};
use super::machine::{Machine, private};
use crate::device::Width;

/// Sends itself the SGIs `intids`.
fn send(machine: &mut Machine, intids: impl IntoIterator<Item = u32>) {
    for intid in intids {
        machine.sgi(0, SgiRegister::Sgi1, u64::from(intid) << 24 | 1);
    }
}

#[test]
fn all_come_in_the_end() {
    for lrs in 1..=16 {
        let mut machine = Machine::booted(1, lrs);
        send(&mut machine, 0..16);
        let mut seen = 0u32;
        while let Some(intid) = machine.acknowledge(0) {
            assert_eq!(seen & 1 << intid, 0);
            seen |= 1 << intid;
            machine.end(0, intid);
        }
        assert_eq!(seen, 0xffff, "with {lrs} list registers");
    }
}

#[test]
fn no_maintenance_is_asked_for_where_all_have_room() {
    let mut machine = Machine::booted(1, 4);
    send(&mut machine, 0..4);
    assert_eq!(machine.cpus[0].registers.hcr, hcr::EN);
    send(&mut machine, 4..5);
    assert_ne!(machine.cpus[0].registers.hcr & hcr::NPIE, 0);
}

#[test]
fn the_most_urgent_are_listed() {
    let mut machine = Machine::booted(1, 2);
    for intid in 0..16 {
        machine.access(0, private(0, 0x400 + intid), Width::Byte, 0xf0 - 8 * intid);
    }
    send(&mut machine, 0..16);
    assert_eq!(machine.cpus[0].listed(), [15, 14]);
    for expected in (0..16).rev() {
        assert_eq!(machine.acknowledge(0), Some(expected));
        machine.end(0, expected);
    }
}

#[test]
fn nested_interrupts_beyond_the_list_registers_end_in_order() {
    let mut machine = Machine::booted(1, 2);
    let mut stack = Vec::new();
    for intid in 0..8 {
        machine.access(0, private(0, 0x400 + intid), Width::Byte, 0xf0 - 16 * intid);
        send(&mut machine, [intid as u32]);
        assert_eq!(machine.acknowledge(0), Some(intid as u32));
        stack.push(intid as u32);
    }
    assert_eq!(machine.read_own(0, 0x300), 0xff);
    while let Some(intid) = stack.pop() {
        machine.end(0, intid);
        assert_eq!(machine.read_own(0, 0x300), (1 << intid) - 1);
    }
}

#[test]
fn active_ones_leave_room_for_what_is_pending() {
    let mut machine = Machine::booted(1, 2);
    // EOImode 1: handlers that deactivate later.
    machine.cpus[0].registers.vmcr |= vmcr::VEOIM;
    for intid in 0..6 {
        send(&mut machine, [intid]);
        assert_eq!(machine.acknowledge(0), Some(intid));
        machine.cpus[0].drop_priority();
    }
    assert_ne!(machine.cpus[0].registers.hcr & hcr::TDIR, 0);
    assert_eq!(machine.read_own(0, 0x300), 0b11_1111);
    for intid in [3, 0, 5] {
        let kick = machine.gic.deactivate(0, intid);
        machine.obey(0, kick);
    }
    assert_eq!(machine.read_own(0, 0x300), 0b01_0110);
    send(&mut machine, [3]);
    assert_eq!(machine.acknowledge(0), Some(3));
}

#[test]
fn a_group_that_the_guest_has_off_blocks_no_other() {
    let mut machine = Machine::booted(1, 2);
    machine.write_own(0, 0x80, 0xffff_ff00);
    for intid in 0..16 {
        machine.access(0, private(0, 0x400 + intid), Width::Byte, 8 * intid);
    }
    machine.cpus[0].registers.vmcr = vmcr::VENG1;
    machine.gic.mark_dirty(0);
    send(&mut machine, 0..10);
    assert_eq!(machine.acknowledge(0), Some(8));
    machine.end(0, 8);
    assert_eq!(machine.acknowledge(0), Some(9));
    machine.end(0, 9);
    assert_eq!(machine.acknowledge(0), None);
    machine.cpus[0].registers.vmcr |= vmcr::VENG0;
    machine.maintain(0);
    assert_eq!(machine.acknowledge(0), Some(0));
}
