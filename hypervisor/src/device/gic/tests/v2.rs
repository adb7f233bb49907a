//! The distributor of a GICv2: what its registers show, where SPIs go, and whose SGIs wait.

use super::super::{Gic, ListRegister, Place, State, Version};
use super::machine::Machine;
use crate::device::Width;
use proptest::prelude::*;
use std::collections::BTreeSet;

const ITARGETSR: u64 = 0x800;
const SGIR: u64 = 0xf00;
const CPENDSGIR: u64 = 0xf10;
const SPENDSGIR: u64 = 0xf20;

fn place(vcpu: usize, offset: u64) -> Place {
    Place::of_distributor(Version::V2, vcpu, offset).unwrap()
}

impl Machine {
    fn write_v2(&mut self, vcpu: usize, offset: u64, value: u32) {
        self.access(vcpu, place(vcpu, offset), Width::Word, value.into());
    }

    fn write_byte_v2(&mut self, vcpu: usize, offset: u64, value: u8) {
        self.access(vcpu, place(vcpu, offset), Width::Byte, value.into());
    }

    fn read_v2(&mut self, vcpu: usize, offset: u64) -> u32 {
        self.read(vcpu, place(vcpu, offset))
    }

    fn send(&mut self, from: usize, to: u8, intid: u32) {
        self.write_v2(from, SGIR, u32::from(to) << 16 | intid);
    }

    /// Acknowledges on `vcpu`; returns who sent it, too.
    fn take(&mut self, vcpu: usize) -> Option<(u32, u32)> {
        let (index, ..) = self.cpus[vcpu].signalled()?;
        let register = self.cpus[vcpu].registers.lr[index];
        let intid = self.acknowledge(vcpu)?;
        Some((intid, register.sender()))
    }
}

/// A machine whose guest has done what Linux does first: group 0 on, SPIs to vCPU 0, priority 0xa0.
fn booted(vcpus: usize, lrs: usize) -> Machine {
    let mut machine = Machine::of(Version::V2, vcpus, lrs);
    machine.write_v2(0, 0x0, 1);
    for spi in (0x20..0x80).step_by(4) {
        machine.write_v2(0, ITARGETSR + spi, 0x0101_0101);
        machine.write_v2(0, 0x400 + spi, 0xa0a0_a0a0);
    }
    for vcpu in 0..vcpus {
        for private in (0x400..0x420).step_by(4) {
            machine.write_v2(vcpu, private, 0xa0a0_a0a0);
        }
    }
    machine
}

#[test]
fn linux_finds_what_it_probes_for() {
    let gic = Gic::new(Version::V2, 0, 4, 96).unwrap();
    let read = |vcpu, offset| gic.read(place(vcpu, offset), Width::Word);
    assert_eq!(read(0, 0xfe8) & 0xf0, 0x20, "GICD_PIDR2.ArchRev");
    let typer = read(0, 0x4);
    assert_eq!((typer & 0x1f) + 1, 4, "128 interrupts");
    assert_eq!(typer >> 5 & 7, 3, "four CPU interfaces");
    assert_eq!(typer >> 10 & 1, 0, "one security state");
    assert_eq!(read(0, 0x0), 0, "off");
    // gic_get_cpumask: each CPU finds which interface it has.
    for vcpu in 0..4 {
        assert_eq!(read(vcpu, ITARGETSR), 0x0101_0101 << vcpu);
        assert_eq!(read(vcpu, ITARGETSR + 0x1c), 0x0101_0101 << vcpu);
        assert_eq!(gic.read(place(vcpu, ITARGETSR + 3), Width::Byte), 1 << vcpu);
    }
    assert_eq!(read(0, ITARGETSR + 0x20), 0, "SPIs go nowhere");
    assert_eq!(read(1, 0x100), 0xffff, "SGIs are enabled");
    assert!(Place::of_redistributors(Version::V2, 0).is_none());
    assert!(Place::of_distributor(Version::V2, 0, 0x1000).is_none());
    assert!(Gic::new(Version::V2, 0, 9, 96).unwrap_err().to_string().contains("1 to 8"));
}

#[test]
fn an_spi_goes_to_the_first_of_its_targets_and_to_nobody_without() {
    let mut machine = booted(4, 4);
    machine.write_v2(0, 0x104, 1 << 8);
    machine.write_byte_v2(0, ITARGETSR + 40, 0b1100);
    assert_eq!(machine.read_v2(1, ITARGETSR + 40) & 0xff, 0b1100);
    machine.spi(40, true);
    assert_eq!(machine.acknowledge(2), Some(40));
    assert_eq!(machine.acknowledge(3), None);
    machine.spi(40, false);
    machine.end(2, 40);
    // A vCPU that there is not.
    machine.write_byte_v2(0, ITARGETSR + 40, 0b1_0000);
    assert_eq!(machine.read_v2(0, ITARGETSR + 40) & 0xff, 0);
    machine.spi(40, true);
    assert!((0..4).all(|vcpu| machine.acknowledge(vcpu).is_none()));
    machine.write_byte_v2(0, ITARGETSR + 40, 0b10);
    assert_eq!(machine.acknowledge(1), Some(40), "it has waited");
}

#[test]
fn with_one_vcpu_all_goes_to_it() {
    let mut machine = booted(1, 4);
    assert_eq!(machine.read_v2(0, ITARGETSR), 0);
    assert_eq!(machine.read_v2(0, ITARGETSR + 0x20), 0, "and cannot be written");
    machine.write_v2(0, 0x104, 1);
    machine.spi(32, true);
    assert_eq!(machine.acknowledge(0), Some(32));
}

#[test]
fn an_sgi_of_each_sender_is_taken_once() {
    let mut machine = booted(4, 1);
    for sender in [3, 1, 2, 1] {
        machine.send(sender, 0b0001, 5);
    }
    machine.send(0, 0b0010, 5);
    assert_eq!(machine.read_v2(0, SPENDSGIR + 4), 0b1110 << 8);
    let mut senders = Vec::new();
    while let Some((intid, sender)) = machine.take(0) {
        assert_eq!(intid, 5);
        senders.push(sender);
        // Of the one that is being handled another may come.
        if senders.len() == 1 {
            machine.send(sender as usize, 0b0001, 5);
        }
        machine.end(0, 5);
    }
    senders.sort_unstable();
    assert_eq!(senders, [1, 1, 2, 3]);
    assert_eq!(machine.take(1), Some((5, 0)));
}

#[test]
fn sgis_go_to_all_others_or_to_oneself() {
    let mut machine = booted(4, 4);
    machine.write_v2(2, SGIR, 1 << 24 | 7);
    machine.write_v2(2, SGIR, 2 << 24 | 8);
    machine.write_v2(2, SGIR, 3 << 24 | 9);
    for vcpu in [0, 1, 3] {
        assert_eq!(machine.take(vcpu), Some((7, 2)));
        assert_eq!(machine.take(vcpu), None);
    }
    assert_eq!(machine.take(2), Some((8, 2)));
    assert_eq!(machine.take(2), None);
}

#[test]
fn an_sgi_is_withdrawn_and_set_by_sender() {
    let mut machine = booted(4, 4);
    machine.write_byte_v2(0, SPENDSGIR + 6, 0b1011);
    assert_eq!(machine.read_v2(0, CPENDSGIR + 4), 0b1011 << 16);
    assert_eq!(machine.read_v2(0, 0x200) & 0xffff, 1 << 6);
    // The one in the list register, and another.
    machine.write_v2(0, CPENDSGIR + 4, 0b0011 << 16);
    assert_eq!(machine.take(0), Some((6, 3)));
    machine.end(0, 6);
    assert_eq!(machine.take(0), None);
    // Not by the registers for the others.
    machine.write_v2(0, 0x200, 1 << 6);
    machine.write_v2(0, 0x180, u32::MAX);
    assert_eq!(machine.take(0), None);
    machine.send(1, 1, 6);
    machine.write_v2(0, 0x280, 1 << 6);
    assert_eq!(machine.take(0), Some((6, 1)));
}

#[test]
fn who_sent_it_is_kept_while_it_is_handled() {
    let mut machine = booted(2, 2);
    machine.send(1, 0b01, 3);
    assert_eq!(machine.take(0), Some((3, 1)));
    machine.send(0, 0b01, 3);
    machine.fold(0);
    machine.obey(0, super::super::Kick::NONE);
    let register = machine.cpus[0].of(3).expect("what is active is listed first");
    assert_eq!(register.state(), State { pending: false, active: true });
    assert_eq!(register.sender(), 1);
    machine.end(0, 3);
    assert_eq!(machine.take(0), Some((3, 0)));
}

#[test]
fn a_reset_leaves_nothing() {
    let mut machine = booted(2, 2);
    machine.send(0, 0b11, 3);
    machine.gic.reset();
    assert_eq!(machine.gic.read(place(0, SPENDSGIR), Width::Word), 0);
    assert_eq!(machine.gic.read(place(0, ITARGETSR + 0x20), Width::Word), 0);
    assert_eq!(machine.gic.read(place(1, 0x100), Width::Word), 0xffff);
    assert!(!machine.gic.pending_for(1));
}

#[test]
fn hardware_has_each_part_of_a_list_register_where_the_architecture_says() {
    let state = State { pending: true, active: false };
    let timer = ListRegister::of(27, 0xa0, false, state).backed_by(30);
    assert_eq!(timer.to_gicv2(), 1 << 31 | 1 << 28 | 0x14 << 23 | 30 << 10 | 27);
    let state = State { pending: true, active: true };
    let sgi = ListRegister::of(5, 0x80, true, state).sent_by(6).notifying();
    assert_eq!(sgi.to_gicv2(), 1 << 30 | 3 << 28 | 0x10 << 23 | 1 << 19 | 6 << 10 | 5);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is sent, taken and ended in whatever order: each SGI is taken once for its sender and comes from
    /// nobody else, and none is lost.
    #[test]
    fn sgis_are_neither_lost_nor_made_up(
        lrs in 1usize..5,
        steps in proptest::collection::vec((0u8..4, 0usize..4, any::<u8>(), 0u32..3), 1..200),
    ) {
        let mut machine = booted(4, lrs);
        let mut wait = BTreeSet::new();
        let mut handled: Vec<Vec<u32>> = vec![Vec::new(); 4];
        for (what, vcpu, targets, intid) in steps {
            match what {
                0 => {
                    machine.send(vcpu, targets & 0xf, intid);
                    let to = (0..4).filter(|target| targets >> target & 1 != 0);
                    wait.extend(to.map(|target| (target, intid, vcpu as u32)));
                }
                1 => machine.fold(vcpu),
                2 => {
                    if let Some((intid, sender)) = machine.take(vcpu) {
                        prop_assert!(wait.remove(&(vcpu, intid, sender)), "{intid} of {sender}");
                        handled[vcpu].push(intid);
                    }
                }
                _ => {
                    if let Some(intid) = handled[vcpu].pop() {
                        machine.end(vcpu, intid);
                    }
                }
            }
        }
        for (vcpu, mut left) in handled.into_iter().enumerate() {
            while let Some(intid) = left.pop() {
                machine.end(vcpu, intid);
            }
            machine.obey(vcpu, super::super::Kick::NONE);
            while let Some((intid, sender)) = machine.take(vcpu) {
                prop_assert!(wait.remove(&(vcpu, intid, sender)), "{intid} of {sender}");
                machine.end(vcpu, intid);
            }
        }
        prop_assert!(wait.is_empty(), "lost: {wait:?}");
    }
}
