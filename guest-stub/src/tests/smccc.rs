//! The SMC Calling Convention (DEN0028).

use crate::arch::probe::{self, Conduit};
use crate::firmware::{self, NOT_SUPPORTED, PSCI_FEATURES, SMCCC_ARCH_FEATURES, SMCCC_VERSION};
use crate::outcome::Outcome;
use crate::run::Stub;

/// SMCCC_VERSION is 1.1 or later, and PSCI_FEATURES and SMCCC_ARCH_FEATURES say that it is there.
pub fn version(stub: &Stub) -> Outcome {
    let version = firmware::call(SMCCC_VERSION, [0; 3]);
    if stub.orders.plain() && version == NOT_SUPPORTED {
        skip!("no SMCCC here");
    }
    ensure!(version >= 0x1_0001, "SMCCC_VERSION {version:#x}");
    let told = firmware::call(PSCI_FEATURES, [SMCCC_VERSION.into(), 0, 0]);
    ensure!(told == 0, "PSCI_FEATURES(SMCCC_VERSION) {told}");
    for function in [SMCCC_VERSION, SMCCC_ARCH_FEATURES] {
        let told = firmware::call(SMCCC_ARCH_FEATURES, [function.into(), 0, 0]);
        ensure!(told == 0, "SMCCC_ARCH_FEATURES({function:#x}) {told}");
    }
    Ok(())
}

/// Functions that nobody has are NOT_SUPPORTED, whatever their owner and width.
pub fn unknown_functions(stub: &Stub) -> Outcome {
    let functions: [u32; 14] = [
        0x8000_7abc, // Arm architecture
        0xc000_7abc,
        0x8100_0000, // CPU service
        0x8200_0000, // SiP
        0x8300_0000, // OEM
        0x8400_001f, // standard secure, beyond PSCI
        0xc400_00ff,
        0x8400_ffff,
        0x8500_0000, // standard hypervisor
        0x8600_1234, // vendor hypervisor
        0xb000_0000, // trusted applications
        0xb200_0000, // trusted OS
        0x0000_0001, // yielding
        0xffff_ffff,
    ];
    for function in functions {
        match firmware::try_call(function, [!0; 3]) {
            Ok(answer) => ensure!(answer as i32 == -1, "{function:#x} gives {answer:#x}"),
            Err(fault) if stub.orders.plain() => say!("note smccc-unknown: {function:#x}: {fault}"),
            Err(fault) => fail!("{function:#x}: {fault}"),
        }
    }
    Ok(())
}

/// The conduit that the device tree does not name, and immediates other than 0, do no harm: undefined or NOT_SUPPORTED.
pub fn other_conduits(stub: &Stub) -> Outcome {
    let other = if stub.machine.conduit == Conduit::Hvc { Conduit::Smc } else { Conduit::Hvc };
    for conduit in [other, Conduit::HvcOther] {
        match probe::firmware(conduit, [u64::from(SMCCC_VERSION), 0, 0, 0]) {
            Ok([x0, ..]) => say!("note smccc-conduits: {conduit:?} gives {:#x}", x0 as u32),
            Err(fault) => say!("note smccc-conduits: {conduit:?}: {fault}"),
        }
    }
    Ok(())
}

/// A call keeps x4 to x17 (SMCCC 1.1, section 2.6).
pub fn registers(_: &Stub) -> Outcome {
    match probe::changed_registers(firmware::conduit(), SMCCC_VERSION) {
        Ok(0) => Ok(()),
        Ok(changed) => fail!("registers changed, mask {changed:#x}"),
        Err(_) => skip!("nobody is called by the conduit of the device tree"),
    }
}
