//! Memory on its way from one guest to another, or to nobody: a state machine that asks guests' drivers and watches
//! what they do.
//!
//! The donor is asked for all of it at once: first to unplug what was plugged, then to inflate its balloon. What has
//! come out is given on to the receiver as it comes: its balloon is deflated first, then memory is plugged. At any
//! time the receiver was offered no more than the donor has given, so the machine never owes any. Who makes no
//! headway for some time is asked no longer: what the donor did not give stays its own, and what the receiver did
//! not take goes back to the donor. Ended early, it leaves the donor what it has and offers the receiver what came.

use core::fmt;

/// What has come is given on in multiples of this, in bytes.
const GRAIN: u64 = 2 << 20;

/// What a guest offers and how far it is, in bytes.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Differs in each life of the guest.
    pub life: u64,
    /// What it has from its start.
    pub boot: u64,
    /// What of that is in its balloon.
    pub ballooned: u64,
    /// What has been plugged.
    pub plugged: u64,
    /// The most that can be plugged.
    pub plug_limit: u64,
    /// Memory is plugged in multiples of this.
    pub block: u64,
    /// It has a driver for its balloon, or does the like by the service.
    pub balloon: bool,
    /// It has a driver for memory that is plugged, or does the like by the service.
    pub plug: bool,
    /// It knows one wish at a time: what it is to give or get is said at once, and of one kind.
    pub at_once: bool,
    /// What it keeps in any case.
    pub floor: u64,
}

impl View {
    /// Rounds down to what can be plugged.
    const fn whole(&self, bytes: u64) -> u64 {
        let block = if self.block == 0 { GRAIN } else { self.block };
        bytes / block * block
    }

    /// Returns what it has.
    pub const fn memory(&self) -> u64 {
        self.boot.saturating_sub(self.ballooned).saturating_add(self.plugged)
    }
}

/// The guests, as a transfer sees them and speaks to them.
pub trait Guests {
    /// Returns how a guest is; `None` where it is off, or there is none.
    fn view(&self, guest: usize) -> Option<View>;
    /// Says how much its balloon is to hold, in bytes.
    fn set_balloon(&mut self, guest: usize, bytes: u64);
    /// Says how much is to be plugged, in bytes.
    fn set_plug(&mut self, guest: usize, bytes: u64);
}

/// Why less, or nothing, was moved.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Short {
    /// Donor and receiver are one.
    Same,
    /// One of them takes part in another transfer.
    Busy,
    /// The donor is off.
    DonorOff,
    /// The receiver is off.
    ReceiverOff,
    /// The donor has no driver that could give memory.
    DonorHasNoDriver,
    /// The receiver has no driver that could take memory.
    ReceiverHasNoDriver,
    /// The donor keeps its floor, in bytes.
    Floor(u64),
    /// The receiver has no room for more: an empty balloon, and nothing that could be plugged.
    Full,
    /// The donor's driver made no headway.
    DonorKeeps,
    /// The receiver's driver made no headway.
    ReceiverLeaves,
    /// The donor went off or started anew.
    DonorGone,
    /// The receiver went off or started anew.
    ReceiverGone,
    /// It was ended early.
    Cancelled,
}

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Same => "that is the same guest",
            Self::Busy => "memory of one of them is being moved already",
            Self::DonorOff => "the donor is off",
            Self::ReceiverOff => "the receiver is off",
            Self::DonorHasNoDriver => "the donor has no driver that could give memory",
            Self::ReceiverHasNoDriver => "the receiver has no driver that could take memory",
            Self::Floor(floor) => {
                let floor = crate::monitor::report::Size(*floor);
                return write!(f, "the donor keeps its minimum of {floor}");
            }
            Self::Full => "the receiver has all that it can have",
            Self::DonorKeeps => "the donor's driver gives no more",
            Self::ReceiverLeaves => "the receiver's driver takes no more; the rest went back",
            Self::DonorGone => "the donor went off or started anew",
            Self::ReceiverGone => "the receiver went off or started anew; the rest went back",
            Self::Cancelled => "it was cancelled",
        })
    }
}

/// One side of a transfer: where it began and what was asked, in bytes.
#[derive(Copy, Clone, Debug)]
struct Side {
    guest: usize,
    /// How it was when the transfer began.
    start: View,
    /// How much its balloon is to change.
    balloon: u64,
    /// How much of what is plugged is to change.
    plug: u64,
    giving: bool,
}

/// How far a transfer is, in bytes.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// What the donor has given.
    pub given: u64,
    /// What the receiver has taken; without one, what was given.
    pub taken: u64,
    /// Nothing more will happen.
    pub over: bool,
}

/// Memory on its way.
#[derive(Debug)]
pub struct Transfer {
    /// `None` for free memory.
    donor: Option<Side>,
    /// `None` for nobody.
    receiver: Option<Side>,
    /// What is to be moved.
    size: u64,
    /// What the receiver was offered.
    offered: u64,
    last: Progress,
    /// When there was headway last, in ticks.
    headway: u64,
    patience: u64,
    short: Option<Short>,
    /// The donor is not waited for any more.
    gave: bool,
}

impl Side {
    /// Returns how much moved by the balloon and by plugging.
    fn moved(&self, view: &View) -> (u64, u64) {
        let (now, start) = (view, &self.start);
        let (balloon, plug) = if self.giving {
            (
                now.ballooned.saturating_sub(start.ballooned),
                start.plugged.saturating_sub(now.plugged),
            )
        } else {
            (
                start.ballooned.saturating_sub(now.ballooned),
                now.plugged.saturating_sub(start.plugged),
            )
        };
        (balloon.min(self.balloon), plug.min(self.plug))
    }

    /// Tells the drivers how much is to change.
    fn ask(&self, guests: &mut dyn Guests) {
        let start = &self.start;
        let of = |from: u64, change: u64, more: bool| {
            if more { from.saturating_add(change) } else { from.saturating_sub(change) }
        };
        if self.balloon > 0 {
            guests.set_balloon(self.guest, of(start.ballooned, self.balloon, self.giving));
        }
        if self.plug > 0 {
            guests.set_plug(self.guest, of(start.plugged, self.plug, !self.giving));
        }
    }

    /// Asks for no more than has moved by now.
    fn settle(&mut self, view: &View, guests: &mut dyn Guests) {
        let (before, moved) = ((self.balloon, self.plug), self.moved(view));
        (self.balloon, self.plug) = moved;
        // What was asked and did not move is taken back, even where nothing did.
        if before.0 > moved.0 {
            guests.set_balloon(self.guest, view.ballooned);
        }
        if before.1 > moved.1 {
            guests.set_plug(self.guest, view.plugged);
        }
    }

    /// Returns how much room there is to deflate and to plug.
    fn room(&self) -> (u64, u64) {
        let start = &self.start;
        let balloon = if start.balloon { start.ballooned } else { 0 };
        let plug = if start.plug { start.plug_limit.saturating_sub(start.plugged) } else { 0 };
        match (balloon, start.whole(plug)) {
            (balloon, plug) if !start.at_once => (balloon, plug),
            (balloon, plug) if balloon >= plug => (balloon, 0),
            (_, plug) => (0, plug),
        }
    }

    /// Offers the receiver `bytes` in all, and returns how much of that it was offered.
    fn offer(&mut self, bytes: u64, guests: &mut dyn Guests) -> u64 {
        let (balloon, plug) = self.room();
        self.balloon = bytes.min(balloon);
        self.plug = self.start.whole((bytes - self.balloon).min(plug));
        self.ask(guests);
        self.balloon + self.plug
    }
}

impl Transfer {
    /// Begins to move `bytes`, or what there is of it, from a guest, or what is free, to a guest, or to nobody, and
    /// asks the donor. Who makes no headway for `patience` ticks is asked no longer.
    ///
    /// # Errors
    ///
    /// Why nothing can be moved.
    pub fn begin(
        guests: &mut dyn Guests,
        from: Option<usize>,
        to: Option<usize>,
        bytes: u64,
        now: u64,
        patience: u64,
    ) -> Result<Self, Short> {
        if from.is_some() && from == to {
            return Err(Short::Same);
        }
        let side = |guest: usize, giving, off| {
            let start = guests.view(guest).ok_or(off)?;
            Ok(Side { guest, start, balloon: 0, plug: 0, giving })
        };
        let mut donor = from.map(|guest| side(guest, true, Short::DonorOff)).transpose()?;
        let receiver = to.map(|guest| side(guest, false, Short::ReceiverOff)).transpose()?;
        let (mut size, mut short) = (bytes, None);
        if let Some(receiver) = &receiver {
            if !receiver.start.balloon && !receiver.start.plug {
                return Err(Short::ReceiverHasNoDriver);
            }
            let (balloon, plug) = receiver.room();
            if size > balloon + plug {
                (size, short) = (balloon + plug, Some(Short::Full));
            }
        }
        if let Some(donor) = &mut donor {
            let start = &donor.start;
            if !start.balloon && !start.plug {
                return Err(Short::DonorHasNoDriver);
            }
            let most = start.memory().saturating_sub(start.floor);
            if size > most {
                (size, short) = (most, Some(Short::Floor(start.floor)));
            }
            donor.plug = if start.plug { start.whole(size.min(start.plugged)) } else { 0 };
            let inflatable = start.boot.saturating_sub(start.ballooned);
            donor.balloon = if start.balloon { (size - donor.plug).min(inflatable) } else { 0 };
            if start.at_once && donor.plug < donor.balloon {
                donor.plug = 0;
            } else if start.at_once {
                donor.balloon = 0;
            }
            if donor.plug + donor.balloon < size {
                (size, short) = (donor.plug + donor.balloon, Some(Short::DonorKeeps));
            }
        }
        if size == 0 {
            return Err(short.unwrap_or(Short::DonorKeeps));
        }
        if let Some(donor) = &donor {
            donor.ask(guests);
        }
        Ok(Self {
            donor,
            receiver,
            size,
            offered: 0,
            last: Progress::default(),
            headway: now,
            patience,
            short,
            gave: false,
        })
    }

    /// Returns how much is to be moved, in bytes: less than was asked where more is not possible.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Returns why less than was asked was moved, or is going to be.
    pub const fn short(&self) -> Option<Short> {
        self.short
    }

    #[cfg(test)]
    pub(super) const fn donor_is_guest(&self) -> bool {
        self.donor.is_some()
    }

    /// Returns how far it was at the last step.
    pub const fn progress(&self) -> Progress {
        self.last
    }

    /// Looks how far it is, at `now` in ticks, and asks on.
    pub fn step(&mut self, guests: &mut dyn Guests, now: u64) -> Progress {
        if self.last.over {
            return self.last;
        }
        let given = self.given(guests);
        self.gave |= given >= self.size;
        self.give_on(guests, given);
        let taken = self.taken(guests, given);
        if self.last.over {
            return self.last;
        }
        if given > self.last.given || taken > self.last.taken {
            self.headway = now;
        }
        self.last = Progress { given, taken, over: false };
        let stalled = now.saturating_sub(self.headway) >= self.patience;
        if !self.gave && stalled {
            self.donor_stalls(guests, now);
        } else if self.gave && self.receiver.is_some() && taken < self.offered {
            if stalled {
                self.receiver_stalls(guests, Short::ReceiverLeaves);
            }
        } else if self.gave {
            self.last.over = true;
        }
        self.last
    }

    /// Ends it early: the donor keeps what it has, the receiver is offered what has come.
    pub fn cancel(&mut self, guests: &mut dyn Guests) -> Progress {
        if !self.last.over {
            let given = self.given(guests);
            self.settle_donor(guests);
            self.gave = true;
            self.give_on(guests, given);
            let taken = self.taken(guests, given);
            self.short = Some(Short::Cancelled);
            self.last = Progress { given, taken, over: true };
        }
        self.last
    }

    /// Returns what the donor has given; notes if it is gone.
    fn given(&mut self, guests: &dyn Guests) -> u64 {
        let Some(donor) = &self.donor else { return self.size };
        match alive(donor, guests) {
            Some(view) => {
                let (balloon, plug) = donor.moved(&view);
                balloon + plug
            }
            None => {
                self.gave = true;
                self.short = Some(Short::DonorGone);
                self.size = self.last.given;
                self.last.given
            }
        }
    }

    /// Offers the receiver what was given: by whole blocks while there is more to come.
    fn give_on(&mut self, guests: &mut dyn Guests, given: u64) {
        let whole = if self.gave { given } else { given / GRAIN * GRAIN };
        if let Some(receiver) = &mut self.receiver
            && whole > self.offered
            && (self.gave || !receiver.start.at_once)
            && alive(receiver, guests).is_some()
        {
            self.offered = receiver.offer(whole, guests);
            if self.gave && self.offered < whole {
                // Less than a block is left over: it stays free.
                self.short = self.short.or(Some(Short::Full));
            }
        }
    }

    /// Returns what the receiver has taken; notes if it is gone.
    fn taken(&mut self, guests: &mut dyn Guests, given: u64) -> u64 {
        let Some(receiver) = &self.receiver else { return given };
        if let Some(view) = alive(receiver, guests) {
            let (balloon, plug) = receiver.moved(&view);
            return balloon + plug;
        }
        self.receiver_stalls(guests, Short::ReceiverGone);
        self.last.taken
    }

    /// Asks the donor by its balloon for what it does not unplug; then no longer.
    fn donor_stalls(&mut self, guests: &mut dyn Guests, now: u64) {
        if let Some(donor) = &mut self.donor
            && let Some(view) = alive(donor, guests)
        {
            let (_, plug) = donor.moved(&view);
            let inflatable = view.boot.saturating_sub(donor.start.ballooned);
            let balloon = (self.size - plug.min(self.size)).min(inflatable);
            if plug < donor.plug && donor.start.balloon && balloon > donor.balloon {
                guests.set_plug(donor.guest, view.plugged);
                (donor.plug, donor.balloon) = (plug, balloon);
                donor.ask(guests);
                self.headway = now;
                return;
            }
        }
        self.settle_donor(guests);
        self.gave = true;
        self.size = self.last.given;
        self.short = Some(Short::DonorKeeps);
        self.headway = now;
    }

    fn settle_donor(&mut self, guests: &mut dyn Guests) {
        if let Some(donor) = &mut self.donor
            && let Some(view) = alive(donor, guests)
        {
            donor.settle(&view, guests);
        }
    }

    /// Gives the donor back what the receiver does not take.
    fn receiver_stalls(&mut self, guests: &mut dyn Guests, why: Short) {
        self.settle_donor(guests);
        let mut taken = self.last.taken;
        if let Some(receiver) = &mut self.receiver
            && let Some(view) = alive(receiver, guests)
        {
            receiver.settle(&view, guests);
            taken = receiver.balloon + receiver.plug;
        }
        if let Some(donor) = &mut self.donor {
            let mut back = (donor.balloon + donor.plug).saturating_sub(taken);
            let from_balloon = back.min(donor.balloon);
            donor.balloon -= from_balloon;
            back -= from_balloon;
            // Of a block that is wanted back in part the donor keeps none.
            donor.plug = donor.start.whole(donor.plug.saturating_sub(back));
            if alive(donor, guests).is_some() {
                guests.set_balloon(donor.guest, donor.start.ballooned + donor.balloon);
                if donor.start.plug {
                    guests.set_plug(donor.guest, donor.start.plugged - donor.plug);
                }
            }
        }
        self.gave = true;
        self.offered = taken;
        self.size = taken;
        self.short = Some(why);
        self.last = Progress { given: taken, taken, over: true };
    }
}

/// Returns how the guest is, if it lives the life that it did.
fn alive(side: &Side, guests: &dyn Guests) -> Option<View> {
    guests.view(side.guest).filter(|view| view.life == side.start.life)
}
