//! Models of the epoch scheme, checked by loom: every interleaving of a few threads, every value
//! that a load may return under the C11 memory model. What runs is the code that ships.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release -p sluice --lib model`
//!
//! In all of them a walker follows a link to a thing, and a remover takes the link away and
//! overwrites the thing once it may. The thing is a cell whose accesses loom checks: an overwriting
//! that does not come after the walker's last read, by what the atomics order, fails the model.
//!
//! For each [`Edge`] there is a model that fails without it. That is what shows that the models
//! can fail, and that nothing in the code is there for no reason.

#![expect(unsafe_code, reason = "reads and writes through loom's cells")]

use super::Epoch;
use crate::addr::{Frame, PAGE_SIZE, Pa};
use crate::arch::cpu::CpuId;
use crate::mem::model::{Bags, table};
use crate::sync::mutant::{note, without, words};
use crate::sync::{AtomicU64, Edge, Ordering};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use std::panic::{AssertUnwindSafe, catch_unwind};

fn cpu(index: usize) -> CpuId {
    CpuId::new(index).expect("a small number")
}

/// A link and the thing that it leads to.
struct Linked {
    link: AtomicU64,
    thing: UnsafeCell<u64>,
}

impl Linked {
    fn new() -> Self {
        Self { link: AtomicU64::new(1), thing: UnsafeCell::new(1) }
    }

    /// Follows the link, if it is there still. Relaxed, so that only the epochs order anything.
    fn walk(&self) {
        if self.link.load(Ordering::Relaxed) == 1 {
            self.thing.with(|thing| {
                // SAFETY: loom fails the model if this is a race, before it is one.
                assert_eq!(unsafe { *thing }, 1, "the thing was reused");
            });
        }
    }

    fn unlink(&self) {
        self.link.store(0, Ordering::Relaxed);
    }

    fn reuse(&self) {
        self.thing.with_mut(|thing| {
            // SAFETY: as above.
            unsafe { *thing = 2 };
        });
    }
}

/// One walker that walks `walks` times, one CPU that only advances, and the remover.
fn one_walker(walks: usize) -> impl Fn() + Sync + Send + 'static {
    move || {
        let shared = Arc::new((Epoch::new(), Linked::new()));
        let walker = thread::spawn({
            let shared = shared.clone();
            move || {
                let (epoch, linked) = &*shared;
                for _ in 0..walks {
                    let _pin = epoch.pin(cpu(1));
                    linked.walk();
                }
            }
        });
        let advancer = thread::spawn({
            let shared = shared.clone();
            move || {
                let (epoch, _) = &*shared;
                epoch.try_advance();
                epoch.try_advance();
            }
        });
        let (epoch, linked) = &*shared;
        linked.unlink();
        let retired = epoch.retiring();
        if epoch.has_passed(retired) {
            linked.reuse();
        }
        walker.join().expect("a model stops at its first panic");
        advancer.join().expect("a model stops at its first panic");
    }
}

/// A remover that helps itself, as `quiesce` does, and a walker.
fn helping_remover() {
    let shared = Arc::new((Epoch::new(), Linked::new()));
    let walker = thread::spawn({
        let shared = shared.clone();
        move || {
            let (epoch, linked) = &*shared;
            let _pin = epoch.pin(cpu(1));
            let _nested = epoch.pin(cpu(1));
            linked.walk();
        }
    });
    let (epoch, linked) = &*shared;
    linked.unlink();
    let retired = epoch.retiring();
    for _ in 0..3 {
        epoch.try_advance();
    }
    if epoch.has_passed(retired) {
        linked.reuse();
    }
    walker.join().expect("a model stops at its first panic");
}

/// The bags: two CPUs recycle, one of them the remover, while a walker walks. The block comes out
/// of the bags once, and not before its time.
fn bags() {
    const FRAME: Frame = Frame::new(0);
    let table = table(Pa::new(0)..Pa::new(PAGE_SIZE));
    let shared = Arc::new((Epoch::new(), Linked::new(), Bags::new(table), AtomicU64::new(0)));
    let recycle = |shared: &(Epoch, Linked, Bags, AtomicU64)| {
        let (epoch, linked, bags, recycled) = shared;
        epoch.try_advance();
        if let Some(frame) = bags.recycle(epoch) {
            assert_eq!(frame, FRAME);
            assert_eq!(recycled.fetch_add(1, Ordering::Relaxed), 0, "recycled twice");
            linked.reuse();
        }
    };
    let walker = thread::spawn({
        let shared = shared.clone();
        move || {
            let (epoch, linked, ..) = &*shared;
            let _pin = epoch.pin(cpu(1));
            linked.walk();
        }
    });
    let helper = thread::spawn({
        let shared = shared.clone();
        move || recycle(&shared)
    });
    shared.1.unlink();
    shared.2.retire(&shared.0, FRAME);
    recycle(&shared);
    recycle(&shared);
    walker.join().expect("a model stops at its first panic");
    helper.join().expect("a model stops at its first panic");
    recycle(&shared);
    recycle(&shared);
    assert_eq!(shared.3.load(Ordering::Relaxed), 1, "nobody is pinned, so it is recycled by now");
}

/// Checks `model` with `edge` taken away, with at most `preemptions` of a thread. Returns how many schedules there were.
pub(crate) fn check(
    model: impl Fn() + Sync + Send + 'static,
    edge: Option<Edge>,
    preemptions: impl Into<Option<usize>>,
) -> Result<u64, (u64, String)> {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions.into();
    let schedules = std::sync::Arc::new(core::sync::atomic::AtomicU64::new(0));
    let counted = schedules.clone();
    let model = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        model();
    };
    let result = catch_unwind(AssertUnwindSafe(|| without(edge, || builder.check(model))));
    without(None, || ());
    let schedules = schedules.load(Ordering::Relaxed);
    result.map(|()| schedules).map_err(|panic| (schedules, words(&*panic)))
}

/// Passes if the model, which is called `name`, fails, and for the right reason.
#[track_caller]
pub(crate) fn is_caught(
    model: impl Fn() + Sync + Send + 'static,
    name: &str,
    edge: Edge,
    preemptions: impl Into<Option<usize>>,
) {
    match check(model, Some(edge), preemptions) {
        Ok(_) => panic!("the model does not notice that {edge:?} is missing"),
        Err((schedules, why)) => {
            assert!(
                ["Causality violation", "was reused", "a lookup"].iter().any(|it| why.contains(it)),
                "{edge:?} is missed, but not for what it is for: {why}"
            );
            note(edge, "loom", name, schedules, &why);
        }
    }
}

#[test]
fn a_walker_an_advancer_and_a_remover() {
    check(one_walker(1), None, None).expect("the protocol holds");
}

#[test]
fn a_walker_that_walks_twice() {
    check(one_walker(2), None, 5).expect("the protocol holds");
}

#[test]
fn a_remover_that_helps_itself() {
    check(helping_remover, None, None).expect("the protocol holds");
}

#[test]
fn what_is_retired_is_recycled_once_and_in_time() {
    check(bags, None, 4).expect("the protocol holds");
}

#[test]
fn without_the_fence_of_pin_it_fails() {
    is_caught(one_walker(1), "walker", Edge::PinFence, None);
}

#[test]
fn without_the_release_of_pin_it_fails() {
    is_caught(one_walker(2), "walker", Edge::PinRelease, None);
}

#[test]
fn without_the_release_of_unpin_it_fails() {
    is_caught(one_walker(1), "walker", Edge::UnpinRelease, None);
}

#[test]
fn without_the_fence_of_retiring_it_fails() {
    is_caught(one_walker(1), "walker", Edge::RetireFence, None);
}

#[test]
fn without_the_fence_of_advancing_it_fails() {
    is_caught(one_walker(1), "walker", Edge::AdvanceFence, None);
}

#[test]
fn without_the_acquire_of_advancing_it_fails() {
    is_caught(one_walker(1), "walker", Edge::AdvanceAcquire, None);
}

#[test]
fn without_the_release_of_advancing_it_fails() {
    is_caught(one_walker(1), "walker", Edge::AdvanceRelease, None);
}

#[test]
fn without_the_acquire_of_the_new_epoch_it_fails() {
    is_caught(one_walker(1), "walker", Edge::PassedAcquire, None);
}

#[test]
fn without_the_second_epoch_it_fails() {
    is_caught(one_walker(1), "walker", Edge::SecondEpoch, None);
}

#[test]
fn without_the_grace_period_it_fails() {
    is_caught(one_walker(1), "walker", Edge::GracePeriod, None);
}

#[test]
fn without_looking_at_the_announcements_it_fails() {
    is_caught(one_walker(1), "walker", Edge::Announcements, None);
}

#[test]
fn the_bags_fail_without_the_grace_period() {
    is_caught(bags, "bags", Edge::GracePeriod, 2);
}

#[test]
fn the_bags_fail_without_the_second_epoch() {
    is_caught(bags, "bags", Edge::SecondEpoch, 2);
}
