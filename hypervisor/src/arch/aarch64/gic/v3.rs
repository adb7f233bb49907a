//! The physical GICv3 (Arm IHI 0069): the distributor, each CPU's redistributor and CPU interface, and
//! the list registers of the CPU that runs a guest.
#![expect(unsafe_code, reason = "drives the GIC's registers")]

use super::{KICK, NoInterface, PRIORITY, VirtualInterface};
use crate::addr::{Pa, PaRange};
use crate::arch::{barrier, cpu};
use crate::device::gic::{ListRegister, ListRegisters};
use arm_gic::gicv3::registers::{Gicd, GicrSgi};
use arm_gic::gicv3::{GicCpuInterface, GicDistributor, GicRedistributor};
use arm_gic::{IntId, Trigger, UniqueMmioPointer};
use core::ptr::NonNull;
use spin::Mutex;

static DISTRIBUTOR: Mutex<Option<GicDistributor<'static>>> = Mutex::new(None);

fn pointer<T>(pa: Pa) -> Option<NonNull<T>> {
    NonNull::new(core::ptr::with_exposed_provenance_mut(pa.as_u64() as usize))
}

/// Sets the distributor up: affinity routing, all shared interrupts disabled, group 1 on.
///
/// # Safety
///
/// There is a GICv3 distributor at `base`, mapped as a device, and nobody else drives it.
pub unsafe fn init_distributor(base: Pa) {
    let Some(registers) = pointer::<Gicd>(base) else { return };
    // SAFETY: the caller's promise.
    let mut distributor = GicDistributor::new(unsafe { UniqueMmioPointer::new(registers) });
    distributor.configure_default_settings();
    distributor.enable_affinity_routing_non_secure(true);
    distributor.enable_group1_non_secure(true);
    distributor.enable_group0(true);
    *DISTRIBUTOR.lock() = Some(distributor);
}

/// Enables the level-sensitive shared interrupt `intid`, routed to this CPU.
pub fn enable_shared(intid: u32) {
    if let Some(distributor) = DISTRIBUTOR.lock().as_mut()
        && let Some(spi) = intid.checked_sub(32)
    {
        let intid = IntId::spi(spi);
        // These fail for interrupts that the GIC has not, which then stay as they are.
        let _ = distributor.set_interrupt_priority(intid, PRIORITY);
        let _ = distributor.set_trigger(intid, Trigger::Level);
        let _ = distributor.set_routing(intid, Some(cpu::affinity()));
        let _ = distributor.enable_interrupt(intid, true);
    }
}

/// The offset of GICR_TYPER, whose bits 63:32 hold the affinity and bit 4 says that it is the last.
const GICR_TYPER: u64 = 8;
/// GICR_ISACTIVER0 and GICR_ICACTIVER0, in the SGI frame.
const GICR_ISACTIVER0: u64 = 0x1_0300;
const GICR_ICACTIVER0: u64 = 0x1_0380;

/// A CPU's redistributor.
#[derive(Copy, Clone, Debug)]
pub struct Redistributor(Pa);

/// Finds this CPU's redistributor in `regions`, whose frames are `stride` bytes apart.
///
/// # Errors
///
/// [`NoInterface`] where none has this CPU's affinity.
pub fn find_redistributor(
    regions: impl Iterator<Item = PaRange>,
    stride: u64,
) -> Result<Redistributor, NoInterface> {
    let affinity = cpu::affinity();
    let packed = (affinity >> 32) << 24 | (affinity & 0xff_ffff);
    for region in regions {
        let mut base = region.start;
        while base < region.end {
            let typer = read64(Pa::new(base.as_u64() + GICR_TYPER));
            if typer >> 32 == packed {
                return Ok(Redistributor(base));
            }
            if typer & 1 << 4 != 0 {
                break;
            }
            base = Pa::new(base.as_u64() + stride);
        }
    }
    Err(NoInterface)
}

fn read64(register: Pa) -> u64 {
    let register = core::ptr::with_exposed_provenance::<u64>(register.as_u64() as usize);
    // SAFETY: a register of the redistributor, mapped as a device.
    unsafe { register.read_volatile() }
}

impl Redistributor {
    /// Sets this CPU's redistributor and CPU interface up, with the `ppis` enabled.
    pub fn init_cpu(self, ppis: &[u32]) {
        GicCpuInterface::enable_system_register_el2(true);
        barrier::isb();
        if let Some(registers) = pointer::<GicrSgi>(self.0) {
            // SAFETY: it is this CPU's own redistributor; nobody else drives it.
            let registers = unsafe { UniqueMmioPointer::new(registers) };
            let mut redistributor = GicRedistributor::new(registers);
            // A core that is awake already is what is wanted.
            let _ = redistributor.mark_core_awake();
            redistributor.configure_default_settings();
            for &ppi in ppis {
                let intid = if ppi < 16 { IntId::sgi(ppi) } else { IntId::ppi(ppi - 16) };
                // PPIs 16 to 31 are always there.
                let _ = redistributor.set_interrupt_priority(intid, PRIORITY);
                let _ = redistributor.enable_interrupt(intid, true);
            }
        }
        GicCpuInterface::set_priority_mask(0xff);
        // SAFETY: EOImode alone; EL2 completes interrupts in two steps.
        unsafe { msr!("ICC_CTLR_EL1", 1 << 1) };
        GicCpuInterface::enable_group1(true);
        barrier::isb();
    }

    /// Makes the private interrupt `intid` active or not, as it was for the vCPU that comes.
    pub fn set_active(self, intid: u32, active: bool) {
        let offset = if active { GICR_ISACTIVER0 } else { GICR_ICACTIVER0 };
        let register = (self.0.as_u64() + offset) as usize;
        let register = core::ptr::with_exposed_provenance_mut::<u32>(register);
        // SAFETY: a register of the redistributor, mapped as a device.
        unsafe { register.write_volatile(1 << intid) };
    }
}

/// Acknowledges the interrupt that is pending for this CPU.
#[inline(always)]
pub fn acknowledge() -> Option<u32> {
    let intid = mrs!("ICC_IAR1_EL1") as u32;
    (intid < 1020).then_some(intid)
}

/// Drops the priority of an acknowledged interrupt, which stays active.
#[inline(always)]
pub fn drop_priority(intid: u32) {
    // SAFETY: the interrupt was acknowledged on this CPU.
    unsafe { msr!("ICC_EOIR1_EL1", u64::from(intid)) };
}

/// Deactivates an interrupt: it can become pending anew.
#[inline(always)]
pub fn deactivate(intid: u32) {
    // SAFETY: at worst the interrupt comes once more.
    unsafe { msr!("ICC_DIR_EL1", u64::from(intid)) };
}

/// Has the CPU with `affinity` look at what changed.
pub fn kick(affinity: u64) {
    let aff0 = affinity & 0xff;
    let range = aff0 >> 4;
    let value = (affinity >> 32 & 0xff) << 48
        | range << 44
        | (affinity >> 16 & 0xff) << 32
        | u64::from(KICK) << 24
        | (affinity >> 8 & 0xff) << 16
        | 1 << (aff0 & 0xf);
    barrier::dsb_ishst();
    // SAFETY: an SGI to one of our CPUs.
    unsafe { msr!("ICC_SGI1R_EL1", value) };
    barrier::isb();
}

/// The number of list registers: ICH_VTR_EL2.ListRegs + 1.
pub fn list_registers() -> usize {
    (mrs!("ICH_VTR_EL2") & 0x1f) as usize + 1
}

/// The number of active priority registers of each group, 1, 2 or 4: by ICH_VTR_EL2.PREbits.
fn active_priority_registers() -> usize {
    match (mrs!("ICH_VTR_EL2") >> 26) & 7 {
        6 => 4,
        5 => 2,
        _ => 1,
    }
}

macro_rules! by_index {
    ($index:expr, mrs, $($number:literal => $name:literal),+) => {
        match $index {
            $($number => mrs!($name),)+
            _ => unreachable!("an index beyond what the GIC can have"),
        }
    };
    ($index:expr, msr($value:expr), $($number:literal => $name:literal),+) => {
        match $index {
            $($number => msr!($name, $value),)+
            _ => unreachable!("an index beyond what the GIC can have"),
        }
    };
}

/// Reads list register `index`, below [`list_registers`].
#[inline]
fn read_list_register(index: usize) -> ListRegister {
    let bits = by_index!(index, mrs,
        0 => "ICH_LR0_EL2", 1 => "ICH_LR1_EL2", 2 => "ICH_LR2_EL2", 3 => "ICH_LR3_EL2",
        4 => "ICH_LR4_EL2", 5 => "ICH_LR5_EL2", 6 => "ICH_LR6_EL2", 7 => "ICH_LR7_EL2",
        8 => "ICH_LR8_EL2", 9 => "ICH_LR9_EL2", 10 => "ICH_LR10_EL2", 11 => "ICH_LR11_EL2",
        12 => "ICH_LR12_EL2", 13 => "ICH_LR13_EL2", 14 => "ICH_LR14_EL2", 15 => "ICH_LR15_EL2");
    ListRegister::new(bits)
}

/// Writes list register `index`, below [`list_registers`].
#[inline]
fn write_list_register(index: usize, value: ListRegister) {
    let value = value.bits();
    // SAFETY: a list register governs the interrupts of the guest alone.
    unsafe {
        by_index!(index, msr(value),
            0 => "ICH_LR0_EL2", 1 => "ICH_LR1_EL2", 2 => "ICH_LR2_EL2", 3 => "ICH_LR3_EL2",
            4 => "ICH_LR4_EL2", 5 => "ICH_LR5_EL2", 6 => "ICH_LR6_EL2", 7 => "ICH_LR7_EL2",
            8 => "ICH_LR8_EL2", 9 => "ICH_LR9_EL2", 10 => "ICH_LR10_EL2", 11 => "ICH_LR11_EL2",
            12 => "ICH_LR12_EL2", 13 => "ICH_LR13_EL2", 14 => "ICH_LR14_EL2", 15 => "ICH_LR15_EL2")
    }
}

/// Sets ICH_HCR_EL2: bit 0 turns the virtual CPU interface on, the others ask for maintenance interrupts.
#[inline(always)]
pub fn set_virtual_control(value: u64) {
    // SAFETY: it governs the interrupts of the guest alone.
    unsafe { msr!("ICH_HCR_EL2", value) };
}

/// Takes the state of the virtual CPU interface of the vCPU that leaves.
pub fn save(into: &mut VirtualInterface) {
    into.control = mrs!("ICH_VMCR_EL2");
    for index in 0..active_priority_registers() {
        into.active_group0[index] = by_index!(index, mrs,
            0 => "ICH_AP0R0_EL2", 1 => "ICH_AP0R1_EL2", 2 => "ICH_AP0R2_EL2", 3 => "ICH_AP0R3_EL2");
        into.active_group1[index] = by_index!(index, mrs,
            0 => "ICH_AP1R0_EL2", 1 => "ICH_AP1R1_EL2", 2 => "ICH_AP1R2_EL2", 3 => "ICH_AP1R3_EL2");
    }
}

/// Gives the state to the vCPU that comes.
pub fn load(from: &VirtualInterface) {
    // SAFETY: these govern the interrupts of the guest alone.
    unsafe {
        msr!("ICH_VMCR_EL2", from.control);
        for index in 0..active_priority_registers() {
            by_index!(index, msr(from.active_group0[index]),
                0 => "ICH_AP0R0_EL2", 1 => "ICH_AP0R1_EL2", 2 => "ICH_AP0R2_EL2", 3 => "ICH_AP0R3_EL2");
            by_index!(index, msr(from.active_group1[index]),
                0 => "ICH_AP1R0_EL2", 1 => "ICH_AP1R1_EL2", 2 => "ICH_AP1R2_EL2", 3 => "ICH_AP1R3_EL2");
        }
    }
}

#[inline(always)]
pub fn read_back(list: &mut ListRegisters) {
    for (index, register) in list.lr.iter_mut().enumerate().take(list.live) {
        *register = read_list_register(index);
    }
    list.hcr = mrs!("ICH_HCR_EL2");
    list.vmcr = mrs!("ICH_VMCR_EL2");
}

#[inline(always)]
pub fn write_out(registers: &[ListRegister], count: usize) {
    for (index, &register) in registers.iter().enumerate().take(count) {
        write_list_register(index, register);
    }
}
