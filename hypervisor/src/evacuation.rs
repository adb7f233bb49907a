//! Emptying a physical range under running guests and without their help.
//!
//! In order, each in bounded steps:
//!
//! 1. *Survey*: what is there that cannot move? If anything is, or if there is too little room elsewhere, nothing is
//!    done at all.
//! 2. *Carve*: the range is isolated, and what is free in it withheld (`mem/offline.rs`).
//! 3. *Sweep*: pages and blocks are moved (`stage2/evacuate.rs`), found by the frame table's record of guest and IPA.
//!    What is on its way (retired, in somebody's hand, moving) is met again by the next sweep. Sweeps end when one
//!    has found nothing but what is withheld.
//! 4. *Tables* of guests that lie in the range are replaced, after each sweep that met some.
//! 5. *End*: the range is offline, or bad.
//!
//! Cancelled, or short of memory, all that is withheld is free again; what was moved stays where it is now.

use crate::addr::{Frame, Ipa, PAGE_SIZE, Pa, PaRange};
use crate::mem::{Cover, GuestId, IsolateError, Isolated, Memory, Order, Owner, Use};
use crate::stage2::{BATCH, Move, MoveError, Space};

/// How many records of the frame table a step looks at.
const LOOKS: usize = 128;

/// Finds the space of a guest and hands it on; nothing where there is no such guest (any more).
pub trait Spaces {
    /// Runs `with` on the space of `guest`.
    fn with(&self, guest: GuestId, with: &mut dyn FnMut(&Space<'_>));
}

/// Why a range is not emptied. Nothing of it has changed hands for good but what could be moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another range is being emptied.
    Busy(PaRange),
    /// It is not of whole frames, or not all of it is memory.
    NotMemory(PaRange),
    /// This is the hypervisor's own and used where it is. What it is, is for others to say.
    Fixed(PaRange),
    /// This is offline, so it cannot go bad in use; as it is brought online it can.
    Offline(PaRange),
    /// This is the root table of a guest that exists.
    Root(GuestId, Pa),
    /// So many bytes would have to be moved, and so many are free elsewhere.
    NoRoom {
        /// Bytes in use in the range.
        needed: u64,
        /// Bytes free outside of it.
        free: u64,
    },
    /// It was cancelled.
    Cancelled,
}

impl From<IsolateError> for Refusal {
    fn from(error: IsolateError) -> Self {
        match error {
            IsolateError::Busy(range) => Self::Busy(range),
            IsolateError::NotMemory(range) => Self::NotMemory(range),
        }
    }
}

/// What has been done so far.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Frames of guests' memory that were moved.
    pub moved: u64,
    /// Frames of guests' tables that were replaced.
    pub tables: u64,
    /// Pages that guests lost, to a frame that is bad.
    pub poisoned: u64,
    /// Frames of the range that the last sweep had behind it.
    pub swept: u64,
}

/// How far it got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There is more to do.
    Working,
    /// The range is offline, or bad.
    Emptied,
    /// The range is as it was.
    Refused(Refusal),
}

#[expect(clippy::large_enum_variant, reason = "there is one, and nothing is allocated on the way")]
enum Phase {
    Survey {
        at: u32,
        used: u64,
        free: u64,
    },
    Carve(Isolated),
    Sweep {
        isolated: Isolated,
        at: u32,
        clean: bool,
        tables: u32,
    },
    Copy {
        isolated: Isolated,
        moving: Move,
        at: u32,
        tables: u32,
    },
    Tables {
        isolated: Isolated,
        guests: u32,
        from: Ipa,
    },
    /// What was withheld becomes what it is to be, by others' doing as well.
    Ending(Progress),
    Over(Progress),
}

/// A range that is being emptied.
pub struct Evacuation {
    range: PaRange,
    purpose: Use,
    phase: Phase,
    done: Done,
}

impl Evacuation {
    /// Begins to empty `range`, which is to be offline or bad then.
    pub fn new(range: PaRange, purpose: Use) -> Self {
        let at = range.start.page() as u32;
        let phase = Phase::Survey { at, used: 0, free: 0 };
        Self { range, purpose, phase, done: Done::default() }
    }

    /// Returns the range.
    pub fn range(&self) -> PaRange {
        self.range.clone()
    }

    /// Returns what has been done so far.
    pub const fn done(&self) -> Done {
        self.done
    }

    /// Makes a bounded step.
    pub fn step(&mut self, memory: &Memory, spaces: &dyn Spaces) -> Progress {
        let phase = core::mem::replace(&mut self.phase, Phase::Over(Progress::Working));
        self.phase = match phase {
            Phase::Survey { at, used, free } => self.survey(memory, spaces, at, used, free),
            Phase::Carve(mut isolated) => match memory.carve_some(&mut isolated) {
                true => Phase::Carve(isolated),
                false => Phase::Sweep { isolated, at: self.first(), clean: true, tables: 0 },
            },
            Phase::Sweep { isolated, at, clean, tables } => {
                self.sweep(memory, spaces, isolated, at, clean, tables)
            }
            Phase::Copy { isolated, moving, at, tables } => {
                self.copy(memory, spaces, isolated, moving, at, tables)
            }
            Phase::Tables { isolated, guests, from } => {
                self.tables(memory, spaces, isolated, guests, from)
            }
            Phase::Ending(end) if memory.end_step() => Phase::Ending(end),
            Phase::Ending(end) => Phase::Over(end),
            over @ Phase::Over(_) => over,
        };
        match &self.phase {
            Phase::Over(progress) => progress.clone(),
            _ => Progress::Working,
        }
    }

    /// Gives up: what is withheld becomes free in the background, as the steps that follow show; they end with
    /// [`Refusal::Cancelled`]. Too late where all is withheld, and about to be offline.
    pub fn cancel(&mut self, memory: &Memory, spaces: &dyn Spaces) {
        let phase = core::mem::replace(&mut self.phase, Phase::Over(Progress::Working));
        self.phase = match phase {
            Phase::Survey { .. } => Phase::Over(Progress::Refused(Refusal::Cancelled)),
            Phase::Carve(isolated)
            | Phase::Sweep { isolated, .. }
            | Phase::Tables { isolated, .. } => release(memory, isolated, Refusal::Cancelled),
            Phase::Copy { isolated, moving, .. } => {
                with_moving(memory, spaces, moving, |space, moving| space.cancel_move(moving));
                release(memory, isolated, Refusal::Cancelled)
            }
            other => other,
        };
    }

    fn range_first(&self) -> Frame {
        Frame::new(self.first())
    }

    fn first(&self) -> u32 {
        self.range.start.page() as u32
    }

    fn end(&self) -> u32 {
        self.range.end.page() as u32
    }

    fn refuse(why: Refusal) -> Phase {
        Phase::Over(Progress::Refused(why))
    }

    fn survey(
        &self,
        memory: &Memory,
        spaces: &dyn Spaces,
        mut at: u32,
        mut used: u64,
        mut free: u64,
    ) -> Phase {
        if !memory.is_memory(&self.range) {
            return Self::refuse(Refusal::NotMemory(self.range.clone()));
        }
        for _ in 0..LOOKS {
            if at >= self.end() {
                return self.isolate(memory, used, free);
            }
            let cover = memory.frames().block_after(Frame::new(at), self.range_first());
            let end = end_of(&cover).min(self.end());
            let frames = u64::from(end - at);
            match cover.owner {
                Owner::Free => free += frames,
                Owner::Guest(_) => used += frames,
                Owner::Table(guest) if is_root(spaces, guest, cover.head) => {
                    return Self::refuse(Refusal::Root(guest, cover.head.pa()));
                }
                Owner::Table(_) => {}
                Owner::Hypervisor if !memory.is_in_pool(cover.head) => {
                    let fixed = Pa::from_page(at.into())..Pa::from_page(end.into());
                    return Self::refuse(Refusal::Fixed(fixed));
                }
                Owner::Offline if self.purpose == Use::Never => {
                    return Self::refuse(Refusal::Offline(self.range.clone()));
                }
                Owner::Hypervisor | Owner::Retired | Owner::Offline | Owner::Bad => {}
            }
            at = end;
        }
        Phase::Survey { at, used, free }
    }

    fn isolate(&self, memory: &Memory, used: u64, free: u64) -> Phase {
        let counts = memory.counts();
        let elsewhere = counts.free().saturating_sub(free);
        if self.purpose == Use::Offline && used > elsewhere {
            let (needed, free) = (used * PAGE_SIZE, elsewhere * PAGE_SIZE);
            return Self::refuse(Refusal::NoRoom { needed, free });
        }
        match memory.isolate(self.range.clone()) {
            Ok(isolated) => Phase::Carve(isolated),
            Err(error) => Self::refuse(error.into()),
        }
    }

    fn sweep(
        &mut self,
        memory: &Memory,
        spaces: &dyn Spaces,
        isolated: Isolated,
        mut at: u32,
        mut clean: bool,
        mut tables: u32,
    ) -> Phase {
        for _ in 0..LOOKS {
            self.done.swept = u64::from(at.min(self.end()) - self.first());
            if at >= self.end() {
                return match (clean, tables) {
                    (true, _) => {
                        memory.settle(isolated, self.purpose);
                        Phase::Ending(Progress::Emptied)
                    }
                    (false, 0) => {
                        // What is on its way comes back by this, where no CPU is idle.
                        memory.reclaim_step();
                        Phase::Sweep { isolated, at: self.first(), clean: true, tables: 0 }
                    }
                    (false, guests) => Phase::Tables { isolated, guests, from: Ipa::new(0) },
                };
            }
            let cover = memory.frames().block_after(Frame::new(at), self.range_first());
            match cover.owner {
                Owner::Offline | Owner::Bad => {}
                Owner::Guest(guest) => {
                    return self.take(memory, spaces, isolated, &cover, guest, at, tables);
                }
                Owner::Table(guest) if is_root(spaces, guest, cover.head) => {
                    return release(memory, isolated, Refusal::Root(guest, cover.head.pa()));
                }
                Owner::Table(guest) => (clean, tables) = (false, tables | 1 << guest.index()),
                Owner::Hypervisor if !memory.is_in_pool(cover.head) => {
                    let end = Frame::new(end_of(&cover)).pa();
                    return release(memory, isolated, Refusal::Fixed(cover.head.pa()..end));
                }
                Owner::Free | Owner::Hypervisor | Owner::Retired => clean = false,
            }
            at = end_of(&cover);
        }
        Phase::Sweep { isolated, at, clean, tables }
    }

    /// Deals with the guest's block `cover`, met at frame number `at`.
    #[expect(clippy::too_many_arguments, reason = "the parts of a phase, handed on")]
    fn take(
        &mut self,
        memory: &Memory,
        spaces: &dyn Spaces,
        isolated: Isolated,
        cover: &Cover,
        guest: GuestId,
        at: u32,
        tables: u32,
    ) -> Phase {
        let mut begun = None;
        spaces.with(guest, &mut |space| begun = Some(self.begin(memory, space, cover, at)));
        match begun {
            Some(Begun::Moving(moving)) => Phase::Copy { isolated, moving, at, tables },
            Some(Begun::Short) => {
                let free = memory.counts().free() * PAGE_SIZE;
                let needed = PAGE_SIZE << cover.order.get();
                release(memory, isolated, Refusal::NoRoom { needed, free })
            }
            // It is on its way, or its guest is.
            Some(Begun::Later) | None => {
                let at = end_of(cover);
                Phase::Sweep { isolated, at, clean: false, tables }
            }
            Some(Begun::Split) => Phase::Sweep { isolated, at, clean: false, tables },
        }
    }

    fn begin(&mut self, memory: &Memory, space: &Space<'_>, cover: &Cover, at: u32) -> Begun {
        let Some(ipa) = cover.ipa_of(Frame::new(at)) else { return Begun::Later };
        if self.purpose == Use::Never {
            return match space.poison(ipa, Frame::new(at)) {
                Ok(lost) => {
                    self.done.poisoned += u64::from(lost);
                    Begun::Later
                }
                Err(_) => Begun::Short,
            };
        }
        let split = || match space.split_block(ipa) {
            Ok(()) => Begun::Split,
            Err(_) => Begun::Short,
        };
        if cover.head.number() < self.first() || end_of(cover) > self.end() {
            return split();
        }
        let begun = if cover.order == Order::PAGE {
            let mut pages = [*cover; BATCH];
            let count = self.run(memory, cover, &mut pages);
            space.begin_move(pages.get(..count).unwrap_or(&pages))
        } else {
            space.begin_move(core::slice::from_ref(cover))
        };
        match begun {
            Ok(moving) => Begun::Moving(moving),
            Err(MoveError::Gone) => Begun::Later,
            Err(MoveError::OutOfMemory(Order::PAGE)) => Begun::Short,
            Err(MoveError::OutOfMemory(_)) => split(),
        }
    }

    /// Collects pages of the same guest that follow `cover` in the range; returns how many, with it.
    fn run(&self, memory: &Memory, cover: &Cover, pages: &mut [Cover; BATCH]) -> usize {
        let mut count = 1;
        for place in pages.iter_mut().skip(1) {
            let frame = cover.head.number() + count as u32;
            if frame >= self.end() {
                break;
            }
            let next = memory.frames().block_after(Frame::new(frame), self.range_first());
            if next.owner != cover.owner || next.order != Order::PAGE {
                break;
            }
            *place = next;
            count += 1;
        }
        count
    }

    fn copy(
        &mut self,
        memory: &Memory,
        spaces: &dyn Spaces,
        isolated: Isolated,
        mut moving: Move,
        at: u32,
        tables: u32,
    ) -> Phase {
        let mut more = false;
        spaces.with(moving.guest(), &mut |space| more = space.copy_some(&mut moving));
        if more {
            return Phase::Copy { isolated, moving, at, tables };
        }
        with_moving(memory, spaces, moving, |space, moving| {
            let moved = space.finish_move(moving);
            self.done.moved += moved.frames;
            let _ = moved.flushed.retire();
        });
        Phase::Sweep { isolated, at, clean: false, tables }
    }

    fn tables(
        &mut self,
        memory: &Memory,
        spaces: &dyn Spaces,
        isolated: Isolated,
        guests: u32,
        from: Ipa,
    ) -> Phase {
        let number = guests.trailing_zeros() as usize;
        let mut next = None;
        let mut short = false;
        if let Some(guest) = GuestId::new(number) {
            spaces.with(guest, &mut |space| match space.move_tables(&self.range, from) {
                Ok(moved) => {
                    next = moved.next;
                    self.done.tables += moved.tables as u64;
                    let _ = moved.flushed.retire();
                }
                Err(_) => short = true,
            });
        }
        if short {
            return release(memory, isolated, Refusal::NoRoom { needed: PAGE_SIZE, free: 0 });
        }
        match (next, guests & guests.wrapping_sub(1)) {
            (Some(from), _) => Phase::Tables { isolated, guests, from },
            (None, 0) => Phase::Sweep { isolated, at: self.first(), clean: true, tables: 0 },
            (None, guests) => Phase::Tables { isolated, guests, from: Ipa::new(0) },
        }
    }
}

#[expect(clippy::large_enum_variant, reason = "it lives for a moment, on the stack")]
enum Begun {
    Moving(Move),
    /// It is smaller now.
    Split,
    /// It is on its way already, or will be met again.
    Later,
    /// There is no memory to move it to.
    Short,
}

/// Gives up.
fn release(memory: &Memory, isolated: Isolated, why: Refusal) -> Phase {
    memory.release(isolated);
    Phase::Ending(Progress::Refused(why))
}

fn is_root(spaces: &dyn Spaces, guest: GuestId, frame: Frame) -> bool {
    let mut root = false;
    spaces.with(guest, &mut |space| root = space.is_root(frame));
    root
}

fn end_of(cover: &Cover) -> u32 {
    cover.head.number().saturating_add(cover.order.frames())
}

/// Hands `moving` on with its space; where the guest has gone, only the new frames are left, and given back.
fn with_moving(
    memory: &Memory,
    spaces: &dyn Spaces,
    moving: Move,
    with: impl FnOnce(&Space<'_>, Move),
) {
    let guest = moving.guest();
    let (mut moving, mut with) = (Some(moving), Some(with));
    spaces.with(guest, &mut |space| {
        if let (Some(moving), Some(with)) = (moving.take(), with.take()) {
            with(space, moving);
        }
    });
    if let Some(moving) = moving {
        moving.abandon(memory);
    }
}
