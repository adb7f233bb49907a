//! ID registers by their encoding, for what guests read of them.

#![expect(unsafe_code, reason = "reads ID registers by name")]

use crate::exit::syndrome::SystemRegister;

/// Reads the ID register S3_0_C0_C`crm`_`op2`; 0 for those of which guests see nothing.
pub fn read(register: SystemRegister) -> u64 {
    match (register.crm, register.op2) {
        (4, 0) => mrs!("ID_AA64PFR0_EL1"),
        (4, 1) => mrs!("ID_AA64PFR1_EL1"),
        (5, 0) => mrs!("ID_AA64DFR0_EL1"),
        (6, 0) => mrs!("ID_AA64ISAR0_EL1"),
        (6, 1) => mrs!("ID_AA64ISAR1_EL1"),
        (6, 2) => mrs!("S3_0_C0_C6_2"), // ID_AA64ISAR2_EL1
        (7, 0) => mrs!("ID_AA64MMFR0_EL1"),
        (7, 1) => mrs!("ID_AA64MMFR1_EL1"),
        (7, 2) => mrs!("ID_AA64MMFR2_EL1"),
        _ => 0,
    }
}
