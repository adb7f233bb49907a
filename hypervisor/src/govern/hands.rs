//! The machine's guests, as the governor sees and reaches them.

use super::sample::{Sample, Told};
use super::transfer::{Guests, View};
use super::wishes;
use crate::addr::{PAGE_SIZE, byte_count};
use crate::arch::time;
use crate::guest::Guest;
use crate::system::System;
use core::sync::atomic::{AtomicU64, Ordering};

/// For how many seconds what a guest said counts.
const NEWS: u64 = 10;

/// The guests of a machine.
pub struct Hands(pub &'static System);

/// Guests that take part in transfers, a bit each.
static BUSY: AtomicU64 = AtomicU64::new(0);

/// The right to move a guest's memory: each takes part in one transfer at a time.
#[derive(Debug)]
pub struct Claim(u64);

impl Claim {
    /// Claims these guests, unless one of them takes part in a transfer.
    pub fn of(from: Option<usize>, to: Option<usize>) -> Option<Self> {
        let bit = |guest: Option<usize>| guest.map_or(0, |guest| 1 << (guest % 64));
        let bits = bit(from) | bit(to);
        let before = BUSY.fetch_or(bits, Ordering::Relaxed);
        // What was not this one's stays; transfers begin on the first CPU, one after the other.
        if before & bits != 0 {
            BUSY.fetch_and(before | !bits, Ordering::Relaxed);
            return None;
        }
        Some(Self(bits))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        BUSY.fetch_and(!self.0, Ordering::Relaxed);
    }
}

/// Returns how much is free, or about to be, in bytes.
pub fn free_bytes(system: &System) -> u64 {
    let counts = system.memory().counts();
    (counts.free() + counts.retired) * PAGE_SIZE
}

impl Hands {
    fn with<R>(&self, number: usize, with: impl FnOnce(&Guest) -> R) -> Option<R> {
        let guest = self.0.guests().find(|guest| guest.id.index() == number)?;
        guest.is_on().then(|| with(&guest))
    }
}

impl Hands {
    /// Returns how a guest's devices are; of those that a program in it would ask for by the service nothing.
    fn devices(&self, number: usize) -> Option<View> {
        self.with(number, |guest| {
            let slot = guest.balloon.lock();
            let (balloon, actual) = (slot.is_live(), slot.device().actual());
            drop(slot);
            let plug = guest.memory_device.as_ref().map(|device| device.lock().is_live());
            View {
                life: guest.started().unwrap_or(0),
                boot: guest.config.memory,
                ballooned: u64::from(actual) * PAGE_SIZE,
                plugged: guest.plugged(),
                plug_limit: guest.plug_limit(),
                block: guest.plug_block(),
                balloon,
                plug: plug == Some(true),
                at_once: false,
                floor: guest.config.minimum_memory,
            }
        })
    }
}

impl Guests for Hands {
    fn view(&self, number: usize) -> Option<View> {
        let mut view = self.devices(number)?;
        self.with(number, |guest| {
            if !view.balloon && guest.service.listens() {
                view.ballooned = wishes::missing(guest, &guest.space.ram());
                (view.balloon, view.at_once) = (true, true);
            }
            if !view.plug && wishes::may_grow(guest) {
                let region = guest.space.hotplug();
                view.plugged = guest.space.present(region.clone());
                view.plug_limit = byte_count(&region);
                (view.plug, view.at_once) = (true, true);
            }
        })?;
        Some(view)
    }

    fn set_balloon(&mut self, number: usize, bytes: u64) {
        let system = self.0;
        let rest = |guest: &Guest| guest.config.memory.saturating_sub(bytes);
        // Whether it does it shows.
        self.with(number, |guest| {
            if guest.balloon.lock().is_live() || !guest.service.listens() {
                guest.set_memory_target(system, rest(guest));
            } else {
                wishes::wish(guest, &guest.space.ram(), rest(guest));
            }
        });
    }

    fn set_plug(&mut self, number: usize, bytes: u64) {
        let system = self.0;
        self.with(number, |guest| {
            if wishes::may_grow(guest) {
                wishes::wish(guest, &guest.space.hotplug(), bytes);
            } else {
                guest.set_plug_target(system, bytes);
            }
        });
    }
}

/// Looks how a guest is that is on. `used`: what passes over its access flags have seen, in bytes.
pub fn sample(hands: &Hands, number: usize, used: Option<u64>) -> Option<Sample> {
    let view = hands.devices(number)?;
    let told = hands.with(number, |guest| {
        let slot = guest.balloon.lock();
        let statistics = slot.device().statistics();
        let age = time::now().saturating_sub(statistics.updated?);
        (slot.is_live() && age < NEWS * time::frequency()).then(|| Told::of(statistics))
    });
    let plug = if view.plug { view.plug_limit } else { 0 };
    Some(Sample {
        guest: number,
        memory: view.memory(),
        floor: view.floor,
        ceiling: view.boot.saturating_add(plug.max(view.plugged)),
        used,
        told: told.flatten(),
    })
}
