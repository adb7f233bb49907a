//! The generic timer (Arm ARM, chapter D12).

use crate::arch::cpu;
use crate::arch::time::{self, Timer};
use crate::gic;
use crate::outcome::Outcome;
use crate::run::Stub;

fn disarm_physical(_: u32) {
    Timer::Physical.control(0);
}

fn disarm_virtual(_: u32) {
    Timer::Virtual.control(0);
}

/// The counter goes on, and not backwards.
pub fn counter(_: &Stub) -> Outcome {
    for timer in [Timer::Virtual, Timer::Physical] {
        let mut last = timer.counter();
        let first = last;
        for _ in 0..10_000 {
            let now = timer.counter();
            ensure!(now >= last, "{timer:?}: {now} after {last}");
            last = now;
        }
        ensure!(last > first, "{timer:?}: stands still at {first}");
    }
    Ok(())
}

fn fires(timer: Timer, interrupt: u32, disarm: fn(u32)) -> Outcome {
    let this = cpu::this();
    gic::enable(interrupt, disarm);
    let delay = time::ticks(2_000);
    // By deadline, awake.
    let before = this.count(interrupt);
    let deadline = timer.counter() + delay;
    timer.fire_at(deadline);
    ensure!(
        timer.status() & time::MET == 0 || timer.counter() >= deadline,
        "{timer:?}: met before the deadline"
    );
    ensure!(
        time::poll(5_000_000, || this.count(interrupt) == before + 1),
        "{timer:?}: never fired"
    );
    ensure!(timer.counter() >= deadline, "{timer:?}: fired early");
    // By time left, asleep.
    let start = timer.counter();
    timer.fire_in(delay as i32);
    let left = timer.left();
    ensure!(left <= delay as i32, "{timer:?}: {left} ticks left of {delay}");
    cpu::sleep_until(|| this.count(interrupt) == before + 2);
    cpu::unmask();
    ensure!(timer.counter() - start >= delay, "{timer:?}: fired early when asleep");
    // Masked, it meets its condition and does not interrupt.
    timer.fire_at(0);
    timer.control(time::ENABLE | time::MASKED);
    // It may have fired in between, once; and is off then.
    timer.control(time::ENABLE | time::MASKED);
    let count = this.count(interrupt);
    ensure!(timer.status() & time::MET != 0, "{timer:?}: an old deadline is not met");
    ensure!(
        !time::poll(2_000, || this.count(interrupt) != count),
        "{timer:?}: fired though masked"
    );
    timer.control(0);
    gic::disable(interrupt);
    Ok(())
}

/// The virtual timer fires, not early, not when it is masked.
pub fn virtual_timer(stub: &Stub) -> Outcome {
    fires(Timer::Virtual, stub.machine.virtual_timer, disarm_virtual)
}

/// So does the physical timer.
pub fn physical_timer(stub: &Stub) -> Outcome {
    fires(Timer::Physical, stub.machine.physical_timer, disarm_physical)
}

/// Both timers run at a time, and a handler that leaves its timer on is called again.
pub fn both(stub: &Stub) -> Outcome {
    let this = cpu::this();
    let (physical, virtual_) = (stub.machine.physical_timer, stub.machine.virtual_timer);
    gic::enable(physical, |_| {
        Timer::Physical.fire_at(Timer::Physical.counter() + time::ticks(300))
    });
    gic::enable(virtual_, |_| Timer::Virtual.fire_at(Timer::Virtual.counter() + time::ticks(200)));
    let before = (this.count(physical), this.count(virtual_));
    Timer::Physical.fire_at(0);
    Timer::Virtual.fire_at(0);
    let rounds = 100;
    let done = time::poll(10_000_000, || {
        this.count(physical) >= before.0 + rounds && this.count(virtual_) >= before.1 + rounds
    });
    cpu::mask();
    Timer::Physical.control(0);
    Timer::Virtual.control(0);
    gic::disable(physical);
    gic::disable(virtual_);
    cpu::unmask();
    ensure!(
        done,
        "{} physical and {} virtual ticks instead of {rounds} each",
        this.count(physical) - before.0,
        this.count(virtual_) - before.1
    );
    Ok(())
}
