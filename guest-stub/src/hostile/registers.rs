//! All system registers there could be.
#![expect(unsafe_code, reason = "reads a register by name")]

use crate::arch::cpu;
use crate::arch::probe::{self, Class, Register};
use crate::gic;
use crate::memory::{self, PAGE};
use crate::outcome::Outcome;
use crate::run::Stub;

fn all(op0: u8) -> impl Iterator<Item = Register> {
    (0..0x4000u32).map(move |bits| {
        let part = |low: u32, mask: u32| (bits >> low & mask) as u8;
        Register::new(op0, part(11, 7), part(7, 15), part(3, 15), part(0, 7))
    })
}

/// Registers that acknowledge an interrupt when they are read, or whose old value written back would mean something: DAIF and the
/// like, the timers, what holds our own state.
pub(super) fn touchy(register: Register) -> bool {
    matches!(
        register.encoding,
        [3, 0, 12, 8 | 12, 0 | 1]
            | [3, 0, 12, 9, 5]
            | [3, 0, 12, 11, _]
            | [3, 3, 4, 2, _]
            | [3, 0, 4, 2 | 3, _]
    )
}

/// Reads every register of op0 2 and 3, and writes what it read: each is there or undefined, and the CPU goes on.
pub fn read_and_write_back(_: &Stub) -> Outcome {
    cpu::mask();
    let outcome = sweep();
    cpu::unmask();
    outcome
}

fn sweep() -> Outcome {
    let (mut there, mut writable) = (0, 0);
    for register in all(2).chain(all(3)) {
        if touchy(register) {
            continue;
        }
        match register.read() {
            Ok(value) => {
                there += 1;
                match register.write(value) {
                    Ok(()) => writable += 1,
                    Err(fault) if matches!(fault.class(), Class::Undefined | Class::NotEnabled) => {
                    }
                    Err(fault) => fail!("writing {register}: {fault}"),
                }
            }
            Err(fault) if matches!(fault.class(), Class::Undefined | Class::NotEnabled) => {}
            Err(fault) => fail!("reading {register}: {fault}"),
        }
    }
    say!("note hostile-registers: {there} can be read, {writable} of them written");
    let affinity = mrs!("MPIDR_EL1");
    ensure!(affinity & 1 << 31 != 0, "MPIDR_EL1 is {affinity:#x} afterwards");
    Ok(())
}

/// Executes every system instruction (op0 1), with the address of a page of its own: TLB, cache, address translation and
/// whatever else there is.
pub fn system_instructions(_: &Stub) -> Outcome {
    let Some(page) = memory::take(PAGE, PAGE) else { skip!("no untouched memory left") };
    cpu::mask();
    let mut done = 0;
    let mut outcome = Ok(());
    for instruction in all(1) {
        let [_, op1, crn, crm, op2] = instruction.encoding.map(u32::from);
        let encoding = 0xd508_0000 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5;
        match probe::instruction(encoding, page.start) {
            Ok(_) => done += 1,
            Err(fault) if matches!(fault.class(), Class::Undefined | Class::NotEnabled) => {}
            // Maintenance of a line that may not be touched is refused in its own way.
            Err(fault) => say!("note hostile-instructions: {encoding:#x}: {fault}"),
        }
    }
    cpu::unmask();
    if let Err(fault) = probe::read(page.start) {
        outcome = Err(crate::outcome::failure(format_args!("the page is gone: {fault}")));
    }
    say!("note hostile-instructions: {done} were executed");
    outcome
}

/// Writes to the registers that send interrupts, with every kind of target: none reaches anybody that is not there.
pub fn send_interrupts(stub: &Stub) -> Outcome {
    let mut random = super::Random::new(stub);
    for _ in 0..5_000 {
        let affinity = random.next();
        // To all kinds of CPUs but the first two lists of 16, where ours are.
        gic::send(random.below(16) as u32, affinity | 0xff00);
    }
    for register in [Register::new(3, 0, 12, 11, 6), Register::new(3, 0, 12, 11, 7)] {
        // Group 0 and the other security state: nothing comes, or nothing is there.
        let _ = register.write(random.next() | 0xff << 48);
    }
    Ok(())
}
