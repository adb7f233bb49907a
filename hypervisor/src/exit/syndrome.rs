//! Why a guest came out: ESR_EL2 decoded once (Arm ARM, section D24.2.40).

use crate::addr::Ipa;

/// What an instruction of a guest did that ended its run.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// HVC: a hypercall. The program counter is past it already.
    Hypercall,
    /// SMC, which is treated as a hypercall too. The program counter is at it.
    SecureCall,
    /// WFI or, with `event`, WFE.
    Wait {
        /// Says that it was WFE or WFET: a hint that need not wait.
        event: bool,
    },
    /// An access to a system register that is trapped.
    SystemRegister(SystemRegisterAccess),
    /// A load or store that stage 2 does not allow.
    DataAbort(DataAbort),
    /// An instruction fetch that stage 2 does not allow.
    InstructionAbort(Fault),
    /// The use of something that guests do not have.
    Undefined,
    /// An SError that the guest caused, or a class that no guest can cause.
    Unexpected {
        /// ESR_EL2.EC.
        class: u8,
    },
}

/// Why a translation failed.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is mapped there: a translation fault.
    Translation,
    /// What is mapped does not allow this access, or has no access flag.
    Permission,
    /// Anything else: an address size fault, an external abort, a TLB conflict.
    Other {
        /// The fault status code, IFSC or DFSC.
        status: u8,
    },
}

/// A load or store that stage 2 did not allow.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct DataAbort {
    /// Why.
    pub fault: Fault,
    /// Says that it was a store, or cache maintenance, which counts as one.
    pub write: bool,
    /// Says that it was a cache maintenance instruction.
    pub cache_maintenance: bool,
    /// Says that it was a stage 1 walk that failed, not the access itself.
    pub walk: bool,
    /// Says that FAR_EL2 does not hold the address.
    pub address_unknown: bool,
    /// The access itself, where the syndrome describes it.
    pub access: Option<Access>,
}

/// A load or store of one general-purpose register.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The size in bytes: 1, 2, 4 or 8.
    pub size: u8,
    /// The register, 31 for the zero register.
    pub register: u8,
    /// Says that what is loaded is sign-extended.
    pub sign_extend: bool,
    /// Says that the register is 64 bits wide; 32-bit loads zero the upper half.
    pub wide: bool,
}

impl Access {
    /// Returns what a load leaves in the register, of the bytes that the device gave.
    pub fn extend(self, value: u64) -> u64 {
        let bits = u32::from(self.size) * 8;
        if bits >= 64 {
            return value;
        }
        let value = value & ((1 << bits) - 1);
        if !self.sign_extend {
            return value;
        }
        let extended = ((value << (64 - bits)) as i64 >> (64 - bits)) as u64;
        if self.wide { extended } else { extended & 0xffff_ffff }
    }
}

/// A trapped MRS or MSR.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct SystemRegisterAccess {
    /// Which one.
    pub register: SystemRegister,
    /// The general-purpose register, 31 for the zero register.
    pub transfer: u8,
    /// Says that it was MRS.
    pub read: bool,
}

/// A system register's encoding: op0, op1, CRn, CRm, op2.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct SystemRegister {
    /// 2 or 3.
    pub op0: u8,
    /// 0 to 7.
    pub op1: u8,
    /// 0 to 15.
    pub crn: u8,
    /// 0 to 15.
    pub crm: u8,
    /// 0 to 7.
    pub op2: u8,
}

impl SystemRegister {
    /// Makes the encoding.
    pub const fn new(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> Self {
        Self { op0, op1, crn, crm, op2 }
    }
}

impl core::fmt::Display for SystemRegister {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "S{}_{}_C{}_C{}_{}", self.op0, self.op1, self.crn, self.crm, self.op2)
    }
}

impl Fault {
    fn decode(status: u64) -> Self {
        match (status & 0x3f) as u8 {
            0b00_0100..=0b00_0111 => Self::Translation,
            0b00_1000..=0b00_1111 => Self::Permission,
            status => Self::Other { status },
        }
    }
}

fn bit(syndrome: u64, bit: u32) -> bool {
    syndrome >> bit & 1 != 0
}

impl Exit {
    /// Decodes ESR_EL2.
    #[inline]
    pub fn decode(syndrome: u64) -> Self {
        match (syndrome >> 26) & 0x3f {
            0x16 => Self::Hypercall,
            0x24 => Self::DataAbort(Self::decode_data_abort(syndrome)),
            0x18 => Self::SystemRegister(SystemRegisterAccess {
                register: SystemRegister {
                    op0: (syndrome >> 20 & 3) as u8,
                    op1: (syndrome >> 14 & 7) as u8,
                    crn: (syndrome >> 10 & 0xf) as u8,
                    crm: (syndrome >> 1 & 0xf) as u8,
                    op2: (syndrome >> 17 & 7) as u8,
                },
                transfer: (syndrome >> 5 & 0x1f) as u8,
                read: bit(syndrome, 0),
            }),
            0x01 => Self::Wait { event: bit(syndrome, 0) },
            0x17 => Self::SecureCall,
            0x20 => Self::InstructionAbort(Fault::decode(syndrome)),
            // Unknown, AArch32 coprocessor traps, FP, SVE, SME, pointer authentication, LS64, ERET, SVE, BTI, MTE.
            0x00 | 0x03..=0x0e | 0x11..=0x13 | 0x19 | 0x1a | 0x1d | 0x1f => Self::Undefined,
            class => Self::Unexpected { class: class as u8 },
        }
    }

    fn decode_data_abort(syndrome: u64) -> DataAbort {
        let cache_maintenance = bit(syndrome, 8);
        let access = bit(syndrome, 24).then(|| Access {
            size: 1 << (syndrome >> 22 & 3),
            register: (syndrome >> 16 & 0x1f) as u8,
            sign_extend: bit(syndrome, 21),
            wide: bit(syndrome, 15),
        });
        DataAbort {
            fault: Fault::decode(syndrome),
            write: bit(syndrome, 6),
            cache_maintenance,
            walk: bit(syndrome, 7),
            address_unknown: bit(syndrome, 10),
            access: if cache_maintenance { None } else { access },
        }
    }
}

/// Joins the page that HPFAR_EL2 gave and the offset that FAR_EL2 gave.
pub fn fault_ipa(page: Ipa, fault_address: u64) -> Ipa {
    Ipa::new(page.align_down(4096).as_u64() | (fault_address & 0xfff))
}

/// The syndrome of an exception that is injected into a guest: what ESR_EL1 shows it.
pub mod injected {
    /// An instruction that is undefined: EC 0, IL 1.
    pub const UNDEFINED: u64 = 1 << 25;

    /// A synchronous external abort of a data access, or of an instruction fetch, from the exception level
    /// that `pstate` holds.
    pub fn external_abort(pstate: u64, instruction: bool, write: bool) -> u64 {
        let from_el1 = pstate & 0xc != 0;
        let class = match (instruction, from_el1) {
            (true, false) => 0x20,
            (true, true) => 0x21,
            (false, false) => 0x24,
            (false, true) => 0x25,
        };
        let write = if write && !instruction { 1 << 6 } else { 0 };
        class << 26 | 1 << 25 | write | 0b01_0000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_from_a_device_is_described_whole() {
        // LDRB w5, [x0] at an unmapped page, level 3.
        let syndrome = 0x24 << 26 | 1 << 25 | 1 << 24 | 5 << 16 | 0b111;
        let Exit::DataAbort(abort) = Exit::decode(syndrome) else { panic!("not a data abort") };
        assert_eq!(abort.fault, Fault::Translation);
        assert!(!abort.write);
        let access = abort.access.expect("the syndrome is valid");
        assert_eq!((access.size, access.register, access.wide), (1, 5, false));
    }

    #[test]
    fn a_store_without_syndrome_has_no_access() {
        let syndrome = 0x24 << 26 | 1 << 25 | 1 << 6 | 0b1111;
        let Exit::DataAbort(abort) = Exit::decode(syndrome) else { panic!("not a data abort") };
        assert!(abort.write && abort.access.is_none());
        assert_eq!(abort.fault, Fault::Permission);
    }

    #[test]
    fn sign_extension_stops_at_the_register() {
        let mut access = Access { size: 1, register: 0, sign_extend: true, wide: false };
        assert_eq!(access.extend(0x1_80), 0xffff_ff80);
        access.wide = true;
        assert_eq!(access.extend(0x80), 0xffff_ffff_ffff_ff80);
        access.sign_extend = false;
        assert_eq!(access.extend(0x80), 0x80);
        access.size = 8;
        assert_eq!(access.extend(u64::MAX), u64::MAX);
    }

    #[test]
    fn a_system_register_is_named_by_its_encoding() {
        // MRS x3, ID_AA64PFR0_EL1 (S3_0_C0_C4_0).
        let syndrome = 0x18 << 26 | 3 << 20 | 4 << 1 | 3 << 5 | 1;
        let Exit::SystemRegister(access) = Exit::decode(syndrome) else { panic!("not a register") };
        assert_eq!(access.register, SystemRegister::new(3, 0, 0, 4, 0));
        assert!(access.read);
        assert_eq!(access.transfer, 3);
    }

    #[test]
    fn every_class_decodes_to_something() {
        for class in 0..64 {
            Exit::decode(class << 26);
        }
        assert_eq!(Exit::decode(0x2f << 26), Exit::Unexpected { class: 0x2f });
    }
}
