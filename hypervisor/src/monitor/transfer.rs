//! `move` and `reclaim`: memory out of guests, and into others.

use super::commands::with;
use super::job::{Job, Step};
use super::report::{Column, Report, Size, Value};
use crate::addr::PAGE_SIZE;
use crate::arch::time;
use crate::govern::policy::spread;
use crate::govern::transfer::{Guests, Progress, Short, Transfer};
use crate::govern::{Claim, Hands, free_bytes, sample, snapshot};
use crate::mem::MAX_GUESTS;
use crate::system::System;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

/// How long a driver that makes no headway is waited for, in seconds.
const PATIENCE: u64 = 30;
/// How often a transfer is looked at, in parts of a second.
const LOOKS_A_SECOND: u64 = 50;
/// How often is told how far it is, in parts of a second.
const TELLS_A_SECOND: u64 = 2;
/// How long guests are waited for to tell news, in seconds.
const NEWS: u64 = 3;

fn soon() -> Step {
    Step::At(time::now() + time::frequency() / LOOKS_A_SECOND)
}

/// A guest that takes part, and how it was when it began to.
struct Party {
    number: usize,
    name: String,
    /// What it had by its own account, and what was its own by Sluice's, in bytes.
    before: (u64, u64),
    /// What is moved of it, where it is one of several that give.
    transfer: Option<(Claim, Transfer)>,
    short: Option<Short>,
    progress: Progress,
}

impl Party {
    fn find(system: &'static System, name: &str, report: &mut Report<'_>) -> Option<Self> {
        let mut found = None;
        with(system, name, report, |guest, _| {
            found = Some((guest.id.index(), String::from(guest.name())));
        });
        let (number, name) = found?;
        Some(Self::new(system, number, name))
    }

    fn new(system: &'static System, number: usize, name: String) -> Self {
        let before = (memory(system, number), resident(system, number));
        let progress = Progress::default();
        Self { number, name, before, transfer: None, short: None, progress }
    }
}

fn memory(system: &'static System, number: usize) -> u64 {
    Hands(system).view(number).map_or(0, |view| view.memory())
}

fn resident(system: &'static System, number: usize) -> u64 {
    let counts = system.memory().counts();
    counts.guests.get(number).map_or(0, |guest| guest.frames * PAGE_SIZE)
}

/// Shows how guests are: by their own account, and by Sluice's.
fn views(system: &'static System, parties: &[&Party], report: &mut Report<'_>) {
    const GUESTS: &[Column] = &[
        ("guest", 12),
        ("memory_before", 14),
        ("memory", 10),
        ("resident_before", 16),
        ("resident", 10),
        ("available", 10),
    ];
    report.table("guests", GUESTS);
    for party in parties {
        let told = snapshot(system, party.number).and_then(|sample| sample.told);
        let available = told.and_then(|told| told.spare());
        report.row(&[
            Value::Text(&party.name),
            Value::Size(party.before.0),
            Value::Size(memory(system, party.number)),
            Value::Size(party.before.1),
            Value::Size(resident(system, party.number)),
            available.map_or(Value::Text("-"), Value::Size),
        ]);
    }
    report.value("free", Value::Size(free_bytes(system)));
}

/// Waits until guests have told news.
struct News {
    /// Which guests are asked, and how often each had told something.
    asked: heapless::Vec<(usize, u64), MAX_GUESTS>,
    until: u64,
}

impl News {
    fn ask(system: &'static System, wanted: impl Fn(usize) -> bool) -> Self {
        let mut asked = heapless::Vec::new();
        for guest in system.guests().filter(|guest| guest.is_on() && wanted(guest.id.index())) {
            let updates = guest.balloon.lock().device().statistics().updates;
            if guest.request_stats(system) {
                // There is room for each guest there can be.
                let _ = asked.push((guest.id.index(), updates));
            }
        }
        Self { asked, until: time::now() + NEWS * time::frequency() }
    }

    /// Says whether all have told, or were waited for long enough.
    fn is_over(&self, system: &'static System) -> bool {
        let has_told = |(number, updates): &(usize, u64)| {
            let guest = system.guests().find(|guest| guest.id.index() == *number);
            guest.is_none_or(|guest| guest.balloon.lock().device().statistics().updates != *updates)
        };
        time::now() >= self.until || self.asked.iter().all(has_told)
    }
}

/// Tells how far something is, now and then.
#[derive(Default)]
struct Teller {
    next: u64,
    last: u64,
}

impl Teller {
    fn tell(&mut self, progress: Progress, size: u64, report: &mut Report<'_>) {
        let now = time::now();
        if now < self.next || progress.given + progress.taken == self.last {
            return;
        }
        (self.next, self.last) =
            (now + time::frequency() / TELLS_A_SECOND, progress.given + progress.taken);
        if report.is_for_programs() {
            report.value("given", Value::Size(progress.given));
            report.value("taken", Value::Size(progress.taken));
            report.value("of", Value::Size(size));
        } else {
            report.remark(format_args!("{} of {}", Size(progress.taken), Size(size)));
        }
    }
}

/// `move`: from one guest to another.
struct Move {
    from: Party,
    to: Party,
    asked: u64,
    claim: Option<Claim>,
    transfer: Transfer,
    teller: Teller,
    news: Option<News>,
}

/// Begins `move <size> from <guest> to <guest>`.
pub(super) fn begin_move(
    system: &'static System,
    bytes: u64,
    from: &str,
    to: &str,
    report: &mut Report<'_>,
) -> Option<Box<dyn Job>> {
    let from = Party::find(system, from, report)?;
    let to = Party::find(system, to, report)?;
    let begun =
        Claim::of(Some(from.number), Some(to.number)).ok_or(Short::Busy).and_then(|claim| {
            let (patience, mut hands) = (PATIENCE * time::frequency(), Hands(system));
            let (giver, taker) = (Some(from.number), Some(to.number));
            let transfer = Transfer::begin(&mut hands, giver, taker, bytes, time::now(), patience)?;
            Ok((claim, transfer))
        });
    match begun {
        Ok((claim, transfer)) => Some(Box::new(Move {
            from,
            to,
            asked: bytes,
            claim: Some(claim),
            transfer,
            teller: Teller::default(),
            news: None,
        })),
        Err(why) => {
            report.error(format_args!("nothing can be moved: {why}"), None);
            None
        }
    }
}

impl Move {
    fn end(&self, system: &'static System, report: &mut Report<'_>) {
        let progress = self.transfer.progress();
        report.value("asked", Value::Size(self.asked));
        report.value("given", Value::Size(progress.given));
        report.value("moved", Value::Size(progress.taken));
        if let Some(short) = self.transfer.short() {
            let why = alloc::format!("{short}");
            report.value("short", Value::Text(&why));
        }
        views(system, &[&self.from, &self.to], report);
    }
}

impl Job for Move {
    fn step(&mut self, system: &'static System, report: &mut Report<'_>) -> Step {
        if let Some(news) = &self.news {
            if !news.is_over(system) {
                return soon();
            }
            self.end(system, report);
            return Step::Done;
        }
        let progress = self.transfer.step(&mut Hands(system), time::now());
        self.teller.tell(progress, self.transfer.size(), report);
        if progress.over {
            self.claim = None;
            let both = [self.from.number, self.to.number];
            self.news = Some(News::ask(system, |number| both.contains(&number)));
        }
        soon()
    }

    fn cancel(&mut self, system: &'static System, report: &mut Report<'_>) {
        self.transfer.cancel(&mut Hands(system));
        self.end(system, report);
    }
}

/// `reclaim`: from whoever can spare it, to nobody.
pub(super) struct Reclaim {
    asked: u64,
    givers: Vec<Party>,
    news: Option<News>,
    teller: Teller,
    free_before: u64,
}

impl Reclaim {
    /// Begins by asking all guests for news.
    pub(super) fn new(system: &'static System, bytes: u64) -> Self {
        Self {
            asked: bytes,
            givers: Vec::new(),
            news: Some(News::ask(system, |_| true)),
            teller: Teller::default(),
            free_before: free_bytes(system),
        }
    }

    /// Asks who can spare something.
    fn ask(&mut self, system: &'static System) {
        let mut hands = Hands(system);
        let samples: heapless::Vec<_, MAX_GUESTS> =
            (0..MAX_GUESTS).filter_map(|number| sample(&hands, number, None)).collect();
        for (number, bytes) in spread(self.asked, &samples) {
            let guest = system.guests().find(|guest| guest.id.index() == number);
            let name = guest.map_or_else(String::new, |guest| String::from(guest.name()));
            let mut giver = Party::new(system, number, name);
            let (now, patience) = (time::now(), PATIENCE * time::frequency());
            let claim = Claim::of(Some(number), None).ok_or(Short::Busy);
            let begun = claim.and_then(|claim| {
                let begun = Transfer::begin(&mut hands, Some(number), None, bytes, now, patience);
                Ok((claim, begun?))
            });
            match begun {
                Ok(transfer) => giver.transfer = Some(transfer),
                Err(why) => giver.short = Some(why),
            }
            self.givers.push(giver);
        }
    }

    fn given(&self) -> u64 {
        self.givers.iter().map(|giver| giver.progress.given).sum()
    }

    fn end(&self, system: &'static System, report: &mut Report<'_>) {
        const GIVERS: &[Column] = &[("giver", 12), ("given", 10), ("short", 0)];
        report.value("asked", Value::Size(self.asked));
        report.value("reclaimed", Value::Size(self.given()));
        report.value("free_before", Value::Size(self.free_before));
        report.table("givers", GIVERS);
        for giver in &self.givers {
            let short = giver.short.map(|short| alloc::format!("{short}"));
            report.row(&[
                Value::Text(&giver.name),
                Value::Size(giver.progress.given),
                Value::Text(short.as_deref().unwrap_or("")),
            ]);
        }
        views(system, &self.givers.iter().collect::<Vec<_>>(), report);
        if self.given() < self.asked {
            report.remark(format_args!(
                "guests can spare no more, by what they say is available in them, above their \
                 minimum"
            ));
        }
    }
}

impl Job for Reclaim {
    fn step(&mut self, system: &'static System, report: &mut Report<'_>) -> Step {
        if let Some(news) = &self.news {
            if !news.is_over(system) {
                return soon();
            }
            self.news = None;
            self.ask(system);
        }
        for giver in &mut self.givers {
            let Some((_, transfer)) = &mut giver.transfer else { continue };
            giver.progress = transfer.step(&mut Hands(system), time::now());
            giver.short = transfer.short();
            if giver.progress.over {
                giver.transfer = None;
            }
        }
        let given = self.given();
        self.teller.tell(Progress { given, taken: given, over: false }, self.asked, report);
        if self.givers.iter().any(|giver| giver.transfer.is_some()) {
            return soon();
        }
        self.end(system, report);
        Step::Done
    }

    fn cancel(&mut self, system: &'static System, report: &mut Report<'_>) {
        for giver in &mut self.givers {
            if let Some((_, mut transfer)) = giver.transfer.take() {
                giver.progress = transfer.cancel(&mut Hands(system));
                giver.short = transfer.short();
            }
        }
        self.end(system, report);
    }
}
