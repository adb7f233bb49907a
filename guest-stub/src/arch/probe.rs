//! Accesses that may fault: a fault is an answer, not an end.
#![expect(unsafe_code, reason = "makes accesses that may fault, through assembly that recovers")]

use super::barrier::publish_instruction;
use core::arch::asm;
use core::fmt;

/// What the CPU said of a fault.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// ESR_EL1: what kind.
    pub esr: u64,
    /// FAR_EL1: where, for aborts.
    pub far: u64,
}

/// The classes of faults that tests tell apart.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Class {
    /// EC 0: an instruction or register that is not there; EC 0x18: an ID register that is not there, with FEAT_IDST.
    Undefined,
    /// EC 0x7, 0x19, 0x1d: CPACR_EL1, which is the stub's own, does not allow it.
    NotEnabled,
    /// A synchronous external abort (xFSC 0x10, or 0x14 to 0x17 on a walk).
    External,
    /// An alignment fault.
    Alignment,
    /// A translation fault of stage 1.
    Translation,
    /// Anything else.
    Other,
}

impl Fault {
    /// Returns the class of this fault (Arm ARM, ESR_EL1).
    pub fn class(self) -> Class {
        match (self.esr >> 26, self.esr & 0x3f) {
            (0 | 0x18, _) => Class::Undefined,
            (0x7 | 0x19 | 0x1d, _) => Class::NotEnabled,
            (0x20 | 0x21 | 0x24 | 0x25, 0x10 | 0x14..=0x17) => Class::External,
            (0x24 | 0x25, 0x21) => Class::Alignment,
            (0x20 | 0x21 | 0x24 | 0x25, 0x4..=0x7) => Class::Translation,
            _ => Class::Other,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.class() {
            Class::Undefined => f.write_str("undefined"),
            class => write!(f, "{class:?} fault, ESR {:#x}, FAR {:#x}", self.esr, self.far),
        }
    }
}

macro_rules! routines {
    ($($name:ident)*) => {
        unsafe extern "C" { $(fn $name();)* }
    };
}
routines!(probe_read_8 probe_read_16 probe_read_32 probe_read_64 probe_write_8 probe_write_16 probe_write_32
    probe_write_64 probe_read_pair probe_write_pair probe_read_indexed probe_exclusive probe_zero_line probe_clean_line
    probe_fetch_line probe_translate probe_execute probe_hvc probe_hvc_keeps
    probe_smc_keeps probe_hvc_other probe_smc probe_any);

/// What there is to try on an address.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Access {
    Read8,
    Read16,
    Read32,
    Read64,
    Write8,
    Write16,
    Write32,
    Write64,
    /// LDP of two registers: no syndrome that an emulator could use.
    ReadPair,
    /// STP of two registers.
    WritePair,
    /// LDR with write-back of the address: no syndrome either.
    ReadIndexed,
    /// LDXR.
    Exclusive,
    /// DC ZVA.
    ZeroLine,
    /// DC CIVAC.
    CleanLine,
    /// IC IVAU.
    FetchLine,
    /// AT S1E1R.
    Translate,
    /// A jump there; what is there has to be a `ret`.
    Execute,
}

impl Access {
    /// All that leaves the stub itself alone, even when it succeeds on a device.
    pub const ON_DEVICES: [Self; 15] = [
        Self::Read8,
        Self::Read16,
        Self::Read32,
        Self::Read64,
        Self::Write8,
        Self::Write16,
        Self::Write32,
        Self::Write64,
        Self::ReadPair,
        Self::WritePair,
        Self::ReadIndexed,
        Self::Exclusive,
        Self::ZeroLine,
        Self::CleanLine,
        Self::FetchLine,
    ];

    fn routine(self) -> unsafe extern "C" fn() {
        match self {
            Self::Read8 => probe_read_8,
            Self::Read16 => probe_read_16,
            Self::Read32 => probe_read_32,
            Self::Read64 => probe_read_64,
            Self::Write8 => probe_write_8,
            Self::Write16 => probe_write_16,
            Self::Write32 => probe_write_32,
            Self::Write64 => probe_write_64,
            Self::ReadPair => probe_read_pair,
            Self::WritePair => probe_write_pair,
            Self::ReadIndexed => probe_read_indexed,
            Self::Exclusive => probe_exclusive,
            Self::ZeroLine => probe_zero_line,
            Self::CleanLine => probe_clean_line,
            Self::FetchLine => probe_fetch_line,
            Self::Translate => probe_translate,
            Self::Execute => probe_execute,
        }
    }

    /// Makes this access at `address`, with `value` where it stores one.
    ///
    /// # Errors
    ///
    /// The [`Fault`] that the CPU took instead.
    #[inline(always)]
    pub fn at(self, address: u64, value: u64) -> Result<u64, Fault> {
        call(self.routine(), [address, value, 0, 0]).map(|results| results[0])
    }
}

#[inline(always)]
fn call(routine: unsafe extern "C" fn(), arguments: [u64; 4]) -> Result<[u64; 4], Fault> {
    let [mut x0, mut x1, mut x2, mut x3] = arguments;
    let esr: u64;
    let far: u64;
    // SAFETY: the routine is one instruction that either completes or is recovered from by the vectors; it touches the
    // stub's own memory only where its caller gave it such an address, and it uses no stack.
    unsafe {
        asm!(
            "blr {routine}",
            routine = in(reg) routine,
            inout("x0") x0, inout("x1") x1, inout("x2") x2, inout("x3") x3,
            out("x9") esr, out("x10") far,
            clobber_abi("C"),
        );
    }
    if esr == 0 { Ok([x0, x1, x2, x3]) } else { Err(Fault { esr, far }) }
}

/// Reads 8 bytes.
///
/// # Errors
///
/// The [`Fault`] that the CPU took instead.
#[inline(always)]
pub fn read(address: u64) -> Result<u64, Fault> {
    Access::Read64.at(address, 0)
}

/// Writes 8 bytes.
///
/// # Errors
///
/// The [`Fault`] that the CPU took instead.
#[inline(always)]
pub fn write(address: u64, value: u64) -> Result<(), Fault> {
    Access::Write64.at(address, value).map(|_| ())
}

/// The ways to call whoever is above EL1.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// HVC #0.
    Hvc,
    /// SMC #0.
    Smc,
    /// HVC with an immediate that SMCCC does not use.
    HvcOther,
}

/// Calls by the SMC Calling Convention: x0 to x3 there and back.
///
/// # Errors
///
/// The [`Fault`] where the instruction is undefined.
#[inline(always)]
pub fn firmware(conduit: Conduit, arguments: [u64; 4]) -> Result<[u64; 4], Fault> {
    match conduit {
        Conduit::Hvc => call(probe_hvc, arguments),
        Conduit::Smc => call(probe_smc, arguments),
        Conduit::HvcOther => call(probe_hvc_other, arguments),
    }
}

/// Calls a function and returns a mask of those of x4 to x8 and x11 to x17 that did not keep their value.
///
/// # Errors
///
/// The [`Fault`] where the instruction is undefined.
pub fn changed_registers(conduit: Conduit, function: u32) -> Result<u64, Fault> {
    let routine = if conduit == Conduit::Smc { probe_smc_keeps } else { probe_hvc_keeps };
    call(routine, [function.into(), 0, 0, 0]).map(|results| results[0])
}

/// Executes one instruction, with `x0` in x0, and returns x0. For instructions that neither branch nor touch registers
/// from x4 on; on one CPU at a time.
///
/// # Errors
///
/// The [`Fault`] that the CPU took instead.
pub fn instruction(encoding: u32, x0: u64) -> Result<u64, Fault> {
    let place = probe_any as *const () as *mut u32;
    // SAFETY: the place is the routine's own, in memory that stage 1 maps as writable, and is not being executed.
    unsafe { place.write_volatile(encoding) };
    publish_instruction(place.addr());
    call(probe_any, [x0, 0, 0, 0]).map(|results| results[0])
}

/// A system register by its encoding.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Register {
    /// op0, op1, CRn, CRm, op2.
    pub encoding: [u8; 5],
}

impl Register {
    /// Names a register by op0 (2 or 3), op1, CRn, CRm and op2.
    pub const fn new(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> Self {
        Self { encoding: [op0, op1, crn, crm, op2] }
    }

    fn bits(self) -> u32 {
        let [op0, op1, crn, crm, op2] = self.encoding.map(u32::from);
        (op0 & 3) << 19 | (op1 & 7) << 16 | (crn & 15) << 12 | (crm & 15) << 8 | (op2 & 7) << 5
    }

    /// Reads the register (MRS).
    ///
    /// # Errors
    ///
    /// The [`Fault`] where it is not there.
    pub fn read(self) -> Result<u64, Fault> {
        instruction(0xd520_0000 | self.bits(), 0)
    }

    /// Writes the register (MSR).
    ///
    /// # Errors
    ///
    /// The [`Fault`] where it is not there.
    pub fn write(self, value: u64) -> Result<(), Fault> {
        instruction(0xd500_0000 | self.bits(), value).map(|_| ())
    }
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [op0, op1, crn, crm, op2] = self.encoding;
        write!(f, "S{op0}_{op1}_C{crn}_C{crm}_{op2}")
    }
}
