//! The governor's judgement over guests that are made up.

use super::*;
use crate::govern::policy::{Decision, Free, Policy, spread};
use crate::govern::reason::Need;
use crate::govern::transfer::Transfer;

/// A machine of guests that are made up, with the governor at work.
struct World {
    guests: Fakes,
    policy: Policy,
    free: u64,
    /// In seconds.
    now: u64,
    decisions: Vec<(u64, Decision)>,
    at_work: Option<(Decision, Transfer)>,
}

impl World {
    fn new(guests: Vec<Fake>) -> Self {
        Self {
            guests: Fakes(guests),
            policy: Policy::new(),
            free: 0,
            now: 0,
            decisions: Vec::new(),
            at_work: None,
        }
    }

    /// Lives through a second, as `hands` has the machine do.
    fn second(&mut self) {
        self.now += 1;
        self.guests.tick();
        let samples = self.guests.samples();
        if let Some((decision, transfer)) = &mut self.at_work {
            let progress = transfer.step(&mut self.guests, self.now);
            if progress.over {
                self.policy.done(self.now * 1000, decision, progress.given, progress.taken);
                self.at_work = None;
            }
        }
        if self.at_work.is_none() {
            let free = Free { bytes: self.free, promised: 0, reserve: 0 };
            if let Some(decision) = self.policy.decide(self.now * 1000, free, &samples) {
                let Decision { from, to, bytes, .. } = decision;
                self.decisions.push((self.now, decision));
                match Transfer::begin(&mut self.guests, from, to, bytes, self.now, 10) {
                    Ok(transfer) => self.at_work = Some((decision, transfer)),
                    Err(_) => self.policy.done(self.now * 1000, &decision, 0, 0),
                }
            }
        }
        for (number, guest) in self.guests.0.iter().enumerate() {
            let memory = guest.view.memory();
            assert!(
                memory >= guest.view.floor.min(guest.view.boot),
                "guest {number} is below its floor"
            );
            assert!(
                memory <= guest.view.boot + guest.view.plug_limit,
                "guest {number} has too much"
            );
        }
    }

    fn seconds(&mut self, count: u64) {
        for _ in 0..count {
            self.second();
        }
    }
}

#[test]
fn memory_goes_from_who_has_to_who_needs_until_it_is_enough() {
    let idle = Fake::new(1024).using(100);
    let busy = Fake::new(1024).ballooned(768).using(300);
    let mut world = World::new(vec![idle, busy]);
    world.seconds(60);
    assert!(!world.decisions.is_empty());
    for (_, decision) in &world.decisions {
        assert_eq!((decision.from, decision.to), (Some(0), Some(1)));
    }
    let available = world.guests.0[1].available();
    assert!(available >= 24 * MIB, "{:?}", world.guests.memory());
    assert_eq!(world.guests.total(), 1280);
    let so_far = world.decisions.len();
    world.seconds(600);
    assert_eq!(world.decisions.len(), so_far, "once it is enough, nothing moves");
}

#[test]
fn decisions_say_why() {
    let mut world = World::new(vec![Fake::new(1024), Fake::new(256).ballooned(150).using(100)]);
    world.seconds(10);
    let (_, decision) = world.decisions[0];
    assert!(matches!(decision.reason.need, Need::Low { .. }), "{decision:?}");
    let said = decision.reason.to_string();
    assert!(said.contains("available, low mark 24 MiB; donor 960 MiB available"), "{said}");
}

#[test]
fn two_guests_that_are_both_short_leave_one_another_alone() {
    let short = || Fake::new(1024).ballooned(512).using(500);
    let mut world = World::new(vec![short(), short()]);
    world.seconds(300);
    assert_eq!(world.decisions, []);
}

/// Load that comes and goes between two guests, faster than is sensible to follow.
#[test]
fn memory_does_not_go_to_and_fro() {
    let mut world = World::new(vec![Fake::new(512).ballooned(200), Fake::new(512).ballooned(200)]);
    let mut moves = Vec::new();
    for round in 0..100 {
        let (busy, idle) = (round % 2, 1 - round % 2);
        world.guests.0[busy].wants = 290 * MIB;
        world.guests.0[idle].wants = 20 * MIB;
        let before = world.decisions.len();
        world.seconds(15);
        moves.push(world.decisions.len() - before);
    }
    let (early, late): (usize, usize) = (moves[..20].iter().sum(), moves[80..].iter().sum());
    assert!(late * 3 <= early.max(3), "it goes on: {moves:?}");
    let total: usize = moves.iter().sum();
    assert!(total < 40, "{total} moves in 100 rounds: {moves:?}");
}

#[test]
fn who_does_not_answer_neither_gives_nor_gets() {
    let mut silent = Fake::new(1024);
    silent.tells = false;
    let mut world = World::new(vec![silent.clone(), Fake::new(256).ballooned(150).using(100)]);
    world.seconds(60);
    assert_eq!(world.decisions, []);
    silent.view.ballooned = 700 * MIB;
    silent.balloon_target = 700 * MIB;
    let mut world = World::new(vec![silent, Fake::new(1024)]);
    world.seconds(60);
    assert_eq!(world.decisions, []);
}

#[test]
fn a_report_that_is_not_new_says_nothing_new() {
    let mut policy = Policy::new();
    let mut guests = Fakes(vec![Fake::new(1024), Fake::new(256).ballooned(150).using(100)]);
    let samples = guests.samples();
    for now in 0..100 {
        assert_eq!(policy.decide(now * 1000, Free::default(), &samples), None);
    }
}

#[test]
fn who_is_asked_and_does_not_give_is_asked_ever_more_rarely() {
    let mut stubborn = Fake::new(1024);
    stubborn.balloon_limit = 0;
    let mut world = World::new(vec![stubborn, Fake::new(256).ballooned(150).using(100)]);
    world.seconds(1000);
    let asked = world.decisions.len();
    assert!((2..10).contains(&asked), "asked {asked} times");
}

#[test]
fn floors_and_ceilings_hold() {
    // The guest in need could use all there is. (`World::second` looks at each guest.)
    let mut world =
        World::new(vec![Fake::new(512).using(10), Fake::new(512).ballooned(200).using(2000)]);
    world.seconds(200);
    assert_eq!(world.guests.memory()[1], 512, "it has its ceiling");
    let mut world =
        World::new(vec![Fake::new(256).using(1), Fake::new(4096).ballooned(3000).using(2000)]);
    world.seconds(200);
    assert!(world.guests.memory()[0] >= 64, "{:?}", world.guests.memory());
}

#[test]
fn what_a_guest_calls_available_and_uses_all_the_same_is_not_taken() {
    let mut cached = Fake::new(1024).using(100);
    cached.used = Some(1000 * MIB);
    let mut world = World::new(vec![cached, Fake::new(256).ballooned(150).using(100)]);
    world.seconds(60);
    let moved: u64 = world.decisions.iter().map(|(_, decision)| decision.bytes).sum();
    assert!(moved <= 18 * MIB, "{} MiB", moved / MIB);
}

#[test]
fn old_drivers_that_only_know_what_is_free_are_taken_at_that() {
    let sample = |available| Sample {
        memory: 1024 * MIB,
        floor: 0,
        ceiling: 1024 * MIB,
        told: Some(Told { free: Some(300 * MIB), available, ..Told::default() }),
        ..Sample::default()
    };
    assert_eq!(sample(None).could_spare(100 * MIB), 200 * MIB);
    assert_eq!(sample(Some(500 * MIB)).could_spare(100 * MIB), 400 * MIB);
    assert_eq!(Sample { told: Some(Told::default()), ..sample(None) }.could_spare(0), 0);
}

#[test]
fn free_memory_goes_before_any_guests() {
    let mut world = World::new(vec![Fake::new(1024), Fake::new(256).ballooned(150).using(100)]);
    world.free = 512 * MIB;
    world.seconds(20);
    assert!(world.decisions.iter().all(|(_, decision)| decision.from.is_none()));
    assert_eq!(world.guests.memory()[0], 1024);
}

#[test]
fn the_reserve_is_refilled_where_more_is_promised_than_there_is() {
    let mut guests = Fakes(vec![Fake::new(1024)]);
    let mut policy = Policy::new();
    let free = Free { bytes: 16 * MIB, promised: 500 * MIB, reserve: 64 * MIB };
    let mut decide = |free, now: u64| policy.decide(now * 1000, free, &guests.samples());
    let decisions: Vec<_> = (0..6).filter_map(|now| decide(free, now)).collect();
    let decision = decisions.first().unwrap();
    assert_eq!((decision.from, decision.to, decision.bytes), (Some(0), None, 48 * MIB));
    let not_promised = Free { promised: 0, ..free };
    assert_eq!(decide(not_promised, 10), None);
}

#[test]
fn one_stall_is_enough_to_be_helped() {
    let mut guests = Fakes(vec![Fake::new(1024), Fake::new(1024).ballooned(512).using(350)]);
    let mut policy = Policy::new();
    for now in 0..5 {
        assert_eq!(policy.decide(now * 1000, Free::default(), &guests.samples()), None);
    }
    guests.0[1].stalls += 3;
    let decision = policy.decide(5000, Free::default(), &guests.samples()).unwrap();
    assert_eq!(decision.reason.need, Need::Stalled { times: 3 });
}

#[test]
fn counters_that_begin_anew_are_no_rate() {
    let mut guests = Fakes(vec![Fake::new(1024), Fake::new(1024).ballooned(512).using(350)]);
    guests.0[1].stalls = 100;
    let mut policy = Policy::new();
    for now in 0..5 {
        assert_eq!(policy.decide(now * 1000, Free::default(), &guests.samples()), None);
        guests.0[1].stalls = 0;
    }
}

#[test]
fn at_once_it_is_taken_from_who_can_spare_most() {
    let mut guests = Fakes(vec![Fake::new(256), Fake::new(1024), Fake::new(512)]);
    let of = |bytes, samples: &[Sample]| spread(bytes * MIB, samples).to_vec();
    let samples = guests.samples();
    assert_eq!(of(100, &samples), [(1, 100 * MIB)]);
    // All but the floor of the first is less than what is available in it above its low mark.
    assert_eq!(of(1000, &samples), [(1, 768 * MIB), (2, 232 * MIB)]);
    assert_eq!(of(5000, &samples), [(1, 768 * MIB), (2, 384 * MIB), (0, 160 * MIB)]);
    guests.0[1].tells = false;
    assert_eq!(of(100, &guests.samples()), [(2, 100 * MIB)]);
}
