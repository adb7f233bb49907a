//! Power State Coordination (DEN0022).

use crate::arch::{boot, cpu, time};
use crate::firmware::{self, *};
use crate::outcome::{Outcome, failure};
use crate::run::Stub;
use crate::smp::{self, Refused};
use core::sync::atomic::{AtomicU32, Ordering};

/// Spins on all CPUs until the machine is stopped, and gives none up; only by its full name.
pub fn spin(stub: &Stub) -> Outcome {
    let on = |_| loop {
        core::hint::black_box(());
    };
    for index in 1..stub.machine.cpus().len() {
        if let Err(refused) = smp::start(stub.machine, index, on) {
            return Err(failure(format_args!("CPU {index} {refused:?}")));
        }
    }
    say!("note spin: ready");
    on(0);
    Ok(())
}

/// The version is 1.0 or later, and what it has to have is there.
pub fn version(stub: &Stub) -> Outcome {
    let version = firmware::call(PSCI_VERSION, [0; 3]);
    ensure!((0x1_0000..0x10_0000).contains(&version), "PSCI_VERSION {version:#x}");
    let required = [
        PSCI_VERSION,
        CPU_OFF,
        CPU_ON_64,
        AFFINITY_INFO_64,
        SYSTEM_OFF,
        SYSTEM_RESET,
        PSCI_FEATURES,
        CPU_SUSPEND_64,
    ];
    for function in required {
        let told = firmware::call(PSCI_FEATURES, [function.into(), 0, 0]);
        ensure!(told >= 0 || stub.orders.plain(), "PSCI_FEATURES({function:#x}) {told}");
    }
    let told = firmware::call(PSCI_FEATURES, [0x8400_00ff, 0, 0]);
    ensure!(told == NOT_SUPPORTED, "PSCI_FEATURES of what nobody knows {told}");
    let migrate = firmware::call(MIGRATE_INFO_TYPE, [0; 3]);
    ensure!(migrate == 2 || migrate == NOT_SUPPORTED, "MIGRATE_INFO_TYPE {migrate}");
    Ok(())
}

/// Wrong targets are INVALID_PARAMETERS, this CPU is ALREADY_ON, a wrong entry address starts nothing.
pub fn wrong_parameters(stub: &Stub) -> Outcome {
    let entry = boot::secondary_address();
    let nobody = [0x7f, 0xff_ffff, 0x1_0000_0000, 0xff_00ff_ffff, 1 << 24, !0, 1 << 63];
    for affinity in nobody {
        if stub.machine.cpus().contains(&affinity) {
            continue;
        }
        let told = firmware::cpu_on(affinity, entry, 0);
        ensure!(told == INVALID_PARAMETERS, "CPU_ON({affinity:#x}) {told}");
        let told = firmware::affinity_info(affinity);
        ensure!(told == INVALID_PARAMETERS, "AFFINITY_INFO({affinity:#x}) {told}");
    }
    let told = firmware::cpu_on(cpu::affinity(), entry, 0);
    ensure!(told == ALREADY_ON, "CPU_ON of this CPU {told}");
    let told = firmware::call(CPU_ON_32, [cpu::affinity(), 0x4000_0000, 0]);
    ensure!(told == ALREADY_ON, "CPU_ON (32 bits) of this CPU {told}");
    for function in [AFFINITY_INFO_64, AFFINITY_INFO_32] {
        let told = firmware::call(function, [cpu::affinity(), 0, 0]);
        ensure!(told == ON, "AFFINITY_INFO of this CPU {told}");
        let told = firmware::call(function, [cpu::affinity(), 7, 0]);
        ensure!(
            told == INVALID_PARAMETERS || stub.orders.plain(),
            "AFFINITY_INFO of level 7 {told}"
        );
    }
    if let Some(other) = stub.machine.cpus().get(1)
        && !stub.orders.plain()
    {
        // Where there is no memory; a CPU that starts there all the same faults for ever and is never off again.
        for entry in [stub.machine.distributor.start, 1 << 38, 1 << 60] {
            let told = firmware::cpu_on(*other, entry, 0);
            ensure!(
                told == INVALID_ADDRESS || told == INVALID_PARAMETERS,
                "CPU_ON at {entry:#x} {told}"
            );
            ensure!(firmware::affinity_info(*other) == OFF, "a CPU started at {entry:#x}");
        }
    }
    Ok(())
}

static WORKED: AtomicU32 = AtomicU32::new(0);

fn count(_: usize) {
    WORKED.fetch_add(1, Ordering::AcqRel);
}

/// All CPUs go on and off, again and again.
pub fn on_and_off(stub: &Stub) -> Outcome {
    let others = stub.machine.cpus().len() as u32 - 1;
    if others == 0 {
        skip!("one CPU only");
    }
    let rounds = stub.orders.number("rounds", 50) as u32;
    WORKED.store(0, Ordering::Release);
    for round in 0..rounds {
        smp::with_others(stub.machine, count, || {}).map_err(|(index, refused)| {
            failure(format_args!("round {round}, CPU {index}: {refused:?}"))
        })?;
    }
    let worked = WORKED.load(Ordering::Acquire);
    ensure!(worked == others * rounds, "{worked} pieces of work instead of {}", others * rounds);
    Ok(())
}

static GO: AtomicU32 = AtomicU32::new(0);

fn wait_for_go(_: usize) {
    WORKED.fetch_add(1, Ordering::AcqRel);
    time::poll(10_000_000, || GO.load(Ordering::Acquire) == 1);
}

/// A CPU that is on is ALREADY_ON, or ON_PENDING before it has come up.
pub fn already_on(stub: &Stub) -> Outcome {
    if stub.machine.cpus().len() < 2 {
        skip!("one CPU only");
    }
    GO.store(0, Ordering::Release);
    WORKED.store(0, Ordering::Release);
    smp::start(stub.machine, 1, wait_for_go)
        .map_err(|refused| failure(format_args!("CPU 1: {refused:?}")))?;
    // QEMU's own PSCI would start it a second time, with our context lost.
    let early = if stub.orders.plain() {
        ALREADY_ON
    } else {
        firmware::cpu_on(stub.machine.cpus()[1], boot::secondary_address(), 0)
    };
    let up = time::poll(5_000_000, || WORKED.load(Ordering::Acquire) == 1);
    let late = firmware::cpu_on(stub.machine.cpus()[1], boot::secondary_address(), 0);
    let state = firmware::affinity_info(stub.machine.cpus()[1]);
    GO.store(1, Ordering::Release);
    let joined = smp::join(stub.machine, 1);
    ensure!(up, "CPU 1 did not come up within 5 s");
    ensure!(early == ALREADY_ON || early == ON_PENDING, "CPU_ON of a starting CPU {early}");
    ensure!(late == ALREADY_ON, "CPU_ON of a running CPU {late}");
    ensure!(state == ON, "AFFINITY_INFO of a running CPU {state}");
    ensure!(joined == Ok::<(), Refused>(()), "{joined:?}");
    Ok(())
}

/// CPU_SUSPEND to a standby state comes back when an interrupt is pending.
pub fn suspend(stub: &Stub) -> Outcome {
    let timer = time::Timer::Virtual;
    let interrupt = stub.machine.virtual_timer;
    crate::gic::enable(interrupt, crate::benches::wakeups::disarm);
    let before = cpu::this().count(interrupt);
    cpu::mask();
    timer.fire_in(time::ticks(1000) as i32);
    let told = firmware::call(CPU_SUSPEND_64, [0, 0, 0]);
    cpu::unmask();
    let fired = time::poll(1_000_000, || cpu::this().count(interrupt) != before);
    crate::gic::disable(interrupt);
    ensure!(told == SUCCESS, "CPU_SUSPEND {told}");
    ensure!(fired, "the timer never fired");
    Ok(())
}

/// SYSTEM_RESET: the stub boots again, and again; only by its full name, for it never ends.
pub fn reset(_: &Stub) -> Outcome {
    say!("stub: resetting");
    let told = firmware::call(SYSTEM_RESET, [0; 3]);
    fail!("SYSTEM_RESET returned {told}")
}
