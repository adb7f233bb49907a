//! Reads of the memory-mapped registers. None takes a lock.

use super::bank::Bank;
use super::place::{self, Banked, Frame, Place};
use super::{Gic, Kick};
use crate::device::Width;

/// GICD_IIDR and GICR_IIDR, as QEMU has them: implemented by Arm.
const IIDR: u64 = 0x43b;
/// Affinity routing and a single security state, in GICD_CTLR: always so.
const CTLR_FIXED: u64 = 1 << 6 | 1 << 4;
/// Register Write Pending in GICD_CTLR and in GICR_CTLR.
const GICD_RWP: u64 = 1 << 31;
const GICR_RWP: u64 = 1 << 3;
/// INTIDs of 10 bits, and affinity level 3 may be other than 0.
const TYPER_FIXED: u64 = 9 << 19 | 1 << 24;
/// PIDR4 to PIDR7, PIDR0 to PIDR3 and CIDR0 to CIDR3, as QEMU has them: PIDR2.ArchRev is 3.
const DISTRIBUTOR_ID: [u8; 12] = [0x44, 0, 0, 0, 0x92, 0xb4, 0x3b, 0, 0x0d, 0xf0, 0x05, 0xb1];
const REDISTRIBUTOR_ID: [u8; 12] = [0x44, 0, 0, 0, 0x93, 0xb4, 0x3b, 0, 0x0d, 0xf0, 0x05, 0xb1];

impl Gic {
    /// Reads a register. What cannot be read, in this width or at all, is read as zero.
    ///
    /// Where the [`Place`] shows live state, see [`Gic::refresh`] first.
    pub fn read(&self, place: Place, width: Width) -> u64 {
        // Bit registers and configurations are most of what is read, and exist as words.
        if let Some(value) = self.read_known(place, width) {
            return value;
        }
        self.ignore("read of", place);
        0
    }

    /// Finds out who must fold before a read by `vcpu` of pending or active state is exact: the
    /// other vCPUs that have the interrupts in their list registers. The read need not wait for
    /// them: a guest that polls reads what they found soon enough.
    pub fn refresh(&self, vcpu: usize, place: Place) -> Kick {
        if !place.shows_live_state() {
            return Kick::NONE;
        }
        let word = place.offset as usize % 128 / 4;
        let concerned = match place.frame {
            // Who sent its SGIs is the reader's own.
            Frame::Banked(_) if place.offset >= place::GICD_CPENDSGIR => 0,
            Frame::Distributor | Frame::Banked(_) => match word.checked_sub(1) {
                Some(word) => {
                    let _lock = self.distributor.lock();
                    self.distributor.listing(word, u32::MAX)
                }
                None => 0,
            },
            Frame::Private(other) => self
                .own(usize::from(other))
                .filter(|own| own.bank.listed.get() != 0)
                .map_or(0, |_| 1 << other),
            Frame::Control(_) => 0,
        };
        self.marked(concerned & !Kick::one(vcpu).bits())
    }

    #[inline(always)]
    fn read_known(&self, place: Place, width: Width) -> Option<u64> {
        match place.frame {
            Frame::Distributor => self.read_distributor(place.offset, width),
            Frame::Private(vcpu) => self.read_private(usize::from(vcpu), place.offset, width),
            Frame::Control(vcpu) => self.read_control(usize::from(vcpu), place.offset, width),
            Frame::Banked(vcpu) => self.read_v2(usize::from(vcpu), place.offset, width),
        }
    }

    #[inline(always)]
    fn read_distributor(&self, offset: u32, width: Width) -> Option<u64> {
        if let Some(kind) = Banked::at(offset) {
            let word = word_of(kind, offset);
            // Word 0 is the redistributors' business, and those past the end are reserved.
            let bank = word.checked_sub(1).and_then(|word| self.distributor.banks().get(word));
            return read_banked(bank, kind, offset, width);
        }
        match (offset, width) {
            (place::GICD_CTLR, Width::Word) => Some(self.read_control_register()),
            (place::GICD_TYPER, Width::Word) => {
                Some(TYPER_FIXED | self.distributor.banks().len() as u64)
            }
            (place::GICD_IIDR, Width::Word) => Some(IIDR),
            (place::GICD_TYPER2 | place::GICD_STATUSR, Width::Word) => Some(0),
            (place::GICD_IROUTER..place::GICD_IROUTER_END, Width::Word | Width::Double) => {
                let (word, bit) = routed_spi(offset);
                let router = self.distributor.router(word, bit);
                match (offset % 8, width) {
                    (0, Width::Double) => Some(router),
                    (0, _) => Some(router & 0xffff_ffff),
                    (4, Width::Word) => Some(router >> 32),
                    _ => None,
                }
            }
            _ => identification(&DISTRIBUTOR_ID, place::IDENTIFICATION, offset, width),
        }
    }

    fn read_control_register(&self) -> u64 {
        let pending = if self.distributor.unsettled() != 0 { GICD_RWP } else { 0 };
        u64::from(self.distributor.control.get()) | CTLR_FIXED | pending
    }

    #[inline(always)]
    fn read_private(&self, vcpu: usize, offset: u32, width: Width) -> Option<u64> {
        let own = self.own(vcpu)?;
        let kind = Banked::at(offset)?;
        let bank = (word_of(kind, offset) == 0).then_some(&own.bank);
        read_banked(bank, kind, offset, width)
    }

    fn read_control(&self, vcpu: usize, offset: u32, width: Width) -> Option<u64> {
        let own = self.own(vcpu)?;
        match (offset, width) {
            (place::GICR_CTLR, Width::Word) => {
                let unsettled = self.distributor.unsettled() & 1 << vcpu != 0;
                Some(if unsettled { GICR_RWP } else { 0 })
            }
            (place::GICR_IIDR, Width::Word) => Some(IIDR),
            (place::GICR_TYPER, Width::Double) => Some(self.typer(vcpu)),
            (place::GICR_TYPER, Width::Word) => Some(self.typer(vcpu) & 0xffff_ffff),
            (place::GICR_TYPER_HIGH, Width::Word) => Some(self.typer(vcpu) >> 32),
            (place::GICR_STATUSR, Width::Word) => Some(0),
            (place::GICR_WAKER, Width::Word) => Some(u64::from(own.waker())),
            _ => identification(&REDISTRIBUTOR_ID, place::IDENTIFICATION, offset, width),
        }
    }

    /// GICR_TYPER: affinity, number, and whether it is the last redistributor; no LPIs.
    fn typer(&self, vcpu: usize) -> u64 {
        let last = if vcpu + 1 == self.vcpus() { 1 << 4 } else { 0 };
        (vcpu as u64) << 32 | (vcpu as u64) << 8 | last
    }
}

/// Says which 32 interrupts a register is about.
#[inline(always)]
pub(super) const fn word_of(kind: Banked, offset: u32) -> usize {
    match kind {
        Banked::Priority => (offset as usize - 0x400) / 32,
        Banked::Configuration => (offset as usize - 0xc00) / 8,
        _ => offset as usize % 128 / 4,
    }
}

/// The SPI of a router, as word and bit.
pub(super) const fn routed_spi(offset: u32) -> (usize, u32) {
    let spi = (offset - place::GICD_IROUTER) / 8;
    (spi as usize / 32, spi % 32)
}

#[inline(always)]
pub(super) fn read_banked(
    bank: Option<&Bank>,
    kind: Banked,
    offset: u32,
    width: Width,
) -> Option<u64> {
    let bytes_allowed = matches!(kind, Banked::Priority | Banked::Zero);
    match width {
        Width::Word if offset.is_multiple_of(4) => {}
        Width::Byte if bytes_allowed => {}
        _ => return None,
    }
    let Some(bank) = bank else { return Some(0) };
    let value = match kind {
        Banked::Group => bank.group1.get(),
        Banked::SetEnable | Banked::ClearEnable => bank.enabled.get(),
        Banked::SetPending | Banked::ClearPending => bank.pending(),
        Banked::SetActive | Banked::ClearActive => bank.active.get(),
        Banked::Priority => {
            let four = bank.priorities(offset as usize % 32 / 4) >> (8 * (offset % 4));
            if matches!(width, Width::Byte) { four & 0xff } else { four }
        }
        Banked::Configuration => {
            let sixteen = bank.edge.get() >> (16 * (offset / 4 % 2)) & 0xffff;
            spread(sixteen) << 1
        }
        Banked::Zero => 0,
    };
    Some(u64::from(value))
}

/// Spreads 16 bits over the even bits of 32.
const fn spread(bits: u32) -> u32 {
    let bits = (bits | bits << 8) & 0x00ff_00ff;
    let bits = (bits | bits << 4) & 0x0f0f_0f0f;
    let bits = (bits | bits << 2) & 0x3333_3333;
    (bits | bits << 1) & 0x5555_5555
}

/// Gathers the odd bits of 32 into 16.
pub(super) const fn gather(bits: u32) -> u32 {
    let bits = bits >> 1 & 0x5555_5555;
    let bits = (bits | bits >> 1) & 0x3333_3333;
    let bits = (bits | bits >> 2) & 0x0f0f_0f0f;
    let bits = (bits | bits >> 4) & 0x00ff_00ff;
    (bits | bits >> 8) & 0xffff
}

pub(super) fn identification(
    bytes: &[u8; 12],
    first: u32,
    offset: u32,
    width: Width,
) -> Option<u64> {
    let index = offset.checked_sub(first)? as usize;
    match width {
        Width::Word if offset.is_multiple_of(4) => bytes.get(index / 4).copied().map(u64::from),
        _ => None,
    }
}
