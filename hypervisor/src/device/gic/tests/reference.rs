//! The model against a reference that has no list registers: what the architecture says of each
//! interrupt, one at a time (IHI 0069 §4.1), and after every step the same answers.
//!
//! Kicks are obeyed and nothing else is looked at, so a vCPU that should have been kicked and was
//! not is found out by what it acknowledges.

use super::super::{Place, SgiRegister, intid};
use super::machine::{Machine, private};
use super::steps::{Step, VCPUS, step};
use crate::device::Width;
use proptest::prelude::*;

const SPIS: usize = 96;
const TIMER: u32 = intid::VIRTUAL_TIMER;

#[derive(Clone, Default)]
struct Interrupt {
    enabled: bool,
    group1: bool,
    edge: bool,
    latch: bool,
    line: bool,
    active_on: Option<usize>,
    priority: u8,
    /// The vCPU that it goes to.
    target: Option<usize>,
}

impl Interrupt {
    fn pending(&self) -> bool {
        self.latch || self.line && !self.edge
    }
}

struct Reference {
    groups: u32,
    private: Vec<Vec<Interrupt>>,
    shared: Vec<Interrupt>,
    /// What each vCPU is handling: INTID and priority.
    running: Vec<Vec<(u32, u8)>>,
    /// Physical timers: their line, and whether the physical interrupt is active.
    timers: [bool; VCPUS],
}

impl Reference {
    fn new() -> Self {
        let private = |vcpu| {
            let new =
                |intid| Interrupt { edge: intid < 16, target: Some(vcpu), ..Interrupt::default() };
            (0..32).map(new).collect()
        };
        Self {
            groups: 0,
            private: (0..VCPUS).map(private).collect(),
            shared: vec![Interrupt { target: Some(0), ..Interrupt::default() }; SPIS],
            running: vec![Vec::new(); VCPUS],
            timers: [false; VCPUS],
        }
    }

    fn get(&mut self, vcpu: usize, intid: u32) -> &mut Interrupt {
        match intid.checked_sub(32) {
            None => &mut self.private[vcpu][intid as usize],
            Some(spi) => &mut self.shared[spi as usize],
        }
    }

    fn all(&self, vcpu: usize) -> impl Iterator<Item = (u32, &Interrupt)> {
        (0..).zip(self.private[vcpu].iter().chain(&self.shared))
    }

    /// What may be acknowledged on `vcpu` now: the most urgent, any of them where several are.
    fn signalled(&self, vcpu: usize) -> Vec<u32> {
        let limit = self.running[vcpu].last().map_or(0xff, |running| running.1);
        let ready = |(_, i): &(u32, &Interrupt)| {
            i.enabled
                && self.groups >> u32::from(i.group1) & 1 != 0
                && i.pending()
                && i.active_on.is_none()
                && i.target == Some(vcpu)
                && i.priority < limit
        };
        let ready: Vec<_> = self.all(vcpu).filter(ready).collect();
        let best = ready.iter().map(|(_, i)| i.priority).min();
        ready.iter().filter(|(_, i)| Some(i.priority) == best).map(|(intid, _)| *intid).collect()
    }

    fn active_count(&self, vcpu: usize) -> usize {
        self.all(vcpu).filter(|(_, i)| i.active_on == Some(vcpu)).count()
    }

    fn bits(&self, vcpu: usize, word: u32, what: impl Fn(&Interrupt) -> bool) -> u32 {
        let all = self.all(vcpu).filter(|(intid, i)| intid / 32 == word && what(i));
        all.fold(0, |bits, (intid, _)| bits | 1 << (intid % 32))
    }
}

/// Both, side by side.
struct Pair {
    machine: Machine,
    reference: Reference,
}

impl Pair {
    fn new(lrs: usize) -> Self {
        let machine = Machine::new(VCPUS, lrs);
        for vcpu in 0..VCPUS {
            machine.gic.back_ppi(vcpu, TIMER, Some(TIMER));
        }
        let mut pair = Self { machine, reference: Reference::new() };
        // The guest has it all on, most of the time.
        pair.step(&Step::Groups { vcpu: 0, value: 3 });
        for owner in 0..VCPUS {
            pair.bits(0, 0x100, owner, 0, u32::MAX);
        }
        for word in 1..3 {
            pair.bits(0, 0x100, 0, word, u32::MAX);
        }
        pair
    }

    fn bits(&mut self, vcpu: usize, register: u64, owner: usize, word: u32, bits: u32) {
        let place = match word {
            0 => private(owner, register),
            _ => Place::in_distributor(register + 4 * u64::from(word)).unwrap(),
        };
        for bit in (0..32).filter(|bit| bits >> bit & 1 != 0) {
            let interrupt = self.reference.get(owner, word * 32 + bit);
            match register {
                0x100 => interrupt.enabled = true,
                0x180 => interrupt.enabled = false,
                0x200 => interrupt.latch = true,
                0x280 => interrupt.latch = false,
                0x300 => {
                    let on = interrupt.target.unwrap_or(vcpu);
                    interrupt.active_on.get_or_insert(on);
                }
                0x380 => interrupt.active_on = None,
                _ => {}
            }
        }
        if register == 0x80 {
            for bit in 0..32 {
                let interrupt = self.reference.get(owner, word * 32 + bit);
                interrupt.group1 = bits >> bit & 1 != 0;
            }
        }
        self.machine.access(vcpu, place, Width::Word, bits.into());
    }

    fn step(&mut self, step: &Step) {
        let Self { machine, reference } = self;
        match *step {
            Step::Bits { vcpu, register, owner, word, bits } => {
                // How a guest that ends what is in no list register is told apart from one that
                // ends something else is nobody's secret, but only as long as it nests: few are
                // made active by hand.
                let many = (0..VCPUS).any(|vcpu| reference.active_count(vcpu) > 1);
                let bits = if register != 0x300 { bits } else { bits & bits.wrapping_neg() };
                if register != 0x300 || !many {
                    self.bits(vcpu, register, owner, word, bits);
                }
            }
            Step::Priority { vcpu, owner, intid, value } => {
                reference.get(owner, intid).priority = value & 0xf8;
                let offset = 0x400 + u64::from(intid);
                let place = match intid {
                    0..32 => private(owner, offset),
                    _ => Place::in_distributor(offset).unwrap(),
                };
                machine.access(vcpu, place, Width::Byte, value.into());
            }
            Step::Edge { vcpu, owner, intid, edge } => {
                let offset = 0xc00 + u64::from(intid / 16) * 4;
                let place = match intid {
                    0..32 => private(owner, offset),
                    _ => Place::in_distributor(offset).unwrap(),
                };
                if intid >= 16 && intid != TIMER {
                    reference.get(owner, intid).edge = edge;
                }
                let bit = 0b10 << (intid % 16 * 2);
                let old = machine.gic.read(place, Width::Word) & !bit;
                if intid != TIMER {
                    machine.access(vcpu, place, Width::Word, old | if edge { bit } else { 0 });
                }
            }
            Step::Groups { vcpu, value } => {
                reference.groups = value;
                machine.write(vcpu, 0, value);
            }
            Step::Route { vcpu, spi, to } => {
                let interrupt = reference.get(0, spi);
                interrupt.target = match to {
                    0..VCPUS => Some(to),
                    // Any vCPU, and none.
                    VCPUS => Some(0),
                    _ => None,
                };
                let value = if to == VCPUS { 1 << 31 } else { to as u64 };
                let place = Place::in_distributor(0x6000 + 8 * u64::from(spi)).unwrap();
                machine.access(vcpu, place, Width::Double, value);
            }
            Step::Spi { spi, level } => {
                let interrupt = reference.get(0, spi);
                interrupt.latch |= interrupt.edge && level && !interrupt.line;
                interrupt.line = level;
                machine.spi(spi, level);
            }
            Step::Ppi { vcpu, intid, level } => {
                let interrupt = reference.get(vcpu, intid);
                interrupt.latch |= interrupt.edge && level && !interrupt.line;
                interrupt.line = level;
                machine.ppi(vcpu, intid, level);
            }
            Step::Timer { vcpu, level } => reference.timers[vcpu] = level,
            Step::Sgi { vcpu, register, intid, targets } => {
                for target in 0..VCPUS {
                    let interrupt = reference.get(target, intid);
                    let reached = register == SgiRegister::Sgi1 || !interrupt.group1;
                    interrupt.latch |= reached && targets >> target & 1 != 0;
                }
                machine.sgi(vcpu, register, u64::from(intid) << 24 | u64::from(targets));
            }
            Step::Acknowledge(vcpu) => {
                let expected = reference.signalled(vcpu);
                if reference.active_count(vcpu) > 12 {
                    return;
                }
                let got = machine.acknowledge(vcpu);
                match got {
                    None => assert_eq!(expected, [0u32; 0], "lost on vCPU {vcpu}"),
                    Some(intid) => {
                        assert!(expected.contains(&intid), "{intid} instead of {expected:?}");
                        let interrupt = reference.get(vcpu, intid);
                        interrupt.latch = false;
                        interrupt.active_on = Some(vcpu);
                        let priority = interrupt.priority;
                        // A list register keeps the priority that it was filled with.
                        assert_eq!(machine.cpus[vcpu].running.last(), Some(&priority));
                        reference.running[vcpu].push((intid, priority));
                    }
                }
            }
            Step::End(vcpu) => {
                let Some((intid, _)) = reference.running[vcpu].pop() else { return };
                let interrupt = reference.get(vcpu, intid);
                if interrupt.active_on == Some(vcpu) {
                    interrupt.active_on = None;
                    // By number where the guest's stack and the priorities do not agree.
                    machine.cpus[vcpu].drop_priority();
                    if machine.cpus[vcpu].of(intid).is_some() {
                        machine.cpus[vcpu].deactivate(intid);
                    } else {
                        let kick = machine.gic.deactivate(vcpu, intid);
                        machine.obey(vcpu, kick);
                    }
                    machine.maintain(vcpu);
                } else {
                    machine.cpus[vcpu].drop_priority();
                }
            }
            Step::Sleep(vcpu) => {
                machine.fold(vcpu);
                let limit = |i: &Interrupt| i.active_on.is_none() && i.target == Some(vcpu);
                let wakes = reference.all(vcpu).any(|(_, i)| {
                    let on = i.enabled && reference.groups >> u32::from(i.group1) & 1 != 0;
                    on && i.pending() && limit(i)
                });
                assert_eq!(machine.gic.pending_for(vcpu), wakes, "vCPU {vcpu}");
                machine.obey(vcpu, super::super::Kick::NONE);
            }
            Step::Audit(vcpu) => self.audit(vcpu),
        }
    }

    /// Fires physical timers until all that could come have come.
    fn fire_timers(&mut self) {
        for vcpu in 0..VCPUS {
            let active = self.machine.cpus[vcpu].physical >> TIMER & 1 != 0;
            if self.reference.timers[vcpu] && !active {
                self.machine.cpus[vcpu].physical |= 1 << TIMER;
                self.reference.get(vcpu, TIMER).latch = true;
                self.machine.ppi(vcpu, TIMER, true);
            }
        }
    }

    /// What must hold after every step.
    fn check(&mut self) {
        let ctlr = Place::in_distributor(0).unwrap();
        assert_eq!(self.machine.gic.read(ctlr, Width::Word) >> 31, 0, "a write stays pending");
        let mut listed = Vec::new();
        for (vcpu, cpu) in self.machine.cpus.iter().enumerate() {
            for intid in cpu.listed() {
                assert!(intid < 32 || !listed.contains(&intid), "{intid} is listed twice");
                listed.push(intid);
            }
            if cpu.physical >> TIMER & 1 != 0 {
                let timer = &self.reference.private[vcpu][TIMER as usize];
                let wanted = timer.latch || timer.active_on.is_some();
                assert!(wanted, "the physical timer of vCPU {vcpu} stays active for nothing");
            }
        }
    }

    /// Compares what registers show.
    fn audit(&mut self, vcpu: usize) {
        for word in 0..3 {
            let read = |machine: &mut Machine, register: u64| match word {
                0 => machine.read_own(vcpu, register),
                _ => machine.read_distributor(vcpu, register + 4 * u64::from(word)),
            };
            let reference = &self.reference;
            let expect = |what: &dyn Fn(&Interrupt) -> bool| reference.bits(vcpu, word, what);
            let machine = &mut self.machine;
            assert_eq!(read(machine, 0x80), expect(&|i| i.group1));
            assert_eq!(read(machine, 0x180), expect(&|i| i.enabled));
            assert_eq!(read(machine, 0x200), expect(&Interrupt::pending), "pending, word {word}");
            let active = expect(&|i| i.active_on.is_some());
            assert_eq!(read(machine, 0x300), active, "active, word {word}");
        }
    }
}

/// Goes through `steps` with a machine of `lrs` list registers.
fn run(lrs: usize, steps: &[Step]) {
    let mut pair = Pair::new(lrs);
    for step in steps {
        pair.step(step);
        pair.fire_timers();
        pair.check();
    }
    for vcpu in 0..VCPUS {
        pair.audit(vcpu);
        pair.step(&Step::Acknowledge(vcpu));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn the_model_does_what_the_architecture_says(
        lrs in prop_oneof![Just(1usize), Just(2), Just(4), Just(16)],
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        run(lrs, &steps);
    }
}

#[test]
#[should_panic = "lost on vCPU 1"]
fn a_vcpu_that_is_not_kicked_is_found_out() {
    let mut pair = Pair::new(4);
    pair.reference.get(1, 2).latch = true;
    let _ignored = pair.machine.gic.send_sgi(0, SgiRegister::Sgi1, 2 << 24 | 0b10);
    pair.step(&Step::Acknowledge(1));
}
