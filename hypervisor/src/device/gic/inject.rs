//! Where interrupts come from: devices, physical interrupts, and the guest's own SGIs.

use super::write::Change;
use super::{Gic, Kick, MAX_VCPUS, intid};

/// The register by which a guest sends SGIs.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum SgiRegister {
    /// ICC_SGI0R_EL1: reaches SGIs of group 0.
    Sgi0,
    /// ICC_SGI1R_EL1: reaches SGIs of both groups.
    Sgi1,
    /// ICC_ASGI1R_EL1: with a single security state reaches SGIs of group 0.
    Asgi1,
}

/// The targets of an SGI and its INTID, as the registers give them (IHI 0069 §12.2).
struct Sgi(u64);

impl Sgi {
    fn intid(&self) -> u32 {
        (self.0 >> 24) as u32 & 0xf
    }

    /// The vCPUs that it goes to, of `vcpus`, when `sender` sends it.
    #[inline]
    fn targets(&self, sender: usize, vcpus: usize) -> u32 {
        let all = (1 << vcpus.min(MAX_VCPUS)) - 1;
        if self.0 & 1 << 40 != 0 {
            return all & !Kick::one(sender).bits();
        }
        // Aff3, the range of Aff0, Aff2 and Aff1 are all 0 in a guest of up to 16 vCPUs.
        let elsewhere = 0xff << 48 | 0xf << 44 | 0xff << 32 | 0xff << 16;
        if self.0 & elsewhere != 0 { 0 } else { all & self.0 as u32 & 0xffff }
    }
}

impl Gic {
    /// Drives the line of SPI `intid`. A level-sensitive interrupt is pending as long as it is
    /// high, one triggered by edges becomes so when it rises. Others than SPIs are ignored.
    pub fn inject_spi(&self, intid: u32, level: bool) -> Kick {
        let Some((word, bank, mask)) = self.distributor.spi(intid) else { return Kick::NONE };
        let change = |bank: &super::Bank| Change::to(bank.drive(mask, level));
        self.marked(self.change_spis(usize::MAX, word, bank, change))
    }

    /// Drives the line of PPI `intid` of `vcpu`, as [`inject_spi`](Self::inject_spi) does for SPIs.
    /// Others than PPIs are ignored.
    ///
    /// Of a [backed](Self::back_ppi) PPI, `true` says that the physical interrupt was acknowledged
    /// once more, and `false` that it is not wanted any more if the guest has not acknowledged it.
    pub fn inject_ppi(&self, vcpu: usize, intid: u32, level: bool) -> Kick {
        if !(intid::FIRST_PPI..intid::PRIVATE).contains(&intid) {
            return Kick::NONE;
        }
        let Some(own) = self.own(vcpu) else { return Kick::NONE };
        let mask = 1 << intid;
        let change = |bank: &super::Bank| {
            if own.backed.get() & mask == 0 {
                return Change::to(bank.drive(mask, level));
            }
            if level {
                bank.latch.insert(mask);
            } else {
                bank.clear_pending(mask);
            }
            Change::to(mask)
        };
        self.marked(self.change_private(vcpu, vcpu, change))
    }

    /// Sends the SGI that `vcpu` asked for by writing `value` to `register`. Returns the other
    /// vCPUs that must notice.
    pub fn send_sgi(&self, vcpu: usize, register: SgiRegister, value: u64) -> Kick {
        let sgi = Sgi(value);
        let mask = 1 << sgi.intid();
        let mut concerned = 0;
        for target in Kick::from_bits(sgi.targets(vcpu, self.vcpus())) {
            concerned |= self.change_private(vcpu, target, |bank| {
                let reached = register == SgiRegister::Sgi1 || bank.group1.get() & mask == 0;
                let changed = if reached { mask & !bank.latch.get() } else { 0 };
                bank.latch.insert(changed);
                Change::to(changed)
            });
        }
        self.marked(concerned).without(vcpu)
    }
}
