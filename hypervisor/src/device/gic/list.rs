//! The list registers and their neighbours as plain data (IHI 0069 §12.4, ICH_* of EL2).

use core::fmt;

/// The largest number of list registers that a GIC has.
pub const MAX_LIST_REGISTERS: usize = 16;

/// Bits of ICH_HCR_EL2.
pub mod hcr {
    /// The virtual CPU interface is on.
    pub const EN: u64 = 1 << 0;
    /// Maintenance interrupt while at most one list register is valid. Not used: a fill leaves the
    /// least urgent interrupts out, so there is no hurry before [`NPIE`].
    pub const UIE: u64 = 1 << 1;
    /// Maintenance interrupt while EOIcount is not 0.
    pub const LRENPIE: u64 = 1 << 2;
    /// Maintenance interrupt while no list register is pending.
    pub const NPIE: u64 = 1 << 3;
    /// Maintenance interrupt while the guest has group 0 enabled.
    pub const VGRP0E: u64 = 1 << 4;
    /// Maintenance interrupt while the guest has group 0 disabled.
    pub const VGRP0D: u64 = 1 << 5;
    /// Maintenance interrupt while the guest has group 1 enabled.
    pub const VGRP1E: u64 = 1 << 6;
    /// Maintenance interrupt while the guest has group 1 disabled.
    pub const VGRP1D: u64 = 1 << 7;
    /// The guest's writes of ICC_DIR_EL1 trap.
    pub const TDIR: u64 = 1 << 14;
    /// Where EOIcount begins: deactivations of interrupts that were in no list register.
    pub const EOI_COUNT_SHIFT: u32 = 27;
}

/// Bits of ICH_VMCR_EL2.
pub mod vmcr {
    /// The guest has group 0 enabled.
    pub const VENG0: u64 = 1 << 0;
    /// The guest has group 1 enabled.
    pub const VENG1: u64 = 1 << 1;
    /// The guest deactivates by ICC_DIR_EL1, apart from the priority drop.
    pub const VEOIM: u64 = 1 << 9;
}

/// What a list register says of its interrupt.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// It waits to be acknowledged.
    pub pending: bool,
    /// It was acknowledged and not yet deactivated.
    pub active: bool,
}

impl State {
    /// Says whether the list register is free: its interrupt was deactivated, or there was none.
    pub const fn is_invalid(self) -> bool {
        !self.pending && !self.active
    }
}

/// One list register, `ICH_LR<n>_EL2`.
#[derive(Copy, Clone, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct ListRegister(u64);

impl ListRegister {
    /// With a GICv2 the sender of an SGI is kept beside its INTID, as both GICs have it in hardware.
    const SENDER_SHIFT: u32 = 10;
    const PHYSICAL_SHIFT: u32 = 32;
    const NOTIFY: u64 = 1 << 41;
    const PRIORITY_SHIFT: u32 = 48;
    const GROUP1: u64 = 1 << 60;
    const HARDWARE: u64 = 1 << 61;
    const STATE_SHIFT: u32 = 62;
    const PENDING: u64 = 1 << 62;
    const ACTIVE: u64 = 1 << 63;

    /// Makes a list register of the number read from hardware.
    pub const fn new(bits: u64) -> Self {
        Self(bits)
    }

    /// Describes a virtual interrupt. `group1` is false for group 0 (an FIQ).
    pub(super) const fn of(intid: u32, priority: u8, group1: bool, state: State) -> Self {
        Self(
            intid as u64
                | (priority as u64) << Self::PRIORITY_SHIFT
                | if group1 { Self::GROUP1 } else { 0 }
                | if state.pending { Self::PENDING } else { 0 }
                | if state.active { Self::ACTIVE } else { 0 },
        )
    }

    /// Has the guest's deactivation deactivate the physical interrupt `intid` too.
    pub(super) const fn backed_by(self, intid: u32) -> Self {
        Self(self.0 | Self::HARDWARE | ((intid & 0x3ff) as u64) << Self::PHYSICAL_SHIFT)
    }

    /// Has the guest's deactivation raise a maintenance interrupt.
    pub(super) const fn notifying(self) -> Self {
        Self(self.0 | Self::NOTIFY)
    }

    /// Says which vCPU, 0 to 7, sent this SGI of a GICv2.
    pub(super) const fn sent_by(self, vcpu: u32) -> Self {
        Self(self.0 | ((vcpu & 7) as u64) << Self::SENDER_SHIFT)
    }

    /// Makes a list register of what `GICH_LR<n>` says (IHI 0048, §5.3.10).
    pub const fn from_gicv2(bits: u32) -> Self {
        let bits = bits as u64;
        let hardware = bits >> 31 & 1;
        let state = bits >> 28 & 3;
        let group1 = bits >> 30 & 1;
        let priority = bits >> 23 & 0x1f;
        // Where there is no physical interrupt, its field has the sender, and the wish to be notified on top.
        let (intid, above) = if hardware != 0 {
            (bits & 0x3ff, (bits >> 10 & 0x3ff) << Self::PHYSICAL_SHIFT)
        } else {
            (bits & 0x1fff, if bits & 1 << 19 != 0 { Self::NOTIFY } else { 0 })
        };
        Self(
            intid
                | above
                | (priority << 3) << Self::PRIORITY_SHIFT
                | if group1 != 0 { Self::GROUP1 } else { 0 }
                | if hardware != 0 { Self::HARDWARE } else { 0 }
                | state << Self::STATE_SHIFT,
        )
    }

    /// Returns what `GICH_LR<n>` is to say.
    pub const fn to_gicv2(self) -> u32 {
        let low = if self.is_backed() {
            (self.0 & 0x3ff) | (self.0 >> Self::PHYSICAL_SHIFT & 0x3ff) << 10
        } else {
            (self.0 & 0x1fff) | if self.0 & Self::NOTIFY != 0 { 1 << 19 } else { 0 }
        };
        let high = (self.priority() as u64 >> 3) << 23
            | (self.0 >> Self::STATE_SHIFT) << 28
            | (self.is_group1() as u64) << 30
            | (self.is_backed() as u64) << 31;
        (low | high) as u32
    }

    /// Returns the number, for hardware.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Returns the virtual INTID.
    pub const fn intid(self) -> u32 {
        self.0 as u32 & 0x3ff
    }

    /// Returns which vCPU sent it, of an SGI of a GICv2.
    pub const fn sender(self) -> u32 {
        self.0 as u32 >> Self::SENDER_SHIFT & 7
    }

    /// Returns the priority, 0 the most urgent.
    pub const fn priority(self) -> u8 {
        (self.0 >> Self::PRIORITY_SHIFT) as u8
    }

    /// Says whether the interrupt is in group 1, hence an IRQ.
    pub const fn is_group1(self) -> bool {
        self.0 & Self::GROUP1 != 0
    }

    /// Returns the physical INTID that is deactivated with it.
    pub const fn physical(self) -> Option<u32> {
        if self.is_backed() { Some((self.0 >> Self::PHYSICAL_SHIFT) as u32 & 0x3ff) } else { None }
    }

    /// Says whether a physical interrupt is deactivated with it.
    pub const fn is_backed(self) -> bool {
        self.0 & Self::HARDWARE != 0
    }

    /// Says whether the deactivation raises a maintenance interrupt.
    pub const fn notifies(self) -> bool {
        !self.is_backed() && self.0 & Self::NOTIFY != 0
    }

    /// Returns the state.
    pub const fn state(self) -> State {
        State { pending: self.0 & Self::PENDING != 0, active: self.0 & Self::ACTIVE != 0 }
    }
}

impl fmt::Debug for ListRegister {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListRegister")
            .field("intid", &self.intid())
            .field("priority", &self.priority())
            .field("group1", &self.is_group1())
            .field("state", &self.state())
            .field("physical", &self.physical())
            .field("notifies", &self.notifies())
            .finish()
    }
}

/// A vCPU's virtual interface as hardware holds it, and as it is kept while the vCPU is not loaded.
///
/// The model reads and writes `lr`, `live` and `hcr`, and reads `vmcr`. The others it carries.
#[derive(Clone, Debug, Default)]
pub struct ListRegisters {
    /// `ICH_LR<n>_EL2`. Those from `live` on are 0.
    pub lr: [ListRegister; MAX_LIST_REGISTERS],
    /// How many of them, from the first, may hold something: no others need be read or written.
    pub live: usize,
    /// ICH_VMCR_EL2: the guest's masks and enables.
    pub vmcr: u64,
    /// ICH_HCR_EL2. In `fold` and `sync` its EOIcount is read; a fill writes all of it.
    pub hcr: u64,
    /// `ICH_AP0R<n>_EL2`.
    pub ap0r: [u64; 4],
    /// `ICH_AP1R<n>_EL2`.
    pub ap1r: [u64; 4],
    /// ICH_ELRSR_EL2, for diagnosis.
    pub elrsr: u64,
    /// ICH_EISR_EL2, for diagnosis.
    pub eisr: u64,
    /// ICH_MISR_EL2, for diagnosis.
    pub misr: u64,
}

impl ListRegisters {
    /// Takes EOIcount out of `hcr`.
    pub(super) fn take_eoi_count(&mut self) -> u32 {
        let count = (self.hcr >> hcr::EOI_COUNT_SHIFT) as u32 & 0x1f;
        self.hcr &= !(0x1f << hcr::EOI_COUNT_SHIFT);
        count
    }
}
