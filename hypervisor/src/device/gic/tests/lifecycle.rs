//! The life of an interrupt, from its line to its end.

use super::super::{SgiRegister, State, intid};
use super::machine::{Machine, control};
use crate::device::Width;

const UART: u32 = intid::UART;
const DISK: u32 = intid::spi(16);
const PENDING: State = State { pending: true, active: false };

/// Enables SPI `intid` for the guest, as a level or as edges.
fn enable(machine: &mut Machine, intid: u32, edge: bool) {
    let configuration = u64::from(intid / 16) * 4 + 0xc00;
    let old = machine.read_distributor(0, configuration);
    let bit = 2 << (intid % 16 * 2);
    machine.write(0, configuration, if edge { old | bit } else { old & !bit });
    machine.write(0, 0x100 + u64::from(intid / 32) * 4, 1 << (intid % 32));
}

#[test]
fn a_level_comes_again_as_long_as_it_is_high() {
    let mut machine = Machine::booted(1, 4);
    enable(&mut machine, UART, false);
    machine.spi(UART, true);
    for _ in 0..3 {
        assert_eq!(machine.acknowledge(0), Some(UART));
        assert_eq!(machine.acknowledge(0), None, "not while it is active");
        machine.end(0, UART);
    }
    machine.spi(UART, false);
    assert_eq!(machine.acknowledge(0), None);
}

#[test]
fn a_level_that_falls_is_withdrawn() {
    let mut machine = Machine::booted(1, 4);
    enable(&mut machine, UART, false);
    machine.spi(UART, true);
    machine.spi(UART, false);
    assert_eq!(machine.acknowledge(0), None);
}

#[test]
fn a_level_that_fell_while_active_ends_without_a_maintenance_interrupt() {
    let mut machine = Machine::booted(1, 4);
    enable(&mut machine, UART, false);
    machine.spi(UART, true);
    assert_eq!(machine.acknowledge(0), Some(UART));
    machine.spi(UART, false);
    machine.cpus[0].end(UART);
    assert!(!machine.cpus[0].maintenance());
    // Its twin: still high, so the model has to hear of it.
    machine.spi(UART, true);
    assert_eq!(machine.acknowledge(0), Some(UART));
    machine.cpus[0].end(UART);
    assert!(machine.cpus[0].maintenance());
}

#[test]
fn an_edge_comes_once() {
    let mut machine = Machine::booted(1, 4);
    enable(&mut machine, DISK, true);
    machine.spi(DISK, true);
    assert_eq!(machine.acknowledge(0), Some(DISK));
    machine.end(0, DISK);
    assert_eq!(machine.acknowledge(0), None);
    machine.spi(DISK, true);
    assert_eq!(machine.acknowledge(0), None, "the line did not rise");
    machine.spi(DISK, false);
    machine.spi(DISK, true);
    assert_eq!(machine.acknowledge(0), Some(DISK));
}

#[test]
fn an_edge_that_falls_is_not_forgotten() {
    let mut machine = Machine::booted(1, 4);
    enable(&mut machine, DISK, true);
    machine.spi(DISK, true);
    machine.spi(DISK, false);
    assert_eq!(machine.acknowledge(0), Some(DISK));
}

#[test]
fn an_edge_while_active_comes_after_the_end() {
    let mut machine = Machine::booted(1, 4);
    enable(&mut machine, DISK, true);
    machine.spi(DISK, true);
    assert_eq!(machine.acknowledge(0), Some(DISK));
    machine.spi(DISK, false);
    machine.spi(DISK, true);
    assert_eq!(machine.acknowledge(0), None);
    machine.end(0, DISK);
    assert_eq!(machine.acknowledge(0), Some(DISK));
    machine.end(0, DISK);
    assert_eq!(machine.acknowledge(0), None);
}

#[test]
fn nothing_comes_that_is_disabled_or_whose_group_is() {
    let mut machine = Machine::booted(1, 4);
    machine.spi(UART, true);
    assert_eq!(machine.acknowledge(0), None);
    machine.write(0, 0x104, 1 << (UART - 32));
    machine.write(0, 0x0, 0b01);
    assert_eq!(machine.acknowledge(0), None);
    machine.write(0, 0x0, 0b10);
    assert_eq!(machine.acknowledge(0), Some(UART));
}

#[test]
fn what_is_disabled_leaves_the_list_registers_of_another_vcpu() {
    let mut machine = Machine::booted(2, 4);
    enable(&mut machine, UART, false);
    machine.spi(UART, true);
    assert_eq!(machine.cpus[0].of(UART).unwrap().state(), PENDING);
    let place = super::super::Place::in_distributor(0x184).unwrap();
    let kick = machine.gic.write(1, place, Width::Word, 1 << (UART - 32));
    assert!(kick.contains(0) && !kick.contains(1));
    let ctlr = super::super::Place::in_distributor(0).unwrap();
    let pending = 1 << 31;
    assert_ne!(machine.gic.read(ctlr, Width::Word) & pending, 0, "not until vCPU 0 has noticed");
    machine.obey(1, kick);
    assert_eq!(machine.gic.read(ctlr, Width::Word) & pending, 0);
    assert_eq!(machine.acknowledge(0), None);
    machine.write(1, 0x104, 1 << (UART - 32));
    assert_eq!(machine.acknowledge(0), Some(UART));
}

#[test]
fn a_private_interrupt_that_another_vcpu_disables_is_waited_for() {
    let mut machine = Machine::booted(2, 4);
    machine.ppi(0, 20, true);
    let place = super::machine::private(0, 0x180);
    let kick = machine.gic.write(1, place, Width::Word, 1 << 20);
    assert_eq!(machine.gic.read(control(0, 0), Width::Word), 1 << 3);
    assert_eq!(machine.gic.read(control(1, 0), Width::Word), 0);
    machine.obey(1, kick);
    assert_eq!(machine.gic.read(control(0, 0), Width::Word), 0);
    assert_eq!(machine.acknowledge(0), None);
}

#[test]
fn pending_is_set_and_cleared_by_registers() {
    let mut machine = Machine::booted(1, 4);
    enable(&mut machine, UART, false);
    let bit = 1 << (UART - 32);
    machine.write(0, 0x204, bit);
    assert_eq!(machine.read_distributor(0, 0x204), bit);
    machine.write(0, 0x284, bit);
    assert_eq!(machine.read_distributor(0, 0x204), 0);
    assert_eq!(machine.acknowledge(0), None);
    machine.write(0, 0x204, bit);
    assert_eq!(machine.acknowledge(0), Some(UART));
    assert_eq!(machine.read_distributor(0, 0x284), 0, "acknowledging uses it up");
    machine.end(0, UART);
    assert_eq!(machine.acknowledge(0), None);
    // A line that is high cannot be cleared.
    machine.spi(UART, true);
    machine.write(0, 0x284, bit);
    assert_eq!(machine.read_distributor(0, 0x204), bit);
    assert_eq!(machine.acknowledge(0), Some(UART));
}

#[test]
fn the_active_state_is_shown_saved_and_restored() {
    let mut machine = Machine::booted(2, 4);
    enable(&mut machine, UART, false);
    let bit = 1 << (UART - 32);
    machine.spi(UART, true);
    assert_eq!(machine.acknowledge(0), Some(UART));
    assert_eq!(machine.read_distributor(0, 0x304), bit);
    assert_eq!(machine.read_distributor(1, 0x384), bit, "also to the other vCPU");
    machine.write(1, 0x384, bit);
    assert_eq!(machine.read_distributor(0, 0x304), 0);
    assert_eq!(machine.cpus[0].of(UART).unwrap().state(), PENDING, "its line is high");
    // Made active by hand it waits for being made inactive, or ended.
    machine.write(1, 0x304, bit);
    assert_eq!(machine.acknowledge(0), None);
    assert_eq!(machine.read_distributor(1, 0x304), bit);
    machine.end(0, UART);
    assert_eq!(machine.read_distributor(1, 0x304), 0);
    assert_eq!(machine.acknowledge(0), Some(UART));
}

#[test]
fn an_spi_made_active_by_hand_is_ended_by_the_vcpu_that_it_goes_to() {
    let mut machine = Machine::booted(2, 4);
    enable(&mut machine, UART, false);
    let bit = 1 << (UART - 32);
    machine.write(1, 0x304, bit);
    assert_eq!(machine.cpus[0].listed(), [UART]);
    assert_eq!(machine.cpus[1].listed(), [0u32; 0]);
    machine.cpus[0].deactivate(UART);
    assert_eq!(machine.read_distributor(0, 0x304), 0);
}

#[test]
fn priorities_decide_and_preempt() {
    let mut machine = Machine::booted(1, 4);
    for (sgi, priority) in [(1, 0xa0), (2, 0x40), (3, 0x80)] {
        let place = super::machine::private(0, 0x400 + sgi);
        machine.access(0, place, Width::Byte, priority);
    }
    machine.sgi(0, SgiRegister::Sgi1, 1 << 24 | 1);
    assert_eq!(machine.acknowledge(0), Some(1));
    machine.sgi(0, SgiRegister::Sgi1, 3 << 24 | 1);
    machine.sgi(0, SgiRegister::Sgi1, 2 << 24 | 1);
    assert_eq!(machine.acknowledge(0), Some(2));
    assert_eq!(machine.acknowledge(0), None, "3 is less urgent than 2");
    machine.end(0, 2);
    assert_eq!(machine.acknowledge(0), Some(3));
}

#[test]
fn group_0_is_an_fiq() {
    let mut machine = Machine::booted(1, 4);
    machine.write_own(0, 0x80, !(1 << 5));
    machine.sgi(0, SgiRegister::Sgi0, 5 << 24 | 1);
    machine.sgi(0, SgiRegister::Sgi1, 6 << 24 | 1);
    assert!(!machine.cpus[0].of(5).unwrap().is_group1());
    assert!(machine.cpus[0].of(6).unwrap().is_group1());
}

#[test]
fn a_vcpu_for_which_nothing_changed_syncs_no_more() {
    let mut machine = Machine::booted(2, 4);
    enable(&mut machine, UART, false);
    let before = machine.cpus[1].syncs;
    machine.spi(UART, true);
    assert_eq!(machine.acknowledge(0), Some(UART));
    machine.spi(UART, false);
    machine.end(0, UART);
    assert!(!machine.gic.is_dirty(0) && !machine.gic.is_dirty(1));
    assert_eq!(machine.cpus[1].syncs, before, "it is no business of vCPU 1");
}
