//! PSCI 1.1 (Arm DEN 0022) and SMCCC 1.2 (Arm DEN 0028) as a guest sees them: decoding, and the answers that
//! need nobody's help.

/// A function that a guest called by HVC or SMC.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// A number or an error: what goes to x0 at once.
    Answer(i64),
    /// CPU_ON of the vCPU with this affinity, at this address, with this in its x0.
    CpuOn {
        /// The target's MPIDR affinity fields.
        target: u64,
        /// The IPA where it starts.
        entry: u64,
        /// What it finds in x0.
        context: u64,
    },
    /// CPU_OFF of the caller.
    CpuOff,
    /// CPU_SUSPEND, or CPU_DEFAULT_SUSPEND: as a standby state, the same as WFI.
    CpuSuspend,
    /// AFFINITY_INFO of the vCPU with this affinity.
    AffinityInfo {
        /// The target's MPIDR affinity fields.
        target: u64,
    },
    /// SYSTEM_OFF.
    SystemOff,
    /// SYSTEM_RESET, or SYSTEM_RESET2 with the architectural warm reset, which is the same here.
    SystemReset,
}

/// Errors (PSCI 1.1, section 5.2.2; SMCCC 1.2, section 7.1.1 for NOT_SUPPORTED).
pub mod result {
    /// It is done.
    pub const SUCCESS: i64 = 0;
    /// There is no such function.
    pub const NOT_SUPPORTED: i64 = -1;
    /// A parameter is wrong.
    pub const INVALID_PARAMETERS: i64 = -2;
    /// It may not be done.
    pub const DENIED: i64 = -3;
    /// The vCPU is on.
    pub const ALREADY_ON: i64 = -4;
    /// The vCPU is being turned on.
    pub const ON_PENDING: i64 = -5;
    /// The entry address is not in the guest's memory.
    pub const INVALID_ADDRESS: i64 = -9;
}

/// AFFINITY_INFO's answers (PSCI 1.1, section 5.7).
pub mod affinity {
    /// The vCPU is on.
    pub const ON: i64 = 0;
    /// The vCPU is off.
    pub const OFF: i64 = 1;
    /// The vCPU is being turned on.
    pub const ON_PENDING: i64 = 2;
}

const PSCI_VERSION: u32 = 0x8400_0000;
const CPU_SUSPEND: u32 = 0x8400_0001;
const CPU_OFF: u32 = 0x8400_0002;
const CPU_ON: u32 = 0x8400_0003;
const AFFINITY_INFO: u32 = 0x8400_0004;
const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
const SYSTEM_OFF: u32 = 0x8400_0008;
const SYSTEM_RESET: u32 = 0x8400_0009;
const PSCI_FEATURES: u32 = 0x8400_000a;
const SYSTEM_RESET2: u32 = 0x8400_0012;
const SMCCC_VERSION: u32 = 0x8000_0000;
const SMCCC_ARCH_FEATURES: u32 = 0x8000_0001;
/// Set in the numbers of functions whose parameters are 64 bits wide.
const SMC64: u32 = 1 << 30;

/// PSCI 1.1.
const VERSION: i64 = 1 << 16 | 1;
/// SMCCC 1.2.
const CONVENTION: i64 = 1 << 16 | 2;
/// No trusted OS, so nothing to migrate.
const NO_TRUSTED_OS: i64 = 2;

fn has_64_bit_form(function: u32) -> bool {
    matches!(function, CPU_SUSPEND | CPU_ON | AFFINITY_INFO | SYSTEM_RESET2)
}

fn is_known(function: u32) -> bool {
    let plain = function & !SMC64;
    let exists = matches!(
        plain,
        PSCI_VERSION
            | CPU_SUSPEND
            | CPU_OFF
            | CPU_ON
            | AFFINITY_INFO
            | MIGRATE_INFO_TYPE
            | SYSTEM_OFF
            | SYSTEM_RESET
            | PSCI_FEATURES
            | SYSTEM_RESET2
    );
    (exists && (function == plain || has_64_bit_form(plain)))
        || matches!(function, SMCCC_VERSION | SMCCC_ARCH_FEATURES)
}

/// Decodes a call with these arguments in x0 to x3.
///
/// A function that is not known is answered NOT_SUPPORTED, never with a fault.
#[inline]
pub fn decode(x: [u64; 4]) -> Call {
    let function = x[0] as u32;
    if function == SMCCC_VERSION {
        return Call::Answer(CONVENTION);
    }
    if !is_known(function) {
        return Call::Answer(result::NOT_SUPPORTED);
    }
    // Without bit 30 the parameters are 32 bits wide.
    let wide = function & SMC64 != 0;
    let parameter = |index: usize| if wide { x[index] } else { x[index] & 0xffff_ffff };
    match function & !SMC64 {
        PSCI_VERSION => Call::Answer(VERSION),
        CPU_SUSPEND => Call::CpuSuspend,
        CPU_OFF => Call::CpuOff,
        CPU_ON => Call::CpuOn { target: parameter(1), entry: parameter(2), context: parameter(3) },
        AFFINITY_INFO if parameter(2) > 3 => Call::Answer(result::INVALID_PARAMETERS),
        // Higher affinity levels need not be answered (section 5.7.3).
        AFFINITY_INFO if parameter(2) > 0 => Call::Answer(result::INVALID_PARAMETERS),
        AFFINITY_INFO => Call::AffinityInfo { target: parameter(1) },
        MIGRATE_INFO_TYPE => Call::Answer(NO_TRUSTED_OS),
        SYSTEM_OFF => Call::SystemOff,
        SYSTEM_RESET => Call::SystemReset,
        // Reset type 0 is the architectural warm reset; others are not known.
        SYSTEM_RESET2 if parameter(1) as u32 == 0 => Call::SystemReset,
        SYSTEM_RESET2 => Call::Answer(result::INVALID_PARAMETERS),
        PSCI_FEATURES => Call::Answer(features(parameter(1) as u32)),
        _ => Call::Answer(arch_features(x[1] as u32)),
    }
}

fn features(function: u32) -> i64 {
    // CPU_SUSPEND: original format, no OS-initiated mode, which is 0 as well.
    if is_known(function) && function != SMCCC_ARCH_FEATURES { 0 } else { result::NOT_SUPPORTED }
}

fn arch_features(function: u32) -> i64 {
    match function {
        SMCCC_VERSION | SMCCC_ARCH_FEATURES => 0,
        _ => result::NOT_SUPPORTED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(decode([0x8400_0000, 0, 0, 0]), Call::Answer(0x1_0001));
        assert_eq!(decode([0x8000_0000, 0, 0, 0]), Call::Answer(0x1_0002));
    }

    #[test]
    fn cpu_on_takes_the_width_that_its_number_says() {
        let high = 0xffff_0000_0000_0001;
        let narrow = decode([0x8400_0003, high, high, high]);
        assert_eq!(narrow, Call::CpuOn { target: 1, entry: 1, context: 1 });
        let wide = decode([0xc400_0003, high, high, high]);
        assert_eq!(wide, Call::CpuOn { target: high, entry: high, context: high });
    }

    #[test]
    fn what_is_unknown_is_not_supported() {
        for function in [0x8400_0005, 0xc400_0000, 0x8600_0000, 0xffff_ffff, 0x8000_8000] {
            assert_eq!(decode([function, 0, 0, 0]), Call::Answer(result::NOT_SUPPORTED));
        }
        assert_eq!(decode([0x8400_000a, 0x8400_0005, 0, 0]), Call::Answer(result::NOT_SUPPORTED));
        assert_eq!(decode([0x8400_000a, 0xc400_0003, 0, 0]), Call::Answer(0));
    }

    #[test]
    fn bad_parameters_are_named_so() {
        assert_eq!(decode([0xc400_0004, 0, 7, 0]), Call::Answer(result::INVALID_PARAMETERS));
        assert_eq!(decode([0xc400_0012, 1, 0, 0]), Call::Answer(result::INVALID_PARAMETERS));
    }
}
