//! What registers show, and what programs find when they look for a GIC.

use super::super::{ConfigError, Gic, Kick, Place, Version};
use super::machine::{Machine, control, private};
use crate::device::Width;
use proptest::prelude::*;

fn distributor(offset: u64) -> Place {
    Place::in_distributor(offset).unwrap()
}

#[test]
fn linux_finds_what_it_probes_for() {
    let gic = Gic::new(Version::V3, 0, 4, 96).unwrap();
    let read = |place| gic.read(place, Width::Word);
    // gic_of_init: GICD_PIDR2.ArchRev.
    assert_eq!(read(distributor(0xffe8)) & 0xf0, 0x30);
    // gic_init_bases: 128 interrupts of 10 bits, no extended SPIs, no MBIs, no LPIs.
    let typer = read(distributor(0x4));
    assert_eq!((typer & 0x1f) + 1, 4, "128 interrupts");
    assert_eq!(typer >> 19 & 0x1f, 9, "INTIDs of 10 bits");
    assert_eq!(typer & (1 << 8 | 1 << 10 | 1 << 16 | 1 << 17), 0);
    assert_eq!(read(distributor(0x8)), 0x43b);
    assert_eq!(read(distributor(0xc)), 0);
    // gic_dist_init: ARE and DS are set, nothing is pending.
    assert_eq!(read(distributor(0x0)), 0b101_0000);
    // gic_populate_rdist: each has its affinity, and the fourth is the last.
    for vcpu in 0..4 {
        assert_eq!(read(control(vcpu, 0xffe8)) & 0xf0, 0x30);
        let typer = gic.read(control(vcpu, 0x8), Width::Double);
        assert_eq!(typer >> 32, vcpu as u64);
        assert_eq!(typer >> 8 & 0xffff, vcpu as u64);
        assert_eq!(typer >> 4 & 1, u64::from(vcpu == 3));
        assert_eq!(typer & 0b1111, 0, "no LPIs");
        assert_eq!(typer & 0xffff_ffff, read(control(vcpu, 0x8)));
        assert_eq!(typer >> 32, read(control(vcpu, 0xc)));
    }
    // gic_enable_redist: the guest wakes it, and it is awake.
    assert_eq!(read(control(1, 0x14)), 0b110);
    assert_eq!(gic.write(1, control(1, 0x14), Width::Word, 0), Kick::NONE);
    assert_eq!(read(control(1, 0x14)), 0);
    assert_eq!(read(control(0, 0x14)), 0b110, "the others sleep");
}

#[test]
fn what_linux_configures_reads_back() {
    let mut machine = Machine::new(2, 4);
    machine.write(0, 0x0, 0b10);
    assert_eq!(machine.read_distributor(1, 0x0), 0b101_0010);
    machine.write(0, 0x84, u32::MAX);
    assert_eq!(machine.read_distributor(0, 0x84), u32::MAX);
    machine.write(0, 0xc08, 0xaaaa_aaaa);
    assert_eq!(machine.read_distributor(0, 0xc08), 0xaaaa_aaaa);
    machine.write(0, 0xc0c, 0xffff_5558);
    assert_eq!(machine.read_distributor(0, 0xc0c), 0xaaaa_0008, "the even bits are reserved");
    machine.write(0, 0x420, 0xa7b1_c2d3);
    assert_eq!(machine.read_distributor(0, 0x420), 0xa0b0_c0d0, "five bits of priority");
    machine.access(0, distributor(0x422), Width::Byte, 0x48);
    assert_eq!(machine.read_distributor(0, 0x420), 0xa048_c0d0);
    assert_eq!(machine.gic.read(distributor(0x422), Width::Byte), 0x48);
    machine.write(0, 0x104, 0b1010);
    machine.write(0, 0x184, 0b0010);
    assert_eq!(machine.read_distributor(0, 0x104), 0b1000);
    assert_eq!(machine.read_distributor(0, 0x184), 0b1000);
    // GICR: SGIs stay edges, PPIs can be changed.
    assert_eq!(machine.read_own(1, 0xc00), 0xaaaa_aaaa);
    machine.write_own(1, 0xc00, 0);
    assert_eq!(machine.read_own(1, 0xc00), 0xaaaa_aaaa);
    machine.write_own(1, 0xc04, 0x8000_0000);
    assert_eq!(machine.read_own(1, 0xc04), 0x8000_0000);
    assert_eq!(machine.read_own(0, 0xc04), 0, "the other vCPU's is its own");
}

#[test]
fn routers_have_eight_bytes_and_two_halves() {
    let gic = Gic::new(Version::V3, 0, 2, 32).unwrap();
    let router = distributor(0x6000 + 8 * 40);
    assert!(gic.write(0, router, Width::Double, 0x12_8000_0001).is_empty());
    assert_eq!(gic.read(router, Width::Double), 0x12_8000_0001);
    let (low, high) = (router, distributor(0x6004 + 8 * 40));
    assert!(gic.write(0, low, Width::Word, 1).is_empty());
    assert_eq!(gic.read(router, Width::Double), 0x12_0000_0001);
    assert!(gic.write(0, high, Width::Word, 0).is_empty());
    assert_eq!((gic.read(low, Width::Word), gic.read(high, Width::Word)), (1, 0));
    // SPIs that there are not.
    let beyond = distributor(0x6000 + 8 * 64);
    assert!(gic.write(0, beyond, Width::Double, 1).is_empty());
    assert_eq!(gic.read(beyond, Width::Double), 0);
}

#[test]
fn private_interrupts_are_not_in_the_distributor() {
    let gic = Gic::new(Version::V3, 0, 1, 32).unwrap();
    for offset in [0x80, 0x100, 0x200, 0x300, 0x400, 0xc00] {
        assert!(gic.write(0, distributor(offset), Width::Word, u64::MAX).is_empty());
        assert_eq!(gic.read(distributor(offset), Width::Word), 0);
    }
    assert_eq!(gic.read(private(0, 0x100), Width::Word), 0, "nor reach the redistributor");
}

#[test]
fn a_wrong_width_reads_zero_and_writes_nothing() {
    let gic = Gic::new(Version::V3, 0, 1, 32).unwrap();
    let enable = distributor(0x104);
    for width in [Width::Byte, Width::Half, Width::Double] {
        assert!(gic.write(0, enable, width, u64::MAX).is_empty());
        assert_eq!(gic.read(enable, Width::Word), 0);
    }
    assert!(gic.write(0, distributor(0x106), Width::Word, u64::MAX).is_empty());
    assert_eq!(gic.read(enable, Width::Word), 0, "not aligned");
    // The good twin.
    assert!(gic.write(0, enable, Width::Word, u64::MAX).is_empty());
    assert_eq!(gic.read(enable, Width::Word), 0xffff_ffff);
    assert_eq!(gic.read(enable, Width::Half), 0);
    assert_eq!(gic.read(distributor(0x422), Width::Word), 0);
    assert_eq!(gic.read(distributor(0x420), Width::Half), 0);
}

#[test]
fn frames_that_there_are_not_read_zero() {
    let gic = Gic::new(Version::V3, 0, 2, 32).unwrap();
    assert_eq!(gic.read(control(2, 0x8), Width::Double), 0);
    assert!(gic.write(0, private(2, 0x100), Width::Word, 1).is_empty());
    assert!(Place::in_distributor(0x1_0000).is_none());
    assert!(Place::in_redistributors(16 * 0x2_0000).is_none());
}

#[test]
fn counts_that_no_gic_has_are_named() {
    assert_eq!(Gic::new(Version::V3, 0, 0, 96).unwrap_err(), ConfigError::Vcpus(Version::V3, 0));
    assert_eq!(Gic::new(Version::V3, 0, 17, 96).unwrap_err(), ConfigError::Vcpus(Version::V3, 17));
    assert_eq!(Gic::new(Version::V3, 0, 1, 0).unwrap_err(), ConfigError::Spis(0));
    assert_eq!(Gic::new(Version::V3, 0, 1, 100).unwrap_err(), ConfigError::Spis(100));
    assert_eq!(Gic::new(Version::V3, 0, 1, 288).unwrap_err(), ConfigError::Spis(288));
    assert!(Gic::new(Version::V3, 0, 16, 256).is_ok());
}

fn any_place() -> impl Strategy<Value = Place> {
    prop_oneof![
        (0u64..0x1_0000).prop_map(|offset| Place::in_distributor(offset).unwrap()),
        (0u64..0x400).prop_map(|offset| Place::in_distributor(offset * 4).unwrap()),
        (0u64..0x20_0000).prop_map(|offset| Place::in_redistributors(offset).unwrap()),
        (0u64..4, 0u64..0x400).prop_map(|(vcpu, offset)| {
            Place::in_redistributors(vcpu * 0x2_0000 + 0x1_0000 + offset * 4).unwrap()
        }),
    ]
}

fn any_width() -> impl Strategy<Value = Width> {
    prop_oneof![Just(Width::Byte), Just(Width::Half), Just(Width::Word), Just(Width::Double)]
}

proptest! {
    #[test]
    fn nothing_that_a_guest_writes_panics(
        accesses in proptest::collection::vec((0usize..5, any_place(), any_width(), any::<u64>()), 1..80),
        lrs in 1usize..17,
    ) {
        let mut machine = Machine::new(4, lrs);
        for (vcpu, place, width, value) in accesses {
            if vcpu == 4 {
                // Devices, and a guest that acknowledges and ends what it likes.
                machine.spi(value as u32 % 300, value & 1 << 40 != 0);
                machine.ppi(0, value as u32 % 40, value & 1 << 41 != 0);
                machine.sgi(1, super::super::SgiRegister::Sgi1, value);
                let _ = machine.gic.inject_ppi(value as usize, 27, true);
                let _ = machine.gic.deactivate(value as usize % 6, value as u32);
                machine.cpus[2].acknowledge();
                machine.cpus[2].running.clear();
                machine.cpus[2].deactivate(value as u32 % 128);
                continue;
            }
            machine.access(vcpu, place, width, value);
            let read = machine.gic.read(place, width);
            prop_assert_eq!(width_mask(width) & read, read);
        }
    }
}

fn width_mask(width: Width) -> u64 {
    match width {
        Width::Byte => 0xff,
        Width::Half => 0xffff,
        Width::Word => 0xffff_ffff,
        Width::Double => u64::MAX,
    }
}
