//! What belongs to a vCPU in the system registers and in the FP/SIMD registers: saved and loaded when a CPU
//! changes vCPUs, and not otherwise.
#![expect(unsafe_code, reason = "writes EL1's registers and the traps that hold a guest")]

use super::time::GuestTimers;
use crate::trace::{self, Register};
use aarch64_cpu::registers::{ELR_EL2, Readable, SPSR_EL2, VTTBR_EL2, Writeable};
use core::arch::asm;

macro_rules! registers {
    ($($(#[$doc:meta])* $field:ident = $name:literal,)+) => {
        /// EL1's and EL0's system registers of a vCPU.
        #[derive(Clone, Debug, Default)]
        pub struct SystemRegisters {
            $($(#[$doc])* pub $field: u64,)+
        }

        impl SystemRegisters {
            fn save(&mut self) {
                $(self.$field = mrs!($name);)+
            }

            fn load(&self) {
                // SAFETY: no register of these governs EL2.
                unsafe { $(msr!($name, self.$field);)+ }
            }
        }
    };
}

registers! {
    /// System control; the reset value has the MMU and caches off.
    sctlr = "SCTLR_EL1",
    /// Trap control of FP/SIMD.
    cpacr = "CPACR_EL1",
    /// Translation control.
    tcr = "TCR_EL1",
    /// Lower table base.
    ttbr0 = "TTBR0_EL1",
    /// Upper table base.
    ttbr1 = "TTBR1_EL1",
    /// Memory attributes.
    mair = "MAIR_EL1",
    /// Auxiliary memory attributes.
    amair = "AMAIR_EL1",
    /// Vectors.
    vbar = "VBAR_EL1",
    /// Syndrome.
    esr = "ESR_EL1",
    /// Fault address.
    far = "FAR_EL1",
    /// Auxiliary fault status 0.
    afsr0 = "AFSR0_EL1",
    /// Auxiliary fault status 1.
    afsr1 = "AFSR1_EL1",
    /// Context identifier.
    contextidr = "CONTEXTIDR_EL1",
    /// Thread pointer of EL0.
    tpidr_el0 = "TPIDR_EL0",
    /// Read-only thread pointer of EL0.
    tpidrro_el0 = "TPIDRRO_EL0",
    /// Thread pointer of EL1.
    tpidr_el1 = "TPIDR_EL1",
    /// Stack pointer of EL0.
    sp_el0 = "SP_EL0",
    /// Stack pointer of EL1.
    sp_el1 = "SP_EL1",
    /// Where an exception to EL1 returns to.
    elr = "ELR_EL1",
    /// The state it returns with.
    spsr = "SPSR_EL1",
    /// Result of address translation instructions.
    par = "PAR_EL1",
    /// Cache size selection.
    csselr = "CSSELR_EL1",
    /// EL0's access to counters and timers.
    cntkctl = "CNTKCTL_EL1",
}

/// The FP/SIMD registers of a vCPU.
#[derive(Clone, Debug, Default)]
#[repr(C, align(16))]
pub struct FloatingPoint {
    /// V0 to V31, 128 bits each.
    v: [u128; 32],
    fpcr: u64,
    fpsr: u64,
}

impl FloatingPoint {
    fn save(&mut self) {
        let at = self.v.as_mut_ptr();
        // SAFETY: stores the 512 bytes of `v`.
        unsafe {
            asm!(
                ".arch_extension fp", ".arch_extension simd",
                "stp q0, q1, [{at}]", "stp q2, q3, [{at}, #32]",
                "stp q4, q5, [{at}, #64]", "stp q6, q7, [{at}, #96]",
                "stp q8, q9, [{at}, #128]", "stp q10, q11, [{at}, #160]",
                "stp q12, q13, [{at}, #192]", "stp q14, q15, [{at}, #224]",
                "stp q16, q17, [{at}, #256]", "stp q18, q19, [{at}, #288]",
                "stp q20, q21, [{at}, #320]", "stp q22, q23, [{at}, #352]",
                "stp q24, q25, [{at}, #384]", "stp q26, q27, [{at}, #416]",
                "stp q28, q29, [{at}, #448]", "stp q30, q31, [{at}, #480]",
                at = in(reg) at, options(nostack, preserves_flags),
            );
        }
        self.fpcr = mrs!("S3_3_C4_C4_0");
        self.fpsr = mrs!("S3_3_C4_C4_1");
    }

    fn load(&self) {
        let at = self.v.as_ptr();
        // SAFETY: EL2 is built without FP: the registers are the guest's alone.
        unsafe {
            asm!(
                ".arch_extension fp", ".arch_extension simd",
                "ldp q0, q1, [{at}]", "ldp q2, q3, [{at}, #32]",
                "ldp q4, q5, [{at}, #64]", "ldp q6, q7, [{at}, #96]",
                "ldp q8, q9, [{at}, #128]", "ldp q10, q11, [{at}, #160]",
                "ldp q12, q13, [{at}, #192]", "ldp q14, q15, [{at}, #224]",
                "ldp q16, q17, [{at}, #256]", "ldp q18, q19, [{at}, #288]",
                "ldp q20, q21, [{at}, #320]", "ldp q22, q23, [{at}, #352]",
                "ldp q24, q25, [{at}, #384]", "ldp q26, q27, [{at}, #416]",
                "ldp q28, q29, [{at}, #448]", "ldp q30, q31, [{at}, #480]",
                at = in(reg) at, options(nostack, preserves_flags),
            );
            msr!("S3_3_C4_C4_0", self.fpcr);
            msr!("S3_3_C4_C4_1", self.fpsr);
        }
    }
}

/// All that a vCPU has in registers but x0 to x30 and its interrupts.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// EL1's and EL0's system registers.
    pub system: SystemRegisters,
    /// FP/SIMD.
    pub floating_point: FloatingPoint,
    /// The virtual and the physical timer.
    pub timers: GuestTimers,
    /// The program counter.
    pub pc: u64,
    /// The processor state, as in SPSR_EL2.
    pub pstate: u64,
    /// What MPIDR_EL1 reads: VMPIDR_EL2.
    pub mpidr: u64,
}

/// SCTLR_EL1 at reset: everything off, RES1 bits set (Arm ARM, D24.2.175).
const SCTLR_EL1_RESET: u64 = 0x30d0_0800;
/// EL1h with all exceptions masked.
const PSTATE_RESET: u64 = 0x3c5;

impl Context {
    /// Makes the context of a vCPU that is turned on at `pc`, as PSCI CPU_ON demands (PSCI 1.1, section 6.4).
    pub fn reset(mpidr: u64, pc: u64) -> Self {
        let mut context = Self { pc, pstate: PSTATE_RESET, mpidr, ..Self::default() };
        context.system.sctlr = SCTLR_EL1_RESET;
        context
    }

    /// Takes the context of the vCPU that leaves this CPU.
    pub fn save(&mut self) {
        self.system.save();
        self.floating_point.save();
        self.timers = GuestTimers::save();
        self.pc = ELR_EL2.get();
        self.pstate = SPSR_EL2.get();
    }

    /// Gives this CPU to the vCPU, whose stage 2 is `vttbr`.
    pub fn load(&self, vttbr: u64) {
        self.system.load();
        self.floating_point.load();
        self.timers.load();
        ELR_EL2.set(self.pc);
        SPSR_EL2.set(self.pstate);
        // SAFETY: it is what the guest reads of its own affinity.
        unsafe { msr!("VMPIDR_EL2", self.mpidr) };
        set_stage2(vttbr);
    }
}

/// Makes `vttbr` the stage 2 of what runs next on this CPU.
#[inline(always)]
pub fn set_stage2(vttbr: u64) {
    VTTBR_EL2.set(vttbr);
    trace::sysreg_write(Register::Vttbr, vttbr);
    super::barrier::isb();
}

/// HCR_EL2 while a guest runs: stage 2, AArch64, physical interrupts to EL2, WFI, SMC, ID registers, implementation
/// defined registers and auxiliary control trapped; set/way invalidation made clean and invalidate; TLB
/// maintenance broadcast, as a vCPU may change CPUs.
const HCR_GUEST: u64 = 1 // VM
    | 1 << 1 // SWIO
    | 1 << 3 // FMO
    | 1 << 4 // IMO
    | 1 << 5 // AMO
    | 1 << 9 // FB
    | 1 << 10 // BSU: inner shareable
    | 1 << 13 // TWI
    | 1 << 18 // TID3
    | 1 << 19 // TSC
    | 1 << 20 // TIDCP
    | 1 << 21 // TACR
    | 1 << 31; // RW

/// Sets the registers that hold every guest, once on each CPU.
pub fn init_traps() {
    let features = super::features();
    let midr = mrs!("MIDR_EL1");
    let pa_range = (mrs!("ID_AA64MMFR0_EL1") & 0xf).min(5);
    // T0SZ 25: 39 bits of IPA; SL0 1: walks start at level 1; write-back, inner shareable walks.
    let vtcr = 1 << 31 | pa_range << 16 | 0b11 << 12 | 0b01 << 10 | 0b01 << 8 | 1 << 6 | 25;
    let vtcr = vtcr | if features.vmid_bits == 16 { 1 << 19 } else { 0 };
    // HA: the CPU sets the access flag itself.
    let vtcr = vtcr | if features.access_flag { 1 << 21 } else { 0 };
    let where_there_is = |feature: bool, bit: u32| u64::from(feature) << bit;
    // FWB: stage 2 writes its memory attributes for it. TLOR and TERR trap what is hidden of FEAT_LOR and FEAT_RAS.
    let hcr = HCR_GUEST
        | where_there_is(features.s2fwb, 46)
        | where_there_is(features.lor, 35)
        | where_there_is(features.ras, 36);
    // SAFETY: no guest runs yet; these are what keeps one in.
    unsafe {
        // Nobody's tables, so that what runs before the first guest walks nothing of a guest.
        msr!("VTTBR_EL2", 0);
        msr!("VTCR_EL2", vtcr);
        msr!("HCR_EL2", hcr);
        msr!("VPIDR_EL2", midr);
        msr!("HSTR_EL2", 0);
        // Traps SVE and SME (TZ, TSM), the trace registers (TTA) and activity monitors (TAM); FP/SIMD not.
        msr!("CPTR_EL2", 0x33ff | 1 << 20 | 1 << 30);
        // Traps debug, the debug ROM, OS lock, PMU and profiling registers; no counter is EL2's.
        msr!("MDCR_EL2", 1 << 5 | 1 << 6 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 14 | 1 << 19);
        // EL1 and EL0 use both counters and both timers.
        msr!("CNTHCTL_EL2", 0b11);
        msr!("CNTVOFF_EL2", 0);
        if features.hcx {
            msr!("S3_4_C1_C2_2", 0); // HCRX_EL2: none of the features that it turns on
        }
        if features.fgt {
            // No fine-grained trap: HFGRTR_EL2, HFGWTR_EL2, HFGITR_EL2, HDFGRTR_EL2, HDFGWTR_EL2.
            msr!("S3_4_C1_C1_4", 0);
            msr!("S3_4_C1_C1_5", 0);
            msr!("S3_4_C1_C1_6", 0);
            msr!("S3_4_C3_C1_4", 0);
            msr!("S3_4_C3_C1_5", 0);
        }
    }
    trace::sysreg_write(Register::Vtcr, vtcr);
    trace::sysreg_write(Register::Vttbr, 0);
    trace::sysreg_write(Register::Hcr, hcr);
    super::barrier::isb();
}

/// Injects an exception into the guest: what the architecture does on taking one to EL1 (Arm ARM, D1.3).
pub fn inject(syndrome: u64, fault_address: Option<u64>) {
    let pstate = SPSR_EL2.get();
    // The vector depends on where the guest was: EL1 with its own stack (0x200), with EL0's (0), or EL0 (0x400, 0x600
    // from AArch32).
    let vector = match pstate & 0x1f {
        0b0_0101 => 0x200,
        0b0_0100 => 0,
        0b0_0000 => 0x400,
        _ => 0x600,
    };
    let base = mrs!("VBAR_EL1");
    let pc = ELR_EL2.get();
    // PAN and UAO follow SCTLR_EL1.SPAN; SSBS and the rest as after reset would be wrong only for speculation.
    let sctlr = mrs!("SCTLR_EL1");
    let pan = pstate & 1 << 22 | if sctlr & 1 << 23 == 0 { 1 << 22 } else { 0 };
    let pan = if mrs!("ID_AA64MMFR1_EL1") >> 20 & 0xf != 0 { pan } else { 0 };
    // SAFETY: only the guest's own state changes, as if the exception had been taken to EL1.
    unsafe {
        msr!("ELR_EL1", pc);
        msr!("SPSR_EL1", pstate);
        msr!("ESR_EL1", syndrome);
        if let Some(address) = fault_address {
            msr!("FAR_EL1", address);
        }
    }
    ELR_EL2.set(base + vector);
    SPSR_EL2.set(PSTATE_RESET | pan | (pstate & 0xf000_0000) | pstate & 1 << 24);
}
