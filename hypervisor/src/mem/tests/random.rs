//! Random operations against a plain model of who has what.

use super::super::host::memory_in;
use super::super::*;
use super::{MIB, settle};
use crate::addr::{BLOCK_2M, Ipa, Pa, PaRange};
use crate::arch::cpu::CpuId;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock};

const SIZE: u64 = 16 * MIB;

/// What can be asked of the memory manager. The numbers choose among what there is.
#[derive(Clone, Debug)]
enum Step {
    Allocate {
        order: u8,
        ready: bool,
    },
    GiveBack(usize),
    Assign {
        block: usize,
        guest: usize,
        page: u64,
    },
    Split {
        block: usize,
        by: u8,
    },
    Merge {
        block: usize,
    },
    Retire {
        block: usize,
        count: usize,
        tables: usize,
    },
    Table {
        guest: usize,
    },
    GiveBackTable(usize),
    Own,
    GiveBackOwn(usize),
    Pin,
    Unpin,
    Idle(usize),
    Quiesce,
    FailOnce {
        after: u64,
    },
    Isolate {
        start: u64,
        pages: u64,
    },
    Carve(usize),
    /// Offline if all of it is withheld, else free again.
    EndIsolation {
        bad: bool,
    },
    Online {
        start: u64,
        pages: u64,
    },
    Unclean {
        order: u8,
    },
}

/// Ranges of any size and alignment.
fn range() -> impl Strategy<Value = (u64, u64)> {
    let pages = SIZE / 4096;
    (0..pages, prop_oneof![1..pages, 1..64u64])
        .prop_map(move |(start, size)| (start, size.min(pages - start)))
}

fn step() -> impl Strategy<Value = Step> {
    let which = || 0..1000usize;
    prop_oneof![
        8 => (0..=11u8, any::<bool>()).prop_map(|(order, ready)| Step::Allocate { order, ready }),
        3 => which().prop_map(Step::GiveBack),
        8 => (which(), 0..3usize, 0..512u64)
            .prop_map(|(block, guest, page)| Step::Assign { block, guest, page }),
        4 => (which(), 1..=11u8).prop_map(|(block, by)| Step::Split { block, by }),
        4 => which().prop_map(|block| Step::Merge { block }),
        6 => (which(), 1..40usize, 0..4usize)
            .prop_map(|(block, count, tables)| Step::Retire { block, count, tables }),
        4 => (0..3usize).prop_map(|guest| Step::Table { guest }),
        1 => which().prop_map(Step::GiveBackTable),
        1 => Just(Step::Own),
        1 => which().prop_map(Step::GiveBackOwn),
        1 => Just(Step::Pin),
        2 => Just(Step::Unpin),
        6 => (1..30usize).prop_map(Step::Idle),
        2 => Just(Step::Quiesce),
        1 => (0..3u64).prop_map(|after| Step::FailOnce { after }),
        3 => range().prop_map(|(start, pages)| Step::Isolate { start, pages }),
        4 => (1..60usize).prop_map(Step::Carve),
        3 => prop::bool::weighted(0.1).prop_map(|bad| Step::EndIsolation { bad }),
        3 => range().prop_map(|(start, pages)| Step::Online { start, pages }),
        2 => (0..=11u8).prop_map(|order| Step::Unclean { order }),
    ]
}

/// The model: who has what.
struct World {
    memory: &'static Memory,
    range: PaRange,
    in_hand: Vec<Clean>,
    /// By first frame.
    blocks: BTreeMap<Frame, (Order, GuestId, Ipa)>,
    tables: Vec<TableFrame>,
    own: Vec<HypervisorFrame>,
    pin: Option<epoch::Pin<'static>>,
    /// What was retired since the pin.
    held: Vec<Frame>,
    last: Option<GracePeriod>,
    /// What is being emptied, and whether all that was free in it is withheld.
    isolated: Option<(Isolated, bool)>,
    /// Frames that are never to be seen again.
    bad: u64,
}

fn words(first: Frame, order: Order) -> impl Iterator<Item = *mut u64> {
    // The first and the last word of each page.
    (0..order.frames()).flat_map(move |index| {
        let page = Frame::new(first.number() + index).pa();
        [0, 4088].map(|offset| {
            arch::memory::pointer(Pa::new(page.as_u64() + offset)).cast::<u64>().as_ptr()
        })
    })
}

#[expect(unsafe_code, reason = "reads what was allocated")]
fn is_zero(first: Frame, order: Order) -> bool {
    // SAFETY: the frames are the test's own.
    words(first, order).all(|word| unsafe { word.read() } == 0)
}

#[expect(unsafe_code, reason = "writes to what was allocated")]
fn scribble(first: Frame, order: Order) {
    // SAFETY: as above.
    words(first, order).for_each(|word| unsafe { word.write(0xa5a5_a5a5_a5a5_a5a5) });
}

fn pick<T>(list: &mut Vec<T>, choice: usize) -> Option<T> {
    if list.is_empty() { None } else { Some(list.swap_remove(choice % list.len())) }
}

impl World {
    fn new(range: PaRange) -> Self {
        let memory = memory_in(range.clone());
        memory.set_clean_watermark(4 * MIB / 4096);
        memory.set_retired_bound(u64::MAX);
        let (in_hand, blocks, tables, own) = Default::default();
        let (pin, held, last, isolated) = Default::default();
        let bad = 0;
        Self { memory, range, in_hand, blocks, tables, own, pin, held, last, isolated, bad }
    }

    fn pages(&self, start: u64, pages: u64) -> PaRange {
        let first = self.range.start.page() + start;
        Pa::from_page(first)..Pa::from_page(first + pages)
    }

    /// Nothing that is isolated can be had.
    fn check_had(&self, first: Frame, order: Order) {
        if let Some((isolated, true)) = &self.isolated {
            let range = isolated.range();
            let end = Pa::new(first.pa().as_u64() + order.bytes());
            assert!(end <= range.start || range.end <= first.pa(), "{first:?} of {range:?}");
        }
    }

    fn end_isolation(&mut self, bad: bool) {
        let Some((isolated, _)) = self.isolated.take() else { return };
        let range = isolated.range();
        let owners = (range.start.page()..range.end.page())
            .map(|page| self.memory.frames().owner_of(Frame::new(page as u32)).owner);
        let mut owners = owners.filter(|owner| *owner != Owner::Bad);
        if owners.any(|owner| owner != Owner::Offline) {
            self.memory.release(isolated);
        } else if bad {
            let before = self.memory.counts();
            self.memory.settle(isolated, Use::Never);
            while self.memory.end_step() {}
            let after = self.memory.counts();
            self.bad += after.bad - before.bad;
            assert_eq!(after.bad + after.offline, before.bad + before.offline);
        } else {
            self.memory.settle(isolated, Use::Offline);
        }
        while self.memory.end_step() {}
    }

    fn online(&self, range: &PaRange) {
        let (mut from, before) = (Some(range.start), self.memory.counts().offline);
        let mut frames = 0;
        while let Some(at) = from {
            let Ok((next, some)) = self.memory.online_some(range, at) else {
                assert!(self.isolated.is_some(), "nothing is being emptied");
                return;
            };
            (from, frames) = (next, frames + some);
        }
        assert_eq!(self.memory.counts().offline, before - frames);
    }

    fn block(&self, choice: usize) -> Option<(Frame, (Order, GuestId, Ipa))> {
        let (&first, &what) = self.blocks.iter().nth(choice % self.blocks.len().max(1))?;
        Some((first, what))
    }

    fn apply(&mut self, step: Step) {
        let memory = self.memory;
        match step {
            Step::Allocate { order, ready } => {
                let order = Order::new(order).expect("11 at most");
                let block =
                    if ready { memory.allocate_ready(order) } else { memory.allocate(order) };
                if let Ok(block) = block {
                    assert_eq!(block.order(), order);
                    assert!(is_zero(block.first(), order), "what is allocated is zeroed");
                    self.check_had(block.first(), order);
                    self.in_hand.push(block);
                }
            }
            Step::GiveBack(choice) => {
                if let Some(block) = pick(&mut self.in_hand, choice) {
                    memory.give_back(block);
                }
            }
            Step::Assign { block, guest, page } => {
                let Some(block) = pick(&mut self.in_hand, block) else { return };
                let guest = GuestId::new(guest).expect("a small number");
                let ipa = Ipa::from_page(page * u64::from(block.order().frames()));
                let given = memory.assign(block, guest, ipa);
                scribble(given.first, given.order);
                self.blocks.insert(given.first, (given.order, guest, ipa));
            }
            Step::Split { block, by } => {
                let Some((first, (order, guest, ipa))) = self.block(block) else { return };
                let to = Order::new(order.get().saturating_sub(by)).expect("smaller");
                memory.split_assigned(first, order, to);
                for index in 0..order.frames() / to.frames() {
                    let distance = index * to.frames();
                    let ipa = Ipa::from_page(ipa.page() + u64::from(distance));
                    self.blocks.insert(Frame::new(first.number() + distance), (to, guest, ipa));
                }
            }
            Step::Merge { block } => {
                let Some((first, (order, guest, ipa))) = self.block(block) else { return };
                let to = order.doubled();
                let other = Frame::new(first.number() + order.frames());
                let next = Ipa::from_page(ipa.page() + u64::from(order.frames()));
                let fits = to > order
                    && first.pa().is_aligned(to.bytes())
                    && ipa.is_aligned(to.bytes())
                    && self.blocks.get(&other) == Some(&(order, guest, next));
                if to > order {
                    assert_eq!(memory.merge_assigned(first, order, to).is_ok(), fits);
                }
                if fits {
                    self.blocks.remove(&other);
                    self.blocks.insert(first, (to, guest, ipa));
                }
            }
            Step::Retire { block, count, tables } => self.retire(block, count, tables),
            Step::Table { guest } => {
                let guest = GuestId::new(guest).expect("a small number");
                if let Ok(table) = memory.table_frame(guest) {
                    assert!(is_zero(table.frame(), Order::PAGE), "a table is zeroed");
                    self.check_had(table.frame(), Order::PAGE);
                    self.tables.push(table);
                }
            }
            Step::GiveBackTable(choice) => {
                if let Some(table) = pick(&mut self.tables, choice) {
                    memory.give_back_table(table);
                }
            }
            Step::Own => {
                if let Ok(frame) = memory.hypervisor_frame() {
                    assert!(is_zero(frame.frame(), Order::PAGE), "a frame is zeroed");
                    scribble(frame.frame(), Order::PAGE);
                    self.own.push(frame);
                }
            }
            Step::GiveBackOwn(choice) => {
                if let Some(frame) = pick(&mut self.own, choice) {
                    memory.give_back_hypervisor(frame);
                }
            }
            Step::Pin => {
                if self.pin.is_none() {
                    self.pin = Some(memory.epoch().pin(CpuId::new(7).expect("a small number")));
                }
            }
            Step::Unpin => {
                self.pin = None;
                self.held.clear();
            }
            Step::Idle(steps) => {
                for _ in 0..steps {
                    if !memory.idle_step() {
                        break;
                    }
                }
            }
            Step::Quiesce => {
                if let (None, Some(grace)) = (&self.pin, self.last.take()) {
                    memory.quiesce(grace);
                    assert!(memory.is_over(grace));
                }
            }
            Step::FailOnce { after } => memory.fail_once_after(after),
            Step::Isolate { start, pages } => {
                let range = self.pages(start, pages);
                match memory.isolate(range) {
                    Ok(isolated) => self.isolated = Some((isolated, false)),
                    Err(error) => {
                        assert!(self.isolated.is_some() && matches!(error, IsolateError::Busy(_)));
                    }
                }
            }
            Step::Carve(steps) => {
                if let Some((isolated, carved)) = &mut self.isolated {
                    *carved |= (0..steps).any(|_| !memory.carve_some(isolated));
                }
            }
            Step::EndIsolation { bad } => self.end_isolation(bad),
            Step::Online { start, pages } => self.online(&self.pages(start, pages)),
            Step::Unclean { order } => {
                let order = Order::new(order).expect("11 at most");
                if let Ok(block) = memory.allocate_unclean(order) {
                    self.check_had(block.first(), order);
                    scribble(block.first(), order);
                    memory.give_back_unclean(block);
                }
            }
        }
    }

    fn retire(&mut self, block: usize, count: usize, tables: usize) {
        let Some((first, (_, guest, _))) = self.block(block) else { return };
        let same = self.blocks.range(first..).filter(|(_, (_, of, _))| *of == guest);
        let chosen: Vec<Frame> = same.take(count).map(|(&first, _)| first).collect();
        let mut chain = Chain::new();
        for first in chosen {
            let Some((order, ..)) = self.blocks.remove(&first) else { continue };
            chain.push(self.memory.frames(), first, order);
            if self.pin.is_some() {
                self.held.push(first);
            }
        }
        for _ in 0..tables {
            let Some(index) = self.tables.iter().position(|table| table.guest() == guest) else {
                break;
            };
            let table = self.tables.swap_remove(index);
            scribble(table.frame(), Order::PAGE);
            chain.push(self.memory.frames(), table.frame(), Order::PAGE);
            if self.pin.is_some() {
                self.held.push(table.frame());
            }
        }
        self.last = Some(self.memory.retire_chain(chain));
    }

    /// Compares everything with the model.
    fn check(&self) {
        let table = self.memory.frames();
        let counts = self.memory.counts();
        let mut sums: BTreeMap<String, u64> = BTreeMap::new();
        let mut next = self.range.start;
        for cover in table.iter() {
            assert_eq!(cover.head.pa(), next, "blocks follow each other without gap or overlap");
            next = Pa::new(next.as_u64() + cover.order.bytes());
            *sums.entry(format!("{:?}", cover.owner)).or_default() +=
                u64::from(cover.order.frames());
            let last = Frame::new(cover.head.number() + cover.order.frames() - 1);
            assert_eq!(table.owner_of(last), cover, "a lookup and the iterator agree");
        }
        assert_eq!(next, self.range.end);
        let sum = |owner: Owner| sums.get(&format!("{owner:?}")).copied().unwrap_or(0);
        let in_hand = self.in_hand.iter().map(|block| u64::from(block.order().frames())).sum();
        assert_eq!(counts.in_hand(), in_hand);
        assert_eq!(sum(Owner::Free), counts.free() + in_hand);
        assert_eq!(sum(Owner::Retired), counts.retired);
        assert_eq!(sum(Owner::Offline), counts.offline);
        assert_eq!((sum(Owner::Bad), counts.bad), (self.bad, self.bad));
        assert_eq!(sum(Owner::Hypervisor), counts.hypervisor + counts.pool);
        assert_eq!(counts.hypervisor, self.own.len() as u64);
        for guest in (0..3).filter_map(GuestId::new) {
            let tables = self.tables.iter().filter(|table| table.guest() == guest).count();
            assert_eq!(sum(Owner::Table(guest)), tables as u64);
            assert_eq!(counts.guest(guest).tables, tables as u64);
            let blocks = self.blocks.values().filter(|(_, of, _)| *of == guest);
            let frames = blocks.map(|(order, ..)| u64::from(order.frames())).sum::<u64>();
            assert_eq!(sum(Owner::Guest(guest)), frames);
            assert_eq!(counts.guest(guest).frames, frames);
        }
        for (&first, &(order, guest, ipa)) in &self.blocks {
            let owner = Owner::Guest(guest);
            assert_eq!(table.owner_of(first), Cover { head: first, order, owner, ipa: Some(ipa) });
        }
        if !cfg!(feature = "no-grace") {
            for &first in &self.held {
                assert_eq!(table.owner_of(first).owner, Owner::Retired, "somebody is pinned");
            }
        }
    }

    /// Returns everything, and checks that memory is whole again.
    fn finish(mut self) {
        self.apply(Step::Unpin);
        self.memory.fail_never();
        if let Some((isolated, _)) = self.isolated.take() {
            self.memory.release(isolated);
            while self.memory.end_step() {}
        }
        self.online(&self.range);
        self.in_hand.drain(..).for_each(|block| self.memory.give_back(block));
        self.tables.drain(..).for_each(|table| self.memory.give_back_table(table));
        self.own.drain(..).for_each(|frame| self.memory.give_back_hypervisor(frame));
        while let Some((_, (_, guest, _))) = self.block(0) {
            self.retire(0, usize::MAX, 0);
            assert_eq!(self.memory.counts().guest(guest).frames, 0);
        }
        self.memory.set_clean_watermark(u64::MAX);
        settle(self.memory);
        self.check();
        let counts = self.memory.counts();
        assert_eq!((counts.dirty, counts.retired, counts.in_hand()), (0, 0, 0));
        assert_eq!(counts.clean + counts.pool + counts.bad, counts.total);
        // Nothing is left that could merge: as large as what the pool left allows.
        let free = self.memory.frames().iter().filter(|cover| cover.owner == Owner::Free);
        let orders: BTreeMap<Frame, Order> = free.map(|cover| (cover.head, cover.order)).collect();
        for (first, &order) in &orders {
            let buddy = Frame::new(first.number() ^ order.frames());
            assert_ne!(orders.get(&buddy), Some(&order), "two buddies are free and apart");
        }
        if counts.pool == BLOCK_2M / 4096 && self.bad == 0 {
            let orders: Vec<u8> = orders.values().map(|order| order.get()).collect();
            assert_eq!(orders, [9, 10, 11], "all but the pool's 2 MiB, in the largest blocks");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 96, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn no_frame_is_lost_or_doubled(steps in prop::collection::vec(step(), 1..150)) {
        // All cases use the same frames, one after the other.
        static RANGE: OnceLock<Mutex<PaRange>> = OnceLock::new();
        let range = RANGE.get_or_init(|| Mutex::new(arch::memory::take(SIZE, SIZE)));
        let range = range.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut world = World::new(range.clone());
        for step in steps {
            world.apply(step);
            world.check();
        }
        world.finish();
    }
}
