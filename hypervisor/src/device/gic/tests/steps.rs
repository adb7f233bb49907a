//! What the reference and the model are both put through.

use super::super::{SgiRegister, intid};
use proptest::prelude::*;

/// How many vCPUs there are.
pub const VCPUS: usize = 3;
const TIMER: u32 = intid::VIRTUAL_TIMER;

/// What happens to a GIC.
#[derive(Clone, Debug)]
pub enum Step {
    /// A set or clear register, by its offset: of word 0 the redistributor's of `owner`.
    Bits {
        vcpu: usize,
        register: u64,
        owner: usize,
        word: u32,
        bits: u32,
    },
    Priority {
        vcpu: usize,
        owner: usize,
        intid: u32,
        value: u8,
    },
    Edge {
        vcpu: usize,
        owner: usize,
        intid: u32,
        edge: bool,
    },
    Groups {
        vcpu: usize,
        value: u32,
    },
    Route {
        vcpu: usize,
        spi: u32,
        to: usize,
    },
    Spi {
        spi: u32,
        level: bool,
    },
    Ppi {
        vcpu: usize,
        intid: u32,
        level: bool,
    },
    Timer {
        vcpu: usize,
        level: bool,
    },
    Sgi {
        vcpu: usize,
        register: SgiRegister,
        intid: u32,
        targets: u32,
    },
    Acknowledge(usize),
    End(usize),
    Sleep(usize),
    Audit(usize),
}

/// Any step, on a few interrupts and vCPUs so that they meet.
pub fn step() -> impl Strategy<Value = Step> {
    let vcpu = || 0..VCPUS;
    // A few interrupts, so that they meet.
    let bit = || prop_oneof![0u32..3, Just(TIMER), 20u32..22];
    let bits = prop_oneof![bit().prop_map(|bit| 1 << bit), Just(u32::MAX), any::<u32>()];
    let register = prop::sample::select(vec![
        0x80u64, 0x100, 0x100, 0x100, 0x180, 0x200, 0x280, 0x300, 0x380, 0x380,
    ]);
    let word = || 0u32..3;
    let intid = move || (word(), bit()).prop_map(|(word, bit)| word * 32 + bit);
    let sgi_register = prop::sample::select(vec![
        SgiRegister::Sgi1,
        SgiRegister::Sgi1,
        SgiRegister::Sgi0,
        SgiRegister::Asgi1,
    ]);
    prop_oneof![
        6 => (vcpu(), register, vcpu(), word(), bits)
            .prop_map(|(vcpu, register, owner, word, bits)| Step::Bits { vcpu, register, owner, word, bits }),
        2 => (vcpu(), vcpu(), intid(), any::<u8>())
            .prop_map(|(vcpu, owner, intid, value)| Step::Priority { vcpu, owner, intid, value }),
        1 => (vcpu(), vcpu(), intid(), any::<bool>())
            .prop_map(|(vcpu, owner, intid, edge)| Step::Edge { vcpu, owner, intid, edge }),
        1 => (vcpu(), prop_oneof![0u32..4, Just(3)])
            .prop_map(|(vcpu, value)| Step::Groups { vcpu, value }),
        2 => (vcpu(), (1u32..3, bit()), 0..VCPUS + 2)
            .prop_map(|(vcpu, (word, bit), to)| Step::Route { vcpu, spi: word * 32 + bit, to }),
        4 => ((1u32..3, bit()), any::<bool>())
            .prop_map(|((word, bit), level)| Step::Spi { spi: word * 32 + bit, level }),
        2 => (vcpu(), 20u32..22, any::<bool>())
            .prop_map(|(vcpu, intid, level)| Step::Ppi { vcpu, intid, level }),
        2 => (vcpu(), any::<bool>()).prop_map(|(vcpu, level)| Step::Timer { vcpu, level }),
        4 => (vcpu(), sgi_register, 0u32..3, 0u32..1 << VCPUS)
            .prop_map(|(vcpu, register, intid, targets)| Step::Sgi { vcpu, register, intid, targets }),
        8 => vcpu().prop_map(Step::Acknowledge),
        6 => vcpu().prop_map(Step::End),
        2 => vcpu().prop_map(Step::Sleep),
        1 => vcpu().prop_map(Step::Audit),
    ]
}
