//! Into a guest and out again; and faults of our own.
#![expect(unsafe_code, reason = "runs guests, is called from the vectors")]

use alloc::sync::Arc;
use core::ffi::c_void;

use aarch64_cpu::registers::{ELR_EL2, ESR_EL2, FAR_EL2, HPFAR_EL2, Readable, SPSR_EL2, Writeable};

/// The general-purpose registers of a vCPU. The order is `entry.S`'s.
#[repr(C, align(16))]
pub struct GuestRegisters {
    /// x0 to x30.
    pub x: [u64; 31],
    /// Whose registers these are, for [`crate::exit::fast`].
    pub whose: Option<Arc<crate::exit::fast::Whose>>,
}

#[unsafe(no_mangle)]
extern "C" fn fast_exit(registers: &mut GuestRegisters) -> bool {
    crate::exit::fast::handle(registers)
}

unsafe extern "C" {
    fn enter_guest(registers: *mut c_void) -> u64;
}

/// Which vector a guest came out by.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Vector {
    /// Something that an instruction of the guest did; ESR_EL2 says what.
    Synchronous,
    /// A physical interrupt.
    Irq,
    /// A physical fast interrupt.
    Fiq,
    /// A physical SError.
    SError,
}

/// Runs the guest whose context is loaded until it comes out.
///
/// # Safety
///
/// The vCPU's registers, its VTTBR_EL2 and the trap controls are loaded: the guest reaches nothing but its own.
#[inline(always)]
pub unsafe fn run(registers: &mut GuestRegisters) -> Vector {
    // SAFETY: the caller's promise; `enter_guest` keeps to the calling convention.
    match unsafe { enter_guest(core::ptr::from_mut(registers).cast()) } {
        0 => Vector::Synchronous,
        1 => Vector::Irq,
        2 => Vector::Fiq,
        _ => Vector::SError,
    }
}

/// The syndrome of the last exit: ESR_EL2.
#[inline(always)]
pub fn syndrome() -> u64 {
    ESR_EL2.get()
}

/// The faulting virtual address of the last exit: FAR_EL2.
pub fn fault_address() -> u64 {
    FAR_EL2.get()
}

/// The faulting page's IPA: HPFAR_EL2.FIPA, bits 47:12 of the address in bits 43:4.
pub fn fault_page() -> crate::addr::Ipa {
    crate::addr::Ipa::from_page((HPFAR_EL2.get() >> 4) & 0xf_ffff_ffff)
}

/// The guest's program counter: ELR_EL2.
#[inline(always)]
pub fn guest_pc() -> u64 {
    ELR_EL2.get()
}

/// Sets the guest's program counter.
#[inline(always)]
pub fn set_guest_pc(pc: u64) {
    ELR_EL2.set(pc);
}

/// The guest's processor state: SPSR_EL2.
#[inline(always)]
pub fn guest_pstate() -> u64 {
    SPSR_EL2.get()
}

/// Sets the guest's processor state.
#[inline(always)]
pub fn set_guest_pstate(pstate: u64) {
    SPSR_EL2.set(pstate);
}

/// The registers at a fault of our own. The order is `entry.S`'s.
#[repr(C)]
pub struct OwnRegisters {
    /// x0 to x30.
    pub x: [u64; 31],
    /// The stack pointer.
    pub sp: u64,
    /// Where it happened: ELR_EL2.
    pub pc: u64,
    /// SPSR_EL2.
    pub pstate: u64,
    /// ESR_EL2.
    pub syndrome: u64,
    /// FAR_EL2.
    pub fault_address: u64,
}

#[unsafe(no_mangle)]
extern "C" fn own_fault(kind: u64, registers: *const OwnRegisters) -> ! {
    // SAFETY: the vectors pass the address of what they have just stored.
    crate::panic::own_fault(kind, unsafe { &*registers })
}
