//! The service by hypercalls: what is requested is there and zero, what is released is gone, and nothing wrong is done.

use crate::arch::probe::Class;
use crate::firmware;
use crate::hostile::Random;
use crate::memory::{self, BLOCK, PAGE, Range};
use crate::outcome::Outcome;
use crate::run::Stub;
use crate::service::{
    self, ACCEPT, DENIED, FEATURES, INVALID_PARAMETER, LISTEN, NOT_SUPPORTED, PRESENT, QUERY,
    RELEASE, REQUEST, REVISION, Refused, Service, raw,
};
use crate::tests::balloon::{Seen, expect, fill, look};
use crate::virtio::balloon::fresh_block;

fn gone(seen: Seen) -> bool {
    seen == Seen::Gone
}

fn zero(seen: Seen) -> bool {
    seen == Seen::Zero
}

fn marked(seen: Seen) -> bool {
    seen == Seen::Marked
}

/// Ends the test unless a function refuses with this error and has done nothing.
fn refused(function: u32, a: u64, b: u64, error: i64) -> Outcome {
    let answer = service::call(function, a, b);
    ensure!(answer == Err(error), "{function:#x}({a:#x}, {b:#x}) gives {answer:x?}, not {error}");
    Ok(())
}

/// Ends the test where we can have no memory that matters by the service.
fn room(service: Service) -> Outcome {
    if service.region.size() < 16 * BLOCK {
        skip!("there is no room for more memory");
    }
    if service.release(service.region) == Err(Refused { error: DENIED, done: 0 }) {
        skip!("the room is the memory device's");
    }
    Ok(())
}

/// The UID, the version, a bit for each function; and by the other conduit the same.
pub fn identity(stub: &Stub) -> Outcome {
    let service = Service::find()?;
    let Ok([major, minor, ..]) = raw(REVISION, 0, 0) else { fail!("REVISION faults") };
    ensure!((major, minor) == (1, 0), "version {major}.{minor}");
    let Ok([features, ..]) = raw(FEATURES, 0, 0) else { fail!("FEATURES faults") };
    ensure!(features & 0xfe == 0xfe, "features {features:#x}");
    let ram = stub.machine.ram().next().unwrap_or_default();
    ensure!(service.ram == ram, "range 0 is {:x?}, memory is {ram:x?}", service.ram);
    let region = service.region;
    ensure!(!region.overlaps(ram), "range 1 is {region:x?}, memory is {ram:x?}");
    say!("note service-identity: {} MiB at {:#x}", region.size() >> 20, region.start);
    for function in [REVISION, FEATURES, QUERY] {
        let changed = crate::arch::probe::changed_registers(firmware::conduit(), function);
        ensure!(changed == Ok(0), "{function:#x} changes registers: {changed:x?}");
    }
    Ok(())
}

/// What is no function is NOT_SUPPORTED and no fault, whatever its parameters.
pub fn unknown(_: &Stub) -> Outcome {
    Service::find()?;
    let Ok([features, ..]) = raw(FEATURES, 0, 0) else { fail!("FEATURES faults") };
    let beyond = (8..0x1_0000).step_by(7).map(|number| FEATURES | number);
    let narrow = (0..0x40).map(|number| 0x8600_0000 | number);
    let yielding = (0..8).flat_map(|number| [0x0600_0000, 0x4600_0000].map(|base| base | number));
    for function in beyond.chain(narrow).chain(yielding) {
        let number = function & 0xffff;
        if function & FEATURES == FEATURES && number < 64 && features & 1 << number != 0 {
            continue;
        }
        for (a, b) in [(0, 0), (!0, !0), (1, PAGE)] {
            match raw(function, a, b) {
                Ok([x0, ..]) if x0 as u32 as i32 == NOT_SUPPORTED as i32 => {}
                other => fail!("{function:#x}({a:#x}, {b:#x}) gives {other:x?}"),
            }
        }
    }
    Ok(())
}

/// A block of the memory that we started with goes and comes back as zeroes; so do pages out of its middle, and their
/// neighbours stay as they are.
pub fn memory(_: &Stub) -> Outcome {
    let service = Service::find()?;
    let block = fresh_block()?;
    fill(block);
    service.release(block)?;
    expect(block, "released", gone)?;
    service.request(block)?;
    expect(block, "had back", zero)?;
    fill(block);
    expect(block, "written again", marked)?;

    let middle = Range { start: block.start + 3 * PAGE, end: block.start + 100 * PAGE };
    let rest = [Range { end: middle.start, ..block }, Range { start: middle.end, ..block }];
    service.release(middle)?;
    expect(middle, "released from the middle", gone)?;
    // What is gone may be released again: it stays gone.
    service.release(middle)?;
    for kept in rest {
        expect(kept, "kept", marked)?;
    }
    service.request(middle)?;
    expect(middle, "had back in the middle", zero)?;
    for kept in rest {
        expect(kept, "kept", marked)?;
    }
    Ok(())
}

/// The region for more memory: nothing at first, zeroes where it is requested, nothing again.
pub fn region(stub: &Stub) -> Outcome {
    let service = Service::find()?;
    let region = service.region;
    room(service)?;
    // Not whole blocks: it begins and ends in the middle of one.
    let part = Range { start: region.start + BLOCK / 2, end: region.start + 7 * BLOCK + 5 * PAGE };
    for round in 0..stub.orders.number("rounds", 3) {
        for page in [region.start, part.start, part.end, region.end - PAGE] {
            ensure!(gone(look(page)), "round {round}: {page:#x} is {:x?} at first", look(page));
        }
        service.request(part)?;
        expect(part, "requested", zero)?;
        ensure!(gone(look(part.start - PAGE)) && gone(look(part.end)), "more than was requested");
        fill(part);
        expect(part, "written", marked)?;
        let again = service.request(part);
        ensure!(again == Err(Refused { error: PRESENT, done: 0 }), "requested again: {again:?}");
        expect(part, "requested again", marked)?;
        // Round a hole: the part with memory in it is refused, what is before it may be there.
        let hole = Range::sized(part.start + BLOCK, 3 * PAGE);
        service.release(hole)?;
        expect(hole, "a hole", gone)?;
        let over = Range { start: hole.start, end: hole.end + PAGE };
        let answer = service.request(over);
        let fits = answer.is_err_and(|refused| refused.error == PRESENT);
        ensure!(fits, "over the end of a hole: {answer:?}");
        ensure!(marked(look(hole.end)), "what was there is {:x?}", look(hole.end));
        service.release(part)?;
        expect(part, "released", gone)?;
    }
    Ok(())
}

/// All of the region, or as much as there is: each call does a piece, and all of it goes again.
pub fn all(_: &Stub) -> Outcome {
    let service = Service::find()?;
    room(service)?;
    let mut had = service.region.start;
    while had < service.region.end {
        let piece = Range { start: had, end: (had + 8 * BLOCK).min(service.region.end) };
        match service.request(piece) {
            Ok(()) => had = piece.end,
            Err(Refused { error: service::NO_MEMORY, done }) => {
                had += done;
                break;
            }
            Err(other) => return Err(other.into()),
        }
    }
    let had = Range { end: had, ..service.region };
    say!("note service-all: {} MiB", had.size() >> 20);
    expect(had, "requested", zero)?;
    fill(had);
    expect(had, "written", marked)?;
    service.release(service.region)?;
    expect(had, "released", gone)
}

/// Ranges that are none, and what nobody has offered, are refused.
pub fn wrong_ranges(_: &Stub) -> Outcome {
    let service = Service::find()?;
    let (ram, region) = (service.ram, service.region);
    for function in [REQUEST, RELEASE] {
        for (start, bytes) in [
            (ram.start, 0),
            (ram.start + 1, PAGE),
            (ram.start, PAGE - 1),
            (ram.end - PAGE, 2 * PAGE),
            (ram.start - PAGE, PAGE),
            (ram.start - PAGE, 2 * PAGE),
            (ram.end, PAGE),
            (region.end, PAGE),
            (region.end - PAGE, 2 * PAGE),
            (ram.start, region.end - ram.start + PAGE),
            (0, PAGE),
            (0, !(PAGE - 1)),
            (!(PAGE - 1), PAGE),
            (!(PAGE - 1), 2 * PAGE),
            (1 << 39, PAGE),
            (1 << 63, 1 << 63),
            (!0, !0),
        ] {
            // The region may begin where the memory that we started with ends.
            if !(region.contains(start) && start + bytes <= region.end) {
                refused(function, start, bytes, INVALID_PARAMETER)?;
            }
        }
    }
    refused(ACCEPT, region.start & !(PAGE - 1), PAGE, DENIED)?;
    refused(ACCEPT, region.start + 1, PAGE, INVALID_PARAMETER)?;
    for number in [2, 3, 1 << 32, !0] {
        refused(QUERY, number, 0, INVALID_PARAMETER)?;
        refused(LISTEN, number, 0, INVALID_PARAMETER)?;
    }
    ensure!(service.pending() == Ok(None), "something is pending: {:x?}", service.pending());
    ensure!(service.decline() == Ok(()), "nothing cannot be declined");
    Ok(())
}

/// Random functions with random ranges in and about a part of memory that is ours to lose: after each, a page is there
/// with what was in it, or zero where it went and came, or gone.
pub fn hostile(stub: &Stub) -> Outcome {
    let service = Service::find()?;
    let Some(ours) = memory::take(4 * BLOCK, BLOCK) else { skip!("no untouched memory left") };
    fill(ours);
    let mut random = Random::new(stub);
    for _ in 0..stub.orders.number("iterations", 3_000) {
        let function = FEATURES + random.below(10) as u32;
        let most = 1 << random.below(12);
        let bytes = match random.below(8) {
            0 => random.next(),
            1 => random.below(64),
            _ => (random.below(most) + 1) * PAGE,
        };
        let start = match random.below(8) {
            // Nowhere near what the stub lives in.
            0 => random.next() | 1 << 40,
            1 => service.ram.end.wrapping_add(random.below(PAGE)),
            2 if service.region.size() > 0 => {
                service.region.start + random.below(service.region.size() / PAGE) * PAGE
            }
            3 => ours.start + random.below(ours.size()),
            _ => ours.start + random.below(ours.size() / PAGE) * PAGE,
        };
        // A release beyond what is ours would be carried out, and end us.
        let within = ours.contains(start) && bytes <= ours.end - start;
        if ours.contains(start) && !within {
            continue;
        }
        if let Err(fault) = raw(function, start, bytes) {
            fail!("{function:#x}({start:#x}, {bytes:#x}): {fault}");
        }
        let seen = look(ours.start + random.below(ours.size() / PAGE) * PAGE);
        ensure!(!matches!(seen, Seen::Other(_)), "a page of ours is {seen:x?}");
    }
    // Where a driver of the memory device was before us, the region may be that device's.
    let released = service.release(service.region);
    let denied = Err(Refused { error: DENIED, done: 0 });
    ensure!(released.is_ok() || released == denied, "the region is not released: {released:?}");
    service.release(ours)?;
    expect(ours, "released at the end", gone)?;
    service.request(ours)?;
    expect(ours, "had back at the end", zero)?;
    ensure!(service.listen(false) == Ok(()), "it will not be told that we do not listen");
    Ok(())
}

/// A range that goes while it is read word by word is never anything but what it was, and then gone: an access to what
/// is gone is an external abort by whatever instruction.
pub fn aborts(_: &Stub) -> Outcome {
    use crate::arch::probe::Access;
    let service = Service::find()?;
    let block = fresh_block()?;
    fill(block);
    service.release(block)?;
    for way in Access::ON_DEVICES {
        // Maintenance of caches may be ignored where nothing is.
        let lenient = matches!(way, Access::CleanLine | Access::FetchLine);
        for address in [block.start, block.start + BLOCK / 2 + 0x40, block.end - 64] {
            match way.at(address, 0) {
                Ok(_) if lenient => {}
                Err(fault) if fault.class() == Class::External => {}
                other => fail!("{way:?} at {address:#x}: {other:x?}"),
            }
        }
    }
    service.request(block)?;
    expect(block, "had back", zero)
}
