//! Calls to whoever is above EL1: PSCI 1.1 (DEN0022) and SMCCC 1.1 (DEN0028), by the conduit of the device tree.

use crate::arch::probe::{self, Conduit, Fault};
use core::sync::atomic::{AtomicBool, Ordering};

pub const PSCI_VERSION: u32 = 0x8400_0000;
pub const CPU_SUSPEND_64: u32 = 0xc400_0001;
pub const CPU_OFF: u32 = 0x8400_0002;
pub const CPU_ON_32: u32 = 0x8400_0003;
pub const CPU_ON_64: u32 = 0xc400_0003;
pub const AFFINITY_INFO_32: u32 = 0x8400_0004;
pub const AFFINITY_INFO_64: u32 = 0xc400_0004;
pub const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
pub const SYSTEM_OFF: u32 = 0x8400_0008;
pub const SYSTEM_RESET: u32 = 0x8400_0009;
pub const PSCI_FEATURES: u32 = 0x8400_000a;
pub const SMCCC_VERSION: u32 = 0x8000_0000;
pub const SMCCC_ARCH_FEATURES: u32 = 0x8000_0001;

pub const SUCCESS: i64 = 0;
pub const NOT_SUPPORTED: i64 = -1;
pub const INVALID_PARAMETERS: i64 = -2;
pub const ALREADY_ON: i64 = -4;
pub const ON_PENDING: i64 = -5;
pub const INVALID_ADDRESS: i64 = -9;

/// AFFINITY_INFO: the CPU is on.
pub const ON: i64 = 0;
/// AFFINITY_INFO: the CPU is off.
pub const OFF: i64 = 1;

static BY_SMC: AtomicBool = AtomicBool::new(false);

/// Says which conduit the device tree names.
pub fn set_conduit(conduit: Conduit) {
    BY_SMC.store(conduit == Conduit::Smc, Ordering::Relaxed);
}

/// Returns the conduit that the device tree names.
pub fn conduit() -> Conduit {
    if BY_SMC.load(Ordering::Relaxed) { Conduit::Smc } else { Conduit::Hvc }
}

/// Calls a function and returns its x0: sign-extended from 32 bits for functions of the 32-bit convention.
///
/// # Errors
///
/// The [`Fault`] where the conduit is undefined.
pub fn try_call(function: u32, arguments: [u64; 3]) -> Result<i64, Fault> {
    let [a, b, c] = arguments;
    let [x0, ..] = probe::firmware(conduit(), [u64::from(function), a, b, c])?;
    let wide = function & 0x4000_0000 != 0;
    Ok(if wide { x0.cast_signed() } else { i64::from((x0 as u32).cast_signed()) })
}

/// Calls a function; where the conduit is undefined, everything is [`NOT_SUPPORTED`].
pub fn call(function: u32, arguments: [u64; 3]) -> i64 {
    try_call(function, arguments).unwrap_or(NOT_SUPPORTED)
}

/// Starts a CPU.
pub fn cpu_on(affinity: u64, entry: u64, context: u64) -> i64 {
    call(CPU_ON_64, [affinity, entry, context])
}

/// Ends this CPU; returns only where that is refused.
pub fn cpu_off() -> i64 {
    call(CPU_OFF, [0; 3])
}

/// Asks whether a CPU is [`ON`] or [`OFF`].
pub fn affinity_info(affinity: u64) -> i64 {
    call(AFFINITY_INFO_64, [affinity, 0, 0])
}
