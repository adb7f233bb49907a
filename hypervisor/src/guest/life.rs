//! A guest's life: off, being loaded, on, ending. What takes long (writing the images, taking all memory back) is
//! done in bounded steps, by CPUs that have nothing better to do and by the first CPU between other things, so that
//! no guest's start or end keeps a CPU from its interrupts.
//!
//! ```text
//!          start              loaded                all vCPUs have left
//!   Off ----------> Loading ----------> On ---------------------------------> Ending
//!    ^                 |  ^                                                    |  |  |
//!    |                 |  +------------------------- reset --------------------+  |  |
//!    |                 +-- stopped, or it does not fit --> Ending                  |  |
//!    +------------------------------------ off -----------------------------------+  |
//!                                                      (no more) <---- destroyed ----+
//! ```
//!
//! Whoever does a step takes the work out of [`Life::work`] for as long, and holds no lock meanwhile. All else is
//! asked for by flags that the steps look at: so a guest can be told to stop at any moment, by anybody.

use super::Guest;
use super::loader::{self, Cursor, LoadError};
use super::manifest::Population;
use super::seed::Seed;
use crate::addr::Ipa;
use crate::arch::time;
use crate::mem::{Order, Retiring};
use crate::stage2::{AccessError, PopulateError, Populated};
use crate::system::System;
use crate::vcpu::Entry;
use crate::{console, control};
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use spin::Mutex;

/// Why a guest's vCPUs must leave it, and what then becomes of it.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stop {
    /// It is to start anew.
    Reset = 1,
    /// It is to be off.
    Off = 2,
    /// It is to be no more.
    Destroy = 3,
}

/// Where a guest is in its life.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// It has no memory, and no vCPU is on.
    Off,
    /// Its memory and images are being put in place.
    Loading,
    /// A vCPU is on, or was until a moment ago.
    On,
    /// Its memory is being taken back.
    Ending,
}

impl State {
    /// Returns the word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Loading => "loading",
            Self::On => "on",
            Self::Ending => "ending",
        }
    }
}

/// Why a guest cannot start.
#[derive(Clone, Debug)]
pub enum StartError {
    /// Its images could not be written to its memory.
    Load(LoadError<AccessError>),
    /// There is no memory for all of it, and it is to have all of it at once.
    Populate(Ipa, PopulateError),
    /// It is on.
    AlreadyOn,
    /// It is being destroyed.
    Ending,
    /// More would be promised than there is.
    Exceeds(super::commitment::Exceeds),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load(error) => write!(f, "its images cannot be loaded: {error}"),
            Self::Populate(ipa, PopulateError::OutOfMemory) => {
                write!(f, "memory ran out at {ipa}; make it smaller, or populate it lazily")
            }
            Self::Populate(ipa, error) => write!(f, "{ipa} cannot be populated: {error:?}"),
            Self::AlreadyOn => f.write_str("it is on already"),
            Self::Ending => f.write_str("it is being destroyed"),
            Self::Exceeds(why) => write!(f, "it cannot have its memory: {why}"),
        }
    }
}

/// What is to be done in steps.
enum Work {
    /// All memory is populated from here on, and then images are written.
    Load { populate: Ipa, images: Cursor, seed: Seed },
    /// Memory is taken back from here on.
    End { from: Ipa, then: Stop },
}

/// A guest's own part of its life.
pub(super) struct Life {
    state: AtomicU8,
    /// [`Stop`], or 0.
    stop: AtomicU8,
    /// It is to start when it has ended.
    again: AtomicBool,
    /// How many vCPUs are not off.
    online: AtomicUsize,
    /// When it was started, in ticks; 0 while it is off.
    started: AtomicU64,
    /// What is to be done; out of its place while a CPU does a step of it.
    work: Mutex<Option<Work>>,
}

impl Life {
    pub(super) const fn new() -> Self {
        Self {
            state: AtomicU8::new(State::Off as u8),
            stop: AtomicU8::new(0),
            again: AtomicBool::new(false),
            online: AtomicUsize::new(0),
            started: AtomicU64::new(0),
            work: Mutex::new(None),
        }
    }

    fn set(&self, state: State) {
        self.state.store(state as u8, Ordering::Release);
    }
}

/// How many entries of detached tables are read between two looks at interrupts.
const ENTRIES: usize = 256;

impl Guest {
    /// Returns where it is in its life.
    pub fn state(&self) -> State {
        // With `start`: either it sees that the guest has ended, or the guest's end that it is to start again.
        match self.life.state.load(Ordering::SeqCst) {
            1 => State::Loading,
            2 => State::On,
            3 => State::Ending,
            _ => State::Off,
        }
    }

    /// Says whether and why its vCPUs must leave it.
    #[inline(always)]
    pub fn stop(&self) -> Option<Stop> {
        match self.life.stop.load(Ordering::Relaxed) {
            1 => Some(Stop::Reset),
            2 => Some(Stop::Off),
            3 => Some(Stop::Destroy),
            _ => None,
        }
    }

    /// Says whether it runs.
    pub fn is_on(&self) -> bool {
        self.state() == State::On
    }

    /// Returns when it was started, in ticks.
    pub fn started(&self) -> Option<u64> {
        Some(self.life.started.load(Ordering::Relaxed)).filter(|&ticks| ticks != 0)
    }

    /// Has its vCPUs leave it, and its memory taken back; what is asked for first to last, the harshest counts. A
    /// guest that is off is only told to be destroyed.
    pub fn request_stop(&self, system: &System, stop: Stop) {
        self.life.stop.fetch_max(stop as u8, Ordering::AcqRel);
        if stop != Stop::Reset {
            self.life.again.store(false, Ordering::Release);
        }
        for vcpu in &self.vcpus {
            vcpu.wake();
            system.kick(vcpu.home);
        }
        system.life_goes_on();
    }

    /// Has it started: at once, or when it has ended. What goes wrong later is told by the log and by an event.
    ///
    /// # Errors
    ///
    /// [`StartError`]; it stays off.
    pub fn start(&self, system: &System) -> Result<(), StartError> {
        if self.stop() == Some(Stop::Destroy) {
            return Err(StartError::Ending);
        }
        match self.state() {
            State::Loading => return Err(StartError::AlreadyOn),
            State::On if self.stop().is_none() => return Err(StartError::AlreadyOn),
            State::On | State::Ending => {
                self.life.again.store(true, Ordering::SeqCst);
                // It may have ended, and not have seen that any more.
                if self.state() == State::Off {
                    return self.start_again(system);
                }
            }
            State::Off => {
                system.admits(self, self.config.memory).map_err(StartError::Exceeds)?;
                self.begin_loading(system);
            }
        }
        system.life_goes_on();
        Ok(())
    }

    /// Starts it, which is off, if it is to start when it has ended.
    fn start_again(&self, system: &System) -> Result<(), StartError> {
        if self.life.again.swap(false, Ordering::SeqCst) {
            system.admits(self, self.config.memory).map_err(StartError::Exceeds)?;
            self.begin_loading(system);
            system.life_goes_on();
        }
        Ok(())
    }

    fn begin_loading(&self, system: &System) {
        let populate = match self.config.population {
            Population::Eager => self.ram().start,
            Population::Lazy => self.ram().end,
        };
        let seed = system.seeds().draw();
        self.life.set(State::Loading);
        *self.life.work.lock() = Some(Work::Load { populate, images: Cursor::default(), seed });
    }

    /// Does a bounded step of starting or ending it, looking at interrupts by `look` in between. Says whether there
    /// was one to do, and no other CPU is about it.
    pub fn live(self: &Arc<Self>, system: &'static System, look: &mut dyn FnMut()) -> bool {
        let work = {
            let mut place = self.life.work.lock();
            // One that is off ends once more to be destroyed: quickly, for it has nothing.
            let off = self.stop().filter(|_| self.state() == State::Off);
            place.take().or_else(|| self.end(off?))
        };
        let next = match work {
            Some(Work::Load { populate, images, seed }) => match self.stop() {
                Some(then) => Some(Work::End { from: self.ram().start, then }),
                None => self.load_step(system, populate, images, seed),
            },
            Some(Work::End { from, then }) => self.end_step(system, from, then, look),
            None => return false,
        };
        if next.is_some() {
            *self.life.work.lock() = next;
        }
        true
    }

    /// Puts a piece of its memory in place, and in the end turns its first vCPU on.
    fn load_step(
        self: &Arc<Self>,
        system: &System,
        populate: Ipa,
        mut images: Cursor,
        seed: Seed,
    ) -> Option<Work> {
        let outcome = self.load_piece(populate, &mut images, &seed);
        match outcome {
            Ok(Piece::More(populate)) => Some(Work::Load { populate, images, seed }),
            Ok(Piece::Done(entry)) => {
                self.turn_first_on(system, entry);
                None
            }
            Err(error) => {
                log::error!("guest {} stays off: {error}", self.name());
                control::event("failed", "guest", self.name());
                self.end(Stop::Off)
            }
        }
    }

    fn load_piece(
        &self,
        populate: Ipa,
        images: &mut Cursor,
        seed: &Seed,
    ) -> Result<Piece, StartError> {
        if populate < self.ram().end {
            let block = self.space.populate_step(populate);
            return match block.map_err(|error| StartError::Populate(populate, error))? {
                Populated::Later | Populated::Moving => Ok(Piece::More(populate)),
                Populated::Mapped(order) => Ok(Piece::More(after(populate, order))),
                _ => Ok(Piece::More(after(populate, Order::PAGE))),
            };
        }
        // What zeroes there are, or must be made, are found in steps of their own.
        let next = images.next(&self.config);
        let ready = self.space.populate_step(next);
        match ready.map_err(|error| StartError::Populate(next, error))? {
            Populated::Already => {}
            _ => return Ok(Piece::More(populate)),
        }
        let write = |ipa, bytes: &[u8]| self.space.load(ipa, bytes);
        let loaded = loader::load_some(&self.config, &self.tree, seed, images, write);
        Ok(match loaded.map_err(StartError::Load)? {
            None => Piece::More(populate),
            Some(at) => {
                Piece::Done(Entry { pc: at.pc.as_u64(), argument: at.device_tree.as_u64() })
            }
        })
    }

    fn turn_first_on(&self, system: &System, entry: Entry) {
        self.life.started.store(time::now().max(1), Ordering::Relaxed);
        self.life.set(State::On);
        control::event("on", "guest", self.name());
        if let Some(first) = self.vcpus.first() {
            // It is off: nobody turns a vCPU on of a guest without any.
            let _ = self.turn_on(system, first, entry);
        }
    }

    /// Turns a vCPU on, for PSCI CPU_ON.
    pub fn turn_on(
        &self,
        system: &System,
        vcpu: &crate::vcpu::Vcpu,
        entry: Entry,
    ) -> Result<(), crate::vcpu::State> {
        self.life.online.fetch_add(1, Ordering::AcqRel);
        match vcpu.turn_on(entry) {
            Ok(()) => {
                system.kick(vcpu.home);
                Ok(())
            }
            Err(state) => {
                self.life.online.fetch_sub(1, Ordering::AcqRel);
                Err(state)
            }
        }
    }

    /// Notes that a vCPU is off. The last one begins the end that was asked for by [`Guest::request_stop`], or by
    /// turning itself off: a guest all of whose vCPUs are off can never go on.
    pub fn vcpu_has_left(&self, system: &System) {
        if self.life.online.fetch_sub(1, Ordering::AcqRel) == 1 {
            let work = self.end(self.stop().unwrap_or(Stop::Off));
            *self.life.work.lock() = work;
            system.life_goes_on();
        }
    }

    /// Begins its end.
    fn end(&self, then: Stop) -> Option<Work> {
        self.life.set(State::Ending);
        Some(Work::End { from: self.ram().start, then })
    }

    /// Takes a piece of its memory back, and in the end puts the machine back to how it was made.
    fn end_step(
        self: &Arc<Self>,
        system: &'static System,
        from: Ipa,
        then: Stop,
        look: &mut dyn FnMut(),
    ) -> Option<Work> {
        let taken = match self.space.take_back(from) {
            Ok(taken) => taken,
            Err(error) => {
                // It wants one table, and is tried again; there is memory as soon as anybody gives some up.
                log::debug!("guest {}: {from} cannot be taken yet: {error:?}", self.name());
                return Some(Work::End { from, then });
            }
        };
        let next = taken.next;
        let mut flushed = taken.flushed;
        while let Retiring::More(rest) = flushed.retire_some(ENTRIES) {
            flushed = rest;
            look();
        }
        if let Some(from) = next {
            return Some(Work::End { from, then });
        }
        if system.memory().counts().guest(self.id).frames > 0 {
            // Something was still being added when its vCPUs had left; that is over now, or soon.
            return Some(Work::End { from: self.ram().start, then });
        }
        self.power_on();
        self.has_ended(system, then);
        None
    }

    /// Goes on after its end.
    fn has_ended(self: &Arc<Self>, system: &'static System, then: Stop) {
        self.life.started.store(0, Ordering::Relaxed);
        // What was asked for while it ended counts too.
        let then = match self.life.stop.swap(0, Ordering::AcqRel) {
            1 => then.max(Stop::Reset),
            2 => then.max(Stop::Off),
            3 => Stop::Destroy,
            _ => then,
        };
        match then {
            Stop::Destroy => {
                system.remove(self);
                console::guest_is_gone(self);
                log::info!("guest {} is destroyed", self.name());
                control::event("destroyed", "guest", self.name());
                system.guest_is_off();
                return;
            }
            Stop::Reset => {
                log::info!("guest {} starts anew", self.name());
                control::event("reset", "guest", self.name());
                self.life.again.store(true, Ordering::SeqCst);
            }
            Stop::Off => {
                log::info!("guest {} is off", self.name());
                control::event("off", "guest", self.name());
            }
        }
        self.life.state.store(State::Off as u8, Ordering::SeqCst);
        if let Err(error) = self.start_again(system) {
            log::error!("guest {} stays off: {error}", self.name());
            control::event("failed", "guest", self.name());
        }
        if self.state() == State::Off {
            system.guest_is_off();
        }
    }
}

/// How far the images and the memory are in place.
enum Piece {
    /// There is more to do; all is populated up to here.
    More(Ipa),
    /// The first vCPU can start here.
    Done(Entry),
}

/// Returns where the block of `order` around `ipa` ends.
fn after(ipa: Ipa, order: Order) -> Ipa {
    let start = ipa.align_down(order.bytes());
    Ipa::new(start.as_u64().saturating_add(order.bytes()))
}
