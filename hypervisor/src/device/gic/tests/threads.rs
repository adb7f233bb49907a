//! vCPUs on threads of their own, which send each other interrupts and go to sleep.

use super::super::{Gic, Kick, Place, SgiRegister, intid};
use super::machine::{Interface, Machine, private};
use crate::device::Width;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

const VCPUS: usize = 3;
/// The SGI that says: look at your mail.
const MAIL: u32 = 3;
const UART: u32 = intid::UART;

struct Shared {
    gic: Gic,
    /// Physical SGIs that are on their way.
    kicked: [AtomicBool; VCPUS],
    /// vCPUs in WFI, which only `woken` gets out of it.
    asleep: [AtomicBool; VCPUS],
    woken: [AtomicBool; VCPUS],
    /// How many letters were sent to each vCPU.
    mail: [AtomicU32; VCPUS],
    /// Those who have nothing more to send.
    done: AtomicU32,
    /// Whether kicks arrive: not in the negative control.
    reliable: bool,
    /// How many letters each vCPU sends.
    rounds: u32,
}

impl Shared {
    fn deliver(&self, kick: Kick) {
        for vcpu in kick {
            if self.reliable {
                // The fences that make this sound are the model's: see the module.
                if self.asleep[vcpu].load(Ordering::Relaxed) {
                    self.woken[vcpu].store(true, Ordering::Release);
                }
                self.kicked[vcpu].store(true, Ordering::Release);
            }
        }
    }
}

/// Runs a vCPU until all have sent their mail and it has read all of its own. Says whether it did
/// before `deadline`.
fn run(shared: &Shared, vcpu: usize, deadline: Instant) -> bool {
    let rounds = shared.rounds;
    let gic = &shared.gic;
    let mut cpu = Interface::new(2);
    let mut read = 0;
    let mut sent = 0;
    let mut tired = false;
    let finished = |read| {
        shared.done.load(Ordering::Acquire) == VCPUS as u32
            && read == shared.mail[vcpu].load(Ordering::Acquire)
    };
    loop {
        if shared.kicked[vcpu].swap(false, Ordering::Acquire) {
            shared.deliver(cpu.enter(gic, vcpu));
        }
        if let Some(intid) = cpu.acknowledge() {
            match intid {
                MAIL => read = shared.mail[vcpu].load(Ordering::Acquire),
                UART => shared.deliver(gic.inject_spi(UART, false)),
                _ => {}
            }
            shared.deliver(cpu.enter(gic, vcpu));
            cpu.end(intid);
            if cpu.maintenance() {
                gic.mark_dirty(vcpu);
                shared.deliver(cpu.enter(gic, vcpu));
            }
            continue;
        }
        if sent < rounds && !tired {
            tired = sent % 3 == 0;
            sent += 1;
            let target = (vcpu + 1 + sent as usize % (VCPUS - 1)) % VCPUS;
            shared.mail[target].fetch_add(1, Ordering::Release);
            let value = u64::from(MAIL) << 24 | 1 << target;
            shared.deliver(gic.send_sgi(vcpu, SgiRegister::Sgi1, value));
            if sent.is_multiple_of(5) {
                // Off and on again: what came in between is late, but comes.
                for register in [0x180, 0x100] {
                    let place = private(target, register);
                    shared.deliver(gic.write(vcpu, place, Width::Word, 1 << MAIL));
                }
            }
            if sent.is_multiple_of(7) {
                let router = Place::in_distributor(0x6000 + 8 * u64::from(UART)).unwrap();
                shared.deliver(gic.write(vcpu, router, Width::Double, target as u64));
                shared.deliver(gic.inject_spi(UART, true));
            }
            if sent == rounds {
                shared.done.fetch_add(1, Ordering::Release);
            }
            shared.deliver(cpu.enter(gic, vcpu));
            continue;
        }
        tired = false;
        let synced = gic.fold(vcpu, &mut cpu.registers);
        shared.deliver(synced.kick);
        shared.woken[vcpu].store(false, Ordering::Relaxed);
        shared.asleep[vcpu].store(true, Ordering::Relaxed);
        if !gic.pending_for(vcpu) {
            let mut patience = 100;
            while !shared.woken[vcpu].load(Ordering::Acquire) {
                if finished(read) {
                    return true;
                }
                if Instant::now() > deadline {
                    return false;
                }
                // Its timer, so that it gets on with sending; but what is there must wake it.
                patience -= 1;
                if patience < 0 && sent < rounds && !gic.pending_for(vcpu) {
                    break;
                }
                std::thread::yield_now();
            }
        }
        shared.asleep[vcpu].store(false, Ordering::Relaxed);
        shared.deliver(cpu.enter(gic, vcpu));
    }
}

/// Says which vCPUs got all their mail.
fn exchange_mail(reliable: bool, rounds: u32, patience: Duration) -> Vec<bool> {
    let mut machine = Machine::booted(VCPUS, 2);
    machine.write(0, 0x104, 1 << (UART - 32));
    let shared = Shared {
        gic: machine.gic,
        kicked: Default::default(),
        asleep: Default::default(),
        woken: Default::default(),
        mail: Default::default(),
        done: AtomicU32::new(0),
        reliable,
        rounds,
    };
    let deadline = Instant::now() + patience;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..VCPUS)
            .map(|vcpu| {
                let shared = &shared;
                scope.spawn(move || run(shared, vcpu, deadline))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn no_interrupt_is_lost_between_threads() {
    assert_eq!(exchange_mail(true, 30_000, Duration::from_secs(60)), [true; VCPUS]);
}

#[test]
fn a_vcpu_that_sleeps_through_a_kick_is_found_out() {
    assert_ne!(exchange_mail(false, 100, Duration::from_millis(300)), [true; VCPUS]);
}
