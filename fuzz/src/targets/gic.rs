//! A guest's interrupt controller, and CPU interfaces that work on its list registers.

use super::uart::WIDTHS;
use crate::Input;
use sluice::device::gic::{
    DISTRIBUTOR_BYTES, DISTRIBUTOR_BYTES_V2, Gic, Kick, ListRegister, ListRegisters,
    MAX_LIST_REGISTERS, Place, REDISTRIBUTOR_BYTES, SgiRegister, State, Version, hcr, vmcr,
};

const SPIS: usize = 96;

/// The GIC, and of each vCPU what the hardware holds.
struct Machine {
    gic: Gic,
    interfaces: Vec<ListRegisters>,
    count: usize,
}

/// Lets vCPUs write and read registers, take and end interrupts, turn off and on, while devices raise lines. What the
/// list registers hold is what there is: each interrupt once, no number that does not exist.
pub fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let shape = input.below(8);
    let (vcpus, version) = (1 + shape % 4, if shape < 4 { Version::V3 } else { Version::V2 });
    let count = 1 + input.below(MAX_LIST_REGISTERS);
    let gic = Gic::new(version, 1, vcpus, SPIS).expect("there can be such a GIC");
    let own = ListRegisters { vmcr: vmcr::VENG0 | vmcr::VENG1, ..ListRegisters::default() };
    let mut machine = Machine { gic, interfaces: vec![own; vcpus], count };
    while !input.is_empty() {
        machine.step(&mut input);
    }
    // It can be used again, whatever was done to it.
    machine.gic.reset();
    for vcpu in 0..vcpus {
        machine.interfaces[vcpu] = ListRegisters::default();
        let _ = machine.enter(vcpu);
        assert_eq!(machine.interfaces[vcpu].live, 0, "a reset leaves nothing");
        assert!(!machine.gic.pending_for(vcpu), "a reset leaves nothing pending");
    }
}

impl Machine {
    fn step(&mut self, input: &mut Input<'_>) {
        let vcpus = self.interfaces.len();
        let vcpu = input.below(vcpus);
        let kick = match input.byte() % 12 {
            0..=2 => {
                let (place, width) = (self.place(vcpu, input), input.one_of(&WIDTHS));
                let value = match input.byte() {
                    0 => u64::MAX,
                    1 => input.double(),
                    shift => 1 << (shift % 64),
                };
                place.map_or(Kick::NONE, |place| self.gic.write(vcpu, place, width, value))
            }
            3 => {
                let place = self.place(vcpu, input);
                self.read(vcpu, place, input)
            }
            4 => self.gic.inject_spi(input.number() as u32, input.byte() & 1 != 0),
            5 => self.gic.inject_ppi(
                input.below(vcpus + 1),
                input.number() as u32,
                input.byte() & 1 != 0,
            ),
            6 => {
                let all = [SgiRegister::Sgi0, SgiRegister::Sgi1, SgiRegister::Asgi1];
                let value = u64::from(input.byte() & 15) << 24 | u64::from(input.byte());
                let value = if input.byte() == 0 { input.double() } else { value };
                self.gic.send_sgi(vcpu, input.one_of(&all), value)
            }
            7 => {
                self.acknowledge(vcpu);
                Kick::NONE
            }
            8 => {
                self.end(vcpu, input.number() as u32);
                Kick::NONE
            }
            9 => self.gic.deactivate(vcpu, input.number() as u32),
            10 => {
                // Its guest masks groups, and chooses how interrupts end.
                self.interfaces[vcpu].vmcr =
                    u64::from(input.half()) & (vmcr::VENG0 | vmcr::VENG1 | vmcr::VEOIM);
                Kick::NONE
            }
            _ => self.power(vcpu, input.byte()),
        };
        self.obey(kick, vcpu);
    }

    /// Those that are kicked enter their guests, and so does the vCPU itself.
    fn obey(&mut self, kick: Kick, vcpu: usize) {
        let mut left = kick | Kick::one(vcpu);
        let mut rounds = 0;
        while let Some(next) = left.next() {
            assert!(next < self.interfaces.len(), "a vCPU that there is not");
            left |= self.enter(next);
            rounds += 1;
            assert!(rounds < 256, "vCPUs kick each other without end");
        }
    }

    fn enter(&mut self, vcpu: usize) -> Kick {
        if !self.gic.is_dirty(vcpu) {
            return Kick::NONE;
        }
        let registers = &mut self.interfaces[vcpu];
        let synced = self.gic.sync(vcpu, registers, self.count);
        assert!(registers.live <= self.count && synced.write >= registers.live);
        assert!(registers.lr[registers.live..].iter().all(|lr| lr.bits() == 0));
        let mut seen = [false; 32 + SPIS];
        for listed in registers.lr.iter().filter(|lr| !lr.state().is_invalid()) {
            let seen = seen.get_mut(listed.intid() as usize).expect("an interrupt that exists");
            assert!(!core::mem::replace(seen, true), "interrupt {} twice", listed.intid());
        }
        synced.kick
    }

    fn read(&mut self, vcpu: usize, place: Option<Place>, input: &mut Input<'_>) -> Kick {
        let Some(place) = place else { return Kick::NONE };
        let mut kick = Kick::NONE;
        if place.shows_live_state() {
            kick = self.gic.fold(vcpu, &mut self.interfaces[vcpu]).kick;
            kick |= self.gic.refresh(vcpu, place);
        }
        let width = input.one_of(&WIDTHS);
        let value = self.gic.read(place, width);
        assert_eq!(width.truncate(value), value, "a value wider than its access");
        kick
    }

    /// A register, as `vcpu` sees it.
    fn place(&self, vcpu: usize, input: &mut Input<'_>) -> Option<Place> {
        match self.gic.version() {
            Version::V2 => {
                let offset = u64::from(input.half()) % DISTRIBUTOR_BYTES_V2;
                Place::of_distributor(Version::V2, vcpu, offset)
            }
            Version::V3 => place(input),
        }
    }

    /// Takes the most urgent interrupt, as ICC_IAR does.
    fn acknowledge(&mut self, vcpu: usize) {
        let pending = State { pending: true, active: false };
        let all = self.interfaces[vcpu].lr.iter_mut().filter(|lr| lr.state() == pending);
        if let Some(register) = all.min_by_key(|lr| lr.priority()) {
            *register = with_state(*register, State { pending: false, active: true });
        }
    }

    /// Deactivates, as ICC_EOIR and ICC_DIR do; what is not listed is counted.
    fn end(&mut self, vcpu: usize, intid: u32) {
        let registers = &mut self.interfaces[vcpu];
        let mut all = registers.lr.iter_mut();
        match all.find(|lr| lr.intid() == intid && lr.state().active) {
            Some(register) => {
                *register = with_state(*register, State { active: false, ..register.state() });
            }
            None if registers.hcr >> hcr::EOI_COUNT_SHIFT < 31 => {
                registers.hcr += 1 << hcr::EOI_COUNT_SHIFT;
            }
            None => {}
        }
        self.gic.mark_dirty(vcpu);
    }

    fn power(&mut self, vcpu: usize, how: u8) -> Kick {
        let kick = self.gic.fold(vcpu, &mut self.interfaces[vcpu]).kick;
        let more = match how % 4 {
            0 => self.gic.power_off(vcpu),
            1 => self.gic.reset_vcpu(vcpu),
            _ => {
                let _ = self.gic.pending_for(vcpu);
                Kick::NONE
            }
        };
        kick | more
    }
}

fn with_state(register: ListRegister, state: State) -> ListRegister {
    let bits = register.bits() & !(0b11 << 62);
    ListRegister::new(bits | u64::from(state.pending) << 62 | u64::from(state.active) << 63)
}

/// A register: of those that there are, mostly.
fn place(input: &mut Input<'_>) -> Option<Place> {
    let offset = match input.byte() {
        0xff => u64::from(input.word()),
        0xfe => 0x6000 + 8 * u64::from(input.byte()),
        0xfd => 0xffc0 + u64::from(input.byte() & 0x3f),
        high => u64::from(high) << 4 | u64::from(input.byte() & 15),
    };
    match input.byte() {
        0 => Place::in_distributor(offset % DISTRIBUTOR_BYTES),
        1 => Place::in_redistributors(offset),
        own => {
            let frame = u64::from(own & 1) << 16;
            let vcpu = u64::from(own >> 1 & 3) * REDISTRIBUTOR_BYTES;
            if own & 0x80 != 0 {
                Place::in_distributor(offset % DISTRIBUTOR_BYTES)
            } else {
                Place::in_redistributors(vcpu + frame + offset)
            }
        }
    }
}
