//! Everything at once, at random, on all vCPUs: calls, system registers, devices with their queues, memory, the service.
//!
//! `requests=` says how many in all, `seed=` which. What the stub lives in must outlive it, so whatever a device is told
//! comes out of [`Ground`]: it leads to memory that is ours to lose, or nowhere, in whichever order halves of addresses
//! arrive and whatever the devices write over them.

mod queues;

use super::{Random, still_works};
use crate::arch::cpu::{self, MAX_CPUS};
use crate::arch::mmio::{read_32, write_32};
use crate::arch::probe::{self, Access, Class, Conduit, Fault, Register};
use crate::firmware::{CPU_ON_32, CPU_ON_64};
use crate::gic;
use crate::hostile::{calls, registers};
use crate::memory::{self, PAGE, Range};
use crate::outcome::{Outcome, failure};
use crate::run::Stub;
use crate::service::{FEATURES, RELEASE, REQUEST, Service};
use crate::smp;
use crate::virtio::mmio;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Once;
use spin::mutex::SpinMutex;

/// How large the places for rings and for buffers are.
const SPOILT: u64 = 64 << 10;
/// Where memory begins that may be lost, from the beginning of RAM, and how much there is. The halves of its page numbers
/// are those of no page that the stub lives in, so that half of one may be overwritten by a device's answer.
const LOST: u64 = 384 << 20;
const LOST_BYTES: u64 = 64 << 20;
/// How many requests a vCPU counts by itself.
const BATCH: u64 = 256;

/// What the attack stands on.
struct Ground {
    machine: &'static crate::machine::Machine,
    /// For descriptors and rings. Devices write here; no list of pages is read from here, for an index that a device has
    /// written might be the number of a page of the stub's.
    rings: Range,
    /// For lists and requests.
    lists: Range,
    /// What may be lost: rings may be in the first half, buffers in the second.
    lost: Range,
    /// Where there can be more memory; empty where there is no service.
    region: Range,
    requests: u64,
    seed: u64,
}

static GROUND: Once<Ground> = Once::new();
static DONE: AtomicU64 = AtomicU64::new(0);
/// How many were carried out, ended as external aborts, as undefined instructions, or in another fault.
static ANSWERS: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
/// There is one place for an instruction that is made up.
static INSTRUCTION: SpinMutex<()> = SpinMutex::new(());

/// One vCPU's part.
struct Attacker {
    ground: &'static Ground,
    random: Random,
    made: u64,
    answers: [u64; 4],
}

impl Attacker {
    /// Notes one request, and how it was answered.
    fn note<T>(&mut self, answer: Result<T, Fault>) {
        let kind = match answer.map_err(Fault::class) {
            Ok(_) => 0,
            Err(Class::External) => 1,
            Err(Class::Undefined | Class::NotEnabled) => 2,
            Err(_) => 3,
        };
        self.answers[kind] += 1;
        self.made += 1;
    }

    /// Adds what was made to what all have made. Says whether there is more to do.
    fn goes_on(&mut self) -> bool {
        if self.made >= BATCH {
            for (sum, own) in ANSWERS.iter().zip(&mut self.answers) {
                sum.fetch_add(core::mem::take(own), Ordering::Relaxed);
            }
            DONE.fetch_add(core::mem::take(&mut self.made), Ordering::Relaxed);
        }
        DONE.load(Ordering::Relaxed) < self.ground.requests
    }

    fn within(&mut self, range: Range) -> u64 {
        range.start + self.random.below(range.size().max(1))
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.random.below(of.len() as u64) as usize]
    }

    /// A call that nobody knows, or one that is known, with arguments that mean nothing.
    fn call(&mut self) {
        let mut function = self.random.next() as u32;
        if self.random.below(2) == 0 {
            let entity = (self.random.below(8) as u32) << 24;
            function = (function & 0xc000_00ff) | 0x8000_0000 | entity;
        }
        let mut arguments = [self.random.next(), self.random.next(), self.random.next()];
        if self.random.below(16) == 0 {
            function = self.pick(&[CPU_ON_64, CPU_ON_32]);
            let known = self.pick(self.ground.machine.cpus());
            let entry = calls::wrong_entry(&mut self.random);
            arguments = [self.pick(&[known, arguments[0]]), entry, arguments[2]];
        } else if calls::ends_something(function) {
            return;
        }
        let conduit = self.pick(&[Conduit::Hvc, Conduit::Smc, Conduit::HvcOther]);
        let [a, b, c] = arguments;
        let answer = probe::firmware(conduit, [function.into(), a, b, c]);
        self.note(answer);
    }

    /// A function of the service, for memory that may be lost, or that is not there.
    fn service(&mut self) {
        let function = match self.random.below(4) {
            0 => FEATURES + self.random.below(10) as u32,
            1 => RELEASE,
            _ => REQUEST,
        };
        let bytes = match self.random.below(16) {
            0 => self.random.next(),
            1 => self.random.below(64),
            2 => (self.random.below(1 << 11) + 1) * PAGE,
            _ => (self.random.below(1 << 5) + 1) * PAGE,
        };
        let start = match self.random.below(8) {
            0 => self.random.next() | 1 << 40,
            1 => self.within(self.ground.region),
            2 | 3 => self.within(self.ground.region) & !(PAGE - 1),
            4 => self.within(self.ground.lost),
            _ => self.within(self.ground.lost) & !(PAGE - 1),
        };
        // A release beyond what may be lost would be carried out: RAM ends further on, and the stub is before.
        let conduit = self.pick(&[Conduit::Hvc, Conduit::Smc]);
        let answer = probe::firmware(conduit, [function.into(), start, bytes, 0]);
        self.note(answer);
    }

    /// A system register that is read, or one whose value is nobody's that is written.
    fn register(&mut self) {
        let bits = self.random.next();
        let part = |low: u32, mask: u64| (bits >> low & mask) as u8;
        let op0 = self.pick(&[2, 3, 3, 3]);
        let register = Register::new(op0, part(0, 7), part(4, 15), part(8, 15), part(12, 7));
        // ID registers, the performance monitors, what is the implementation's own, interrupts that are sent.
        let [_, op1, crn, crm, op2] = register.encoding;
        let nobodys = match (op0, op1, crn, crm) {
            (3, 0, 0, _) | (3, 3, 9, _) | (3, _, 11 | 15, _) => true,
            (3, 0, 12, 11) => op2 >= 5,
            _ => false,
        };
        let _one_at_a_time = INSTRUCTION.lock();
        let answer = match nobodys && self.random.below(2) == 0 {
            true => register.write(self.random.next() | 0xff00),
            false if registers::touchy(register) => return,
            false => register.read().map(|_| ()),
        };
        self.note(answer);
    }

    /// One access to a device's registers at `base`, of `bytes`.
    fn device(&mut self, range: Range) {
        let way = self.pick(&Access::ON_DEVICES);
        let offset = match self.random.below(4) {
            0 => self.random.below(range.size()),
            _ => self.random.below(range.size()) & !3,
        };
        let value = self.pick(&[0, !0, 1, self.random.0, self.random.0 >> 32]);
        // A line of up to 2 KiB begins before what is to be spared.
        if way != Access::ZeroLine {
            let answer = way.at(range.start + offset, value);
            self.note(answer);
        }
    }

    /// An access to memory that may be there or not, or where nothing ever is.
    fn memory(&mut self) {
        let address = match self.random.below(8) {
            0..5 => self.within(self.ground.lost),
            5 | 6 => self.within(self.ground.region),
            _ => self.ground.machine.uart.registers.end + self.random.below(1 << 20),
        };
        let way = self.pick(&Access::ON_DEVICES);
        let value = self.pages();
        let answer = way.at(address & !0x3f, value);
        self.note(answer);
    }

    fn one(&mut self) {
        let machine = self.ground.machine;
        match self.random.below(100) {
            0..16 => self.call(),
            16..20 => self.register(),
            20..28 => self.device(machine.distributor),
            28..36 => self.device(gic::own_registers(machine)),
            // What would print is spared.
            36..44 => self.device(Range {
                start: machine.uart.registers.start + 8,
                ..machine.uart.registers
            }),
            44..70 => self.virtio(),
            70..74 => self.drive(),
            74..80 => self.service(),
            _ => self.memory(),
        }
    }
}

fn attack(index: usize) {
    let Some(ground) = GROUND.get() else { return };
    let seed = ground.seed.wrapping_mul(MAX_CPUS as u64).wrapping_add(index as u64);
    let mut attacker = Attacker { ground, random: Random(seed), made: 0, answers: [0; 4] };
    // Whatever comes of what the interrupt controller is told does not come to us.
    cpu::mask();
    while attacker.goes_on() {
        attacker.one();
    }
    cpu::unmask();
}

fn halves(range: Range) -> [Range; 2] {
    let middle = range.start + range.size() / 2;
    [Range { end: middle, ..range }, Range { start: middle, ..range }]
}

/// Requests of all kinds at random; in the end all devices work, after a reset, and memory that was not to lose is there.
pub fn all(stub: &Stub) -> Outcome {
    let Some(ram) = stub.machine.ram().find(|ram| ram.size() >= LOST + LOST_BYTES) else {
        skip!("less than 448 MiB of memory")
    };
    let Some(spoilt) = memory::take(2 * SPOILT, PAGE) else { skip!("no untouched memory left") };
    let [rings, lists] = halves(spoilt);
    let lost = Range::sized(ram.start + LOST, LOST_BYTES);
    if memory::occupied(stub.machine).iter().chain([&spoilt]).any(|own| own.overlaps(lost)) {
        skip!("what may be lost is in use");
    }
    let region = Service::find().map(|service| service.region).unwrap_or_default();
    let requests = stub.orders.number("requests", 100_000);
    let seed = stub.orders.number("seed", 1);
    GROUND.call_once(|| Ground {
        machine: stub.machine,
        rings,
        lists,
        lost,
        region,
        requests,
        seed,
    });
    let uart = stub.machine.uart.registers.start;
    let kept = [0x24, 0x28, 0x2c, 0x30, 0x34, 0x38].map(|at| (uart + at, read_32(uart + at)));
    let joined = smp::with_others(stub.machine, attack, || attack(0));
    for (address, value) in kept {
        write_32(address, value);
    }
    // Whatever was left pending.
    write_32(uart + 0x44, 0x7ff);
    cpu::mask();
    gic::init(stub.machine);
    let found = gic::init_cpu(stub.machine);
    cpu::unmask();
    joined.map_err(|(index, refused)| failure(format_args!("CPU {index}: {refused:?}")))?;
    ensure!(found, "its part of the GIC is gone");
    let [done, external, undefined, other] =
        ANSWERS.each_ref().map(|answer| answer.load(Ordering::Relaxed));
    say!(
        "note attack: {} requests: {done} carried out, {external} external aborts, {undefined} undefined, {other} other faults",
        done + external + undefined + other
    );
    for slot in stub.machine.slots() {
        let device = mmio::Transport::at(slot);
        ensure!(device.reset(), "slot at {:#x} cannot be reset", slot.registers.start);
    }
    still_works(stub, "after everything at once")
}
