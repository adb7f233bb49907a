//! What a guest reads of the ID registers: the CPU's, less what Sluice does not carry.
//!
//! Each field of a register is let through up to a limit, or hidden. What is hidden is trapped where it
//! can be, and its use is an undefined instruction.

use super::syndrome::SystemRegister;

/// One 4-bit field: where it is, and the most that a guest sees of it.
struct Limit {
    low: u32,
    most: u64,
}

const fn hide(low: u32) -> Limit {
    Limit { low, most: 0 }
}

const fn limit(low: u32, most: u64) -> Limit {
    Limit { low, most }
}

/// Names an ID register by its encoding, S3_0_C0_C`crm`_`op2`.
const fn id(crm: u8, op2: u8) -> SystemRegister {
    SystemRegister::new(3, 0, 0, crm, op2)
}

/// ID_AA64PFR0_EL1: RAS, SVE, MPAM, AMU, RME are hidden; EL2 and EL3 too; EL0 and EL1 are AArch64 or as they are.
const PFR0: &[Limit] =
    &[hide(8), hide(12), hide(28), hide(32), hide(40), hide(44), hide(52), limit(24, 1)];
/// ID_AA64PFR1_EL1: MTE, RAS_frac, MPAM_frac, SME, RNDR_trap, NMI, MTE_frac, GCS, THE, MTEX, DF2, PFAR are hidden.
const PFR1: &[Limit] = &[
    hide(8),
    hide(12),
    hide(16),
    hide(24),
    hide(28),
    hide(36),
    hide(40),
    hide(44),
    hide(48),
    hide(52),
    hide(56),
    hide(60),
];
/// ID_AA64ISAR1_EL1: pointer authentication (APA, API, GPA, GPI), LS64 and XS are hidden.
const ISAR1: &[Limit] = &[hide(4), hide(8), hide(24), hide(28), hide(56), hide(60)];
/// ID_AA64ISAR2_EL1: GPA3, APA3, MOPS, PAC_frac, SYSREG_128, SYSINSTR_128, PRFMSLC, PCDPHINT, ATS1A and WFxT are hidden.
const ISAR2: &[Limit] = &[
    hide(0),
    hide(8),
    hide(12),
    hide(16),
    hide(24),
    hide(32),
    hide(36),
    hide(40),
    hide(56),
    hide(60),
];
/// ID_AA64ISAR0_EL1: TME is hidden.
const ISAR0: &[Limit] = &[hide(24)];
/// ID_AA64MMFR0_EL1: 36 bits of PA, which a guest's IPA space holds; FGT and ECV are hidden, and how stage 2
/// does granules.
const MMFR0: &[Limit] = &[limit(0, 1), hide(32), hide(36), hide(40), hide(56), hide(60)];
/// ID_AA64MMFR1_EL1: VHE, LOR, SpecSEI, TWED, HCX, TIDCP1, CMOW, nTLBPA and ECBHB are hidden; HAFDBS up to dirty state.
const MMFR1: &[Limit] =
    &[limit(0, 2), hide(8), hide(16), hide(24), hide(32), hide(40), hide(48), hide(52), hide(56)];
/// ID_AA64MMFR2_EL1: NV, FWB, EVT and wider addresses (VARange) are hidden.
const MMFR2: &[Limit] = &[hide(16), hide(24), hide(40), hide(56)];
/// ID_AA64DFR0_EL1: the debug architecture of Armv8-A with as few break- and watchpoints as there can be; trace,
/// PMU, profiling, buffers and double lock are hidden.
const DFR0: &[Limit] = &[
    limit(0, 6),
    hide(4),
    hide(8),
    limit(12, 1),
    limit(20, 1),
    hide(28),
    hide(32),
    hide(36),
    hide(40),
    hide(44),
    hide(48),
    hide(52),
    hide(56),
    hide(60),
];

fn limits(register: SystemRegister) -> Option<&'static [Limit]> {
    Some(match register {
        _ if register == id(4, 0) => PFR0,
        _ if register == id(4, 1) => PFR1,
        _ if register == id(5, 0) => DFR0,
        _ if register == id(6, 0) => ISAR0,
        _ if register == id(6, 1) => ISAR1,
        _ if register == id(6, 2) => ISAR2,
        _ if register == id(7, 0) => MMFR0,
        _ if register == id(7, 1) => MMFR1,
        _ if register == id(7, 2) => MMFR2,
        _ => return None,
    })
}

/// Says whether `register` is one of the ID registers that HCR_EL2.TID3 traps: S3_0_C0_C1..C7_*.
pub fn is_id_register(register: SystemRegister) -> bool {
    register.op0 == 3 && register.op1 == 0 && register.crn == 0 && (1..=7).contains(&register.crm)
}

/// Returns what a guest reads of an ID register that holds `value`.
///
/// A register of which nothing is known here reads as zero: it describes features that came later. So
/// do the AArch32 ones, as guests have no AArch32 at EL1 and EL0's is not described to them.
pub fn guest_view(register: SystemRegister, value: u64) -> u64 {
    let Some(limits) = limits(register) else { return 0 };
    let mut seen = value;
    for &Limit { low, most } in limits {
        let field = value >> low & 0xf;
        // A signed field that says "not implemented" (0xf) stays as it is.
        let shown = if most == 0 { 0 } else { field.min(most) };
        seen = seen & !(0xf << low) | shown << low;
    }
    if register == id(4, 0) {
        // EL0 and EL1 in AArch64 only.
        seen = seen & !0xffff | 0x11;
    }
    seen
}

/// The ID registers that are passed through the limits, and read by their own names.
pub const CARRIED: [SystemRegister; 9] =
    [id(4, 0), id(4, 1), id(5, 0), id(6, 0), id(6, 1), id(6, 2), id(7, 0), id(7, 1), id(7, 2)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sve_and_el2_are_hidden() {
        let seen = guest_view(id(4, 0), 0x1201_1111_2311_2222);
        assert_eq!(seen >> 32 & 0xf, 0, "SVE");
        assert_eq!(seen & 0xffff, 0x11, "EL0 and EL1 in AArch64, no EL2, no EL3");
        assert_eq!(seen >> 24 & 0xf, 1, "GIC");
    }

    #[test]
    fn unknown_registers_read_as_zero() {
        assert_eq!(guest_view(id(4, 4), u64::MAX), 0);
        assert_eq!(guest_view(id(4, 5), u64::MAX), 0);
        assert_eq!(guest_view(id(7, 3), u64::MAX), 0);
    }

    #[test]
    fn the_address_size_fits_the_ipa_space() {
        assert_eq!(guest_view(id(7, 0), 5) & 0xf, 1);
        assert_eq!(guest_view(id(7, 0), 0) & 0xf, 0);
    }

    #[test]
    fn everything_carried_has_limits() {
        for register in CARRIED {
            assert!(limits(register).is_some() && is_id_register(register));
        }
    }
}
