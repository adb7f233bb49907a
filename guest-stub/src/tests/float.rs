//! FP and SIMD registers are each vCPU's own, whatever it and the others do.

use crate::arch::cpu::{self, MAX_CPUS};
use crate::arch::float::State;
use crate::arch::time::{self, Timer};
use crate::firmware;
use crate::gic::{self, register};
use crate::outcome::{Outcome, failure};
use crate::run::{self, Stub};
use crate::smp;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

static ROUNDS: AtomicU32 = AtomicU32::new(0);
/// What differed first on a CPU: 1 + register, or 0.
static DIFFERENT: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
/// How many CPUs are still at it.
static BUSY: AtomicU32 = AtomicU32::new(0);

/// Leaves the CPU to others in one of the ways there are, and comes back.
fn leave(round: u32, interrupt: u32) {
    match round % 4 {
        0 => {
            firmware::call(firmware::PSCI_VERSION, [0; 3]);
        }
        1 => {
            gic::read(gic::distributor() + register::TYPER);
        }
        2 => {
            let before = cpu::this().count(interrupt);
            Timer::Virtual.fire_at(time::now() + time::ticks(50));
            cpu::sleep_until(|| cpu::this().count(interrupt) != before);
            cpu::unmask();
        }
        _ => {
            let until = time::now() + time::ticks(20);
            while time::now() < until {
                cpu::relax();
            }
        }
    }
}

fn exercise(index: usize) {
    let interrupt = run::machine().map_or(27, |machine| machine.virtual_timer);
    gic::enable(interrupt, crate::benches::wakeups::disarm);
    for round in 0..ROUNDS.load(Ordering::Acquire) {
        let pattern = State::pattern(u64::from(round) << 8 | index as u64);
        pattern.load();
        leave(round, interrupt);
        if let Some((_, register)) = pattern.difference(&State::current()) {
            DIFFERENT[index].fetch_max(1 + register as u64, Ordering::AcqRel);
        }
    }
    gic::disable(interrupt);
    BUSY.fetch_sub(1, Ordering::AcqRel);
}

/// All vCPUs fill all registers with their own patterns, leave by hypercalls, MMIO, sleep and preemption, and compare.
pub fn kept(stub: &Stub) -> Outcome {
    ROUNDS.store(stub.orders.number("rounds", 200) as u32, Ordering::Release);
    BUSY.store(stub.machine.cpus().len() as u32, Ordering::Release);
    smp::with_others(stub.machine, exercise, || exercise(0))
        .map_err(|(index, refused)| failure(format_args!("CPU {index}: {refused:?}")))?;
    for (index, different) in DIFFERENT.iter().enumerate() {
        let different = different.swap(0, Ordering::AcqRel);
        ensure!(different == 0, "CPU {index}: v{} changed", different - 1);
    }
    ensure!(BUSY.load(Ordering::Acquire) == 0, "not all CPUs came to their end");
    Ok(())
}
