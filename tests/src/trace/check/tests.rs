//! For each rule, twins of a life that keeps it which do not.

use super::super::record::{Barrier, Kind, Tlbi};
use super::super::{Event, Trace};
use super::life::*;
use super::{Rule, check};

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
    // Two hold it. The release by the first is left to the second, so that it is no mistake too.
    let second = at(1, Kind::Lock, 0, 0, ROOT, 0);
    let mut events = with_before(0, is(Kind::Unlock, ROOT), [second]);
    let unlock = place(&events, 0, is(Kind::Unlock, ROOT));
    events[unlock].cpu = 1;
    breaks(Rule::Lock, events);
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
    // It holds a guest's bytes, but that is not the point here: given as a copy.
    let mut again = assign(PAGE, 0, 0)[1];
    again.kind = Kind::AssignCopy;
    breaks(Rule::OneOwner, with_before(0, is(Kind::Retire, PAGE), [again]));
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
