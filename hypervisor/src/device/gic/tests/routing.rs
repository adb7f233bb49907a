//! Which vCPU an interrupt goes to.

use super::super::{Kick, Place, SgiRegister, intid};
use super::machine::Machine;
use crate::device::Width;

const UART: u32 = intid::UART;
const BIT: u32 = 1 << (UART - 32);
const ANY: u64 = 1 << 31;

fn route(machine: &mut Machine, vcpu: usize, intid: u32, to: u64) {
    let place = Place::in_distributor(0x6000 + 8 * u64::from(intid)).unwrap();
    machine.access(vcpu, place, Width::Double, to);
}

fn machine(vcpus: usize) -> Machine {
    let mut machine = Machine::booted(vcpus, 4);
    machine.write(0, 0x104, BIT);
    machine
}

/// The vCPUs that are signalled `intid`.
fn signalled(machine: &Machine, intid: u32) -> Vec<usize> {
    let all = machine.cpus.iter().enumerate();
    all.filter(|(_, cpu)| cpu.signalled().is_some_and(|s| s.1 == intid)).map(|(n, _)| n).collect()
}

#[test]
fn an_spi_goes_where_its_router_says() {
    let mut machine = machine(4);
    route(&mut machine, 0, UART, 2);
    machine.spi(UART, true);
    assert_eq!(signalled(&machine, UART), [2]);
}

#[test]
fn an_spi_that_waits_moves_with_its_router() {
    let mut machine = machine(4);
    machine.spi(UART, true);
    assert_eq!(signalled(&machine, UART), [0]);
    route(&mut machine, 3, UART, 1);
    assert_eq!(signalled(&machine, UART), [1]);
    route(&mut machine, 0, UART, 0x1_0000);
    assert_eq!(signalled(&machine, UART), [0usize; 0], "nobody has that affinity");
    route(&mut machine, 0, UART, 3);
    assert_eq!(signalled(&machine, UART), [3]);
}

#[test]
fn an_spi_that_is_active_ends_where_it_was_acknowledged() {
    let mut machine = machine(2);
    machine.spi(UART, true);
    assert_eq!(machine.acknowledge(0), Some(UART));
    route(&mut machine, 1, UART, 1);
    assert_eq!(signalled(&machine, UART), [0usize; 0], "one vCPU at a time");
    machine.end(0, UART);
    assert_eq!(signalled(&machine, UART), [1]);
}

#[test]
fn an_edge_of_an_spi_that_moved_while_active_goes_to_the_other() {
    let mut machine = machine(2);
    machine.write(0, 0xc08, 0b10 << (2 * (UART - 32)));
    machine.spi(UART, true);
    assert_eq!(machine.acknowledge(0), Some(UART));
    route(&mut machine, 0, UART, 1);
    machine.spi(UART, false);
    machine.spi(UART, true);
    machine.end(0, UART);
    assert_eq!(signalled(&machine, UART), [1]);
}

#[test]
fn any_vcpu_is_the_first_that_is_on() {
    let mut machine = machine(3);
    route(&mut machine, 0, UART, ANY);
    machine.spi(UART, true);
    assert_eq!(signalled(&machine, UART), [0]);
    machine.fold(0);
    let kick = machine.gic.power_off(0);
    machine.obey(1, kick);
    assert_eq!(signalled(&machine, UART), [1]);
}

#[test]
fn sgis_reach_their_targets_alone() {
    let mut machine = machine(4);
    machine.sgi(0, SgiRegister::Sgi1, 3 << 24 | 0b1010);
    assert_eq!(signalled(&machine, 3), [1, 3]);
    // IRM: everybody else.
    machine.sgi(2, SgiRegister::Sgi1, 1 << 40 | 4 << 24);
    for (vcpu, cpu) in machine.cpus.iter().enumerate() {
        assert_eq!(cpu.of(4).is_some(), vcpu != 2);
    }
    // Other clusters, other ranges of Aff0, and vCPUs that there are not.
    for elsewhere in [1 << 16, 1 << 32, 1 << 48, 1 << 44] {
        machine.sgi(0, SgiRegister::Sgi1, elsewhere | 7 << 24 | 0xffff);
    }
    machine.sgi(0, SgiRegister::Sgi1, 7 << 24 | 0xfff0);
    assert_eq!(signalled(&machine, 7), [0usize; 0]);
    assert!(machine.cpus.iter().all(|cpu| cpu.of(7).is_none()));
}

#[test]
fn group_0_registers_reach_group_0_sgis_only() {
    for register in [SgiRegister::Sgi0, SgiRegister::Asgi1] {
        let mut machine = machine(2);
        machine.write_own(1, 0x80, !(1 << 2));
        machine.sgi(0, register, 1 << 24 | 0b10);
        machine.sgi(0, register, 2 << 24 | 0b10);
        assert_eq!(machine.cpus[1].listed(), [2]);
    }
    let mut machine = machine(2);
    machine.write_own(1, 0x80, !(1 << 2));
    machine.sgi(0, SgiRegister::Sgi1, 1 << 24 | 0b10);
    machine.sgi(0, SgiRegister::Sgi1, 2 << 24 | 0b10);
    assert_eq!(machine.cpus[1].listed(), [1, 2]);
}

#[test]
fn only_those_concerned_are_kicked() {
    let machine = machine(4);
    assert_eq!(machine.gic.inject_spi(intid::spi(5), true), Kick::NONE, "disabled");
    assert_eq!(machine.gic.inject_spi(UART, true), Kick::one(0));
    assert_eq!(machine.gic.inject_spi(UART, true), Kick::NONE, "no news");
    assert_eq!(machine.gic.send_sgi(0, SgiRegister::Sgi1, 0b101), Kick::one(2));
    assert_eq!(machine.gic.inject_ppi(3, 30, true), Kick::one(3));
}
