//! Hypercalls that nobody knows, with arguments that mean nothing.

use super::Random;
use crate::arch::probe::{self, Class, Conduit};
use crate::firmware::{self, CPU_ON_32, CPU_ON_64, NOT_SUPPORTED, SUCCESS};
use crate::outcome::Outcome;
use crate::run::Stub;

/// Functions of PSCI that would end, stop or restart something: the only ones that are left out.
pub(super) fn ends_something(function: u32) -> bool {
    let number = function & 0xffff;
    function & 0x3f00_0000 == 0x0400_0000
        && (number < 0x20 && !matches!(number, 0 | 4 | 6 | 7 | 0xa))
}

/// Random functions with random arguments, by all conduits: none does anything.
pub fn random(stub: &Stub) -> Outcome {
    let mut random = Random::new(stub);
    let (mut answered, mut undefined) = (0, 0);
    for _ in 0..stub.orders.number("iterations", 20_000) {
        let mut function = random.next() as u32;
        if random.below(2) == 0 {
            // Near what is known.
            function = (function & 0xc000_00ff) | 0x8000_0000 | (random.below(8) as u32) << 24;
        }
        if ends_something(function) {
            continue;
        }
        let conduit = [Conduit::Hvc, Conduit::Smc, Conduit::HvcOther][random.below(3) as usize];
        let arguments = [function.into(), random.next(), random.next(), random.next()];
        match probe::firmware(conduit, arguments) {
            Ok([x0, ..]) if x0 as u32 as i32 == NOT_SUPPORTED as i32 => answered += 1,
            Ok([x0, ..]) => {
                // Numbers such as a version are answers as well; what matters is that we are alive.
                let _ = x0;
                answered += 1;
            }
            Err(fault) if fault.class() == Class::Undefined => undefined += 1,
            Err(fault) => fail!("function {function:#x} by {conduit:?}: {fault}"),
        }
    }
    say!("note hostile-calls: {answered} answered, {undefined} undefined");
    Ok(())
}

/// Returns an entry point that is never in memory, nor its lower 32 bits: that is where the stub's code would be.
pub(super) fn wrong_entry(random: &mut Random) -> u64 {
    let low = random.below(1 << 30);
    let entries = [random.next() << 32 | 1 << 60 | low, low, 1 << 39, 0xffff_ffff << 32];
    entries[random.below(entries.len() as u64) as usize]
}

/// CPU_ON with every kind of wrong target, entry and context starts nobody.
pub fn cpu_on(stub: &Stub) -> Outcome {
    if stub.orders.plain() {
        skip!("QEMU's own PSCI checks no entry address");
    }
    let mut random = Random::new(stub);
    for _ in 0..2_000 {
        let function = if random.below(2) == 0 { CPU_ON_64 } else { CPU_ON_32 };
        let known = stub.machine.cpus()[random.below(stub.machine.cpus().len() as u64) as usize];
        let target = if random.below(2) == 0 { known } else { random.next() };
        let entry = wrong_entry(&mut random);
        let told = firmware::call(function, [target, entry, random.next()]);
        ensure!(told != SUCCESS, "CPU_ON({target:#x}, {entry:#x}) started something");
    }
    for cpu in &stub.machine.cpus()[1..] {
        let state = firmware::affinity_info(*cpu);
        ensure!(state == firmware::OFF, "CPU {cpu:#x} is {state}");
    }
    Ok(())
}

/// HVC and SMC with all immediates.
pub fn immediates(_: &Stub) -> Outcome {
    for immediate in (0..0x1_0000).step_by(61) {
        for base in [0xd400_0002, 0xd400_0003u32] {
            // x0 is a function that nobody has.
            if let Err(fault) = probe::instruction(base | immediate << 5, 0x8600_beef)
                && fault.class() != Class::Undefined
            {
                fail!("{:#x}: {fault}", base | immediate << 5);
            }
        }
    }
    Ok(())
}
