//! Accesses to device registers that no driver makes.

use super::still_works;
use crate::arch::cpu;
use crate::arch::mmio::{read_32, write_32};
use crate::arch::probe::{Access, Class, Fault};
use crate::gic;
use crate::memory::Range;
use crate::outcome::Outcome;
use crate::run::Stub;
use crate::virtio::mmio::Transport;

/// Where in a page accesses are tried.
const OFFSETS: [u64; 14] =
    [0x0, 0x1, 0x2, 0x3, 0x4, 0x7, 0x8, 0xc, 0x1c, 0x21, 0x7f, 0xffc, 0xffd, 0xfff];

/// What came of the accesses.
#[derive(Default)]
struct Tally {
    done: u32,
    external: u32,
    alignment: u32,
}

impl Tally {
    fn add(&mut self, way: Access, address: u64, answer: Result<u64, Fault>) -> Outcome {
        match answer {
            Ok(_) => self.done += 1,
            Err(fault) if fault.class() == Class::External => self.external += 1,
            Err(fault) if fault.class() == Class::Alignment => self.alignment += 1,
            Err(fault) => fail!("{way:?} at {address:#x}: {fault}"),
        }
        Ok(())
    }

    fn say(&self, name: &str) {
        say!(
            "note {name}: {} done, {} external aborts, {} alignment faults",
            self.done,
            self.external,
            self.alignment
        );
    }
}

/// Tries all accesses on some offsets of each page, with all bits clear and all set.
fn sweep(name: &str, range: Range, first: u64, step: u64) -> Outcome {
    let mut tally = Tally::default();
    for page in (range.start..range.end).step_by(step as usize) {
        for address in OFFSETS
            .into_iter()
            .map(|offset| page + offset)
            .filter(|address| *address >= range.start + first)
        {
            for value in [0, !0] {
                for way in Access::ON_DEVICES {
                    // A line of up to 2 KiB begins before what is to be spared, UARTDR for one.
                    if way == Access::ZeroLine && first > 0 {
                        continue;
                    }
                    tally.add(way, address, way.at(address, value))?;
                }
            }
        }
    }
    tally.say(name);
    Ok(())
}

/// The distributor and a redistributor, with widths and alignments that they do not have; both are brought up anew.
pub fn interrupt_controller(stub: &Stub) -> Outcome {
    cpu::mask();
    let own = gic::own_registers(stub.machine);
    let outcome = sweep("hostile-mmio-gic", stub.machine.distributor, 0, 0x1000)
        .and_then(|()| sweep("hostile-mmio-gic", own, 0, 0x1000));
    gic::init(stub.machine);
    let found = gic::init_cpu(stub.machine);
    cpu::unmask();
    outcome?;
    ensure!(found, "the redistributor is gone");
    let before = cpu::this().count(3);
    gic::send(3, cpu::affinity());
    ensure!(
        crate::arch::time::poll(1_000_000, || cpu::this().count(3) == before + 1),
        "no SGI afterwards"
    );
    Ok(())
}

/// All registers of a virtio-mmio slot, with or without a device; and the gaps between the slots.
pub fn virtio(stub: &Stub) -> Outcome {
    let Some((first, last)) = stub.machine.slots().first().zip(stub.machine.slots().last()) else {
        skip!("no virtio-mmio slots")
    };
    let all = Range { start: first.registers.start, end: last.registers.end };
    let swept = sweep("hostile-mmio-virtio", all, 0, 0x200);
    // Each register of its own, odd widths included.
    let mut tally = Tally::default();
    for slot in stub.machine.slots() {
        for address in (slot.registers.start..slot.registers.start + 0x110).step_by(2) {
            for way in Access::ON_DEVICES {
                tally.add(way, address, way.at(address, !0))?;
            }
        }
        ensure!(Transport::at(slot).reset(), "slot at {:#x} cannot be reset", slot.registers.start);
    }
    tally.say("hostile-mmio-virtio");
    swept?;
    still_works(stub, "after all registers of virtio")
}

/// The UART, but for what would print; it is set up anew.
pub fn uart(stub: &Stub) -> Outcome {
    let base = stub.machine.uart.registers.start;
    let registers =
        [0x24, 0x28, 0x2c, 0x30, 0x34, 0x38].map(|offset| (base + offset, read_32(base + offset)));
    let outcome = sweep("hostile-mmio-uart", Range::sized(base, 0x1000), 8, 0x1000);
    for (address, value) in registers {
        write_32(address, value);
    }
    // Whatever was left pending.
    write_32(base + 0x44, 0x7ff);
    outcome
}

/// Accesses that begin in one device and end in another, or in nothing.
pub fn across(stub: &Stub) -> Outcome {
    let mut tally = Tally::default();
    let distributor = stub.machine.distributor;
    let uart = stub.machine.uart.registers;
    let own = gic::own_registers(stub.machine);
    for edge in [distributor.start, distributor.end, uart.start, uart.end, own.start] {
        for address in [edge - 1, edge - 2, edge - 4, edge - 7] {
            for way in [
                Access::Read16,
                Access::Read32,
                Access::Read64,
                Access::ReadPair,
                Access::Exclusive,
            ] {
                tally.add(way, address, way.at(address, 0))?;
            }
        }
    }
    tally.say("hostile-mmio-across");
    Ok(())
}
