//! Work on other CPUs: each piece starts its CPU by PSCI and ends with it off again, so that nobody idles in a benchmark.

use crate::arch::barrier::clean_to_poc;
use crate::arch::boot::{self, Start};
use crate::arch::cpu::{self, MAX_CPUS};
use crate::arch::{mmu, time};
use crate::firmware::{self, OFF};
use crate::machine::Machine;
use crate::{gic, run};
use core::sync::atomic::{AtomicBool, Ordering};
use spin::mutex::SpinMutex;

/// What a CPU is to do; it is told its number.
pub type Work = fn(usize);

static WORK: [SpinMutex<Option<Work>>; MAX_CPUS] = [const { SpinMutex::new(None) }; MAX_CPUS];
/// Which CPUs have work that they have not done yet. AFFINITY_INFO alone does not say so: QEMU calls a CPU off until it
/// has come up.
static BUSY: [AtomicBool; MAX_CPUS] = [const { AtomicBool::new(false) }; MAX_CPUS];
static STARTS: [SpinMutex<Start>; MAX_CPUS] =
    [const { SpinMutex::new(Start { registers: [0; 4], stack: 0, index: 0 }) }; MAX_CPUS];

/// What a CPU did not do.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// CPU_ON gave this.
    On(i64),
    /// The CPU did not end in time; AFFINITY_INFO gives this.
    StillOn(i64),
}

/// Starts `work` on CPU `index`, which has to be off.
///
/// # Errors
///
/// [`Refused::On`] with what PSCI said.
pub fn start(machine: &Machine, index: usize, work: Work) -> Result<(), Refused> {
    let affinity = machine.cpus().get(index).copied().unwrap_or(!0);
    let place = &STARTS[index.min(MAX_CPUS - 1)];
    {
        *WORK[index.min(MAX_CPUS - 1)].lock() = Some(work);
        let mut start = place.lock();
        start.registers = mmu::registers();
        start.stack = cpu::stack_end(index);
        start.index = index as u64;
    }
    let address = place.as_mut_ptr().addr();
    clean_to_poc(address, size_of::<Start>());
    let busy = &BUSY[index.min(MAX_CPUS - 1)];
    busy.store(true, Ordering::Release);
    match firmware::cpu_on(affinity, boot::secondary_address(), address as u64) {
        firmware::SUCCESS => Ok(()),
        error => {
            busy.store(false, Ordering::Release);
            Err(Refused::On(error))
        }
    }
}

/// Waits until CPU `index` has done its work and is off.
///
/// # Errors
///
/// [`Refused::StillOn`] after ten seconds.
pub fn join(machine: &Machine, index: usize) -> Result<(), Refused> {
    let affinity = machine.cpus().get(index).copied().unwrap_or(!0);
    let mut state = OFF;
    let off = time::poll(10_000_000, || {
        // In this order: an OFF that was read before the work was done may be that from before the CPU came up.
        let done = !BUSY[index.min(MAX_CPUS - 1)].load(Ordering::Acquire);
        state = firmware::affinity_info(affinity);
        done && state == OFF
    });
    if off { Ok(()) } else { Err(Refused::StillOn(state)) }
}

/// Does `work` on the CPUs from 1 on, `rest` on this one meanwhile, and waits for all.
///
/// # Errors
///
/// The first CPU that refused, and how.
pub fn with_others(
    machine: &Machine,
    work: Work,
    rest: impl FnOnce(),
) -> Result<(), (usize, Refused)> {
    let mut first = Ok(());
    let others = 1..machine.cpus().len();
    for index in others.clone() {
        if let Err(refused) = start(machine, index, work) {
            first = first.and(Err((index, refused)));
        }
    }
    rest();
    for index in others {
        if let Err(refused) = join(machine, index) {
            first = first.and(Err((index, refused)));
        }
    }
    first
}

/// Goes on as a secondary CPU, with stage 1 on.
pub fn secondary() -> ! {
    let index = cpu::index();
    if let Some(machine) = run::machine()
        && gic::init_cpu(machine)
        && let Some(work) = WORK[index].lock().take()
    {
        cpu::unmask();
        work(index);
        cpu::mask();
    }
    BUSY[index].store(false, Ordering::Release);
    let refused = firmware::cpu_off();
    say!("stub: CPU_OFF on CPU {index} returned {refused}");
    loop {
        cpu::wait_for_event();
    }
}
