//! Interrupts: from the one who causes one to the one who takes it.

use super::{Measurement, repeat};
use crate::arch::cpu::{self, sleep_until};
use crate::arch::time::{self, Timer};
use crate::gic;
use crate::outcome::{Verdict, failure};
use crate::run::Stub;
use crate::smp;
use core::sync::atomic::{AtomicBool, Ordering};

const TIMES: u64 = 200;
/// The SGI that goes out, and the one that comes back.
const PING: u32 = 1;
const PONG: u32 = 2;

static STOP: AtomicBool = AtomicBool::new(false);
/// The other CPU has its interrupts in order: what was sent before may be lost.
static READY: AtomicBool = AtomicBool::new(false);

fn times(stub: &Stub) -> u64 {
    stub.orders.number("iterations", TIMES)
}

/// An SGI to the CPU itself: sent, taken, ended.
pub fn sgi_self(stub: &Stub) -> Result<Measurement, Verdict> {
    let (this, affinity) = (cpu::this(), cpu::affinity());
    Ok(repeat(times(stub), || {
        let before = this.count(PING);
        gic::send(PING, affinity);
        while this.count(PING) == before {
            crate::arch::cpu::relax();
        }
    }))
}

/// An SGI to another CPU that sleeps, and one back to this one, asleep meanwhile.
pub fn sgi_pair(stub: &Stub) -> Result<Measurement, Verdict> {
    if stub.machine.cpus().len() < 2 {
        skip!("one CPU only");
    }
    STOP.store(false, Ordering::Release);
    READY.store(false, Ordering::Release);
    smp::start(stub.machine, 1, answer)
        .map_err(|refused| failure(format_args!("CPU 1: {refused:?}")))?;
    ensure!(
        time::poll(5_000_000, || READY.load(Ordering::Acquire)),
        "CPU 1 did not come up within 5 s"
    );
    let other = stub.machine.cpus()[1];
    let this = cpu::this();
    let round = || {
        let before = this.count(PONG);
        gic::send(PING, other);
        sleep_until(|| this.count(PONG) != before);
    };
    round();
    let measured = repeat(times(stub), round);
    STOP.store(true, Ordering::Release);
    gic::send(PING, other);
    cpu::unmask();
    smp::join(stub.machine, 1).map_err(|refused| failure(format_args!("CPU 1: {refused:?}")))?;
    Ok(measured)
}

/// Answers each PING with a PONG to the boot CPU.
fn answer(_: usize) {
    let this = cpu::this();
    let boot = crate::run::machine().map_or(0, |machine| machine.cpus()[0]);
    let mut answered = this.count(PING);
    READY.store(true, Ordering::Release);
    while !STOP.load(Ordering::Acquire) {
        sleep_until(|| this.count(PING) != answered || STOP.load(Ordering::Acquire));
        answered = this.count(PING);
        gic::send(PONG, boot);
    }
}

/// How late a CPU that sleeps is woken by its virtual timer: the ticks past the deadline.
pub fn wfi_timer(stub: &Stub) -> Result<Measurement, Verdict> {
    let interrupt = stub.machine.virtual_timer;
    let this = cpu::this();
    gic::enable(interrupt, disarm);
    let mut measured = Measurement { iterations: times(stub), ticks: 0 };
    for _ in 0..measured.iterations {
        let before = this.count(interrupt);
        let deadline = time::now() + time::ticks(100);
        Timer::Virtual.fire_at(deadline);
        sleep_until(|| this.count(interrupt) != before);
        measured.ticks += time::now() - deadline;
    }
    cpu::unmask();
    gic::disable(interrupt);
    Ok(measured)
}

/// A virtual timer that has expired already: programmed, taken, ended.
pub fn timer_now(stub: &Stub) -> Result<Measurement, Verdict> {
    let interrupt = stub.machine.virtual_timer;
    let this = cpu::this();
    gic::enable(interrupt, disarm);
    let measured = repeat(times(stub), || {
        let before = this.count(interrupt);
        Timer::Virtual.fire_at(0);
        while this.count(interrupt) == before {
            crate::arch::cpu::relax();
        }
    });
    gic::disable(interrupt);
    Ok(measured)
}

/// Turns the virtual timer off.
pub fn disarm(_: u32) {
    Timer::Virtual.control(0);
}
