//! A short life of a guest that keeps every rule, and for each rule a twin of it that does not.

use super::super::record::{Barrier, EL2, Kind, Register, SAME, Tlbi};
use super::super::{Event, Trace};
use super::{Report, Rule, check};

const GUEST: u16 = 1;
const VMID: u64 = 5;
const ROOT: u64 = 0x4000_0000;
const MIDDLE: u64 = 0x4000_1000;
const PAGES: u64 = 0x4000_2000;
/// A page of memory, and a block of 2 MiB.
const PAGE: u64 = 0x4000_8000;
const BLOCK: u64 = 0x4020_0000;
const BLOCK_ORDER: u32 = 9;
/// EL2's root on the first CPU, its window's tables, and a table that all CPUs share.
const EL2_ROOT: u64 = 0x5000_0000;
const WINDOW: [u64; 3] = [0x5000_1000, 0x5000_2000, 0x5000_3000];
const EL2_SHARED: u64 = 0x5000_4000;
const WINDOW_PAGE: u64 = 511 << 27;

const TABLE: u64 = 3;
const LEAF: u64 = 0x7fc | 1;
const PAGE_BIT: u64 = 2;

fn at(cpu: u8, kind: Kind, what: u16, count: u32, a: u64, b: u64) -> Event {
    Event { order: 0, kind, cpu, what, count, a, b }
}

fn one(kind: Kind, a: u64, b: u64) -> Event {
    at(0, kind, 0, 0, a, b)
}

fn dsb(which: Barrier) -> Event {
    at(0, Kind::Barrier, which as u16, 0, 0, 0)
}

fn tlbi(which: Tlbi, operand: u64) -> Event {
    at(0, Kind::Tlbi, which as u16, 1, operand, 0)
}

fn vttbr(cpu: u8, value: u64) -> Event {
    at(cpu, Kind::Register, Register::Vttbr as u16, 0, value, 0)
}

const LOADED: u64 = ROOT | VMID << 48;

/// A block is taken, zeroed before.
fn assign(first: u64, order: u32, ipa: u64) -> [Event; 2] {
    [at(0, Kind::Zero, 0, order, first, 0), at(0, Kind::Assign, GUEST, order, first, ipa)]
}

fn table(of: u16, address: u64) -> [Event; 2] {
    [at(0, Kind::Zero, 0, 0, address, 0), at(0, Kind::Table, of, 0, address, 0)]
}

/// Invalidates one page, on a CPU that runs another guest or none.
fn by_page(page: u64) -> Vec<Event> {
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
fn by_range(page: u64, number: u64, scale: u64) -> Vec<Event> {
    let mut events = by_page(0);
    events[3] = tlbi(Tlbi::Ripas2e1is, page | number << 39 | scale << 44 | 1 << 46);
    events
}

fn by_vmid() -> Vec<Event> {
    let mut events = by_page(0);
    events.splice(3..6, [tlbi(Tlbi::Vmalls12e1is, 0)]);
    events
}

fn retired(first: u64, order: u32, epoch: u64) -> Vec<Event> {
    vec![
        at(0, Kind::Retire, 0, order, first, 0),
        one(Kind::RetiredIn, epoch, 0),
        one(Kind::Grace, epoch + 1, 0),
        one(Kind::Grace, epoch + 2, 0),
        at(0, Kind::Free, 0, order, first, epoch + 2),
    ]
}

/// EL2's own tables, a use of the window, and a page more at EL2.
fn el2() -> Vec<Event> {
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
fn life() -> Vec<Event> {
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

fn checked(mut events: Vec<Event>) -> Report {
    for (order, event) in (0..).zip(&mut events) {
        event.order = order;
    }
    check(&Trace { events })
}

/// Where the event stands that is the `nth` like this.
fn place(events: &[Event], nth: usize, like: impl Fn(&Event) -> bool) -> usize {
    let mut found = (0..).zip(events).filter(|(_, event)| like(event));
    found.nth(nth).expect("the life has such an event").0
}

fn writes(address: u64, bits: u64) -> impl Fn(&Event) -> bool {
    move |event| event.kind == Kind::Write && event.a == address && event.b == bits
}

fn is(kind: Kind, a: u64) -> impl Fn(&Event) -> bool {
    move |event| event.kind == kind && event.a == a
}

fn is_tlbi(which: Tlbi) -> impl Fn(&Event) -> bool {
    move |event| event.kind == Kind::Tlbi && event.what == which as u16
}

fn is_barrier(which: Barrier) -> impl Fn(&Event) -> bool {
    move |event| event.kind == Kind::Barrier && event.what == which as u16
}

/// A life without the event that is the `nth` like this.
fn without(nth: usize, like: impl Fn(&Event) -> bool) -> Vec<Event> {
    let mut events = life();
    let place = place(&events, nth, like);
    events.remove(place);
    events
}

/// A life with more events before the `nth` like this.
fn with_before(
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
fn breaks(rule: Rule, events: Vec<Event>) {
    let report = checked(events);
    let found: Vec<_> = report.violations.iter().map(|one| one.rule).collect();
    assert!(!found.is_empty(), "{rule:?} is not noticed");
    assert!(found.iter().all(|other| *other == rule), "{rule:?}: {:#?}", report.violations);
}

/// As [`breaks`], where one mistake has others follow from it: the first one told is this.
#[track_caller]
fn breaks_first(rule: Rule, events: Vec<Event>) {
    let report = checked(events);
    let first = report.violations.first().map(|one| one.rule);
    assert_eq!(first, Some(rule), "{:#?}", report.violations);
}

#[test]
fn a_life_that_keeps_all_rules_is_let_pass() {
    let report = checked(life());
    assert!(report.violations.is_empty(), "{:#?}", report.violations);
    assert_eq!(report.flushed, 4, "a page, a block, and two tables");
    assert_eq!(report.frames, [513, 516, 516]);
}

#[test]
fn complete() {
    let mut events = life();
    events.pop();
    breaks(Rule::Complete, events);
    let mut events = life();
    events.remove(0);
    breaks(Rule::Complete, events);
    // A hole: the numbers tell.
    let mut events = life();
    for (order, event) in (0..).zip(&mut events) {
        event.order = order;
    }
    let hole = place(&events, 0, is_barrier(Barrier::Isb));
    events.remove(hole);
    let report = check(&Trace { events });
    assert_eq!(report.violations.first().map(|one| one.rule), Some(Rule::Complete));
}

#[test]
fn lock() {
    breaks(
        Rule::Lock,
        with_before(0, is(Kind::Unlock, ROOT), [at(1, Kind::Lock, 0, 0, ROOT, 0)]).pipe(
            |mut events| {
                // The second holder's release is then the first's mistake; it is left out.
                let unlock = place(&events, 0, is(Kind::Unlock, ROOT));
                events[unlock].cpu = 1;
                events
            },
        ),
    );
    breaks(Rule::Lock, with_before(0, is(Kind::Lock, ROOT), [one(Kind::Unlock, ROOT, 0)]));
    breaks(Rule::Lock, with_before(0, is(Kind::Lock, ROOT), [one(Kind::Lock, PAGES, 0)]));
}

#[test]
fn write_locked() {
    breaks(
        Rule::WriteLocked,
        with_before(0, writes(PAGES, 0), [at(1, Kind::Write, 0, 0, PAGES + 16, 0)]),
    );
    let mut events = life();
    for kind in [Kind::Lock, Kind::Unlock] {
        let place = place(&events, 0, is(kind, EL2_ROOT));
        events.remove(place);
    }
    breaks(Rule::WriteLocked, events);
}

#[test]
fn write_table() {
    breaks(Rule::WriteTable, with_before(0, writes(PAGES, 0), [one(Kind::Write, PAGE, 0)]));
    // After it was taken out, and before its grace period is over.
    let late = one(Kind::Write, PAGES, 0);
    breaks(Rule::WriteTable, with_before(1, is_tlbi(Tlbi::Ripas2e1is), [late]));
}

#[test]
fn break_before_make() {
    // Valid to valid.
    let elsewhere = one(Kind::Write, MIDDLE + 8, BLOCK | LEAF | 1 << 53);
    breaks_first(Rule::BreakBeforeMake, with_before(0, writes(MIDDLE + 8, 0), [elsewhere]));
    // Broken, and made before the TLBs have forgotten.
    let again = one(Kind::Write, MIDDLE + 8, BLOCK | LEAF);
    let gone = place(&life(), 0, writes(MIDDLE + 8, 0));
    let mut events = life();
    events.splice(gone + 1..gone + 1, [again, one(Kind::Write, MIDDLE + 8, 0)]);
    breaks(Rule::BreakBeforeMake, events);
    // EL2's own entries do not change at all once they are valid.
    let at_el2 = one(Kind::Write, EL2_SHARED + 8, 0x4020_0000 | LEAF);
    breaks(Rule::BreakBeforeMake, with_before(0, is(Kind::Unlock, EL2_ROOT), [at_el2]));
}

#[test]
fn the_access_flag_may_change_at_any_time() {
    let flag = one(Kind::Write, MIDDLE + 8, (BLOCK | LEAF) & !(1 << 10));
    let back = one(Kind::Write, MIDDLE + 8, BLOCK | LEAF);
    let report = checked(with_before(0, writes(MIDDLE + 8, 0), [flag, back]));
    assert!(report.violations.is_empty(), "{:#?}", report.violations);
    let unlocked = at(1, Kind::Flag, 0, 0, MIDDLE + 8, (BLOCK | LEAF) & !(1 << 10));
    let report = checked(with_before(1, is(Kind::Lock, ROOT), [unlocked]));
    assert!(report.violations.is_empty(), "{:#?}", report.violations);
}

/// Each step of the maintenance of one page: without any of them something is left in a TLB.
#[test]
fn flushed_before_unlock() {
    let left = |events| breaks_first(Rule::FlushedBeforeUnlock, events);
    left(without(0, is_tlbi(Tlbi::Ipas2e1is)));
    left(without(0, is_tlbi(Tlbi::Vmalle1is)));
    // The DSB before, that between, that after.
    left(without(1, is_barrier(Barrier::DsbIshst)));
    left(without(0, is_barrier(Barrier::DsbIsh)));
    left(without(1, is_barrier(Barrier::DsbIsh)));
    // Another page.
    let mut events = life();
    let page = place(&events, 0, is_tlbi(Tlbi::Ipas2e1is));
    events[page].a = 1;
    left(events);
    // Under no VMID, and under another CPU's.
    let mut events = life();
    let switch = place(&events, 1, is(Kind::Register, LOADED));
    events.remove(switch);
    left(events);
    // A barrier of this CPU alone does not say that other CPUs have forgotten.
    let mut events = life();
    let last = place(&events, 1, is_barrier(Barrier::DsbIsh));
    events[last].what = Barrier::DsbNsh as u16;
    left(events);
}

/// A range TLBI that does not reach the entry: too short, elsewhere, for another granule.
#[test]
fn range_tlbis_reach_what_they_say() {
    let with_operand = |operand: u64| {
        let mut events = life();
        let range = place(&events, 0, is_tlbi(Tlbi::Ripas2e1is));
        events[range].a = operand;
        events
    };
    for operand in [510 | 1 << 46, 1024 | 15 << 39 | 1 << 46, 512 | 15 << 39 | 2 << 46] {
        breaks_first(Rule::FlushedBeforeUnlock, with_operand(operand));
    }
    // A block is one entry: any of its pages will do. 2 pages from its second on, all from far before it.
    for operand in [513 | 1 << 46, 15 << 39 | 1 << 44 | 1 << 46] {
        let report = checked(with_operand(operand));
        assert!(report.violations.is_empty(), "{:#?}", report.violations);
    }
}

#[test]
fn flushed_before_retire() {
    // Retired under the lock, before the flush.
    let flush = place(&life(), 0, writes(PAGES, 0)) + 1;
    let mut events = life();
    let retire = place(&events, 0, is(Kind::Retire, PAGE));
    let early: Vec<_> = events.drain(retire..retire + 2).collect();
    events.splice(flush..flush, early);
    breaks(Rule::FlushedBeforeRetire, events);
}

#[test]
fn unlinked_before_retire() {
    breaks_first(
        Rule::UnlinkedBeforeRetire,
        with_before(0, writes(MIDDLE + 8, 0), retired(BLOCK, BLOCK_ORDER, 2)),
    );
    breaks_first(
        Rule::UnlinkedBeforeRetire,
        with_before(0, writes(MIDDLE, 0), retired(PAGES, 0, 2)),
    );
}

#[test]
fn owner() {
    // At another address than it was given for.
    let mut events = life();
    let wrong = place(&events, 0, writes(PAGES, PAGE | LEAF | PAGE_BIT));
    events[wrong].a += 8;
    let gone = place(&events, 0, writes(PAGES, 0));
    events[gone].a += 8;
    let flush = place(&events, 0, is_tlbi(Tlbi::Ipas2e1is));
    events[flush].a = 1;
    breaks(Rule::Owner, events);
    // A frame that is nobody's.
    let frame = one(Kind::Write, PAGES + 16, 0x4000_9000 | LEAF | PAGE_BIT);
    breaks_first(Rule::Owner, with_before(0, writes(MIDDLE + 8, BLOCK | LEAF), [frame]));
}

#[test]
fn one_owner() {
    breaks(
        Rule::OneOwner,
        with_before(0, is(Kind::Retire, PAGE), [assign(PAGE, 0, 0)[1]]).pipe(|mut events| {
            // It holds a guest's bytes, but that is not the point here.
            let place = place(&events, 1, is(Kind::Assign, PAGE));
            events[place].kind = Kind::AssignCopy;
            events
        }),
    );
    breaks(
        Rule::OneOwner,
        with_before(0, is(Kind::Free, PAGE), [at(0, Kind::Zero, 0, 0, PAGE, 0)]),
    );
    breaks(
        Rule::OneOwner,
        with_before(0, is(Kind::Retire, PAGE), [one(Kind::OwnBack, 0x4000_9000, 0)]),
    );
}

#[test]
fn table_owner() {
    // A table of another guest's.
    let mut events = with_before(0, is(Kind::Lock, ROOT), table(2, 0x4000_9000));
    let link = place(&events, 0, writes(ROOT, MIDDLE | TABLE));
    events.insert(link + 1, one(Kind::Write, ROOT + 8, 0x4000_9000 | TABLE));
    breaks_first(Rule::TableOwner, events);
}

#[test]
fn zeroed() {
    breaks(Rule::Zeroed, without(0, is(Kind::Zero, PAGE)));
    breaks(Rule::Zeroed, without(0, is(Kind::Zero, PAGES)));
    // Given again as it came back.
    breaks(Rule::Zeroed, with_before(0, is(Kind::Retire, BLOCK), [assign(PAGE, 0, 0)[1]]));
    // What was copied need not be zeroed.
    let mut events = with_before(0, is(Kind::Retire, BLOCK), [assign(PAGE, 0, 0)[1]]);
    let copy = place(&events, 1, is(Kind::Assign, PAGE));
    events[copy].kind = Kind::AssignCopy;
    let report = checked(events);
    assert!(report.violations.is_empty(), "{:#?}", report.violations);
}

#[test]
fn freed_retired() {
    breaks(
        Rule::FreedRetired,
        with_before(0, is(Kind::Retire, BLOCK), [at(0, Kind::Free, 0, 0, PAGE, 9)]),
    );
    breaks(
        Rule::FreedRetired,
        with_before(0, is(Kind::Retire, BLOCK), [one(Kind::TableBack, BLOCK + (4 << 20), 0)]),
    );
}

#[test]
fn two_epochs() {
    let mut events = life();
    let free = place(&events, 0, is(Kind::Free, PAGE));
    events[free].b = 1;
    breaks(Rule::TwoEpochs, events);
    breaks(Rule::TwoEpochs, without(0, |event| event.kind == Kind::RetiredIn));
}

#[test]
fn pins_gone() {
    let pin = at(1, Kind::Pin, 0, 0, 0, 0);
    let unpin = at(1, Kind::Unpin, 0, 0, 0, 0);
    let with_pin = |before: fn(&Event) -> bool, after: fn(&Event) -> bool| {
        let mut events = with_before(0, before, [pin]);
        let place = place(&events, 0, after) + 1;
        events.insert(place, unpin);
        events
    };
    let retire = |event: &Event| event.kind == Kind::Retire;
    let retired_in = |event: &Event| event.kind == Kind::RetiredIn;
    let free = |event: &Event| event.kind == Kind::Free;
    breaks(Rule::PinsGone, with_pin(retire, free));
    // Who pinned later cannot reach it, who unpinned in time does not.
    for fine in [with_pin(retired_in, free), with_pin(retire, retired_in)] {
        let report = checked(fine);
        assert!(report.violations.is_empty(), "{:#?}", report.violations);
    }
}

#[test]
fn root_loaded() {
    let strange = vttbr(1, 0x7000_0000 | VMID << 48);
    breaks(Rule::RootLoaded, with_before(0, is(Kind::Register, LOADED), [strange]));
    let other_vmid = vttbr(1, ROOT | 6 << 48);
    breaks(Rule::RootLoaded, with_before(0, is(Kind::Register, LOADED), [other_vmid]));
}

#[test]
fn root_in_use() {
    breaks(Rule::RootInUse, with_before(0, is(Kind::RootEnd, ROOT), [vttbr(1, LOADED)]));
    breaks_first(
        Rule::RootInUse,
        with_before(0, writes(ROOT, 0), [at(0, Kind::RootEnd, GUEST, 0, ROOT, 0)]),
    );
}

#[test]
fn vmid_unique() {
    let second = |before: fn(&Event) -> bool| {
        let mut more = table(2, 0x4000_9000).to_vec();
        more.push(at(0, Kind::Root, 2, 0, 0x4000_9000, VMID));
        with_before(0, before, more)
    };
    breaks(Rule::VmidUnique, second(|event| event.kind == Kind::Pin));
    // It is gone, but TLBs may know it; until all is invalidated.
    breaks(Rule::VmidUnique, second(|event| event.kind == Kind::End));
    let mut events = second(|event| event.kind == Kind::End);
    let end = place(&events, 0, is(Kind::RootEnd, ROOT)) + 1;
    let all = [dsb(Barrier::DsbIshst), tlbi(Tlbi::Alle1is, 0), dsb(Barrier::DsbIsh)];
    events.splice(end..end, all);
    let report = checked(events);
    assert!(report.violations.is_empty(), "{:#?}", report.violations);
}

#[test]
fn window() {
    breaks(Rule::Window, without(0, is_tlbi(Tlbi::Vae2)));
    breaks(Rule::Window, without(1, is_barrier(Barrier::DsbNshst)));
    breaks(Rule::Window, without(0, is_barrier(Barrier::DsbNsh)));
    // Only the first of the two pages.
    let mut events = life();
    let first = place(&events, 0, is_tlbi(Tlbi::Vae2));
    events[first].count = 1;
    breaks(Rule::Window, events);
    // Another CPU's window.
    let mut events = life();
    let run = place(&events, 0, |event| event.kind == Kind::Run);
    events[run].cpu = 1;
    breaks(Rule::Window, events);
}

trait Pipe: Sized {
    fn pipe<R>(self, with: impl FnOnce(Self) -> R) -> R {
        with(self)
    }
}

impl Pipe for Vec<Event> {}
