//! The core's part of a soak run (`tests/tests/soak.rs`), from the same seed: what guests, devices, the operator and the
//! failures of allocations do to tables and frames, in the same order, one thing at a time. After each everything is
//! compared: tables with records (the audit), what guests read with what they wrote, TLBs with tables.
//!
//! `SEED=` says which run, `OPS=` how many operations: `make replay` does it in words.

#[path = "../../../../tests/src/operations.rs"]
#[expect(dead_code, reason = "what guests are told to do")]
mod operations;

use super::super::{AddError, Fill, Mark, PopulateError, Populated, Space, TakeError};
use super::evacuate::All;
use super::*;
use crate::addr::{Frame, PAGE_SIZE};
use crate::arch::cpu::{self, CpuId};
use crate::arch::tlb;
use crate::epoch::Pin;
use crate::evacuation::{Evacuation, Progress};
use crate::mem::{Owner, Use};
use operations::{GUESTS, LINUX, Operation, Operations, Random};
use std::collections::BTreeMap;
use std::env;

/// Sizes are a quarter of the machine's.
const UNIT: u64 = (1 << 20) / 4;
/// What the machine of a soak run has, in its units.
const MACHINE: u64 = 2048;
/// How many pages a balloon's driver gives or has back at a time.
const BATCH: u64 = 64;
/// How many steps an evacuation makes between two operations.
const EVACUATED: usize = 400;
/// How many pages a guest uses between two operations.
const USED: u64 = 24;

/// A guest that is on.
struct Guest {
    space: Space<'static>,
    /// Pages from the end of RAM that its balloon holds.
    ballooned: u64,
    /// How much is plugged, in bytes from the start of the region.
    plugged: u64,
    /// What it wrote where; a page that it lost, however, reads as zero if it comes back.
    written: BTreeMap<u64, u64>,
}

struct Soak {
    memory: &'static Memory,
    guests: [Option<Guest>; GUESTS.len()],
    emptying: Option<Evacuation>,
    /// A walker on another CPU that is still about it, the frame that it has found, and where it was looking.
    walker: Option<(Pin<'static>, Frame, Ipa)>,
    used: Random,
    refused: u64,
    /// How many allocations have failed.
    failed: u64,
    /// How many ranges were emptied.
    emptied: u64,
}

fn region(who: usize) -> IpaRange {
    let start = RAM + GUESTS[who].memory * UNIT;
    Ipa::new(start)..Ipa::new(start + GUESTS[who].more * UNIT)
}

fn blocks(bytes: u64) -> u64 {
    bytes / BLOCK_2M * BLOCK_2M
}

impl Guest {
    fn new(memory: &'static Memory, who: usize) -> Option<Self> {
        let vmid = VMIDS.allocate().unwrap();
        VMIDS.release(vmid);
        let region = region(who);
        let ram = ram(region.start.as_u64() - RAM);
        let space = Space::with_hotplug(memory, guest(who), vmid, ram, region).ok()?;
        Some(Self { space, ballooned: 0, plugged: 0, written: BTreeMap::new() })
    }

    /// Forgets what was written in `range`, from which all memory was taken.
    fn forget(&mut self, range: &IpaRange) {
        let lost: Vec<u64> = self
            .written
            .range(range.start.as_u64()..range.end.as_u64())
            .map(|(&at, _)| at)
            .collect();
        lost.iter().for_each(|at| _ = self.written.remove(at));
    }

    /// Takes all that it has in `range`, as far as there is memory for the tables that this takes.
    fn take(&mut self, range: IpaRange, mark: Mark) -> bool {
        let mut from = range.start;
        while from < range.end {
            let Ok(taken) = self.space.take_range(from..range.end, mark) else { return false };
            let next = taken.next.unwrap_or(range.end);
            let _ = taken.flushed.retire();
            self.forget(&(from..next));
            from = next;
        }
        true
    }

    /// Adds memory in `range`, all of it or none.
    fn add(&mut self, range: IpaRange) -> bool {
        let mut from = range.start;
        while from < range.end {
            match self.space.add(from..range.end, Fill::Ready) {
                Ok(added) => from = added.next.unwrap_or(range.end),
                Err(AddError::Outside) => panic!("{range:?} is its region's"),
                Err(AddError::Present(_) | AddError::OutOfMemory) => {
                    // What was added is whole steps, and so needs no table to be taken away.
                    assert!(self.take(range.start..from, Mark::Unplugged), "it is undone");
                    return false;
                }
            }
        }
        true
    }

    /// Has its balloon hold `pages`, as far as the device comes.
    fn balloon(&mut self, pages: u64) {
        let end = self.space.ram().end.page();
        while self.ballooned < pages {
            let count = (pages - self.ballooned).min(BATCH);
            let first = end - self.ballooned - count;
            let list: Vec<Ipa> = (first..first + count).map(Ipa::from_page).collect();
            // What cannot be taken stays the guest's, which has no use for it.
            if let Ok((_, flushed)) = self.space.take_pages(&list) {
                flushed.retire();
                self.forget(&(Ipa::from_page(first)..Ipa::from_page(first + count)));
            }
            self.ballooned += count;
        }
        while self.ballooned > pages {
            let count = (self.ballooned - pages).min(BATCH);
            let first = end - self.ballooned;
            let list: Vec<Ipa> = (first..first + count).map(Ipa::from_page).collect();
            match self.space.return_pages(&list) {
                Ok((_, flushed)) => _ = flushed.retire(),
                Err(error) => {
                    assert_eq!(error, TakeError::OutOfMemory);
                    return;
                }
            }
            self.ballooned -= count;
        }
    }

    /// Plugs or unplugs until `bytes` are, as far as the device comes.
    fn plug(&mut self, bytes: u64) {
        let start = self.space.hotplug().start.as_u64();
        let block = |at: u64| Ipa::new(start + at)..Ipa::new(start + at + BLOCK_2M);
        while self.plugged < bytes && self.add(block(self.plugged)) {
            self.plugged += BLOCK_2M;
        }
        while self.plugged > bytes && self.take(block(self.plugged - BLOCK_2M), Mark::Unplugged) {
            self.plugged -= BLOCK_2M;
        }
    }

    /// Uses the page at `ipa`: what it holds is what was written there last, or zeroes; then it is written to.
    fn use_page(&mut self, ipa: Ipa, value: u64) {
        match self.space.populate_step(ipa) {
            Ok(Populated::Mapped(_) | Populated::Already) => {}
            // It is tried again, another time.
            Ok(_) | Err(PopulateError::OutOfMemory) => return,
            Err(error) => {
                assert!(!self.written.contains_key(&ipa.as_u64()), "{ipa} is lost: {error:?}");
                return;
            }
        }
        let mut bytes = [0xff; 8];
        if self.space.read(ipa, &mut bytes).is_err() {
            return;
        }
        let expected = self.written.get(&ipa.as_u64()).copied().unwrap_or(0);
        assert_eq!(u64::from_le_bytes(bytes), expected, "at {ipa}");
        assert!(tlb::access(self.space.vttbr(), ipa).is_some());
        if self.space.write(ipa, &value.to_le_bytes()).is_ok() {
            self.written.insert(ipa.as_u64(), value);
        }
    }
}

impl Soak {
    fn new(seed: u64) -> Self {
        let memory = memory(MACHINE * UNIT);
        let used = Random(!seed);
        let guests = [const { None }; GUESTS.len()];
        let (emptying, walker) = (None, None);
        let (refused, failed, emptied) = (0, 0, 0);
        Self { memory, guests, emptying, walker, used, refused, failed, emptied }
    }

    fn base(&self) -> u64 {
        self.memory.frames().iter().next().unwrap().head.pa().as_u64()
    }

    fn machine(&self, at: u64, size: u64) -> crate::addr::PaRange {
        let start = self.base() + at * UNIT;
        Pa::new(start)..Pa::new(start + size * UNIT)
    }

    /// Takes all memory of a guest back; it is tried again where that wants a table for which there is no memory.
    fn end(&mut self, who: usize) -> bool {
        let Some(guest) = &mut self.guests[who] else { return false };
        let mut from = guest.space.ram().start;
        loop {
            let Ok(taken) = guest.space.take_back(from) else { continue };
            let next = taken.next;
            let _ = taken.flushed.retire();
            match next {
                Some(next) => from = next,
                None => break,
            }
        }
        (guest.ballooned, guest.plugged) = (0, 0);
        guest.written.clear();
        true
    }

    fn perform(&mut self, operation: Operation) {
        use Operation as Op;
        let done = match operation {
            Op::Start(who) => {
                if self.guests[who].is_none() {
                    self.guests[who] = Guest::new(self.memory, who);
                }
                self.guests[who].is_some()
            }
            Op::Stop(who) | Op::Reset(who) => self.end(who),
            Op::Crash(who) if who == LINUX => self.end(who),
            Op::Destroy(who) => {
                let ended = self.end(who);
                self.guests[who] = None;
                ended
            }
            Op::Crash(who) => self.with(who, |guest| {
                let range = ram(BLOCK_2M);
                guest.take(range, Mark::Unplugged);
            }),
            Op::Balloon(who, size) => self.with(who, |guest| {
                guest.balloon((GUESTS[who].memory - size) * UNIT / PAGE_SIZE);
            }),
            Op::Plug(who, size) => self.with(who, |guest| {
                guest.plug((guest.plugged + blocks(size * UNIT)).min(GUESTS[who].more * UNIT));
            }),
            Op::Unplug(who, size) => self.with(who, |guest| {
                guest.plug(guest.plugged.saturating_sub(blocks(size * UNIT)));
            }),
            Op::Add(who, size) => self.add(who, size * UNIT),
            Op::Remove(who, at, size) => self.with(who, |guest| {
                let start = region(who).start.as_u64() + at * UNIT;
                let end = (start + size * UNIT).min(region(who).end.as_u64());
                if start < end {
                    guest.take(Ipa::new(start)..Ipa::new(end), Mark::Unplugged);
                }
            }),
            Op::Move(size, from, to) => self.transfer(size * UNIT, from, to),
            Op::Offline(at, size) => self.begin_emptying(at, size),
            Op::Online => self.online(),
            Op::Walk(who) => self.walk(who),
            Op::Quiesce => {
                self.walker = None;
                settle(self.memory);
                true
            }
            Op::Cancel => self.cancel(),
            Op::FailAfter(successes) => {
                self.memory.fail_once_after(successes);
                true
            }
            Op::FailOneIn(one_in, seed) => {
                self.memory.fail_at_random(one_in, seed);
                true
            }
            Op::FailNever => {
                self.failed += self.memory.fail_never();
                true
            }
            // The drivers do it by what is here already.
            Op::Reclaim(_) | Op::Balance(_) => true,
        };
        self.refused += u64::from(!done);
    }

    fn with(&mut self, who: usize, act: impl FnOnce(&mut Guest)) -> bool {
        let guest = self.guests[who].as_mut();
        guest.map(act).is_some()
    }

    /// Adds memory where there is room for it.
    fn add(&mut self, who: usize, bytes: u64) -> bool {
        let Some(guest) = &mut self.guests[who] else { return false };
        let region = region(who);
        let last = region.end.as_u64().saturating_sub(bytes);
        let mut places = (region.start.as_u64()..=last).step_by(BLOCK_2M as usize / 4);
        let range = |at: u64| Ipa::new(at)..Ipa::new(at + bytes);
        let place = places.find(|&at| guest.space.present(range(at)) == 0);
        place.is_some_and(|at| guest.space.is_addable(&range(at)) && guest.add(range(at)))
    }

    /// Memory goes from one balloon into another, by what is plugged where that is not enough.
    fn transfer(&mut self, bytes: u64, from: usize, to: usize) -> bool {
        let pages = bytes / PAGE_SIZE;
        let floor = (GUESTS[from].memory - GUESTS[from].floor) * UNIT / PAGE_SIZE;
        let mut given = 0;
        self.with(from, |guest| {
            let before = guest.ballooned;
            guest.balloon((before + pages).min(floor.max(before)));
            given = guest.ballooned - before;
        });
        self.with(to, |guest| {
            let deflated = given.min(guest.ballooned);
            guest.balloon(guest.ballooned - deflated);
            let rest = blocks((given - deflated) * PAGE_SIZE);
            guest.plug((guest.plugged + rest).min(GUESTS[to].more * UNIT));
        })
    }

    fn begin_emptying(&mut self, at: u64, size: u64) -> bool {
        if self.emptying.is_some() {
            return false;
        }
        self.emptying = Some(Evacuation::new(self.machine(at, size), Use::Offline));
        true
    }

    /// Goes on with what is being emptied.
    fn empty(&mut self, steps: usize) {
        let Some(emptying) = &mut self.emptying else { return };
        let spaces: Vec<&Space<'static>> =
            self.guests.iter().flatten().map(|guest| &guest.space).collect();
        for _ in 0..steps {
            let progress = emptying.step(self.memory, &All(&spaces));
            if progress != Progress::Working {
                self.emptied += u64::from(progress == Progress::Emptied);
                self.emptying = None;
                return;
            }
        }
    }

    fn cancel(&mut self) -> bool {
        let Some(emptying) = &mut self.emptying else { return false };
        let spaces: Vec<&Space<'static>> =
            self.guests.iter().flatten().map(|guest| &guest.space).collect();
        emptying.cancel(self.memory, &All(&spaces));
        true
    }

    fn online(&mut self) -> bool {
        let range = self.machine(0, MACHINE);
        let mut from = Some(range.start);
        while let Some(at) = from {
            let Ok((next, _)) = self.memory.online_some(&range, at) else { return false };
            from = next;
        }
        true
    }

    /// Somebody on another CPU begins to walk, and is not done before the next one begins.
    fn walk(&mut self, who: usize) -> bool {
        self.walker = None;
        let Some(guest) = &self.guests[who] else { return false };
        let mut runs = 0;
        guest.space.dump(Ipa::new(0)..Ipa::new(1 << 39), |_| runs += 1);
        assert!(runs > 0, "the dump is empty");
        let Some(&page) = guest.written.keys().next() else { return true };
        cpu::set_current(CpuId::new(1).unwrap());
        let (pin, page) = (self.memory.pin(), Ipa::new(page));
        let found = guest.space.translate(&pin, page).ok().and_then(|leaf| leaf.frame());
        self.walker = found.map(|frame| (pin, frame, page));
        cpu::set_current(CpuId::new(0).unwrap());
        true
    }

    /// The frame that a walker has found has not become anything else.
    fn look_at_what_was_found(&self) {
        if let Some((_, frame, ipa)) = &self.walker {
            let cover = self.memory.frames().owner_of(*frame);
            assert!(matches!(cover.owner, Owner::Guest(_) | Owner::Retired), "{cover:?}");
            assert_eq!(cover.ipa_of(*frame), Some(*ipa), "it is in use elsewhere");
        }
    }

    /// Guests use their memory, and idle CPUs do their work.
    fn go_on(&mut self) {
        for (guest, who) in self.guests.iter_mut().zip(GUESTS) {
            let Some(guest) = guest else { continue };
            let pages = (who.memory + who.more) * UNIT / PAGE_SIZE;
            for _ in 0..USED {
                let page = self.used.below(pages);
                guest.use_page(at(page * PAGE_SIZE), 1 + self.used.below(u64::MAX - 1));
            }
        }
        self.empty(EVACUATED);
        for _ in 0..64 {
            self.memory.idle_step();
        }
    }

    fn compare(&self) {
        let spaces: Vec<&Space<'static>> =
            self.guests.iter().flatten().map(|guest| &guest.space).collect();
        let report = audit(self.memory, &spaces);
        assert!(report.is_clean() && report.unsettled == 0, "{report:?}");
        for space in spaces {
            assert_eq!(tlb::check(space.vttbr()), Ok(()));
        }
        // What a move is under way to has been taken, and is nobody's yet.
        let moving = self.emptying.is_some();
        assert!(moving || self.memory.counts().in_hand() == 0, "frames were lost");
        self.look_at_what_was_found();
        let counts = self.memory.counts().retired_detail;
        assert!(counts.most <= self.memory.retired_bound(), "{counts:?}");
    }

    /// Ends all, and sees that every frame is back.
    fn finish(mut self) {
        self.failed += self.memory.fail_never();
        self.walker = None;
        self.cancel();
        while self.emptying.is_some() {
            self.empty(1);
        }
        assert!(self.online(), "nothing is being emptied");
        for who in 0..GUESTS.len() {
            self.end(who);
            self.guests[who] = None;
        }
        settle(self.memory);
        assert_sound(self.memory, &[]);
        let counts = self.memory.counts();
        assert_eq!((counts.offline, counts.free() + counts.pool), (0, counts.total));
    }
}

fn number_from(name: &str, otherwise: u64) -> u64 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[test]
#[cfg_attr(any(feature = "no-grace", feature = "no-tlbi"), should_panic)]
fn the_cores_part_of_a_soak_run_leaves_nothing_behind() {
    let (seed, count) = (number_from("SEED", 1), number_from("OPS", 600));
    let mut soak = Soak::new(seed);
    for (operation, index) in Operations::new(seed).zip(0..count) {
        println!("SEED={seed}, operation {index}: {operation:?}");
        soak.perform(operation);
        soak.go_on();
        soak.compare();
    }
    let Soak { refused, failed, emptied, .. } = soak;
    println!(
        "SEED={seed}: {count} operations, {refused} refused, {failed} allocations failed, {emptied} ranges emptied"
    );
    assert!(count < 500 || failed > 0 && emptied > 0 && refused < count / 2);
    soak.finish();
}
