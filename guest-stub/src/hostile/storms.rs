//! All vCPUs do what costs the hypervisor most, at once.

use super::Random;
use crate::arch::cpu;
use crate::arch::time::{self, Timer};
use crate::firmware;
use crate::gic::{self, register};
use crate::outcome::{Outcome, failure};
use crate::run::{self, Stub};
use crate::smp;
use core::sync::atomic::{AtomicU64, Ordering};

static MICROSECONDS: AtomicU64 = AtomicU64::new(0);

fn rage(index: usize) {
    let Some(machine) = run::machine() else { return };
    let end = time::now() + time::ticks(MICROSECONDS.load(Ordering::Acquire));
    let mut random = Random(index as u64);
    // A handler that leaves its timer due would never return.
    gic::enable(machine.virtual_timer, |_| Timer::Virtual.control(0));
    gic::enable(machine.physical_timer, |_| Timer::Physical.control(0));
    while time::now() < end {
        match random.below(9) {
            0 => {
                // Masked, for what fires before the WFI would be taken before it, and nothing would end it.
                cpu::mask();
                Timer::Virtual.fire_at(time::now());
                cpu::wait_for_interrupt();
                cpu::unmask();
            }
            1 => {
                cpu::send_event();
                cpu::wait_for_event();
            }
            2 => gic::send_to_others(random.below(16) as u32),
            3 => {
                let number = random.below(machine.cpus().len() as u64) as usize;
                gic::send(random.below(16) as u32, machine.cpus()[number]);
            }
            4 => {
                // Interrupts of the timers on and off while they are pending.
                gic::set_bit(machine.virtual_timer, register::ICENABLER);
                gic::set_bit(machine.virtual_timer, register::ISENABLER);
            }
            5 => {
                Timer::Physical.fire_at(0);
                Timer::Physical.control(0);
            }
            6 => {
                firmware::affinity_info(random.next());
            }
            7 => {
                gic::set_mask(random.next() as u8);
                gic::set_mask(0xff);
            }
            _ => {
                let spi = 64 + random.below(32) as u32;
                gic::set_bit(spi, register::ISPENDR);
                gic::set_bit(spi, register::ICPENDR);
            }
        }
    }
    cpu::mask();
    Timer::Virtual.control(0);
    Timer::Physical.control(0);
    gic::disable(machine.virtual_timer);
    gic::disable(machine.physical_timer);
    cpu::unmask();
}

/// WFI, WFE, SGIs to all, timers that are always due, priorities, pending bits: for `milliseconds=<n>` on all vCPUs.
pub fn all(stub: &Stub) -> Outcome {
    MICROSECONDS.store(stub.orders.number("milliseconds", 500) * 1000, Ordering::Release);
    smp::with_others(stub.machine, rage, || rage(0))
        .map_err(|(index, refused)| failure(format_args!("CPU {index}: {refused:?}")))?;
    // Another round of what has to work.
    let before = cpu::this().count(0);
    gic::send(0, cpu::affinity());
    ensure!(time::poll(1_000_000, || cpu::this().count(0) > before), "no SGI afterwards");
    Ok(())
}

fn come_and_go(_: usize) {
    gic::send_to_others(4);
}

/// vCPUs that come and go without pause, interrupted while they do.
pub fn power(stub: &Stub) -> Outcome {
    if stub.machine.cpus().len() < 2 {
        skip!("one CPU only");
    }
    for round in 0..stub.orders.number("rounds", 100) {
        smp::with_others(stub.machine, come_and_go, || {
            for _ in 0..10 {
                gic::send_to_others(5);
            }
        })
        .map_err(|(index, refused)| {
            failure(format_args!("round {round}, CPU {index}: {refused:?}"))
        })?;
    }
    Ok(())
}
