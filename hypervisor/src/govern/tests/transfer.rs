//! Transfers between guests whose drivers do what they are asked, or not.

use super::*;
use crate::govern::transfer::{Progress, Short, Transfer};

const PATIENCE: u64 = 10;

/// Runs a transfer to its end, at most 1,000 ticks, and checks that no memory is owed meanwhile.
fn run(guests: &mut Fakes, transfer: &mut Transfer) -> Progress {
    let before = guests.total();
    for now in 0..1000 {
        guests.tick();
        let progress = transfer.step(guests, now);
        if transfer.donor_is_guest() {
            assert!(guests.total() <= before, "more than there was: {:?}", guests.memory());
        }
        if progress.over {
            return progress;
        }
    }
    panic!("it does not end: {transfer:?}");
}

fn begin(guests: &mut Fakes, mib: u64) -> Transfer {
    Transfer::begin(guests, Some(0), Some(1), mib * MIB, 0, PATIENCE).unwrap()
}

/// Lets drivers finish what they were asked.
fn rest(guests: &mut Fakes) -> Vec<u64> {
    for _ in 0..100 {
        guests.tick();
    }
    guests.memory()
}

#[test]
fn memory_goes_from_balloon_to_balloon() {
    let mut guests = Fakes(vec![Fake::new(1024), Fake::new(1024).ballooned(512)]);
    let mut transfer = begin(&mut guests, 512);
    let end = run(&mut guests, &mut transfer);
    assert_eq!((end.given, end.taken), (512 * MIB, 512 * MIB));
    assert_eq!((guests.memory(), transfer.short()), (vec![512, 1024], None));
}

#[test]
fn what_was_plugged_goes_first_and_what_fits_no_balloon_is_plugged() {
    let donor = Fake::new(1024).plugged(256, 1024);
    let receiver = Fake::new(512).ballooned(64).plugged(0, 1024);
    let mut guests = Fakes(vec![donor, receiver]);
    let mut transfer = begin(&mut guests, 300);
    run(&mut guests, &mut transfer);
    assert_eq!(guests.memory(), [980, 748]);
    assert_eq!((guests.0[0].view.plugged, guests.0[0].view.ballooned), (0, 44 * MIB));
    assert_eq!((guests.0[1].view.plugged, guests.0[1].view.ballooned), (236 * MIB, 0));
}

#[test]
fn what_is_not_unplugged_comes_from_the_balloon() {
    let mut donor = Fake::new(1024).plugged(256, 1024);
    donor.plug_kept = 100 * MIB;
    let mut guests = Fakes(vec![donor, Fake::new(1024).ballooned(512)]);
    let mut transfer = begin(&mut guests, 256);
    let end = run(&mut guests, &mut transfer);
    assert_eq!((end.taken, transfer.short()), (256 * MIB, None));
    assert_eq!((guests.0[0].view.plugged, guests.0[0].view.ballooned), (100 * MIB, 100 * MIB));
}

#[test]
fn what_the_donor_keeps_is_its_own_and_is_not_asked_for_any_more() {
    let mut donor = Fake::new(1024);
    donor.balloon_limit = 200 * MIB;
    let mut guests = Fakes(vec![donor, Fake::new(1024).ballooned(512)]);
    let mut transfer = begin(&mut guests, 512);
    let end = run(&mut guests, &mut transfer);
    assert_eq!((end.given, end.taken), (200 * MIB, 200 * MIB));
    assert_eq!(transfer.short(), Some(Short::DonorKeeps));
    guests.0[0].balloon_limit = u64::MAX;
    assert_eq!(rest(&mut guests), [824, 712]);
}

#[test]
fn what_the_receiver_does_not_take_goes_back() {
    let mut guests = Fakes(vec![Fake::new(1024), Fake::new(1024).ballooned(512)]);
    let mut transfer = begin(&mut guests, 512);
    let before = guests.total();
    for now in 0..4 {
        guests.tick();
        transfer.step(&mut guests, now);
    }
    let taken = guests.memory()[1] - 512;
    assert!(taken > 0);
    guests.0[1].speed = 0;
    let mut end = Progress::default();
    for now in 4..200 {
        guests.tick();
        end = transfer.step(&mut guests, now);
        if end.over {
            break;
        }
    }
    assert_eq!(transfer.short(), Some(Short::ReceiverLeaves));
    assert_eq!(end.taken, taken * MIB);
    assert_eq!(rest(&mut guests), [1024 - taken, 512 + taken]);
    assert_eq!(guests.total(), before);
}

#[test]
fn cancelled_at_any_time_nothing_is_lost_and_nothing_goes_on() {
    for after in 0..40 {
        let mut guests = Fakes(vec![Fake::new(1024), Fake::new(1024).ballooned(512)]);
        let mut transfer = begin(&mut guests, 512);
        for now in 0..after {
            guests.tick();
            transfer.step(&mut guests, now);
        }
        let before = guests.memory()[0];
        let end = transfer.cancel(&mut guests);
        assert_eq!(end.given, (1024 - before) * MIB);
        assert_eq!(rest(&mut guests), [before, 1536 - before], "after {after}");
        assert!(transfer.step(&mut guests, 1000).over);
    }
}

#[test]
fn a_receiver_that_goes_leaves_the_donor_what_it_did_not_take() {
    for anew in [false, true] {
        let mut guests = Fakes(vec![Fake::new(1024), Fake::new(1024).ballooned(512)]);
        let mut transfer = begin(&mut guests, 512);
        for now in 0..5 {
            guests.tick();
            transfer.step(&mut guests, now);
        }
        let taken = transfer.progress().taken / MIB;
        guests.0[1].on = anew;
        guests.0[1].view.life = 2;
        run(&mut guests, &mut transfer);
        assert_eq!(transfer.short(), Some(Short::ReceiverGone));
        assert_eq!(rest(&mut guests)[0], 1024 - taken);
    }
}

#[test]
fn a_donor_that_goes_ends_it() {
    let mut guests = Fakes(vec![Fake::new(1024), Fake::new(1024).ballooned(512)]);
    let mut transfer = begin(&mut guests, 512);
    for now in 0..5 {
        guests.tick();
        transfer.step(&mut guests, now);
    }
    guests.0[0].on = false;
    let end = run(&mut guests, &mut transfer);
    assert_eq!(transfer.short(), Some(Short::DonorGone));
    assert_eq!(end.given, end.taken);
}

#[test]
fn what_cannot_be_begun_says_why() {
    let mut deaf = Fake::new(256).ballooned(64);
    deaf.view.balloon = false;
    let mut off = Fake::new(256).ballooned(64);
    off.on = false;
    let full = Fake::new(256);
    let mut guests = Fakes(vec![Fake::new(256).ballooned(64), deaf, off, full]);
    let mut refusal =
        |from, to| Transfer::begin(&mut guests, Some(from), Some(to), 32 * MIB, 0, PATIENCE).err();
    assert_eq!(refusal(0, 0), Some(Short::Same));
    assert_eq!(refusal(1, 0), Some(Short::DonorHasNoDriver));
    assert_eq!(refusal(0, 1), Some(Short::ReceiverHasNoDriver));
    assert_eq!(refusal(2, 0), Some(Short::DonorOff));
    assert_eq!(refusal(0, 2), Some(Short::ReceiverOff));
    assert_eq!(refusal(0, 3), Some(Short::Full));
    assert_eq!(refusal(3, 0), None);
}

#[test]
fn a_floor_is_kept_by_an_operator_too() {
    let mut guests = Fakes(vec![Fake::new(1024), Fake::new(1024).ballooned(1000)]);
    let mut transfer = begin(&mut guests, 1000);
    run(&mut guests, &mut transfer);
    assert_eq!(transfer.short(), Some(Short::Floor(256 * MIB)));
    assert_eq!(guests.memory(), [256, 792]);
}

#[test]
fn who_knows_one_wish_at_a_time_is_told_all_at_once() {
    let mut donor = Fake::new(256).plugged(512, 1024);
    let mut receiver = Fake::new(1024).ballooned(64).plugged(0, 1024);
    (donor.view.at_once, receiver.view.at_once) = (true, true);
    let mut guests = Fakes(vec![donor, receiver]);
    let mut transfer = begin(&mut guests, 512);
    for now in 0..8 {
        guests.tick();
        transfer.step(&mut guests, now);
        assert_eq!(guests.0[1].plug_target, 0, "not before all has come");
    }
    for now in 8..100 {
        guests.tick();
        transfer.step(&mut guests, now);
    }
    assert_eq!(guests.memory(), [256, 1472]);
    assert_eq!((transfer.short(), guests.0[1].balloon_target), (None, 64 * MIB));
}

#[test]
fn to_nobody_it_becomes_free_and_from_nobody_it_is_free() {
    let mut guests = Fakes(vec![Fake::new(1024)]);
    let mut out = Transfer::begin(&mut guests, Some(0), None, 256 * MIB, 0, PATIENCE).unwrap();
    assert_eq!(run(&mut guests, &mut out).taken, 256 * MIB);
    assert_eq!(guests.memory(), [768]);
    let mut back = Transfer::begin(&mut guests, None, Some(0), 128 * MIB, 0, PATIENCE).unwrap();
    assert_eq!(run(&mut guests, &mut back).taken, 128 * MIB);
    assert_eq!(guests.memory(), [896]);
}
