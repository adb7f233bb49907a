//! Whose each frame is, what is in it, and what it waits for on its way to being free.

use super::super::record::{EL2, Kind};
use super::super::{Event, PAGE, covers};
use super::tables::{Entry, Phase};
use super::{Checker, Rule};

/// Whose a frame is.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
enum Whose {
    /// Nobody's, or in somebody's hand.
    #[default]
    Free,
    /// The guest's with this number, at this page of its addresses.
    Guest(u16, u32),
    /// A table's, of whom does not matter here.
    Table,
    /// The hypervisor's own.
    Own,
    /// Retired, with the grave of this number.
    Retired(u32),
}

#[derive(Copy, Clone, Default)]
struct Frame {
    whose: Whose,
    zeroed: bool,
    /// A guest's table leads to it.
    mapped: bool,
}

/// What was retired together, and what it waits for.
struct Grave {
    /// The epoch, once it was said.
    epoch: Option<u64>,
    /// The CPUs that held a pin, and the pins' numbers.
    pins: Vec<(u8, u64)>,
}

/// All frames, and what is retired.
#[derive(Default)]
pub(super) struct Frames {
    frames: Vec<Frame>,
    graves: Vec<Grave>,
}

impl Frames {
    /// The frames of `bytes` bytes from `first` on.
    fn of(&mut self, first: u64, bytes: u64) -> &mut [Frame] {
        let (start, end) = ((first / PAGE) as usize, ((first + bytes) / PAGE) as usize);
        if self.frames.len() < end {
            self.frames.resize(end, Frame::default());
        }
        &mut self.frames[start..end]
    }

    pub(super) fn set_mapped(&mut self, first: u64, bytes: u64, mapped: bool) {
        self.of(first, bytes).iter_mut().for_each(|frame| frame.mapped = mapped);
    }
}

/// The size of the block that an event is about.
fn bytes(event: &Event) -> u64 {
    PAGE << (event.count % 40)
}

impl Checker {
    /// Gives `bytes` bytes to somebody.
    fn give(&mut self, first: u64, bytes: u64, zeroed: bool, whose: impl Fn(u32) -> Whose) {
        let (mut taken, mut dirty) = (None, false);
        for (index, frame) in (0..).zip(self.frames.of(first, bytes)) {
            if frame.whose != Whose::Free {
                taken = taken.or(Some(frame.whose));
            }
            dirty |= !frame.zeroed;
            *frame = Frame { whose: whose(index), zeroed: false, mapped: false };
        }
        if let Some(owner) = taken {
            self.breaks(Rule::OneOwner, format!("it is {owner:?}"));
        }
        if dirty && zeroed {
            self.breaks(Rule::Zeroed, "not all of it was zeroed");
        }
    }

    pub(super) fn assign(&mut self, event: &Event) {
        let page = (event.b / PAGE) as u32;
        let copied = event.kind == Kind::AssignCopy;
        let bytes = bytes(event);
        self.give(event.a, bytes, !copied, |index| Whose::Guest(event.what, page + index));
        self.report.frames[0] += bytes / PAGE;
    }

    pub(super) fn table(&mut self, event: &Event) {
        if event.what == EL2 {
            // In the image, or in what boot zeroed; it is said again where all CPUs share it.
            if !self.tables.0.contains_key(&event.a) {
                self.give(event.a, PAGE, false, |_| Whose::Table);
                self.tables.add(event.a, EL2);
            }
            return;
        }
        self.give(event.a, PAGE, true, |_| Whose::Table);
        self.tables.add(event.a, event.what);
    }

    pub(super) fn table_back(&mut self, event: &Event) {
        if self.frames.of(event.a, PAGE)[0].whose != Whose::Table {
            self.breaks(Rule::FreedRetired, "this is no table");
        }
        if self.tables.0.get(&event.a).is_some_and(|table| table.phase != Phase::InHand) {
            self.breaks(Rule::FreedRetired, "the table was in use");
        }
        let zeroed = self.tables.is_zeroed(event.a);
        self.tables.0.remove(&event.a);
        self.frames.of(event.a, PAGE)[0] = Frame { zeroed, ..Frame::default() };
    }

    pub(super) fn own(&mut self, event: &Event) {
        self.give(event.a, PAGE, true, |_| Whose::Own);
    }

    pub(super) fn own_back(&mut self, event: &Event) {
        let frame = &mut self.frames.of(event.a, PAGE)[0];
        let before = std::mem::take(frame).whose;
        if before != Whose::Own {
            self.breaks(Rule::OneOwner, format!("it is {before:?}"));
        }
    }

    pub(super) fn zero(&mut self, event: &Event) {
        let mut owned = None;
        for frame in self.frames.of(event.a, bytes(event)) {
            if frame.whose != Whose::Free {
                owned = owned.or(Some(frame.whose));
            }
            frame.zeroed = true;
        }
        if let Some(owner) = owned {
            self.breaks(Rule::OneOwner, format!("it is {owner:?}"));
        }
    }

    /// An entry that the hardware sees leads to the memory at `first`.
    pub(super) fn maps(&mut self, at: Entry, first: u64) {
        let owner = self.roots.get(&at.root).map_or(EL2, |root| root.owner);
        let page = (at.first / PAGE) as u32;
        let mut other = None;
        for (index, frame) in (0..).zip(self.frames.of(first, covers(at.level))) {
            if frame.whose != Whose::Guest(owner, page + index) {
                other = other.or(Some((index, frame.whose)));
            }
            frame.mapped = true;
        }
        if let Some((index, whose)) = other {
            let pa = first + u64::from(index) * PAGE;
            self.breaks(Rule::Owner, format!("{pa:#x} is {whose:?}, mapped at {:#x}", at.first));
        }
    }

    pub(super) fn retire(&mut self, event: &Event) {
        let bytes = bytes(event);
        if self.may_be_held(event.a, bytes) {
            self.breaks(Rule::FlushedBeforeRetire, "TLBs may lead to it");
        }
        let pins: Vec<_> = self.cpus.iter().filter_map(|(cpu, of)| Some((*cpu, of.pin?))).collect();
        self.report.pins[1] += pins.len() as u64;
        let grave = self.frames.graves.len();
        self.frames.graves.push(Grave { epoch: None, pins });
        self.cpu(event.cpu).retiring.push(grave);
        let (mut mapped, mut wrong, mut table) = (false, None, false);
        for frame in self.frames.of(event.a, bytes) {
            mapped |= frame.mapped;
            match frame.whose {
                Whose::Guest(..) => {}
                Whose::Table => table = true,
                other => wrong = Some(other),
            }
            frame.whose = Whose::Retired(grave as u32);
        }
        if let Some(other) = wrong {
            self.breaks(Rule::OneOwner, format!("it is {other:?}, and was to be a guest's"));
        }
        let linked = |phase| matches!(phase, Phase::Linked { .. });
        let is_linked = self.tables.0.get(&event.a).is_some_and(|of| linked(of.phase));
        if mapped || table && is_linked {
            self.breaks(Rule::UnlinkedBeforeRetire, "a table leads to it");
        }
        self.report.frames[1] += bytes / PAGE;
    }

    pub(super) fn retired_in(&mut self, event: &Event) {
        for grave in std::mem::take(&mut self.cpu(event.cpu).retiring) {
            self.frames.graves[grave].epoch = Some(event.a);
        }
    }

    pub(super) fn free(&mut self, event: &Event) {
        let bytes = bytes(event);
        let mut graves = Vec::new();
        let mut wrong = None;
        for frame in self.frames.of(event.a, bytes) {
            match frame.whose {
                Whose::Retired(grave) if graves.last() == Some(&grave) => {}
                Whose::Retired(grave) => graves.push(grave),
                other => wrong = Some(other),
            }
            *frame = Frame::default();
        }
        if let Some(other) = wrong {
            self.breaks(Rule::FreedRetired, format!("it is {other:?}, not retired"));
        }
        for grave in graves {
            let Grave { epoch, pins } = &self.frames.graves[grave as usize];
            let (epoch, pins) = (*epoch, pins.clone());
            if epoch.is_none_or(|epoch| event.b < epoch + 2) {
                self.breaks(Rule::TwoEpochs, format!("it was retired in epoch {epoch:?}"));
            }
            let still = pins.iter().find(|(cpu, pin)| self.cpus[cpu].pin == Some(*pin));
            if let Some((cpu, pin)) = still.copied() {
                self.breaks(
                    Rule::PinsGone,
                    format!("CPU {cpu} has held a pin since {pin}, when it was not retired yet"),
                );
            }
        }
        self.tables.0.remove(&event.a);
        self.report.frames[2] += bytes / PAGE;
    }
}
