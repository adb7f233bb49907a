//! Tests with guests that are made up.

mod policy;
mod transfer;

use super::sample::{Sample, Told};
use super::transfer::{Guests, View};

const MIB: u64 = 1 << 20;

/// A guest that is made up: it does each tick what its drivers would.
#[derive(Clone, Debug)]
struct Fake {
    view: View,
    on: bool,
    balloon_target: u64,
    plug_target: u64,
    /// How much its drivers move in a tick, in bytes.
    speed: u64,
    /// Its balloon never holds more than this.
    balloon_limit: u64,
    /// It never unplugs below this.
    plug_kept: u64,
    /// What its programs use, in bytes.
    wants: u64,
    /// It has a statistics queue.
    tells: bool,
    /// What passes have seen.
    used: Option<u64>,
    updates: u64,
    stalls: u64,
}

impl Fake {
    fn new(boot: u64) -> Self {
        let view = View {
            life: 1,
            boot: boot * MIB,
            ballooned: 0,
            plugged: 0,
            plug_limit: 0,
            block: 2 * MIB,
            balloon: true,
            plug: false,
            at_once: false,
            floor: boot * MIB / 4,
        };
        Self {
            view,
            on: true,
            balloon_target: 0,
            plug_target: 0,
            speed: 32 * MIB,
            balloon_limit: u64::MAX,
            plug_kept: 0,
            wants: 64 * MIB,
            tells: true,
            used: None,
            updates: 0,
            stalls: 0,
        }
    }

    fn ballooned(mut self, mib: u64) -> Self {
        (self.view.ballooned, self.balloon_target) = (mib * MIB, mib * MIB);
        self
    }

    fn plugged(mut self, mib: u64, limit: u64) -> Self {
        (self.view.plugged, self.plug_target) = (mib * MIB, mib * MIB);
        (self.view.plug_limit, self.view.plug) = (limit * MIB, true);
        self
    }

    fn using(mut self, mib: u64) -> Self {
        self.wants = mib * MIB;
        self
    }

    fn available(&self) -> u64 {
        self.view.memory().saturating_sub(self.wants)
    }

    fn tick(&mut self) {
        let toward = |now: u64, target: u64, speed: u64| {
            if target > now {
                (now + speed).min(target)
            } else {
                now.saturating_sub(speed).max(target)
            }
        };
        let target = self
            .balloon_target
            .min(self.balloon_limit.max(self.view.ballooned.min(self.balloon_target)));
        self.view.ballooned = toward(self.view.ballooned, target, self.speed);
        let target = self.plug_target.max(self.plug_kept.min(self.view.plugged));
        self.view.plugged = toward(self.view.plugged, target, self.speed);
        if self.available() == 0 {
            self.stalls += 1;
        }
    }

    fn sample(&mut self, guest: usize) -> Sample {
        self.updates += 1;
        let told = Told {
            updates: self.updates,
            free: Some(self.available() / 2),
            available: Some(self.available()),
            stalls: Some(self.stalls),
            ..Told::default()
        };
        Sample {
            guest,
            memory: self.view.memory(),
            floor: self.view.floor,
            ceiling: self.view.boot + self.view.plug_limit,
            used: self.used,
            told: self.tells.then_some(told),
        }
    }
}

struct Fakes(Vec<Fake>);

impl Fakes {
    fn memory(&self) -> Vec<u64> {
        self.0.iter().map(|fake| fake.view.memory() / MIB).collect()
    }

    fn total(&self) -> u64 {
        self.memory().iter().sum()
    }

    fn tick(&mut self) {
        self.0.iter_mut().for_each(Fake::tick);
    }

    fn samples(&mut self) -> Vec<Sample> {
        self.0.iter_mut().enumerate().map(|(number, fake)| fake.sample(number)).collect()
    }
}

impl Guests for Fakes {
    fn view(&self, guest: usize) -> Option<View> {
        self.0.get(guest).filter(|fake| fake.on).map(|fake| fake.view)
    }

    fn set_balloon(&mut self, guest: usize, bytes: u64) {
        self.0[guest].balloon_target = bytes;
    }

    fn set_plug(&mut self, guest: usize, bytes: u64) {
        assert!(bytes.is_multiple_of(2 * MIB), "{bytes} is not of whole blocks");
        self.0[guest].plug_target = bytes;
    }
}
