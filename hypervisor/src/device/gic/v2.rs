//! The distributor of a GICv2 (Arm IHI 0048, chapter 4), as GIC-400 without security extensions has it.
//!
//! The registers that both versions have mean the same. What differs: those of SGIs and PPIs are banked in the
//! distributor, there being no redistributors; SPIs go to CPU interfaces by a bit each (ITARGETSR); SGIs are sent
//! by a register, and keep who sent them. Guests reach the CPU interface themselves (GICV).

use super::bank::{Bank, Bits};
use super::place::{self, Banked};
use super::read::{identification, read_banked, word_of};
use super::redistributor::{PPIS, Redistributor};
use super::write::{Access, Change};
use super::{Gic, Kick, Version};
use crate::device::Width;

/// GICD_IIDR of Arm's GIC-400.
const IIDR: u64 = 0x0200_143b;
/// PIDR4 to PIDR7, PIDR0 to PIDR3 and CIDR0 to CIDR3 of GIC-400: PIDR2.ArchRev is 2.
const ID: [u8; 12] = [0x04, 0, 0, 0, 0x90, 0xb4, 0x2b, 0, 0x0d, 0xf0, 0x05, 0xb1];
/// The SGIs as bits of a bank.
const SGIS: u32 = 0xffff;

impl Gic {
    /// The vCPUs as CPU interfaces.
    fn interfaces(&self) -> u32 {
        (1 << self.vcpus()) - 1
    }

    /// Routes SPIs as a GICv2 does at reset: nowhere, or where there is one vCPU, to it. Needs the distributor's
    /// lock, or that nobody else knows of the GIC.
    pub(super) fn reset_targets(&self) {
        if self.version == Version::V2 && self.vcpus() > 1 {
            for word in 0..self.distributor.banks().len() {
                for bit in 0..32 {
                    let _ = self.distributor.set_targets(word, bit, 0);
                }
            }
        }
    }

    /// Enables the SGIs of a vCPU that was reset, which a GICv2 has always enabled. Needs the vCPU's lock.
    pub(super) fn enable_sgis(&self, own: &Redistributor) {
        if self.version == Version::V2 {
            own.bank.enabled.insert(SGIS);
        }
    }

    /// Reads a register as `vcpu` sees it. Takes no lock.
    pub(super) fn read_v2(&self, vcpu: usize, offset: u32, width: Width) -> Option<u64> {
        let own = self.own(vcpu)?;
        match (offset, width) {
            (place::GICD_CTLR, Width::Word) => Some(self.distributor.control.get().into()),
            (place::GICD_TYPER, Width::Word) => {
                let (lines, interfaces) = (self.distributor.banks().len(), self.vcpus() - 1);
                Some((interfaces << 5 | lines) as u64)
            }
            (place::GICD_IIDR, Width::Word) => Some(IIDR),
            (place::GICD_ITARGETSR..place::GICD_ITARGETSR_END, _) => {
                bytes(offset - place::GICD_ITARGETSR, width, |intid| self.targets(vcpu, intid))
            }
            // Written only.
            (place::GICD_SGIR, Width::Word) => Some(0),
            (place::GICD_CPENDSGIR..place::GICD_SGI_END, _) => {
                bytes(offset - place::GICD_CPENDSGIR, width, |index| senders(own, index % 16))
            }
            _ => match Banked::at(offset) {
                Some(kind) => {
                    let bank = match word_of(kind, offset).checked_sub(1) {
                        Some(word) => self.distributor.banks().get(word),
                        None => Some(&own.bank),
                    };
                    read_banked(bank, kind, offset, width)
                }
                None => identification(&ID, place::IDENTIFICATION_V2, offset, width),
            },
        }
    }

    /// ITARGETSR of an interrupt, as `vcpu` sees it: of its own ones, itself; with a single vCPU, always 0.
    fn targets(&self, vcpu: usize, intid: u32) -> u32 {
        match (intid / 32).checked_sub(1) {
            _ if self.vcpus() == 1 => 0,
            None => 1 << vcpu,
            Some(word) => self.distributor.router(word as usize, intid % 32) as u32,
        }
    }

    /// Writes a register on behalf of `vcpu`. Returns the vCPUs concerned; `None` where nothing can be written.
    pub(super) fn write_v2(
        &self,
        vcpu: usize,
        offset: u32,
        width: Width,
        value: u64,
    ) -> Option<u32> {
        match (offset, width) {
            (place::GICD_CTLR, Width::Word) => Some(self.write_groups(vcpu, value as u32)),
            (place::GICD_TYPER | place::GICD_IIDR, Width::Word) => Some(0),
            (place::GICD_ITARGETSR..place::GICD_ITARGETSR_END, _) => {
                let mut concerned = 0;
                each_byte(offset - place::GICD_ITARGETSR, width, value, |intid, targets| {
                    concerned |= self.write_targets(intid, targets);
                })?;
                Some(concerned)
            }
            (place::GICD_SGIR, Width::Word) => Some(self.write_sgir(vcpu, value as u32)),
            (place::GICD_CPENDSGIR..place::GICD_SGI_END, _) => {
                let mut concerned = 0;
                each_byte(offset - place::GICD_CPENDSGIR, width, value, |index, senders| {
                    let (intid, senders) = (index % 16, senders & self.interfaces());
                    concerned |= if offset < place::GICD_SPENDSGIR {
                        self.withdraw_sgi(vcpu, intid, senders)
                    } else {
                        self.send_to(vcpu, vcpu, intid, senders)
                    };
                })?;
                Some(concerned)
            }
            _ => {
                let kind = Banked::at(offset)?;
                let access = Access::new(kind, offset, width, value)?;
                match word_of(kind, offset).checked_sub(1) {
                    Some(word) => Some(self.distributor.banks().get(word).map_or(0, |bank| {
                        self.change_spis(vcpu, word, bank, |bank| access.apply(bank, u32::MAX))
                    })),
                    None => {
                        // SGIs are always enabled, and made pending by registers of their own.
                        let access = match kind {
                            Banked::SetEnable
                            | Banked::ClearEnable
                            | Banked::SetPending
                            | Banked::ClearPending => access.without(SGIS),
                            _ => access,
                        };
                        Some(self.change_private(vcpu, vcpu, |bank| access.apply(bank, PPIS)))
                    }
                }
            }
        }
    }

    fn write_targets(&self, intid: u32, targets: u32) -> u32 {
        let Some((word, _, mask)) = self.distributor.spi(intid) else { return 0 };
        if self.vcpus() == 1 {
            return 0;
        }
        let _lock = self.distributor.lock();
        if self.distributor.set_targets(word, intid % 32, targets & self.interfaces()) {
            self.distributor.concerned(word, mask)
        } else {
            0
        }
    }

    /// GICD_SGIR: sends an SGI to the vCPUs of a list, to all others, or to the sender.
    fn write_sgir(&self, sender: usize, value: u32) -> u32 {
        let targets = match value >> 24 & 3 {
            0 => value >> 16 & 0xff & self.interfaces(),
            1 => self.interfaces() & !Kick::one(sender).bits(),
            2 => Kick::one(sender).bits(),
            _ => 0,
        };
        let intid = value & 0xf;
        Bits(targets).fold(0, |concerned, target| {
            concerned | self.send_to(sender, target as usize, intid, 1 << sender)
        })
    }

    /// Has SGI `intid` of `senders` wait for `target`.
    fn send_to(&self, vcpu: usize, target: usize, intid: u32, senders: u32) -> u32 {
        let Some(own) = self.own(target) else { return 0 };
        self.change_private(vcpu, target, |bank| {
            let news = own.sgis.send(intid, senders) != 0;
            let mask = if news { 1 << intid } else { 0 };
            bank.latch.insert(mask);
            Change::to(mask)
        })
    }

    /// Has SGI `intid` of `senders` wait for `vcpu` no more.
    fn withdraw_sgi(&self, vcpu: usize, intid: u32, senders: u32) -> u32 {
        let Some(own) = self.own(vcpu) else { return 0 };
        self.change_private(vcpu, vcpu, |bank| {
            let mask = 1 << intid;
            let had = bank.latch.get() & mask != 0;
            let lent = bank.lent.get() & mask & (senders >> own.sgis.lent(intid) & 1) << intid;
            if !own.sgis.withdraw(intid, senders) {
                bank.latch.remove(mask);
            }
            bank.lent.remove(lent);
            let changed = had && bank.latch.get() & mask == 0;
            Change::to(if changed || lent != 0 { mask } else { 0 })
        })
    }
}

/// The senders whose SGI `intid` waits for a vCPU, one in a list register included.
fn senders(own: &Redistributor, intid: u32) -> u32 {
    let is_lent = |bank: &Bank| bank.lent.get() >> intid & 1 != 0;
    let lent = if is_lent(&own.bank) { 1 << own.sgis.lent(intid) } else { 0 };
    own.sgis.waiting(intid) | lent
}

/// Reads a register of a byte for each of four interrupts, or one byte of it, `offset` bytes from the first.
fn bytes(offset: u32, width: Width, byte: impl Fn(u32) -> u32) -> Option<u64> {
    match width {
        Width::Byte => Some(byte(offset).into()),
        Width::Word if offset.is_multiple_of(4) => {
            Some((0..4).fold(0, |word, lane| word | u64::from(byte(offset + lane)) << (8 * lane)))
        }
        _ => None,
    }
}

/// Hands `each` what is written to such a register, by byte.
fn each_byte(offset: u32, width: Width, value: u64, mut each: impl FnMut(u32, u32)) -> Option<()> {
    let lanes = match width {
        Width::Byte => 1,
        Width::Word if offset.is_multiple_of(4) => 4,
        _ => return None,
    };
    (0..lanes).for_each(|lane| each(offset + lane, (value >> (8 * lane)) as u32 & 0xff));
    Some(())
}
