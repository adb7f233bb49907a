//! A plain driver of GICv3 (IHI 0069), group 1, in one security state; or of GICv2 (IHI 0048), group 0.
#![expect(unsafe_code, reason = "reads and writes registers of the GIC")]

use crate::arch::barrier::{dsb, isb};
use crate::arch::{cpu, mmio};
use crate::machine::Machine;
use crate::memory::Range;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Registers of the distributor and, for interrupts below 32, of the second page pair of a redistributor.
pub mod register {
    pub const CTLR: u64 = 0x0;
    pub const TYPER: u64 = 0x4;
    pub const IGROUPR: u64 = 0x80;
    pub const ISENABLER: u64 = 0x100;
    pub const ICENABLER: u64 = 0x180;
    pub const ISPENDR: u64 = 0x200;
    pub const ICPENDR: u64 = 0x280;
    pub const ISACTIVER: u64 = 0x300;
    pub const ICACTIVER: u64 = 0x380;
    pub const IPRIORITYR: u64 = 0x400;
    /// Of a GICv2.
    pub const ITARGETSR: u64 = 0x800;
    pub const ICFGR: u64 = 0xc00;
    /// Of a GICv2.
    pub const SGIR: u64 = 0xf00;
    pub const IROUTER: u64 = 0x6000;
    pub const PIDR2: u64 = 0xffe8;
    /// PIDR2 of a GICv2.
    pub const PIDR2_V2: u64 = 0xfe8;
    /// GICR_TYPER, 64 bits.
    pub const GICR_TYPER: u64 = 0x8;
    pub const GICR_WAKER: u64 = 0x14;
}

/// Registers of the CPU interface of a GICv2.
mod interface {
    pub const CTLR: u64 = 0x0;
    pub const PMR: u64 = 0x4;
    pub const BPR: u64 = 0x8;
    pub const IAR: u64 = 0xc;
    pub const EOIR: u64 = 0x10;
    pub const RPR: u64 = 0x14;
}

/// The frame of SGIs and PPIs, after a redistributor's first.
const SGI_FRAME: u64 = 0x1_0000;
/// What a redistributor without virtual LPIs takes.
const REDISTRIBUTOR: u64 = 0x2_0000;
/// The priority of what has been given none.
pub const PRIORITY: u8 = 0xa0;
/// The first INTID that means that there is none.
const SPECIAL: u64 = 1020;

static DISTRIBUTOR: AtomicU64 = AtomicU64::new(0);
/// The CPU interface of a GICv2; 0 with a GICv3.
static CPU_INTERFACE: AtomicU64 = AtomicU64::new(0);
static MINE: [AtomicU64; cpu::MAX_CPUS] = [const { AtomicU64::new(0) }; cpu::MAX_CPUS];
static HANDLERS: [AtomicUsize; cpu::COUNTED_INTERRUPTS] =
    [const { AtomicUsize::new(0) }; cpu::COUNTED_INTERRUPTS];

/// Reads a 32-bit register of a device.
pub fn read(address: u64) -> u32 {
    mmio::read_32(address)
}

/// Writes a 32-bit register of a device.
pub fn write(address: u64, value: u32) {
    mmio::write_32(address, value)
}

/// Returns the base of the distributor.
pub fn distributor() -> u64 {
    DISTRIBUTOR.load(Ordering::Relaxed)
}

/// Returns the base of the CPU interface, if this is a GICv2.
fn cpu_interface() -> Option<u64> {
    Some(CPU_INTERFACE.load(Ordering::Relaxed)).filter(|&base| base != 0)
}

/// Says whether this is a GICv2.
pub fn is_v2() -> bool {
    cpu_interface().is_some()
}

/// Returns what each CPU has of its own: its redistributor, or its view of the CPU interface.
pub fn own_registers(machine: &Machine) -> Range {
    if is_v2() { machine.cpu_interface } else { Range::sized(redistributor(), REDISTRIBUTOR) }
}

/// Returns the base of this CPU's redistributor, of a GICv3.
pub fn redistributor() -> u64 {
    MINE[cpu::index()].load(Ordering::Relaxed)
}

/// Returns where the registers of `interrupt` are: the distributor, or this CPU's SGI frame.
pub fn bank(interrupt: u32) -> u64 {
    if interrupt < 32 && !is_v2() { redistributor() + SGI_FRAME } else { distributor() }
}

fn bit_register(interrupt: u32, register: u64) -> (u64, u32) {
    (bank(interrupt) + register + u64::from(interrupt / 32 * 4), 1 << (interrupt % 32))
}

/// Sets the bit of `interrupt` in a register of one bit each.
pub fn set_bit(interrupt: u32, register: u64) {
    let (address, bit) = bit_register(interrupt, register);
    write(address, bit);
}

/// Returns the bit of `interrupt` in a register of one bit each.
pub fn bit(interrupt: u32, register: u64) -> bool {
    let (address, bit) = bit_register(interrupt, register);
    read(address) & bit != 0
}

/// Sets the priority of `interrupt`, by a byte access.
pub fn set_priority(interrupt: u32, priority: u8) {
    let address = bank(interrupt) + register::IPRIORITYR + u64::from(interrupt);
    mmio::write_8(address, priority)
}

/// Returns the priority of `interrupt`.
pub fn priority(interrupt: u32) -> u8 {
    let address = bank(interrupt) + register::IPRIORITYR + u64::from(interrupt);
    mmio::read_8(address)
}

/// Sets whether an SPI or PPI is edge-triggered.
pub fn set_edge(interrupt: u32, edge: bool) {
    let address = bank(interrupt) + register::ICFGR + u64::from(interrupt / 16 * 4);
    let bit = 2 << (interrupt % 16 * 2);
    let value = read(address);
    write(address, if edge { value | bit } else { value & !bit });
}

/// Routes an SPI to the CPU of that affinity.
pub fn route(interrupt: u32, affinity: u64) {
    if is_v2() {
        let address = distributor() + register::ITARGETSR + u64::from(interrupt);
        return mmio::write_8(address, 1 << (affinity & 7));
    }
    let address = distributor() + register::IROUTER + u64::from(interrupt) * 8;
    mmio::write_64(address, affinity)
}

/// Lets `interrupt` call `handler`, to this CPU if it is an SPI, and enables it.
pub fn enable(interrupt: u32, handler: fn(u32)) {
    if let Some(place) = HANDLERS.get(interrupt as usize) {
        place.store(handler as *const () as usize, Ordering::Release);
    }
    if interrupt >= 32 {
        if !is_v2() {
            let (address, bit) = bit_register(interrupt, register::IGROUPR);
            write(address, read(address) | bit);
        }
        route(interrupt, cpu::affinity());
        set_priority(interrupt, PRIORITY);
    }
    set_bit(interrupt, register::ISENABLER);
    dsb();
}

/// Disables `interrupt` and drops it where it is pending.
pub fn disable(interrupt: u32) {
    set_bit(interrupt, register::ICENABLER);
    dsb();
    set_bit(interrupt, register::ICPENDR);
}

/// A handler that does nothing: the interrupt has been counted.
pub fn count_only(_: u32) {}

/// Sends SGI `number` (0 to 15) to the CPU of that affinity (ICC_SGI1R_EL1).
#[inline(always)]
pub fn send(number: u32, affinity: u64) {
    if is_v2() {
        dsb();
        return write(distributor() + register::SGIR, number | 1 << 16 << (affinity & 7));
    }
    let byte = |level: u32| (affinity >> level) & 0xff;
    let target = byte(0);
    let value = u64::from(number) << 24
        | byte(32) << 48
        | byte(16) << 32
        | byte(8) << 16
        | (target >> 4) << 44
        | 1 << (target & 0xf);
    dsb();
    msr!("S3_0_C12_C11_5", value);
}

/// Sends SGI `number` to all CPUs but this one.
pub fn send_to_others(number: u32) {
    dsb();
    if is_v2() {
        return write(distributor() + register::SGIR, number | 1 << 24);
    }
    msr!("S3_0_C12_C11_5", u64::from(number) << 24 | 1 << 40);
}

/// Masks interrupts of priority `mask` and less urgent ones (ICC_PMR_EL1).
pub fn set_mask(mask: u8) {
    if let Some(base) = cpu_interface() {
        return write(base + interface::PMR, mask.into());
    }
    msr!("S3_0_C4_C6_0", u64::from(mask));
}

/// Finds this CPU's redistributor by its affinity.
fn find_redistributor(machine: &Machine) -> Option<u64> {
    let mut base = machine.redistributors.start;
    let affinity = cpu::affinity();
    let wanted = affinity & 0xff_ffff | (affinity >> 32 & 0xff) << 24;
    while base < machine.redistributors.end {
        let low = read(base + register::GICR_TYPER);
        if u64::from(read(base + register::GICR_TYPER + 4)) == wanted {
            return Some(base);
        }
        // VLPIS doubles a redistributor, Last ends the list.
        base += if low & 2 != 0 { 2 * REDISTRIBUTOR } else { REDISTRIBUTOR };
        if low & 0x10 != 0 {
            break;
        }
    }
    None
}

/// Brings the distributor up. Once, before any [`init_cpu`].
pub fn init(machine: &Machine) {
    DISTRIBUTOR.store(machine.distributor.start, Ordering::Relaxed);
    CPU_INTERFACE.store(machine.cpu_interface.start, Ordering::Relaxed);
    let lines = 32 * ((read(distributor() + register::TYPER) & 0x1f) + 1);
    for word in 1..u64::from(lines / 32) {
        for register in [register::ICENABLER, register::ICPENDR, register::ICACTIVER] {
            write(distributor() + register + word * 4, !0);
        }
    }
    if is_v2() {
        return write(distributor() + register::CTLR, 1);
    }
    // Affinity routing, group 1; where there are two security states, bits of the other are ignored.
    write(distributor() + register::CTLR, 0x10);
    write(distributor() + register::CTLR, 0x12);
}

/// Disables, and sets the priorities of, the private interrupts in `frame`.
fn init_private(frame: u64) {
    write(frame + register::ICENABLER, !0);
    write(frame + register::ICPENDR, !0);
    write(frame + register::ICACTIVER, !0);
    for word in 0..8 {
        write(frame + register::IPRIORITYR + word * 4, u32::from(PRIORITY) * 0x0101_0101);
    }
    write(frame + register::ISENABLER, 0xffff);
}

/// Brings this CPU's part of the GIC up; interrupts remain masked. Returns whether it has one.
pub fn init_cpu(machine: &Machine) -> bool {
    if let Some(base) = cpu_interface() {
        init_private(distributor());
        set_mask(0xff);
        write(base + interface::BPR, 0);
        // Group 0, as IRQ; a write of EOIR also deactivates.
        write(base + interface::CTLR, 1);
        return true;
    }
    let Some(base) = find_redistributor(machine) else { return false };
    MINE[cpu::index()].store(base, Ordering::Relaxed);
    let waker = base + register::GICR_WAKER;
    write(waker, read(waker) & !2);
    while read(waker) & 4 != 0 {
        crate::arch::cpu::relax();
    }
    let frame = base + SGI_FRAME;
    write(frame + register::IGROUPR, !0);
    init_private(frame);
    msr!("S3_0_C12_C12_5", 1); // ICC_SRE_EL1
    set_mask(0xff);
    msr!("S3_0_C12_C8_3", 0); // ICC_BPR0_EL1
    msr!("S3_0_C12_C12_3", 0); // ICC_BPR1_EL1
    msr!("S3_0_C12_C12_4", 0); // ICC_CTLR_EL1: a write of EOIR also deactivates
    msr!("S3_0_C12_C12_7", 1); // ICC_IGRPEN1_EL1
    true
}

/// Takes whatever is pending: acknowledge, count, handle, end.
pub fn take() {
    loop {
        let interface = cpu_interface();
        let acknowledged = match interface {
            Some(base) => u64::from(read(base + interface::IAR)),
            None => mrs!("S3_0_C12_C12_0"), // ICC_IAR1_EL1
        };
        dsb();
        // Above it, a GICv2 says who sent an SGI.
        let interrupt = acknowledged & 0x3ff;
        if interrupt >= SPECIAL {
            return;
        }
        let this = cpu::this();
        let priority = match interface {
            Some(base) => read(base + interface::RPR),
            None => mrs!("S3_0_C12_C11_3") as u32,
        };
        this.running_priority.store(priority, Ordering::Relaxed);
        this.last_interrupt.store(interrupt as u32, Ordering::Relaxed);
        let handler =
            HANDLERS.get(interrupt as usize).map_or(0, |place| place.load(Ordering::Acquire));
        if handler != 0 {
            // SAFETY: only `enable` stores here, and only functions of this type.
            let handler: fn(u32) = unsafe { core::mem::transmute(handler) };
            handler(interrupt as u32);
        }
        if let Some(count) = this.interrupts.get(interrupt as usize) {
            count.fetch_add(1, Ordering::Release);
        }
        isb();
        match interface {
            Some(base) => write(base + interface::EOIR, acknowledged as u32),
            None => msr!("S3_0_C12_C12_1", acknowledged), // ICC_EOIR1_EL1
        }
    }
}
