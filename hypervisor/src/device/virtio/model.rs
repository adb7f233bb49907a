//! Every order in which the device and a driver on another CPU can work one queue, by loom.
//!
//! Each model is one pair of fences. It passes as the code stands, and fails with that fence taken
//! away: otherwise it would show nothing.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU16, AtomicU64, Ordering, fence};
use loom::thread;

use super::order::Pair;
use super::queue::Layout;
use super::{Queue, feature};
use crate::addr::Ipa;
use crate::device::{GuestMemory, MemoryFault};

std::thread_local! {
    // Loom runs all threads of a model on the thread that started it.
    static MISSING: Cell<Option<Pair>> = const { Cell::new(None) };
}

/// Says whether the model that runs has taken the fence of `pair` away.
pub(super) fn is_missing(pair: Pair) -> bool {
    MISSING.get() == Some(pair)
}

const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
/// A size at which each slot is on its first lap.
const SIZE: u16 = 2;

/// The rings and nothing else: plain accesses, as the guest's memory has them.
struct Rings {
    available: AtomicU16,
    entries: [AtomicU16; SIZE as usize],
    used_event: AtomicU16,
    used: AtomicU16,
    elements: [AtomicU64; SIZE as usize],
    available_event: AtomicU16,
}

impl Rings {
    fn new() -> Self {
        Self {
            available: AtomicU16::new(0),
            entries: [AtomicU16::new(0), AtomicU16::new(0)],
            used_event: AtomicU16::new(0),
            used: AtomicU16::new(0),
            elements: [AtomicU64::new(0), AtomicU64::new(0)],
            available_event: AtomicU16::new(0),
        }
    }

    fn short(&self, ipa: Ipa) -> &AtomicU16 {
        match ipa.as_u64() {
            0x1002 => &self.available,
            0x1004 => &self.entries[0],
            0x1006 => &self.entries[1],
            0x1008 => &self.used_event,
            0x2002 => &self.used,
            0x2014 => &self.available_event,
            other => unreachable!("{other:#x}"),
        }
    }
}

impl GuestMemory for Rings {
    fn read(&self, ipa: Ipa, bytes: &mut [u8]) -> Result<(), MemoryFault> {
        bytes.copy_from_slice(&self.short(ipa).load(Ordering::Relaxed).to_le_bytes());
        Ok(())
    }

    fn write(&self, ipa: Ipa, bytes: &[u8]) -> Result<(), MemoryFault> {
        match (ipa.as_u64(), bytes.len()) {
            (place @ (0x2004 | 0x200c), 8) => {
                let value = u64::from_le_bytes(bytes.try_into().unwrap());
                self.elements[usize::from(place == 0x200c)].store(value, Ordering::Relaxed);
            }
            _ => {
                let value = u16::from_le_bytes(bytes.try_into().unwrap());
                self.short(ipa).store(value, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

fn queue() -> Queue {
    let mut queue = Queue::default();
    queue.layout = Layout { size: SIZE.into(), descriptors: 0, available: AVAILABLE, used: USED };
    queue.start(feature::COMMON).unwrap();
    queue
}

/// Linux `virtqueue_add` and `virtqueue_kick_prepare` for one entry; `true`: notifies.
fn offer(rings: &Rings, old: u16, head: u16) -> bool {
    let new = old + 1;
    rings.entries[usize::from(old % SIZE)].store(head, Ordering::Relaxed);
    fence(Ordering::Release);
    rings.available.store(new, Ordering::Relaxed);
    fence(Ordering::SeqCst);
    rings.available_event.load(Ordering::Relaxed) == old
}

/// Runs `model` as the code is, where it must hold, and without `pair`, where it must not.
fn needs(pair: Pair, model: fn()) {
    loom::model(model);
    MISSING.set(Some(pair));
    let failed = catch_unwind(AssertUnwindSafe(|| loom::model(model))).is_err();
    MISSING.set(None);
    assert!(failed, "the model does not notice that {pair:?} is missing");
}

#[test]
fn an_index_shows_its_entry() {
    needs(Pair::Available, || {
        let rings = Arc::new(Rings::new());
        let driver = rings.clone();
        let thread = thread::spawn(move || offer(&driver, 0, 1));
        if let Some(chain) = queue().pop(&*rings).unwrap() {
            assert_eq!(chain.head(), 1);
        }
        thread.join().unwrap();
    });
}

#[test]
fn a_used_index_shows_its_element() {
    needs(Pair::Used, || {
        let rings = Arc::new(Rings::new());
        let driver = rings.clone();
        let thread = thread::spawn(move || {
            if driver.used.load(Ordering::Relaxed) == 1 {
                fence(Ordering::Acquire);
                assert_eq!(driver.elements[0].load(Ordering::Relaxed), 7 << 32 | 1);
            }
        });
        queue().push(&*rings, 1, 7).unwrap();
        thread.join().unwrap();
    });
}

#[test]
fn a_request_is_seen_or_notified() {
    needs(Pair::Notification, || {
        let rings = Arc::new(Rings::new());
        let mut queue = queue();
        // One lap before, so that the event in memory is an old one.
        offer(&rings, 0, 0);
        assert!(queue.pop(&*rings).unwrap().is_some());
        let driver = rings.clone();
        let thread = thread::spawn(move || offer(&driver, 1, 1));
        let seen = queue.pop(&*rings).unwrap().is_some();
        let notified = thread.join().unwrap();
        assert!(seen || notified, "waits for ever");
    });
}

#[test]
fn an_answer_is_seen_or_interrupts() {
    needs(Pair::Interrupt, || {
        let rings = Arc::new(Rings::new());
        let mut queue = queue();
        queue.push(&*rings, 0, 0).unwrap();
        assert!(queue.tell(&*rings).unwrap());
        let driver = rings.clone();
        // Linux `virtqueue_enable_cb`: ask for the next one, look once more, sleep.
        let thread = thread::spawn(move || {
            driver.used_event.store(1, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            driver.used.load(Ordering::Relaxed) == 2
        });
        queue.push(&*rings, 1, 0).unwrap();
        let interrupted = queue.tell(&*rings).unwrap();
        let seen = thread.join().unwrap();
        assert!(seen || interrupted, "waits for ever");
    });
}
