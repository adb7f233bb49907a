//! For tests: a short life of a guest that keeps every rule, and ways to change it.

use super::super::record::{Barrier, EL2, Kind, Register, SAME, Tlbi};
use super::super::{Event, Trace};
use super::{Report, Rule, check};

pub(super) const GUEST: u16 = 1;
pub(super) const VMID: u64 = 5;
pub(super) const ROOT: u64 = 0x4000_0000;
pub(super) const MIDDLE: u64 = 0x4000_1000;
pub(super) const PAGES: u64 = 0x4000_2000;
/// A page of memory, and a block of 2 MiB.
pub(super) const PAGE: u64 = 0x4000_8000;
pub(super) const BLOCK: u64 = 0x4020_0000;
pub(super) const BLOCK_ORDER: u32 = 9;
/// EL2's root on the first CPU, its window's tables, and a table that all CPUs share.
pub(super) const EL2_ROOT: u64 = 0x5000_0000;
pub(super) const WINDOW: [u64; 3] = [0x5000_1000, 0x5000_2000, 0x5000_3000];
pub(super) const EL2_SHARED: u64 = 0x5000_4000;
pub(super) const WINDOW_PAGE: u64 = 511 << 27;

pub(super) const TABLE: u64 = 3;
pub(super) const LEAF: u64 = 0x7fc | 1;
pub(super) const PAGE_BIT: u64 = 2;

pub(super) fn at(cpu: u8, kind: Kind, what: u16, count: u32, a: u64, b: u64) -> Event {
    Event { order: 0, kind, cpu, what, count, a, b }
}

pub(super) fn one(kind: Kind, a: u64, b: u64) -> Event {
    at(0, kind, 0, 0, a, b)
}

pub(super) fn dsb(which: Barrier) -> Event {
    at(0, Kind::Barrier, which as u16, 0, 0, 0)
}

pub(super) fn tlbi(which: Tlbi, operand: u64) -> Event {
    at(0, Kind::Tlbi, which as u16, 1, operand, 0)
}

pub(super) fn vttbr(cpu: u8, value: u64) -> Event {
    at(cpu, Kind::Register, Register::Vttbr as u16, 0, value, 0)
}

pub(super) const LOADED: u64 = ROOT | VMID << 48;

/// A block is taken, zeroed before.
pub(super) fn assign(first: u64, order: u32, ipa: u64) -> [Event; 2] {
    [at(0, Kind::Zero, 0, order, first, 0), at(0, Kind::Assign, GUEST, order, first, ipa)]
}

pub(super) fn table(of: u16, address: u64) -> [Event; 2] {
    [at(0, Kind::Zero, 0, 0, address, 0), at(0, Kind::Table, of, 0, address, 0)]
}

/// Invalidates one page, on a CPU that runs another guest or none.
pub(super) fn by_page(page: u64) -> Vec<Event> {
    vec![
        dsb(Barrier::DsbIshst),
        vttbr(0, LOADED),
        dsb(Barrier::Isb),
        tlbi(Tlbi::Ipas2e1is, page),
        dsb(Barrier::DsbIsh),
        tlbi(Tlbi::Vmalle1is, 0),
        dsb(Barrier::DsbIsh),
        vttbr(0, 0),
        dsb(Barrier::Isb),
    ]
}

/// Invalidates `(number + 1) * 2^(5 * scale + 1)` pages from `page` on.
pub(super) fn by_range(page: u64, number: u64, scale: u64) -> Vec<Event> {
    let mut events = by_page(0);
    events[3] = tlbi(Tlbi::Ripas2e1is, page | number << 39 | scale << 44 | 1 << 46);
    events
}

pub(super) fn by_vmid() -> Vec<Event> {
    let mut events = by_page(0);
    events.splice(3..6, [tlbi(Tlbi::Vmalls12e1is, 0)]);
    events
}

pub(super) fn retired(first: u64, order: u32, epoch: u64) -> Vec<Event> {
    vec![
        at(0, Kind::Retire, 0, order, first, 0),
        one(Kind::RetiredIn, epoch, 0),
        one(Kind::Grace, epoch + 1, 0),
        one(Kind::Grace, epoch + 2, 0),
        at(0, Kind::Free, 0, order, first, epoch + 2),
    ]
}

/// EL2's own tables, a use of the window, and a page more at EL2.
pub(super) fn el2() -> Vec<Event> {
    let el2 = |address| at(0, Kind::Table, EL2, 0, address, 0);
    let mut events = vec![at(0, Kind::Root, EL2, 0, EL2_ROOT, 0), el2(EL2_ROOT), el2(EL2_SHARED)];
    events.extend(WINDOW.map(el2));
    events.extend([
        one(Kind::Write, WINDOW[0], WINDOW[1] | TABLE),
        one(Kind::Write, WINDOW[1], WINDOW[2] | TABLE),
        one(Kind::Write, EL2_ROOT + 511 * 8, WINDOW[0] | TABLE),
        one(Kind::Write, EL2_ROOT, EL2_SHARED | TABLE),
        at(0, Kind::Register, Register::Ttbr0 as u16, 0, EL2_ROOT, 0),
    ]);
    for _ in 0..2 {
        events.extend([
            at(0, Kind::Run, 12, 2, WINDOW[2], BLOCK | 3),
            dsb(Barrier::DsbNshst),
            at(0, Kind::Run, SAME, 2, WINDOW[2], 0),
            dsb(Barrier::DsbNshst),
            at(0, Kind::Tlbi, Tlbi::Vae2 as u16, 2, WINDOW_PAGE, 0),
            dsb(Barrier::DsbNsh),
        ]);
    }
    events.extend([
        one(Kind::Lock, EL2_ROOT, 0),
        one(Kind::Write, EL2_SHARED + 8, 0x4000_0000 | LEAF),
        one(Kind::Unlock, EL2_ROOT, 0),
    ]);
    events
}

/// A guest that gets a page and a block, loses both, and ends.
pub(super) fn life() -> Vec<Event> {
    let mut events = vec![one(Kind::Begin, 0, 0)];
    events.extend(el2());
    events.extend(table(GUEST, ROOT));
    events.push(at(0, Kind::Root, GUEST, 0, ROOT, VMID));
    events.extend(table(GUEST, MIDDLE));
    events.extend(table(GUEST, PAGES));
    events.extend(assign(PAGE, 0, 0));
    events.extend(assign(BLOCK, BLOCK_ORDER, 2 << 20));
    events.extend([
        one(Kind::Lock, ROOT, 0),
        one(Kind::Write, ROOT, MIDDLE | TABLE),
        one(Kind::Write, MIDDLE, PAGES | TABLE),
        one(Kind::Write, PAGES, PAGE | LEAF | PAGE_BIT),
        one(Kind::Write, MIDDLE + 8, BLOCK | LEAF),
        dsb(Barrier::DsbIshst),
        one(Kind::Unlock, ROOT, 0),
        vttbr(1, LOADED),
        at(1, Kind::Pin, 0, 0, 0, 0),
        at(1, Kind::Unpin, 0, 0, 0, 0),
    ]);
    // The page.
    events.extend([one(Kind::Lock, ROOT, 0), one(Kind::Write, PAGES, 0)]);
    events.extend(by_page(0));
    events.push(one(Kind::Unlock, ROOT, 0));
    events.extend(retired(PAGE, 0, 0));
    // The block, and then the table of the page.
    events.extend([one(Kind::Lock, ROOT, 0), one(Kind::Write, MIDDLE + 8, 0)]);
    events.extend(by_range(512, 15, 0));
    events.extend([one(Kind::Unlock, ROOT, 0), one(Kind::Lock, ROOT, 0)]);
    events.push(one(Kind::Write, MIDDLE, 0));
    events.extend(by_range(0, 15, 1));
    events.push(one(Kind::Unlock, ROOT, 0));
    events.extend(retired(BLOCK, BLOCK_ORDER, 2));
    events.extend(retired(PAGES, 0, 4));
    // The rest.
    events.push(vttbr(1, 0));
    events.extend([one(Kind::Lock, ROOT, 0), one(Kind::Write, ROOT, 0)]);
    events.extend(by_vmid());
    events.push(one(Kind::Unlock, ROOT, 0));
    events.extend(retired(MIDDLE, 0, 6));
    events.push(at(0, Kind::RootEnd, GUEST, 0, ROOT, 0));
    events.extend(retired(ROOT, 0, 8));
    events.push(one(Kind::End, 0, 0));
    events
}

pub(super) fn checked(mut events: Vec<Event>) -> Report {
    for (order, event) in (0..).zip(&mut events) {
        event.order = order;
    }
    check(&Trace { events })
}

/// Where the event stands that is the `nth` like this.
pub(super) fn place(events: &[Event], nth: usize, like: impl Fn(&Event) -> bool) -> usize {
    let mut found = (0..).zip(events).filter(|(_, event)| like(event));
    found.nth(nth).expect("the life has such an event").0
}

pub(super) fn writes(address: u64, bits: u64) -> impl Fn(&Event) -> bool {
    move |event| event.kind == Kind::Write && event.a == address && event.b == bits
}

pub(super) fn is(kind: Kind, a: u64) -> impl Fn(&Event) -> bool {
    move |event| event.kind == kind && event.a == a
}

pub(super) fn is_tlbi(which: Tlbi) -> impl Fn(&Event) -> bool {
    move |event| event.kind == Kind::Tlbi && event.what == which as u16
}

pub(super) fn is_barrier(which: Barrier) -> impl Fn(&Event) -> bool {
    move |event| event.kind == Kind::Barrier && event.what == which as u16
}

/// A life without the event that is the `nth` like this.
pub(super) fn without(nth: usize, like: impl Fn(&Event) -> bool) -> Vec<Event> {
    let mut events = life();
    let place = place(&events, nth, like);
    events.remove(place);
    events
}

/// A life with more events before the `nth` like this.
pub(super) fn with_before(
    nth: usize,
    like: impl Fn(&Event) -> bool,
    more: impl IntoIterator<Item = Event>,
) -> Vec<Event> {
    let mut events = life();
    let place = place(&events, nth, like);
    events.splice(place..place, more);
    events
}

#[track_caller]
pub(super) fn breaks(rule: Rule, events: Vec<Event>) {
    let report = checked(events);
    let found: Vec<_> = report.violations.iter().map(|one| one.rule).collect();
    assert!(!found.is_empty(), "{rule:?} is not noticed");
    assert!(found.iter().all(|other| *other == rule), "{rule:?}: {:#?}", report.violations);
}

/// As [`breaks`], where one mistake has others follow from it: the first one told is this.
#[track_caller]
pub(super) fn breaks_first(rule: Rule, events: Vec<Event>) {
    let report = checked(events);
    let first = report.violations.first().map(|one| one.rule);
    assert_eq!(first, Some(rule), "{:#?}", report.violations);
}
