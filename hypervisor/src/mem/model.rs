//! Models of lookups in the frame table while a block splits and merges, and what the models of the
//! epoch scheme (`epoch/model.rs`, which says how to run them) need of the memory manager: the bags
//! and a frame table, without the rest.
#![expect(unsafe_code, reason = "writes through loom's cells")]

use super::frame_table::{Head, Kind};
use super::retire::Garbage;
use super::sleepers::Sleepers;
use super::tables::Roots;
use super::{Chain, FrameTable, GuestId, Order, Owner, Record};
use crate::addr::{Frame, Ipa, PAGE_SIZE, Pa, PaRange};
use crate::arch::cpu::CpuId;
use crate::epoch::Epoch;
use crate::epoch::model::{check, is_caught};
use crate::sync::{Edge, Lock};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

/// Makes a frame table for one model.
pub(crate) fn table(range: PaRange) -> FrameTable {
    let records = FrameTable::records_for(core::slice::from_ref(&range));
    let storage: Vec<Record> = core::iter::repeat_with(Record::new).take(records).collect();
    FrameTable::new(&[range], storage.leak()).expect("one range")
}

/// The bags of retired frames and the CPUs that sleep, as [`super::Memory`] holds them.
pub(crate) struct Bags {
    table: FrameTable,
    garbage: Lock<Garbage>,
    sleepers: Sleepers,
}

impl Bags {
    pub(crate) fn new(table: FrameTable) -> Self {
        let garbage = Lock::new(Edge::GarbageLock, Garbage::new());
        Self { table, garbage, sleepers: Sleepers::new() }
    }

    /// Retires `frame` as a guest's page.
    pub(crate) fn retire(&self, epoch: &Epoch, frame: Frame) {
        let guest = GuestId::new(0).expect("a small number");
        self.table.at(frame).set_head(Head::of_guest(Kind::Guest, Order::PAGE, guest));
        let mut chain = Chain::new();
        chain.push(&self.table, frame, Order::PAGE);
        self.garbage.lock().retire(epoch, &self.table, chain, 0);
    }

    /// Takes what may be reused.
    pub(crate) fn recycle(&self, epoch: &Epoch) -> Option<Frame> {
        let mut garbage = self.garbage.lock();
        garbage.expire(epoch, &self.table, 0);
        garbage.pop(&self.table).map(|(frame, _)| frame)
    }
}

const FIRST: Frame = Frame::new(0);
const ORDER_2: Order = Order::PAGE.doubled().doubled();
const IPA: Ipa = Ipa::new(0x4000_0000);

/// A block of four frames splits, one part changes hands as a whole, and it merges, while another
/// CPU looks one of its frames up: it finds a block at each time, the right one.
fn split_and_merge() {
    let guest = GuestId::new(3).expect("a small number");
    let table = Arc::new(table(Pa::new(0)..Pa::new(4 * PAGE_SIZE)));
    table.assign(FIRST, ORDER_2, guest, IPA);
    let reader = thread::spawn({
        let table = table.clone();
        move || {
            let frame = Frame::new(3);
            let cover = table.owner_of(frame);
            assert_eq!(cover.owner, Owner::Guest(guest), "a lookup missed the block");
            let ipa = cover.ipa_of(frame);
            assert_eq!(ipa, Some(Ipa::new(0x4000_3000)), "a lookup found the wrong block");
        }
    });
    table.split(FIRST, ORDER_2, ORDER_2.halved());
    table.split(Frame::new(2), ORDER_2.halved(), Order::PAGE);
    table.merge(Frame::new(2), Order::PAGE, ORDER_2.halved()).expect("these were one");
    table.merge(FIRST, ORDER_2.halved(), ORDER_2).expect("these were one");
    reader.join().expect("a model stops at its first panic");
}

/// A CPU goes to sleep while another retires something: it is roused, or looks again by itself.
fn sleeper_and_remover() {
    let table = table(Pa::new(0)..Pa::new(PAGE_SIZE));
    let shared = Arc::new((Epoch::new(), Bags::new(table)));
    let cpu = CpuId::new(1).expect("a small number");
    let sleeper = thread::spawn({
        let shared = shared.clone();
        move || {
            let bags = &shared.1;
            bags.sleepers.falls_asleep(cpu, || bags.garbage.lock().frames() > 0)
        }
    });
    let (epoch, bags) = &*shared;
    bags.retire(epoch, FIRST);
    let roused = bags.sleepers.take() == Some(cpu);
    let looks_again = sleeper.join().expect("a model stops at its first panic");
    assert!(roused || looks_again, "a lookup for what is retired never comes");
}

/// The frame of a root table goes back while another guest takes one: it is one's after the other's.
fn roots() {
    let shared = Arc::new((Roots::new(), UnsafeCell::new(0_u64)));
    shared.0.set(Frame::new(1), 1);
    shared.0.take().expect("there is one");
    let write = |(_, frame): &(Roots, UnsafeCell<u64>)| {
        frame.with_mut(|frame| {
            // SAFETY: loom fails the model if this is a race, before it is one.
            unsafe { *frame += 1 };
        });
    };
    let other = thread::spawn({
        let shared = shared.clone();
        move || {
            if shared.0.take().is_some() {
                write(&shared);
            }
        }
    });
    write(&shared);
    shared.0.put_back(0);
    other.join().expect("a model stops at its first panic");
}

#[test]
fn something_retired_is_looked_for() {
    check(sleeper_and_remover, None, None).expect("the protocol holds");
}

#[test]
fn where_a_cpu_looks_before_it_says_that_it_sleeps_it_fails() {
    is_caught(sleeper_and_remover, "sleeper", Edge::SleepFirst, None);
}

#[test]
fn the_frame_of_a_root_goes_from_hand_to_hand() {
    check(roots, None, None).expect("the protocol holds");
}

#[test]
fn without_either_order_of_roots_it_fails() {
    is_caught(roots, "roots", Edge::RootsRelease, None);
    is_caught(roots, "roots", Edge::RootsAcquire, None);
}

#[test]
fn lookups_find_a_block_while_it_splits_and_merges() {
    check(split_and_merge, None, None).expect("the protocol holds");
}

#[test]
fn without_the_release_of_a_head_it_fails() {
    is_caught(split_and_merge, "frame table", Edge::HeadRelease, None);
}

#[test]
fn without_the_acquire_of_a_head_it_fails() {
    is_caught(split_and_merge, "frame table", Edge::HeadAcquire, None);
}

#[test]
fn with_the_whole_shortened_first_it_fails() {
    is_caught(split_and_merge, "frame table", Edge::PartsFirst, None);
}
