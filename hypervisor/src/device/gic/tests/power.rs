//! WFI, vCPUs that come and go, and a guest that is reset.

use super::super::{Gic, Kick, ListRegisters, SgiRegister, Version, intid};
use super::machine::{Machine, control};
use crate::device::Width;

const UART: u32 = intid::UART;
const BIT: u32 = 1 << (UART - 32);

#[test]
fn a_vcpu_sleeps_only_if_nothing_waits_for_it() {
    let mut machine = Machine::booted(2, 4);
    machine.write(0, 0x104, BIT);
    machine.fold(0);
    assert!(!machine.gic.pending_for(0));
    let kick = machine.gic.inject_spi(UART, true);
    assert!(kick.contains(0));
    assert!(machine.gic.pending_for(0));
    assert!(!machine.gic.pending_for(1));
    assert!(machine.gic.is_dirty(0));
    machine.obey(0, kick);
    assert_eq!(machine.acknowledge(0), Some(UART));
    machine.fold(0);
    assert!(!machine.gic.pending_for(0), "active is not pending");
    machine.obey(0, Kick::NONE);
    machine.end(0, UART);
    machine.fold(0);
    assert!(machine.gic.pending_for(0));
}

#[test]
fn list_registers_that_were_not_folded_keep_a_vcpu_awake() {
    let mut machine = Machine::booted(1, 4);
    machine.sgi(0, SgiRegister::Sgi1, 1);
    assert!(machine.gic.pending_for(0));
    assert_eq!(machine.acknowledge(0), Some(0));
    assert!(machine.gic.pending_for(0));
    machine.fold(0);
    assert!(!machine.gic.pending_for(0));
}

#[test]
fn what_is_folded_comes_back() {
    let mut machine = Machine::booted(1, 4);
    machine.sgi(0, SgiRegister::Sgi1, 1 << 24 | 1);
    machine.sgi(0, SgiRegister::Sgi1, 2 << 24 | 1);
    assert_eq!(machine.acknowledge(0), Some(1));
    machine.fold(0);
    assert_eq!(machine.cpus[0].listed(), [0u32; 0]);
    machine.obey(0, Kick::NONE);
    assert_eq!(machine.cpus[0].listed(), [1, 2]);
    machine.end(0, 1);
    assert_eq!(machine.acknowledge(0), Some(2));
}

#[test]
fn a_vcpu_that_goes_leaves_its_interrupts_pending() {
    let mut machine = Machine::booted(2, 4);
    machine.write(0, 0x104, BIT);
    let router = super::super::Place::in_distributor(0x6000 + 8 * u64::from(UART)).unwrap();
    machine.access(0, router, Width::Double, 1);
    machine.write(0, 0xc08, 0b10 << (2 * (UART - 32)));
    machine.spi(UART, true);
    assert_eq!(machine.cpus[1].listed(), [UART]);
    machine.fold(1);
    let _ = machine.gic.power_off(1);
    machine.access(0, router, Width::Double, 0);
    assert_eq!(machine.acknowledge(0), Some(UART));
}

#[test]
fn a_vcpu_starts_with_a_redistributor_at_reset() {
    let mut machine = Machine::booted(2, 4);
    machine.sgi(0, SgiRegister::Sgi1, 1 << 24 | 0b10);
    assert!(machine.gic.write(1, control(1, 0x14), Width::Word, 0).is_empty());
    machine.fold(1);
    let _ = machine.gic.power_off(1);
    let _ = machine.gic.reset_vcpu(1);
    assert!(machine.gic.is_dirty(1));
    machine.obey(1, Kick::NONE);
    assert_eq!(machine.read_own(1, 0x100), 0);
    assert_eq!(machine.read_own(1, 0x200), 0);
    assert_eq!(machine.read_own(1, 0xc00), 0xaaaa_aaaa);
    assert_eq!(machine.gic.read(control(1, 0x14), Width::Word), 0b110);
    assert_eq!(machine.read_own(0, 0x100), u32::MAX, "the other vCPU keeps its own");
}

#[test]
fn a_reset_guest_finds_what_a_new_one_does() {
    let mut machine = Machine::booted(2, 4);
    machine.write(0, 0x104, u32::MAX);
    machine.spi(UART, true);
    machine.sgi(0, SgiRegister::Sgi1, 1 << 40);
    assert_eq!(machine.acknowledge(0), Some(UART));
    machine.gic.reset();
    for cpu in &mut machine.cpus {
        cpu.registers = ListRegisters::default();
    }
    let new = Gic::new(Version::V3, 1, 2, 96).unwrap();
    for offset in (0..0x8000).step_by(4) {
        let place = super::super::Place::in_distributor(offset).unwrap();
        let read = |gic: &Gic| gic.read(place, Width::Word);
        assert_eq!(read(&machine.gic), read(&new), "{place}");
    }
    for offset in (0..0x4_0000).step_by(4) {
        let place = super::super::Place::in_redistributors(offset).unwrap();
        let read = |gic: &Gic| gic.read(place, Width::Word);
        assert_eq!(read(&machine.gic), read(&new), "{place}");
    }
    machine.obey(0, Kick::one(1));
    assert!(machine.cpus.iter().all(|cpu| cpu.listed().is_empty()));
}
