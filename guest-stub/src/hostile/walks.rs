//! Stage-1 tables in places where no table can be, and accesses through mappings that no kernel makes.

use crate::arch::mmu::{self, Alias};
use crate::arch::probe::{Access, Class};
use crate::memory::{BLOCK, PAGE, Range};
use crate::outcome::Outcome;
use crate::run::Stub;
use crate::virtio::balloon::{Balloon, feature, fresh_block};

/// A walk of stage 1 that leads to where there is no memory is a fault on the walk.
pub fn tables(stub: &Stub) -> Outcome {
    let end = stub.machine.ram().map(|ram| ram.end).max().unwrap_or(0);
    for place in [end, stub.machine.distributor.start, stub.machine.uart.registers.start, 1 << 38] {
        let alias = Alias::table(place);
        for way in [Access::Read64, Access::Write32, Access::Execute] {
            match way.at(alias.start() + 0x1000, 0) {
                Ok(value) => fail!("{way:?} through a table at {place:#x} gives {value:#x}"),
                Err(fault) if matches!(fault.class(), Class::External | Class::Translation) => {}
                Err(fault) => {
                    say!("note hostile-walks: {way:?} through a table at {place:#x}: {fault}")
                }
            }
        }
        // Address translation by instruction, too, must not end in the hypervisor.
        let _ = Access::Translate.at(alias.start(), 0);
    }
    Ok(())
}

/// A table in a page that is then given away: walks fault, and do not come upon what is there next.
pub fn table_given_away(stub: &Stub) -> Outcome {
    let mut balloon = Balloon::open(stub, feature::MUST_TELL_HOST)?;
    let block = fresh_block()?;
    crate::tests::balloon::fill(block);
    let page = Range::sized(block.start + 3 * PAGE, PAGE);
    mmu::fill_table(page.start, block.start & !(BLOCK - 1));
    let alias = Alias::table(page.start);
    ensure!(
        Access::Read64.at(alias.start(), 0).is_ok(),
        "a table of the guest's own does not work"
    );
    balloon.give(page)?;
    mmu::invalidate_all();
    let answer = Access::Read64.at(alias.start(), 0);
    ensure!(answer.is_err(), "a walk through a page in the balloon gives {answer:x?}");
    drop(alias);
    balloon.take_back(page)?;
    Ok(())
}

/// Devices as normal memory: fetched from, read ahead, by exclusives and cache maintenance.
pub fn devices_as_memory(stub: &Stub) -> Outcome {
    let alias = Alias::normal(0);
    let devices = [stub.machine.distributor.start, stub.machine.uart.registers.start + 0x18];
    let slot = stub.machine.slots().first().map(|slot| slot.registers.start);
    for place in devices.into_iter().chain(slot) {
        let ways = [
            Access::Execute,
            Access::Read32,
            Access::Read64,
            Access::ReadPair,
            Access::ReadIndexed,
            Access::Exclusive,
            Access::ZeroLine,
            Access::CleanLine,
            Access::FetchLine,
            Access::Translate,
        ];
        for way in ways {
            // A device without a hypervisor before it may be read as instructions, and a zeroed line prints.
            if stub.orders.plain() && matches!(way, Access::Execute | Access::ZeroLine) {
                continue;
            }
            match way.at(alias.start() + place, 0) {
                Ok(_) => ensure!(way != Access::Execute, "executed at {place:#x}"),
                Err(fault) if matches!(fault.class(), Class::External | Class::Alignment) => {}
                Err(fault) => say!("note hostile-devices: {way:?} at {place:#x}: {fault}"),
            }
        }
    }
    Ok(())
}
