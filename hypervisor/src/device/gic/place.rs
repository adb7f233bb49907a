//! Which register an access is for.

use super::{DISTRIBUTOR_BYTES, DISTRIBUTOR_BYTES_V2, REDISTRIBUTOR_BYTES, Version};
use core::fmt;

/// The frame that a register is in.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// GICD_*.
    Distributor,
    /// RD_base of a vCPU: GICR_* of power and LPIs.
    Control(u16),
    /// SGI_base of a vCPU: GICR_* of its SGIs and PPIs.
    Private(u16),
    /// GICD_* of a GICv2, the first of whose registers are banked: as this vCPU sees them.
    Banked(u16),
}

/// A register of a guest's GIC: a frame and an offset in it, of 64 KiB at most.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub(super) frame: Frame,
    pub(super) offset: u32,
}

impl Place {
    /// Finds a register of the distributor of `version`, `offset` bytes from its base, as `vcpu` sees it; `None`
    /// beyond it.
    #[inline]
    pub const fn of_distributor(version: Version, vcpu: usize, offset: u64) -> Option<Self> {
        match version {
            Version::V2 => Self::in_banked_distributor(vcpu, offset),
            Version::V3 => Self::in_distributor(offset),
        }
    }

    /// Finds a register of a redistributor as [`Place::in_redistributors`] does, if the GIC has any.
    #[inline]
    pub const fn of_redistributors(version: Version, offset: u64) -> Option<Self> {
        match version {
            Version::V2 => None,
            Version::V3 => Self::in_redistributors(offset),
        }
    }

    /// Finds a register of the distributor, `offset` bytes from its base; `None` beyond it.
    #[inline]
    pub const fn in_distributor(offset: u64) -> Option<Self> {
        if offset < DISTRIBUTOR_BYTES {
            Some(Self { frame: Frame::Distributor, offset: offset as u32 })
        } else {
            None
        }
    }

    /// Finds a register of a redistributor, `offset` bytes from the base of the first one; `None`
    /// far beyond all of them.
    #[inline]
    pub const fn in_redistributors(offset: u64) -> Option<Self> {
        let vcpu = offset / REDISTRIBUTOR_BYTES;
        if vcpu >= super::MAX_VCPUS as u64 {
            return None;
        }
        let within = offset as u32 & 0xffff;
        let frame = if offset & DISTRIBUTOR_BYTES == 0 {
            Frame::Control(vcpu as u16)
        } else {
            Frame::Private(vcpu as u16)
        };
        Some(Self { frame, offset: within })
    }

    /// Finds a register of a GICv2's distributor, `offset` bytes from its base, as `vcpu` sees it; `None` beyond it.
    #[inline]
    pub const fn in_banked_distributor(vcpu: usize, offset: u64) -> Option<Self> {
        if offset < DISTRIBUTOR_BYTES_V2 && vcpu < super::MAX_VCPUS_V2 {
            Some(Self { frame: Frame::Banked(vcpu as u16), offset: offset as u32 })
        } else {
            None
        }
    }

    /// Says whether a read shows how far interrupts got that are in list registers: the pending
    /// and the active state. Then the reader's list registers must be folded before it, or it
    /// shows what was so at the last sync.
    #[inline]
    pub const fn shows_live_state(self) -> bool {
        let banks = !matches!(self.frame, Frame::Control(_));
        let sgis = matches!(self.frame, Frame::Banked(_));
        (banks && self.offset >= 0x200 && self.offset < 0x400)
            || (sgis && self.offset >= GICD_CPENDSGIR && self.offset < GICD_SGI_END)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.frame {
            Frame::Distributor | Frame::Banked(_) => write!(f, "GICD+{:#x}", self.offset),
            Frame::Control(vcpu) => write!(f, "GICR{vcpu}+{:#x}", self.offset),
            Frame::Private(vcpu) => write!(f, "GICR{vcpu}+{:#x}", self.offset | 0x1_0000),
        }
    }
}

/// The registers that exist once for each 32 interrupts or so.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Banked {
    /// IGROUPR.
    Group,
    /// ISENABLER.
    SetEnable,
    /// ICENABLER.
    ClearEnable,
    /// ISPENDR.
    SetPending,
    /// ICPENDR.
    ClearPending,
    /// ISACTIVER.
    SetActive,
    /// ICACTIVER.
    ClearActive,
    /// IPRIORITYR.
    Priority,
    /// ICFGR.
    Configuration,
    /// What exists in other configurations only (ITARGETSR, IGRPMODR, NSACR, SGIR, CPENDSGIR,
    /// SPENDSGIR) and is read as zero and not written in this one.
    Zero,
}

impl Banked {
    /// Finds the kind of register at `offset` of the distributor's or of an SGI frame (IHI 0069
    /// §12.8, §12.10).
    #[inline(always)]
    pub(super) const fn at(offset: u32) -> Option<Self> {
        Some(match offset >> 7 {
            0x01 => Self::Group,
            0x02 => Self::SetEnable,
            0x03 => Self::ClearEnable,
            0x04 => Self::SetPending,
            0x05 => Self::ClearPending,
            0x06 => Self::SetActive,
            0x07 => Self::ClearActive,
            0x08..=0x0f => Self::Priority,
            0x10..=0x17 => Self::Zero,
            0x18..=0x19 => Self::Configuration,
            0x1a | 0x1c..=0x1d => Self::Zero,
            // GICD_SGIR, GICD_CPENDSGIR and GICD_SPENDSGIR.
            0x1e if offset < 0xf30 => Self::Zero,
            _ => return None,
        })
    }
}

/// GICD_CTLR, §12.9.4.
pub(super) const GICD_CTLR: u32 = 0x0;
/// GICD_TYPER, §12.9.38.
pub(super) const GICD_TYPER: u32 = 0x4;
/// GICD_IIDR.
pub(super) const GICD_IIDR: u32 = 0x8;
/// GICD_TYPER2: no vPEs here.
pub(super) const GICD_TYPER2: u32 = 0xc;
/// GICD_STATUSR, which is optional: read as zero.
pub(super) const GICD_STATUSR: u32 = 0x10;
/// GICD_IROUTER32, the first there is.
pub(super) const GICD_IROUTER: u32 = 0x6100;
/// The end of the routers: INTIDs up to 1019.
pub(super) const GICD_IROUTER_END: u32 = 0x6000 + 8 * 1020;

/// GICD_ITARGETSR0 of a GICv2 (IHI 0048, §4.3.12), and the end of them.
pub(super) const GICD_ITARGETSR: u32 = 0x800;
pub(super) const GICD_ITARGETSR_END: u32 = 0xc00;
/// GICD_SGIR of a GICv2 (§4.3.15).
pub(super) const GICD_SGIR: u32 = 0xf00;
/// GICD_CPENDSGIR0 and GICD_SPENDSGIR0 of a GICv2 (§4.3.16), and the end of these.
pub(super) const GICD_CPENDSGIR: u32 = 0xf10;
pub(super) const GICD_SPENDSGIR: u32 = 0xf20;
pub(super) const GICD_SGI_END: u32 = 0xf30;

/// GICR_CTLR, §12.11.
pub(super) const GICR_CTLR: u32 = 0x0;
/// GICR_IIDR.
pub(super) const GICR_IIDR: u32 = 0x4;
/// GICR_TYPER, 8 bytes.
pub(super) const GICR_TYPER: u32 = 0x8;
/// The upper half of GICR_TYPER.
pub(super) const GICR_TYPER_HIGH: u32 = 0xc;
/// GICR_STATUSR, which is optional: read as zero.
pub(super) const GICR_STATUSR: u32 = 0x10;
/// GICR_WAKER.
pub(super) const GICR_WAKER: u32 = 0x14;

/// PIDR4, the first of the identification registers, in each device's first frame.
pub(super) const IDENTIFICATION: u32 = 0xffd0;
/// The same of a GICv2's distributor.
pub(super) const IDENTIFICATION_V2: u32 = 0xfd0;
