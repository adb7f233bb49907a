//! Walks that are overtaken by an edit, step by step.

use super::super::descriptor::{Entry, Level, Mark};
use super::super::walk::{Place, Table};
use super::*;
use crate::addr::{BLOCK_1G, PAGE_SIZE};
use crate::arch::cpu::{self, CpuId};
use crate::audit::{Report, TableWalk};
use crate::epoch::Pin;
use crate::mem::{Order, Owner};

/// Pins as another CPU than the one that edits.
fn pin_elsewhere(memory: &'static Memory) -> Pin<'static> {
    cpu::set_current(CpuId::new(1).unwrap());
    let pin = memory.pin();
    cpu::set_current(CpuId::new(0).unwrap());
    pin
}

/// Makes a space whose first 2 MiB are mapped by pages, and gives a walker's place: the table of
/// these pages.
fn walker(pin: &Pin<'static>, space: &Space<'static>) -> Table<'static> {
    for page in 0..512 {
        space.populate(at(page * PAGE_SIZE), Order::PAGE).unwrap();
    }
    let place = space.root(pin).find(at(0));
    assert_eq!(place.level(), Level::Three);
    shared(place.table)
}

/// Returns the same table, for longer than the borrow checker can see that the pin is kept.
#[expect(unsafe_code, reason = "the test keeps the pin")]
fn shared(table: Table<'_>) -> Table<'static> {
    // SAFETY: the tests below keep the pin for as long as they use the table.
    unsafe { Table::new(table.pa(), table.level()) }
}

fn take_first_block(space: &Space<'_>) {
    space.take_range(at(0)..at(BLOCK_2M), Mark::Empty).unwrap().flushed.retire();
}

fn help(memory: &Memory) {
    for _ in 0..1000 {
        memory.idle_step();
    }
}

#[test]
#[cfg_attr(feature = "no-grace", ignore = "the grace period is left out")]
fn a_walker_in_a_table_that_was_taken_finds_what_was_there() {
    let (memory, space) = space(64 << 20, BLOCK_1G);
    let pin = pin_elsewhere(memory);
    let table = walker(&pin, &space);
    let before: Vec<_> =
        (0..512).map(|page| Place::load(table, at(page * PAGE_SIZE)).bits).collect();
    take_first_block(&space);
    help(memory);
    for (page, &bits) in before.iter().enumerate() {
        let place = Place::load(table, at(page as u64 * PAGE_SIZE));
        assert_eq!(place.bits, bits);
        let Entry::Leaf(pa) = place.entry() else { panic!("a page was mapped there") };
        let frame = crate::addr::Frame::containing(pa).unwrap();
        assert_eq!(memory.frames().owner_of(frame).owner, Owner::Retired);
    }
    assert_eq!(memory.counts().retired, 513);
    drop(pin);
    settle(memory);
    assert_sound(memory, &[&space]);
}

/// The twin: what the test above sees where the grace period is left out.
#[test]
#[cfg(feature = "no-grace")]
fn without_the_grace_period_a_walker_finds_a_freed_table() {
    let (memory, space) = space(64 << 20, BLOCK_1G);
    let pin = pin_elsewhere(memory);
    let table = walker(&pin, &space);
    take_first_block(&space);
    assert_eq!(Place::load(table, at(0)).bits, crate::mem::POISON);
}

#[test]
fn a_walker_that_comes_later_does_not_hold_up_what_was_taken_before() {
    let (memory, space) = space(64 << 20, BLOCK_1G);
    let _ = walker(&pin_elsewhere(memory), &space);
    take_first_block(&space);
    while memory.counts().retired > 0 {
        // Always somebody is walking, never the same for long.
        let pin = pin_elsewhere(memory);
        assert!(space.translate(&pin, at(0)).is_err());
        memory.idle_step();
        drop(pin);
        memory.idle_step();
    }
}

#[test]
fn a_long_dump_holds_up_nothing_between_its_pieces() {
    let (memory, space) = space(64 << 20, BLOCK_1G);
    let _ = walker(&pin_elsewhere(memory), &space);
    for page in (0..512).step_by(2) {
        // So that no two neighbours are one run.
        space.take_pages(&[at(page * PAGE_SIZE)]).unwrap().1.retire();
    }
    let mut runs = 0;
    space.dump(at(0)..at(BLOCK_2M), |_| {
        assert!(!memory.epoch().is_pinned(cpu::current()), "the sink may take its time");
        runs += 1;
    });
    assert_eq!(runs, 512);
}

#[test]
fn an_audit_among_pages_that_become_a_block_raises_no_alarm() {
    let (memory, space) = space(64 << 20, BLOCK_1G);
    space.populate(at(0), Order::BLOCK_2M).unwrap();
    space.split_block(at(0)).unwrap();
    let mut report = Report::NOTHING;
    let mut walk = TableWalk::new(&space);
    assert!(walk.step(memory, &space, &mut report), "512 pages are more than one step");
    space.coalesce(at(0)).expect("its pages lie together").retire();
    while walk.step(memory, &space, &mut report) {}
    assert!(report.is_clean(), "{report:?}");
}
