//! The identity of the CPUs.
#![expect(unsafe_code, reason = "reads ID registers by name")]

use crate::arch::cpu::{self, MAX_CPUS};
use crate::arch::probe::Register;
use crate::arch::time;
use crate::outcome::{Outcome, failure};
use crate::run::Stub;
use crate::smp;
use core::sync::atomic::{AtomicU64, Ordering};

const fn id(crm: u8, op2: u8) -> Register {
    Register::new(3, 0, 0, crm, op2)
}

fn field(register: Register, low: u32) -> u64 {
    register.read().unwrap_or(0) >> low & 0xf
}

/// What every kernel relies on.
pub fn sane(stub: &Stub) -> Outcome {
    let mpidr = mrs!("MPIDR_EL1");
    ensure!(mpidr >> 31 & 1 == 1 && mpidr >> 30 & 1 == 0, "MPIDR_EL1 {mpidr:#x}");
    ensure!(mrs!("MIDR_EL1") != 0, "MIDR_EL1 is 0");
    let pfr0 = id(4, 0);
    ensure!((1..=2).contains(&field(pfr0, 4)), "EL1 is {}", field(pfr0, 4));
    ensure!(field(pfr0, 16) != 0xf && field(pfr0, 20) != 0xf, "no FP or no SIMD");
    let has_v3 = field(pfr0, 24) >= 1;
    ensure!(has_v3 != crate::gic::is_v2(), "ID_AA64PFR0_EL1.GIC is {}", field(pfr0, 24));
    ensure!(field(id(5, 0), 0) >= 6, "debug architecture {}", field(id(5, 0), 0));
    let bits = match field(id(7, 0), 0) {
        size @ 0..=6 => [32, 36, 40, 42, 44, 48, 52][size as usize],
        size => fail!("PARange {size}"),
    };
    for ram in stub.machine.ram() {
        ensure!(ram.end <= 1 << bits, "memory up to {:#x}, but {bits} bits of addresses", ram.end);
    }
    ensure!(field(id(7, 0), 28) != 0xf, "no 4 KiB granule");
    ensure!(time::frequency() >= 1_000_000, "CNTFRQ_EL0 {}", time::frequency());
    let line = mrs!("CTR_EL0") >> 16 & 0xf;
    ensure!((2..=9).contains(&line), "CTR_EL0 {:#x}", mrs!("CTR_EL0"));
    Ok(())
}

/// The whole space of ID registers can be read, and reads as zero where nothing has been defined.
pub fn reserved(_: &Stub) -> Outcome {
    for crm in 1..8 {
        for op2 in 0..8 {
            if let Err(fault) = id(crm, op2).read() {
                fail!("{}: {fault}", id(crm, op2));
            }
        }
    }
    for register in [id(4, 6), id(5, 7), id(6, 7), id(7, 7)] {
        let value = register.read().unwrap_or(0);
        ensure!(value == 0, "{register}, of which nothing is known, reads {value:#x}");
    }
    for register in [id(4, 0), id(7, 0), Register::new(3, 0, 0, 0, 0)] {
        ensure!(register.write(0).is_err(), "{register} can be written");
    }
    Ok(())
}

/// A mixture of all that CPUs must agree on, by CPU.
static SEEN: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

fn mixture() -> u64 {
    let mut all =
        mrs!("MIDR_EL1") ^ mrs!("CTR_EL0").rotate_left(32) ^ mrs!("CNTFRQ_EL0").rotate_left(7);
    let registers = [
        mrs!("ID_AA64PFR0_EL1"),
        mrs!("ID_AA64PFR1_EL1"),
        mrs!("ID_AA64DFR0_EL1"),
        mrs!("ID_AA64ISAR0_EL1"),
        mrs!("ID_AA64ISAR1_EL1"),
        mrs!("ID_AA64MMFR0_EL1"),
        mrs!("ID_AA64MMFR1_EL1"),
        mrs!("S3_0_C0_C7_2"),
    ];
    for register in registers {
        all = (all ^ register).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17);
    }
    all
}

fn record(index: usize) {
    SEEN[index].store(mixture(), Ordering::Release);
}

/// All CPUs are the same.
pub fn alike(stub: &Stub) -> Outcome {
    smp::with_others(stub.machine, record, || record(cpu::index()))
        .map_err(|(index, refused)| failure(format_args!("CPU {index}: {refused:?}")))?;
    let first = SEEN[0].load(Ordering::Acquire);
    for (index, seen) in SEEN.iter().enumerate().take(stub.machine.cpus().len()) {
        ensure!(seen.load(Ordering::Acquire) == first, "CPU {index} differs from CPU 0");
    }
    Ok(())
}
