//! The physical GICv2 (Arm IHI 0048) with the virtualization extensions, as GIC-400 has them: distributor, CPU
//! interface, and the control of the virtual CPU interface, which guests reach themselves (GICV).
//!
//! Where there are two security states, EL2 is Non-secure: it sees group 1 alone, as bit 0 of the control registers.
//! Where there is one, that bit is group 0, which all interrupts are in at reset. So both are driven alike.
#![expect(unsafe_code, reason = "drives the GIC's registers")]

use super::{KICK, NoInterface, PRIORITY, VirtualInterface};
use crate::addr::Pa;
use crate::arch::{barrier, cpu};
use crate::device::gic::{ListRegister, ListRegisters, MAX_LIST_REGISTERS};
use core::sync::atomic::{AtomicU64, Ordering};
use sluice_platform::GicV2;

/// Registers of the distributor.
mod gicd {
    pub const CTLR: u64 = 0x0;
    pub const TYPER: u64 = 0x4;
    pub const ISENABLER: u64 = 0x100;
    pub const ICENABLER: u64 = 0x180;
    pub const ICPENDR: u64 = 0x280;
    pub const ISACTIVER: u64 = 0x300;
    pub const ICACTIVER: u64 = 0x380;
    pub const IPRIORITYR: u64 = 0x400;
    pub const ITARGETSR: u64 = 0x800;
    pub const ICFGR: u64 = 0xc00;
    pub const SGIR: u64 = 0xf00;
}

/// Registers of the CPU interface.
mod gicc {
    pub const CTLR: u64 = 0x0;
    pub const PMR: u64 = 0x4;
    pub const BPR: u64 = 0x8;
    pub const IAR: u64 = 0xc;
    pub const EOIR: u64 = 0x10;
    pub const IIDR: u64 = 0xfc;
    /// In the second page.
    pub const DIR: u64 = 0x1000;
    /// GICC_CTLR: interrupts are signalled; a write of EOIR drops the priority alone.
    pub const ENABLE: u32 = 1;
    pub const EOI_MODE: u32 = 1 << 9;
}

/// Registers of the virtual CPU interface's control.
mod gich {
    pub const HCR: u64 = 0x0;
    pub const VTR: u64 = 0x4;
    pub const VMCR: u64 = 0x8;
    pub const APR: u64 = 0xf0;
    pub const LR: u64 = 0x100;
    /// What GICH_HCR has of the bits of ICH_HCR_EL2: enables, and EOICount.
    pub const HCR_BITS: u64 = 0xf800_00ff;
}

/// The INTIDs that mean that there is no interrupt.
const SPECIAL: u32 = 1020;

static DISTRIBUTOR: AtomicU64 = AtomicU64::new(0);
static CPU_INTERFACE: AtomicU64 = AtomicU64::new(0);
static VIRTUAL_CONTROL: AtomicU64 = AtomicU64::new(0);

/// The most CPU interfaces.
const INTERFACES: usize = 8;
/// The affinity of the CPU of each CPU interface, with [`KNOWN`] once that has come.
static AFFINITIES: [AtomicU64; INTERFACES] = [const { AtomicU64::new(0) }; INTERFACES];
/// No affinity has this bit.
const KNOWN: u64 = 1 << 63;

/// Says whether the machine has a GICv2.
#[inline(always)]
pub fn is_there() -> bool {
    VIRTUAL_CONTROL.load(Ordering::Relaxed) != 0
}

/// Reads a register of the block at `base`.
#[inline(always)]
fn read(base: &AtomicU64, register: u64) -> u32 {
    let address = base.load(Ordering::Relaxed) + register;
    // SAFETY: a register of the GIC, mapped as a device.
    unsafe { core::ptr::with_exposed_provenance::<u32>(address as usize).read_volatile() }
}

/// Writes a register of the block at `base`.
#[inline(always)]
fn write(base: &AtomicU64, register: u64, value: u32) {
    let address = base.load(Ordering::Relaxed) + register;
    // SAFETY: as for reads.
    unsafe { core::ptr::with_exposed_provenance_mut::<u32>(address as usize).write_volatile(value) }
}

/// Writes one byte of a register of a byte for each interrupt.
fn write_byte(base: &AtomicU64, register: u64, value: u8) {
    let address = base.load(Ordering::Relaxed) + register;
    // SAFETY: as for reads.
    unsafe { core::ptr::with_exposed_provenance_mut::<u8>(address as usize).write_volatile(value) }
}

/// Returns where the two pages of the CPU interface in `range` begin as one. Where each is repeated over 64 KiB, for
/// the sake of large pages, the last copy of the first lies before the first copy of the second.
fn adjoining(range: &core::ops::Range<u64>) -> u64 {
    const COPIES: u64 = 0x1_0000;
    const LAST: u64 = COPIES - 0x1000;
    let size = range.end - range.start;
    let at = |base: u64| read(&AtomicU64::new(base), gicc::IIDR);
    if size >= 2 * COPIES && at(range.start) == at(range.start + LAST) {
        range.start + LAST
    } else {
        range.start
    }
}

/// Sets the distributor up: all shared interrupts disabled and routed to nobody, forwarding on.
///
/// # Safety
///
/// There is such a GIC, its registers are mapped as devices, and nobody else drives it.
pub unsafe fn init_distributor(gic: &GicV2) {
    DISTRIBUTOR.store(gic.distributor.start, Ordering::Relaxed);
    CPU_INTERFACE.store(adjoining(&gic.cpu_interface), Ordering::Relaxed);
    VIRTUAL_CONTROL.store(gic.virtual_control.start, Ordering::Relaxed);
    write(&DISTRIBUTOR, gicd::CTLR, 0);
    let words = u64::from(read(&DISTRIBUTOR, gicd::TYPER) & 0x1f) + 1;
    for word in 1..words {
        for register in [gicd::ICENABLER, gicd::ICPENDR, gicd::ICACTIVER] {
            write(&DISTRIBUTOR, register + word * 4, !0);
        }
    }
    write(&DISTRIBUTOR, gicd::CTLR, 1);
}

/// Returns where the two pages of GICV begin, which is made like GICC.
pub fn guest_interface(gic: &GicV2) -> Pa {
    let offset = CPU_INTERFACE.load(Ordering::Relaxed) - gic.cpu_interface.start;
    Pa::new(gic.virtual_interface.start + offset)
}

/// Sets up what of the distributor is banked for this CPU, and its CPU interface, with the `ppis` enabled.
///
/// # Errors
///
/// [`NoInterface`] where this CPU has none of the eight.
pub fn init_cpu(ppis: &[u32]) -> Result<(), NoInterface> {
    // Each byte has the bit of the CPU that reads it; with a single CPU, none.
    let own = read(&DISTRIBUTOR, gicd::ITARGETSR) & 0xff;
    let interface = if own == 0 { 0 } else { own.trailing_zeros() as usize };
    let place = AFFINITIES.get(interface).ok_or(NoInterface)?;
    place.store(KNOWN | cpu::affinity(), Ordering::Release);
    write(&DISTRIBUTOR, gicd::ICENABLER, !0);
    write(&DISTRIBUTOR, gicd::ICACTIVER, !0);
    for &ppi in ppis {
        write_byte(&DISTRIBUTOR, gicd::IPRIORITYR + u64::from(ppi), PRIORITY);
        write(&DISTRIBUTOR, gicd::ISENABLER, 1 << ppi);
    }
    write(&CPU_INTERFACE, gicc::PMR, 0xff);
    write(&CPU_INTERFACE, gicc::BPR, 0);
    write(&CPU_INTERFACE, gicc::CTLR, gicc::ENABLE | gicc::EOI_MODE);
    write(&VIRTUAL_CONTROL, gich::HCR, 0);
    barrier::isb();
    Ok(())
}

/// Makes the private interrupt `intid` of this CPU active or not.
pub fn set_active(intid: u32, active: bool) {
    let register = if active { gicd::ISACTIVER } else { gicd::ICACTIVER };
    write(&DISTRIBUTOR, register, 1 << intid);
}

pub fn enable_shared(intid: u32) {
    let own = read(&DISTRIBUTOR, gicd::ITARGETSR) as u8;
    write_byte(&DISTRIBUTOR, gicd::IPRIORITYR + u64::from(intid), PRIORITY);
    write_byte(&DISTRIBUTOR, gicd::ITARGETSR + u64::from(intid), own);
    let configuration = gicd::ICFGR + u64::from(intid / 16 * 4);
    let edge = 2 << (intid % 16 * 2);
    write(&DISTRIBUTOR, configuration, read(&DISTRIBUTOR, configuration) & !edge);
    write(&DISTRIBUTOR, gicd::ISENABLER + u64::from(intid / 32 * 4), 1 << (intid % 32));
}

#[inline]
pub fn acknowledge() -> Option<u32> {
    let acknowledged = read(&CPU_INTERFACE, gicc::IAR);
    (acknowledged & 0x3ff < SPECIAL).then_some(acknowledged)
}

#[inline]
pub fn drop_priority(acknowledged: u32) {
    write(&CPU_INTERFACE, gicc::EOIR, acknowledged);
}

#[inline]
pub fn deactivate(acknowledged: u32) {
    write(&CPU_INTERFACE, gicc::DIR, acknowledged);
}

pub fn kick(affinity: u64) {
    let is = |place: &AtomicU64| place.load(Ordering::Acquire) == KNOWN | affinity;
    // A CPU that has not come will look by itself.
    let Some(interface) = AFFINITIES.iter().position(is) else { return };
    barrier::dsb_ishst();
    write(&DISTRIBUTOR, gicd::SGIR, 1 << 16 << interface | KICK);
}

pub fn list_registers() -> usize {
    ((read(&VIRTUAL_CONTROL, gich::VTR) & 0x3f) as usize + 1).min(MAX_LIST_REGISTERS)
}

#[inline]
pub fn set_virtual_control(value: u64) {
    write(&VIRTUAL_CONTROL, gich::HCR, (value & gich::HCR_BITS) as u32);
}

pub fn save(into: &mut VirtualInterface) {
    into.control = read(&VIRTUAL_CONTROL, gich::VMCR).into();
    into.active_group0[0] = read(&VIRTUAL_CONTROL, gich::APR).into();
}

pub fn load(from: &VirtualInterface) {
    write(&VIRTUAL_CONTROL, gich::VMCR, from.control as u32);
    write(&VIRTUAL_CONTROL, gich::APR, from.active_group0[0] as u32);
}

pub fn read_back(list: &mut ListRegisters) {
    for (place, register) in (gich::LR..).step_by(4).zip(&mut list.lr).take(list.live) {
        *register = ListRegister::from_gicv2(read(&VIRTUAL_CONTROL, place));
    }
    list.hcr = read(&VIRTUAL_CONTROL, gich::HCR).into();
    list.vmcr = read(&VIRTUAL_CONTROL, gich::VMCR).into();
}

pub fn write_out(registers: &[ListRegister], count: usize) {
    for (place, register) in (gich::LR..).step_by(4).zip(registers).take(count) {
        write(&VIRTUAL_CONTROL, place, register.to_gicv2());
    }
}
