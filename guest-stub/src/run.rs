//! From the first line of Rust to the last: find the machine, follow the orders, say how it went.

use crate::arch::probe::Conduit;
use crate::arch::{boot, cpu, mmu, time};
use crate::console;
use crate::firmware;
use crate::gic;
use crate::machine::{Machine, Unusable};
use crate::memory;
use crate::orders::Orders;
use crate::outcome::{Outcome, Verdict};
use crate::registry::{BENCHES, Bench, TESTS, Test};
use core::panic::PanicInfo;
use spin::Once;

/// What tests and benchmarks are given.
pub struct Stub {
    /// The machine as the device tree tells it.
    pub machine: &'static Machine,
    /// What we were told to do.
    pub orders: Orders<'static>,
}

static MACHINE: Once<Machine> = Once::new();

/// Returns the machine, once it is known.
pub fn machine() -> Option<&'static Machine> {
    MACHINE.get()
}

/// Goes on as the boot CPU, with stage 1 on as far as is known. `entered_at` is the exception level.
pub fn primary(device_tree: u64, entered_at: u64) -> ! {
    match Machine::read(device_tree, console::set_uart) {
        Ok(machine) => {
            let machine = MACHINE.call_once(|| machine);
            if let Err(Unusable(why)) = settle(machine) {
                refuse(why)
            }
            say!(
                "stub: ready {machine}, entered at EL{entered_at}, image at {:#x}, counter of {} Hz",
                boot::image().0,
                time::frequency()
            );
            follow(&Stub { machine, orders: Orders::new(machine.orders.as_str()) });
            stop()
        }
        Err(Unusable(why)) => refuse(why),
    }
}

fn refuse(why: &str) -> ! {
    say!("stub: cannot run here: {why}");
    stop()
}

fn settle(machine: &'static Machine) -> Result<(), Unusable> {
    firmware::set_conduit(machine.conduit);
    for ram in machine.ram() {
        mmu::add_memory(ram.start, ram.end);
    }
    memory::init(machine);
    gic::init(machine);
    if !gic::init_cpu(machine) {
        return Err(Unusable("the boot CPU has no redistributor"));
    }
    cpu::unmask();
    Ok(())
}

/// How many tests ended how.
#[derive(Default)]
struct Tally {
    passed: u32,
    failed: u32,
}

impl Tally {
    fn add(&mut self, name: &str, outcome: Outcome) {
        match outcome {
            Ok(()) => {
                self.passed += 1;
                say!("pass {name}");
            }
            Err(Verdict::Fail(why)) => {
                self.failed += 1;
                say!("fail {name}: {}", why.as_str());
            }
            Err(Verdict::Skip(why)) => say!("skip {name}: {why}"),
        }
    }
}

/// Does what was ordered: benchmarks first, for they want memory that nobody has touched.
fn follow(stub: &Stub) {
    let orders = stub.orders;
    let mut tally = Tally::default();
    if orders.has("list") {
        BENCHES.iter().for_each(|bench| say!("list bench {}", bench.name));
        TESTS.iter().for_each(|test| say!("list test {}", test.name));
    }
    let in_group = |name: &str, group: &str| {
        name == group || name.strip_prefix(group).is_some_and(|tail| tail.starts_with('-'))
    };
    if let Some(name) =
        orders.unknown("test", |name| TESTS.iter().any(|test| in_group(test.name, name)))
    {
        tally.add(name, Err(crate::outcome::failure(format_args!("there is no such test"))));
    }
    if let Some(name) =
        orders.unknown("bench", |name| BENCHES.iter().any(|bench| in_group(bench.name, name)))
    {
        tally.add(name, Err(crate::outcome::failure(format_args!("there is no such benchmark"))));
    }
    for Bench { name, run } in BENCHES {
        if orders.wants("bench", name, true) {
            match run(stub) {
                Ok(measured) => say!("bench {name} {} {}", measured.iterations, measured.ticks),
                Err(verdict) => tally.add(name, Err(verdict)),
            }
        }
    }
    for Test { name, open, run } in TESTS {
        if orders.wants("test", name, *open) {
            tally.add(name, run(stub));
        }
    }
    say!("stub: done {} {}", tally.passed, tally.failed);
}

/// Powers the machine off.
pub fn stop() -> ! {
    firmware::call(firmware::SYSTEM_OFF, [0; 3]);
    // Where the conduit is not known, or not what was told, the other one is all that is left.
    let other = if firmware::conduit() == Conduit::Hvc { Conduit::Smc } else { Conduit::Hvc };
    firmware::set_conduit(other);
    firmware::call(firmware::SYSTEM_OFF, [0; 3]);
    loop {
        cpu::wait_for_event();
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    console::take_over();
    say!("stub: panic on CPU {}: {info}", cpu::index());
    stop()
}
