//! Memory: all of it, and where there is none.
#![expect(unsafe_code, reason = "reads and writes memory that is free")]

use crate::arch::mmu;
use crate::arch::probe::{self, Access, Class};
use crate::arch::time;
use crate::memory::{self, Range};
use crate::outcome::Outcome;
use crate::run::Stub;
use crate::tests::balloon::{Seen, expect, fill};
use crate::virtio::balloon::fresh_block;

/// What word `address` holds in pass `pass`.
fn pattern(address: u64, pass: u64) -> u64 {
    (address ^ pass.rotate_right(8)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn words(range: Range, stride: u64) -> impl Iterator<Item = u64> {
    (range.start..range.end).step_by(stride as usize)
}

/// All memory that the stub does not live in is zero at first, and keeps what is written to it: no two addresses are the
/// same memory. With `stride=<bytes>` between the words that are looked at.
pub fn pattern_everywhere(stub: &Stub) -> Outcome {
    let stride = stub.orders.number("stride", 512).max(8) & !7;
    let pieces = memory::take_rest();
    for pass in 0..2 {
        for address in pieces.iter().flat_map(|piece| words(*piece, stride)) {
            // SAFETY: the memory is nobody's.
            let found = unsafe { (address as *const u64).read_volatile() };
            let expected = if pass == 0 { 0 } else { pattern(address, pass - 1) };
            if found != expected && (pass > 0 || !stub.orders.plain()) {
                fail!("{address:#x} holds {found:#x} instead of {expected:#x} in pass {pass}");
            }
            // SAFETY: as above.
            unsafe { (address as *mut u64).write_volatile(pattern(address, pass)) }
        }
    }
    for address in pieces.iter().flat_map(|piece| words(*piece, stride)) {
        // SAFETY: as above.
        let found = unsafe { (address as *const u64).read_volatile() };
        ensure!(found == pattern(address, 1), "{address:#x} holds {found:#x} at the end");
    }
    Ok(())
}

/// Access to memory that is not there is a synchronous external abort at that address, by whatever instruction, and life
/// goes on.
pub fn absent(stub: &Stub) -> Outcome {
    let end = stub.machine.ram().map(|ram| ram.end).max().unwrap_or(0);
    let bits = match mrs!("ID_AA64MMFR0_EL1") & 0xf {
        0 => 32,
        1 => 36,
        _ => 63,
    };
    let top = mmu::LIMIT.min(1u64 << bits);
    let ways = [
        Access::Read8,
        Access::Read16,
        Access::Read32,
        Access::Read64,
        Access::Write8,
        Access::Write16,
        Access::Write32,
        Access::Write64,
        Access::ReadPair,
        Access::WritePair,
        Access::ReadIndexed,
        Access::Exclusive,
        Access::Execute,
    ];
    for address in [end, end + 0x12340, end + (1 << 30), top - 4096] {
        // High memory of a `virt` machine holds PCIe, and redistributors of many CPUs.
        if address >= 0x40_0000_0000 || !(end..top).contains(&address) {
            continue;
        }
        for way in ways {
            if way == Access::Execute && !mmu::is_normal(address) {
                continue;
            }
            match way.at(address, 0) {
                Ok(value) => fail!("{way:?} at {address:#x} gives {value:#x}"),
                Err(fault) => {
                    ensure!(fault.class() == Class::External, "{way:?} at {address:#x}: {fault}");
                    ensure!(fault.far == address, "{way:?} at {address:#x}: FAR {:#x}", fault.far);
                }
            }
        }
    }
    ensure!(probe::read(stub.machine.device_tree.start).is_ok(), "memory that is there is not");
    Ok(())
}

/// What is not backed by memory or a device: the holes between the devices. Told, not judged, on other hypervisors.
pub fn holes(stub: &Stub) -> Outcome {
    for address in [0x0900_8000, 0x0b00_0000, 0x3fff_f000, 0x1000_0000u64] {
        let answer = probe::read(address);
        match answer {
            Err(fault) if fault.class() == Class::External => {}
            Err(fault) => fail!("{address:#x}: {fault}"),
            Ok(value) => say!("note memory-holes: {address:#x} reads {value:#x}"),
        }
    }
    let _ = stub;
    Ok(())
}

/// A page whose memory fails, as the monitor is told meanwhile: an external abort at each access from then on, and its
/// neighbours keep what they hold.
pub fn failing(stub: &Stub) -> Outcome {
    let block = fresh_block()?;
    let bad = Range::sized(block.start + 3 * memory::PAGE, memory::PAGE);
    fill(block);
    say!("note memory-failing: {:#x} may fail", bad.start);
    let seconds = stub.orders.number("seconds", 240);
    let mut other = None;
    let failed = time::poll(seconds * 1_000_000, || match probe::read(bad.start) {
        Ok(_) => false,
        Err(fault) => {
            other = Some(fault).filter(|fault| fault.class() != Class::External);
            true
        }
    });
    ensure!(failed, "it did not fail within {seconds} s");
    if let Some(fault) = other {
        fail!("a fault that is no external abort: ESR {:#x}", fault.esr);
    }
    for access in [Access::Read8, Access::Write64, Access::ReadPair, Access::Exclusive] {
        let again = access.at(bad.start + 8, 0).map_err(|fault| fault.class());
        ensure!(again == Err(Class::External), "{access:?} of it afterwards: {again:?}");
    }
    for around in
        [Range { start: block.start, end: bad.start }, Range { start: bad.end, end: block.end }]
    {
        expect(around, "beside it", |seen| seen == Seen::Marked)?;
    }
    Ok(())
}
