//! The physical GIC, whichever the machine has: a GICv3, or a GICv2 with the virtualization extensions.
//!
//! Interrupts are never taken at EL2 itself, where they stay masked: they end a guest's run or a WFI, and
//! then the CPU acknowledges them here. Completing is in two steps (EOImode is 1): the priority is dropped
//! at once, and what belongs to a guest stays active until the guest deactivates it.
#![expect(unsafe_code, reason = "passes the promise on that there is such a GIC")]

mod v2;
mod v3;

use crate::addr::{Pa, PaRange};
use crate::device::gic::{ListRegister, ListRegisters};
use sluice_platform::Gic;

/// The SGI by which CPUs have one another look at what changed.
pub const KICK: u32 = 0;
/// The PPI of the list registers' maintenance interrupt (BSA 1.0, B_PPI_00; so on all boards that are known here).
pub const MAINTENANCE: u32 = 25;

const PRIORITY: u8 = 0x80;

/// This CPU has no redistributor in the regions that the device tree names.
#[derive(Debug)]
pub struct NoInterface;

/// The virtual CPU interface of a vCPU as it is kept while the vCPU does not run.
#[derive(Clone, Debug, Default)]
pub struct VirtualInterface {
    /// ICH_VMCR_EL2 or GICH_VMCR, which have the same layout: masks, enables, binary points.
    pub control: u64,
    /// `ICH_AP0R<n>_EL2`, or GICH_APR in the first.
    pub active_group0: [u64; 4],
    /// `ICH_AP1R<n>_EL2`.
    pub active_group1: [u64; 4],
}

/// What a CPU has of the GIC for itself, beside the CPU interface.
#[derive(Copy, Clone, Debug)]
pub enum Private {
    /// What of the distributor is banked by CPU.
    V2,
    /// Its redistributor.
    V3(v3::Redistributor),
}

impl Private {
    /// Makes the private interrupt `intid` active or not, as it was for the vCPU that comes. To be called on the CPU
    /// whose it is.
    pub fn set_active(self, intid: u32, active: bool) {
        match self {
            Self::V2 => v2::set_active(intid, active),
            Self::V3(redistributor) => redistributor.set_active(intid, active),
        }
    }
}

/// Sets the distributor up: all shared interrupts disabled, groups on.
///
/// # Safety
///
/// There is such a GIC, its registers are mapped as a device, and nobody else drives it.
pub unsafe fn init_distributor(gic: &Gic) {
    // SAFETY: the caller's promise.
    unsafe {
        match gic {
            Gic::V2(gic) => v2::init_distributor(gic),
            Gic::V3(gic) => v3::init_distributor(Pa::new(gic.distributor.start)),
        }
    }
}

/// Sets up what this CPU has of the GIC, with the `ppis` enabled.
///
/// # Errors
///
/// [`NoInterface`] where it has nothing of it.
pub fn init_cpu(gic: &Gic, ppis: &[u32]) -> Result<Private, NoInterface> {
    match gic {
        Gic::V2(_) => v2::init_cpu(ppis).map(|()| Private::V2),
        Gic::V3(gic) => {
            let redistributor =
                v3::find_redistributor(gic.redistributors.iter().map(whole), gic.stride)?;
            redistributor.init_cpu(ppis);
            Ok(Private::V3(redistributor))
        }
    }
}

fn whole(range: &core::ops::Range<u64>) -> PaRange {
    Pa::new(range.start)..Pa::new(range.end)
}

/// Gives `device` the ranges of registers that EL2 uses.
pub fn registers(gic: &Gic, mut device: impl FnMut(PaRange)) {
    device(whole(gic.distributor()));
    match gic {
        Gic::V2(gic) => {
            device(whole(&gic.cpu_interface));
            device(whole(&gic.virtual_control));
        }
        // Which of them are the CPUs' is told by the redistributors alone: there may be more than CPUs are listed.
        Gic::V3(gic) => gic.redistributors.iter().for_each(|region| device(whole(region))),
    }
}

/// Returns where the CPU interface for guests is, of a GICv2: two pages. After [`init_distributor`].
pub fn guest_interface(gic: &Gic) -> Option<Pa> {
    match gic {
        Gic::V2(gic) => Some(v2::guest_interface(gic)),
        Gic::V3(_) => None,
    }
}

macro_rules! either {
    ($($(#[$attribute:meta])* pub fn $name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?;)*) => { $(
        $(#[$attribute])*
        pub fn $name($($argument: $type),*) $(-> $result)? {
            if v2::is_there() { v2::$name($($argument),*) } else { v3::$name($($argument),*) }
        }
    )* };
}

either! {
    /// Enables the level-sensitive shared interrupt `intid`, routed to this CPU.
    pub fn enable_shared(intid: u32);

    /// Acknowledges the interrupt that is pending for this CPU. Of an SGI on a GICv2, bits 12:10 beside its INTID
    /// say who sent it.
    #[inline(always)]
    pub fn acknowledge() -> Option<u32>;

    /// Drops the priority of an interrupt, as it was acknowledged on this CPU; it stays active.
    #[inline(always)]
    pub fn drop_priority(acknowledged: u32);

    /// Deactivates an interrupt, as it was acknowledged: it can become pending anew.
    #[inline(always)]
    pub fn deactivate(acknowledged: u32);

    /// Has the CPU with `affinity` look at what changed.
    pub fn kick(affinity: u64);

    /// The number of list registers, 1 to 16.
    pub fn list_registers() -> usize;

    /// Sets ICH_HCR_EL2 or GICH_HCR: bit 0 turns the virtual CPU interface on, the others ask for maintenance interrupts.
    #[inline(always)]
    pub fn set_virtual_control(value: u64);

    /// Takes the state of the virtual CPU interface of the vCPU that leaves.
    pub fn save(into: &mut VirtualInterface);

    /// Gives the state to the vCPU that comes.
    pub fn load(from: &VirtualInterface);

    /// Takes the list registers that may hold something from hardware, and what goes with them.
    #[inline]
    pub fn read_back(list: &mut ListRegisters);

    /// Writes the first `count` list registers.
    #[inline]
    pub fn write_out(registers: &[ListRegister], count: usize);
}
