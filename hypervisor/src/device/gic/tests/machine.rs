//! A machine around the model: CPU interfaces that work on list registers as hardware does (IHI
//! 0069 §4.8, §6), vCPUs that obey kicks and nothing else, and physical PPIs behind virtual ones.

use super::super::{
    Gic, Kick, ListRegister, ListRegisters, Place, SgiRegister, State, Version, hcr, vmcr,
};
use crate::device::Width;

/// A vCPU's hardware.
pub struct Interface {
    pub registers: ListRegisters,
    /// The priorities of the interrupts that are being handled, the most urgent last.
    pub running: Vec<u8>,
    /// Physical PPIs that are active, as bits.
    pub physical: u32,
    pub count: usize,
    pub syncs: usize,
}

fn with_state(register: ListRegister, state: State) -> ListRegister {
    let bits = register.bits() & !(0b11 << 62);
    ListRegister::new(bits | u64::from(state.pending) << 62 | u64::from(state.active) << 63)
}

impl Interface {
    pub fn new(count: usize) -> Self {
        let registers =
            ListRegisters { vmcr: vmcr::VENG0 | vmcr::VENG1, ..ListRegisters::default() };
        Self { registers, running: Vec::new(), physical: 0, count, syncs: 0 }
    }

    /// Guest entry of `vcpu`.
    pub fn enter(&mut self, gic: &Gic, vcpu: usize) -> Kick {
        if !gic.is_dirty(vcpu) {
            return Kick::NONE;
        }
        self.syncs += 1;
        let synced = gic.sync(vcpu, &mut self.registers, self.count);
        self.physical &= !synced.deactivate;
        assert!(self.registers.live <= self.count && synced.write >= self.registers.live);
        assert!(self.registers.lr[self.registers.live..].iter().all(|lr| lr.bits() == 0));
        if gic.version() == Version::V2 {
            // What hardware holds has other bits, and loses nothing.
            for lr in &self.registers.lr {
                assert_eq!(ListRegister::from_gicv2(lr.to_gicv2()), *lr);
            }
        }
        synced.kick
    }

    fn is_group_on(&self, register: ListRegister) -> bool {
        let group = if register.is_group1() { vmcr::VENG1 } else { vmcr::VENG0 };
        self.registers.vmcr & group != 0
    }

    /// What ICC_HPPIR would say, the priority too.
    pub fn signalled(&self) -> Option<(usize, u32, u8)> {
        let limit = self.running.last().copied().unwrap_or(0xff);
        let all = self.registers.lr.iter().enumerate();
        all.filter(|(_, lr)| lr.state() == State { pending: true, active: false })
            .filter(|(_, lr)| self.is_group_on(**lr) && lr.priority() < limit)
            .min_by_key(|(_, lr)| lr.priority())
            .map(|(index, lr)| (index, lr.intid(), lr.priority()))
    }

    /// ICC_IAR.
    pub fn acknowledge(&mut self) -> Option<u32> {
        let (index, intid, priority) = self.signalled()?;
        let register = &mut self.registers.lr[index];
        *register = with_state(*register, State { pending: false, active: true });
        self.running.push(priority);
        Some(intid)
    }

    /// ICC_EOIR with EOImode 1: the priority drop alone.
    pub fn drop_priority(&mut self) {
        self.running.pop();
    }

    /// ICC_DIR where it does not trap, and the second half of ICC_EOIR with EOImode 0.
    pub fn deactivate(&mut self, intid: u32) {
        let mut all = self.registers.lr.iter_mut();
        let Some(register) = all.find(|lr| lr.intid() == intid && lr.state().active) else {
            self.registers.hcr += 1 << hcr::EOI_COUNT_SHIFT;
            return;
        };
        *register = with_state(*register, State { active: false, ..register.state() });
        if let Some(physical) = register.physical() {
            self.physical &= !(1 << physical);
        }
    }

    /// ICC_EOIR with EOImode 0.
    pub fn end(&mut self, intid: u32) {
        self.drop_priority();
        self.deactivate(intid);
    }

    /// Says whether the maintenance interrupt is asserted: ICH_MISR is not 0.
    pub fn maintenance(&self) -> bool {
        let wanted = |bit: u64| self.registers.hcr & bit != 0;
        let enabled = |group: u64| self.registers.vmcr & group != 0;
        let lrs = &self.registers.lr;
        lrs.iter().any(|lr| lr.state().is_invalid() && lr.notifies())
            || wanted(hcr::NPIE) && !lrs.iter().any(|lr| lr.state().pending)
            || wanted(hcr::LRENPIE) && self.registers.hcr >> hcr::EOI_COUNT_SHIFT != 0
            || wanted(hcr::VGRP0E) && enabled(vmcr::VENG0)
            || wanted(hcr::VGRP0D) && !enabled(vmcr::VENG0)
            || wanted(hcr::VGRP1E) && enabled(vmcr::VENG1)
            || wanted(hcr::VGRP1D) && !enabled(vmcr::VENG1)
    }

    /// The list registers that hold something, by INTID.
    pub fn listed(&self) -> Vec<u32> {
        let valid = self.registers.lr.iter().filter(|lr| !lr.state().is_invalid());
        valid.map(|lr| lr.intid()).collect()
    }

    /// The list register of an interrupt.
    pub fn of(&self, intid: u32) -> Option<ListRegister> {
        let mut valid = self.registers.lr.iter().filter(|lr| !lr.state().is_invalid());
        valid.find(|lr| lr.intid() == intid).copied()
    }
}

/// A GIC and the hardware of its vCPUs.
pub struct Machine {
    pub gic: Gic,
    pub cpus: Vec<Interface>,
}

impl Machine {
    pub fn new(vcpus: usize, lrs: usize) -> Self {
        Self::of(Version::V3, vcpus, lrs)
    }

    pub fn of(version: Version, vcpus: usize, lrs: usize) -> Self {
        let gic = Gic::new(version, 1, vcpus, 96).unwrap();
        let cpus = (0..vcpus).map(|_| Interface::new(lrs)).collect();
        let mut machine = Self { gic, cpus };
        for vcpu in 1..vcpus {
            let kick = machine.gic.reset_vcpu(vcpu);
            machine.obey(0, kick);
        }
        machine
    }

    /// A machine whose guest has done what Linux does first: groups on, all in group 1, priority
    /// 0xa0, SGIs and PPIs enabled.
    pub fn booted(vcpus: usize, lrs: usize) -> Self {
        let mut machine = Self::new(vcpus, lrs);
        machine.write(0, 0x0, 0b11);
        for word in 1..=3 {
            machine.write(0, 0x80 + 4 * word, u32::MAX);
        }
        for spi in (0x420..0x480).step_by(4) {
            machine.write(0, spi, 0xa0a0_a0a0);
        }
        for vcpu in 0..vcpus {
            machine.write_own(vcpu, 0x80, u32::MAX);
            machine.write_own(vcpu, 0x100, u32::MAX);
            for private in (0x400..0x420).step_by(4) {
                machine.write_own(vcpu, private, 0xa0a0_a0a0);
            }
        }
        machine
    }

    /// Guest entry.
    pub fn enter(&mut self, vcpu: usize) -> Kick {
        self.cpus[vcpu].enter(&self.gic, vcpu)
    }

    /// What happens after `vcpu` was at EL2: it enters its guest, and so do those that are kicked.
    /// Nobody else looks.
    pub fn obey(&mut self, vcpu: usize, kick: Kick) {
        let mut left = kick | Kick::one(vcpu);
        while let Some(next) = left.next() {
            left |= self.enter(next);
        }
    }

    pub fn write(&mut self, vcpu: usize, offset: u64, value: u32) {
        self.access(vcpu, Place::in_distributor(offset).unwrap(), Width::Word, value.into());
    }

    /// Writes to the SGI frame of the vCPU itself.
    pub fn write_own(&mut self, vcpu: usize, offset: u64, value: u32) {
        self.access(vcpu, private(vcpu, offset), Width::Word, value.into());
    }

    pub fn access(&mut self, vcpu: usize, place: Place, width: Width, value: u64) {
        let kick = self.gic.write(vcpu, place, width, value);
        assert!(!kick.contains(vcpu));
        self.obey(vcpu, kick);
    }

    /// Reads as an exit does: live state after a fold, and the others a moment later.
    pub fn read(&mut self, vcpu: usize, place: Place) -> u32 {
        if place.shows_live_state() {
            self.fold(vcpu);
            let kick = self.gic.refresh(vcpu, place);
            self.obey(vcpu, kick);
            self.fold(vcpu);
        }
        let value = self.gic.read(place, Width::Word);
        self.obey(vcpu, Kick::NONE);
        value as u32
    }

    pub fn read_distributor(&mut self, vcpu: usize, offset: u64) -> u32 {
        self.read(vcpu, Place::in_distributor(offset).unwrap())
    }

    pub fn read_own(&mut self, vcpu: usize, offset: u64) -> u32 {
        self.read(vcpu, private(vcpu, offset))
    }

    /// Takes the list registers of a vCPU back, as before WFI.
    pub fn fold(&mut self, vcpu: usize) {
        let cpu = &mut self.cpus[vcpu];
        let synced = self.gic.fold(vcpu, &mut cpu.registers);
        cpu.physical &= !synced.deactivate;
        let others = synced.kick;
        for other in others {
            let kick = self.enter(other);
            assert!(kick.is_empty(), "a vCPU that takes over gives nothing on");
        }
    }

    pub fn spi(&mut self, intid: u32, level: bool) {
        let kick = self.gic.inject_spi(intid, level);
        let mut left = kick;
        while let Some(next) = left.next() {
            left |= self.enter(next);
        }
    }

    pub fn ppi(&mut self, vcpu: usize, intid: u32, level: bool) {
        let kick = self.gic.inject_ppi(vcpu, intid, level);
        self.obey(vcpu, kick);
    }

    pub fn sgi(&mut self, vcpu: usize, register: SgiRegister, value: u64) {
        let kick = self.gic.send_sgi(vcpu, register, value);
        self.obey(vcpu, kick);
    }

    /// Acknowledges on `vcpu`, with the maintenance interrupts that this brings.
    pub fn acknowledge(&mut self, vcpu: usize) -> Option<u32> {
        let intid = self.cpus[vcpu].acknowledge();
        self.maintain(vcpu);
        intid
    }

    pub fn end(&mut self, vcpu: usize, intid: u32) {
        self.cpus[vcpu].end(intid);
        self.maintain(vcpu);
    }

    /// Takes maintenance interrupts as long as there are any: not many, or nothing would move.
    pub fn maintain(&mut self, vcpu: usize) {
        for _ in 0..2 {
            if !self.cpus[vcpu].maintenance() {
                return;
            }
            self.gic.mark_dirty(vcpu);
            self.obey(vcpu, Kick::NONE);
        }
        assert!(!self.cpus[vcpu].maintenance(), "the maintenance interrupt stays");
    }
}

/// A register of the SGI frame of `vcpu`.
pub fn private(vcpu: usize, offset: u64) -> Place {
    Place::in_redistributors(vcpu as u64 * 0x2_0000 + 0x1_0000 + offset).unwrap()
}

/// A register of the RD frame of `vcpu`.
pub fn control(vcpu: usize, offset: u64) -> Place {
    Place::in_redistributors(vcpu as u64 * 0x2_0000 + offset).unwrap()
}
