//! Features of the CPU that a guest does not have: hidden in the ID registers, and undefined when used all the same.
#![expect(unsafe_code, reason = "writes CPACR_EL1 by name")]

use crate::arch::probe::{self, Class, Fault, Register};
use crate::outcome::Outcome;
use crate::run::Stub;

const PFR0: Register = Register::new(3, 0, 0, 4, 0);
const PFR1: Register = Register::new(3, 0, 0, 4, 1);
const DFR0: Register = Register::new(3, 0, 0, 5, 0);
const ISAR1: Register = Register::new(3, 0, 0, 6, 1);
const ISAR2: Register = Register::new(3, 0, 0, 6, 2);
const MMFR1: Register = Register::new(3, 0, 0, 7, 1);
const MMFR2: Register = Register::new(3, 0, 0, 7, 2);
const MMFR3: Register = Register::new(3, 0, 0, 7, 3);

/// Whether a guest may have a feature.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Rule {
    /// It must not be there.
    Hidden,
    /// It is there, or not, as its ID field says.
    AsTold,
}

/// A way to use a feature.
enum Use {
    /// Read this register.
    Read(&'static str, Register),
    /// Read this register, which a hypervisor cannot trap without FEAT_FGT: what it reads is told, not judged.
    Told(&'static str, Register),
    /// Execute this instruction.
    Execute(&'static str, u32),
}

struct Feature {
    name: &'static str,
    rule: Rule,
    /// The ID register and the low bit of the field; the field reads as 0 where the feature is not there.
    field: (Register, u32),
    uses: &'static [Use],
}

use Use::{Execute, Read, Told};

/// What is looked at. Registers of EL2 are not in a field of their own: EL2 is a field of ID_AA64PFR0_EL1.
static FEATURES: &[Feature] = &[
    Feature {
        name: "SVE",
        rule: Rule::Hidden,
        field: (PFR0, 32),
        uses: &[
            Read("ZCR_EL1", Register::new(3, 0, 1, 2, 0)),
            Execute("rdvl x0, #1", 0x04bf_5020),
            Execute("ptrue p0.b", 0x2518_e3e0),
        ],
    },
    Feature {
        name: "SME",
        rule: Rule::Hidden,
        field: (PFR1, 24),
        uses: &[
            Read("SMCR_EL1", Register::new(3, 0, 1, 2, 6)),
            Told("SMPRI_EL1", Register::new(3, 0, 1, 2, 4)),
            Read("SVCR", Register::new(3, 3, 4, 2, 2)),
            Told("TPIDR2_EL0", Register::new(3, 3, 13, 0, 5)),
            Execute("smstart sm", 0xd503_437f),
            Execute("rdsvl x0, #1", 0x04bf_5820),
        ],
    },
    Feature {
        name: "MTE",
        rule: Rule::Hidden,
        field: (PFR1, 8),
        uses: &[
            Read("GCR_EL1", Register::new(3, 0, 1, 0, 6)),
            Read("RGSR_EL1", Register::new(3, 0, 1, 0, 5)),
            Read("TFSR_EL1", Register::new(3, 0, 5, 6, 0)),
            Read("TFSRE0_EL1", Register::new(3, 0, 5, 6, 1)),
            Read("GMID_EL1", Register::new(3, 1, 0, 0, 4)),
        ],
    },
    Feature {
        name: "PMU",
        rule: Rule::Hidden,
        field: (DFR0, 8),
        uses: &[
            Read("PMCR_EL0", Register::new(3, 3, 9, 12, 0)),
            Read("PMCNTENSET_EL0", Register::new(3, 3, 9, 12, 1)),
            Read("PMCCNTR_EL0", Register::new(3, 3, 9, 13, 0)),
            Read("PMUSERENR_EL0", Register::new(3, 3, 9, 14, 0)),
            Read("PMINTENSET_EL1", Register::new(3, 0, 9, 14, 1)),
            Read("PMEVCNTR0_EL0", Register::new(3, 3, 14, 8, 0)),
            Read("PMCCFILTR_EL0", Register::new(3, 3, 14, 15, 7)),
        ],
    },
    Feature {
        name: "statistical profiling",
        rule: Rule::Hidden,
        field: (DFR0, 32),
        uses: &[
            Read("PMSCR_EL1", Register::new(3, 0, 9, 9, 0)),
            Read("PMBLIMITR_EL1", Register::new(3, 0, 9, 10, 0)),
        ],
    },
    Feature {
        name: "trace registers",
        rule: Rule::Hidden,
        field: (DFR0, 4),
        uses: &[Read("TRCPRGCTLR", Register::new(2, 1, 0, 1, 0))],
    },
    Feature {
        name: "self-hosted trace",
        rule: Rule::Hidden,
        field: (DFR0, 40),
        uses: &[Read("TRFCR_EL1", Register::new(3, 0, 1, 2, 1))],
    },
    Feature {
        name: "trace buffer",
        rule: Rule::Hidden,
        field: (DFR0, 44),
        uses: &[Read("TRBLIMITR_EL1", Register::new(3, 0, 9, 11, 0))],
    },
    Feature {
        name: "branch records",
        rule: Rule::Hidden,
        field: (DFR0, 52),
        uses: &[Read("BRBCR_EL1", Register::new(2, 1, 9, 0, 0))],
    },
    Feature {
        name: "activity monitors",
        rule: Rule::Hidden,
        field: (PFR0, 44),
        uses: &[
            Read("AMCR_EL0", Register::new(3, 3, 13, 2, 0)),
            Read("AMCFGR_EL0", Register::new(3, 3, 13, 2, 1)),
        ],
    },
    Feature {
        name: "MPAM",
        rule: Rule::Hidden,
        field: (PFR0, 40),
        uses: &[
            Read("MPAM0_EL1", Register::new(3, 0, 10, 5, 1)),
            Read("MPAM1_EL1", Register::new(3, 0, 10, 5, 0)),
        ],
    },
    Feature {
        name: "EL2",
        rule: Rule::Hidden,
        field: (PFR0, 8),
        uses: &[
            Read("HCR_EL2", Register::new(3, 4, 1, 1, 0)),
            Read("VTTBR_EL2", Register::new(3, 4, 2, 1, 0)),
            Read("SCTLR_EL2", Register::new(3, 4, 1, 0, 0)),
            Read("ICH_HCR_EL2", Register::new(3, 4, 12, 11, 0)),
            Read("CNTHP_CTL_EL2", Register::new(3, 4, 14, 2, 1)),
            Read("SCTLR_EL12", Register::new(3, 5, 1, 0, 0)),
            Execute("tlbi alle1", 0xd50c_879f),
        ],
    },
    Feature {
        name: "EL3",
        rule: Rule::AsTold,
        field: (Register::new(3, 0, 0, 1, 0), 0),
        uses: &[
            Read("SCR_EL3", Register::new(3, 6, 1, 1, 0)),
            Read("SCTLR_EL3", Register::new(3, 6, 1, 0, 0)),
            Read("CNTPS_CTL_EL1", Register::new(3, 7, 14, 2, 1)),
        ],
    },
    Feature {
        name: "64-byte stores with status",
        rule: Rule::AsTold,
        field: (ISAR1, 60),
        uses: &[Read("ACCDATA_EL1", Register::new(3, 0, 13, 0, 5))],
    },
    Feature {
        name: "limited ordering regions",
        rule: Rule::AsTold,
        field: (MMFR1, 16),
        uses: &[
            Read("LORID_EL1", Register::new(3, 0, 10, 4, 7)),
            Read("LORC_EL1", Register::new(3, 0, 10, 4, 3)),
        ],
    },
    Feature {
        name: "RAS",
        rule: Rule::AsTold,
        field: (PFR0, 28),
        uses: &[
            Read("ERRIDR_EL1", Register::new(3, 0, 5, 3, 0)),
            Told("DISR_EL1", Register::new(3, 0, 12, 1, 1)),
        ],
    },
    Feature {
        name: "TCR2",
        rule: Rule::AsTold,
        field: (MMFR3, 0),
        uses: &[Read("TCR2_EL1", Register::new(3, 0, 2, 0, 3))],
    },
    Feature {
        name: "SCTLR2",
        rule: Rule::AsTold,
        field: (MMFR3, 4),
        uses: &[Read("SCTLR2_EL1", Register::new(3, 0, 1, 0, 3))],
    },
    Feature {
        name: "permission indirection",
        rule: Rule::AsTold,
        field: (MMFR3, 8),
        uses: &[
            Read("PIR_EL1", Register::new(3, 0, 10, 2, 3)),
            Read("PIRE0_EL1", Register::new(3, 0, 10, 2, 2)),
        ],
    },
    Feature {
        name: "guarded control stack",
        rule: Rule::AsTold,
        field: (PFR1, 44),
        uses: &[Read("GCSCR_EL1", Register::new(3, 0, 2, 5, 0))],
    },
    Feature {
        name: "MOPS",
        rule: Rule::AsTold,
        field: (ISAR2, 16),
        // setp [x0]!, x0!, xzr would need registers of its own; x0 = 0 ends it at once.
        uses: &[],
    },
    Feature {
        name: "nested virtualisation",
        rule: Rule::Hidden,
        field: (MMFR2, 24),
        uses: &[Read("VNCR_EL2", Register::new(3, 4, 2, 2, 0))],
    },
];

fn try_use(way: &Use) -> (&'static str, Result<u64, Fault>) {
    match way {
        Read(name, register) | Told(name, register) => (name, register.read()),
        Execute(name, encoding) => (name, probe::instruction(*encoding, 0)),
    }
}

/// Each feature is hidden or not as its rule wants, and its use agrees with what the ID field says.
pub fn agree(stub: &Stub) -> Outcome {
    // CPACR_EL1.ZEN and SMEN: what is refused is not to be refused by this kernel itself.
    let access = mrs!("CPACR_EL1");
    msr!("CPACR_EL1", access | 3 << 16 | 3 << 24);
    let outcome = each_feature(stub);
    msr!("CPACR_EL1", access);
    outcome
}

fn each_feature(stub: &Stub) -> Outcome {
    let mut first = Ok(());
    for Feature { name, rule, field: (register, low), uses } in FEATURES {
        let told = register.read().unwrap_or(0) >> low & 0xf;
        // A PMU of 0xf is one that is not of the architecture.
        let there = told != 0 && !(*name == "PMU" && told == 0xf);
        if there && *rule == Rule::Hidden && !stub.orders.plain() {
            say!("note cpu-features: {name} is shown, field {told:#x}");
            first = first.and_then(|()| fail!("{name} is shown"));
        }
        for way in *uses {
            match try_use(way) {
                (what, Ok(value)) if !there && !stub.orders.plain() => {
                    say!("note cpu-features: {what} ({name}) is there and reads {value:#x}");
                    if matches!(way, Told(..)) {
                        continue;
                    }
                    first = first.and_then(|()| fail!("{what} is there, {name} is not"));
                }
                (what, Err(fault)) if fault.class() != Class::Undefined => {
                    say!("note cpu-features: {what}: {fault}");
                    first = first.and_then(|()| fail!("{what}: {fault}"));
                }
                (what, Err(_)) if there && !stub.orders.plain() => {
                    first =
                        first.and_then(|()| fail!("{what} is undefined, though {name} is shown"));
                }
                _ => {}
            }
        }
    }
    first
}

/// Debug registers, which every Armv8 CPU has to have, are undefined or hold nothing: a guest arms no breakpoint.
pub fn debug(stub: &Stub) -> Outcome {
    let registers = [
        ("DBGBVR0_EL1", Register::new(2, 0, 0, 0, 4)),
        ("DBGBCR0_EL1", Register::new(2, 0, 0, 0, 5)),
        ("DBGWVR0_EL1", Register::new(2, 0, 0, 0, 6)),
        ("DBGWCR0_EL1", Register::new(2, 0, 0, 0, 7)),
        ("MDSCR_EL1", Register::new(2, 0, 0, 2, 2)),
    ];
    for (name, register) in registers {
        // Values that arm nothing: an address, and control without the enable bits.
        let value = if name.contains("VR") { 0x1000 } else { 0x1e0 & !1 };
        match register.write(value).and_then(|()| register.read()) {
            Err(fault) if fault.class() == Class::Undefined => {}
            Err(fault) => fail!("{name}: {fault}"),
            Ok(0) => {}
            Ok(read) if stub.orders.plain() => {
                say!("note cpu-debug: {name} holds {read:#x}");
            }
            Ok(read) => fail!("{name} holds {read:#x}"),
        }
        let _ = register.write(0);
    }
    Ok(())
}
