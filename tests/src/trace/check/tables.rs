//! The words of all tables, and where each table stands.

use std::collections::HashMap;

use super::super::record::EL2;
use super::super::{ADDRESS, Event, PAGE, covers, is_table, is_valid, only_flag, pending, stores};
use super::tlb::Stale;
use super::{Checker, Rule};

/// Where a table stands.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing leads to it yet.
    InHand,
    /// Software goes to it; the hardware does as well if `seen`.
    Linked { seen: bool },
    /// It was taken out.
    TakenOut,
}

/// A table.
pub(super) struct Table {
    pub owner: u16,
    pub phase: Phase,
    root: u64,
    level: u8,
    /// The first address that it is for.
    base: u64,
    words: Box<[u64; 512]>,
}

impl Table {
    pub(super) fn words(&self) -> &[u64; 512] {
        &self.words
    }
}

/// All tables, by their addresses.
#[derive(Default)]
pub(super) struct Tables(pub HashMap<u64, Table>);

impl Tables {
    pub(super) fn add(&mut self, table: u64, owner: u16) {
        let words = Box::new([0; 512]);
        let phase = Phase::InHand;
        self.0.insert(table, Table { owner, phase, root: 0, level: 0, base: 0, words });
    }

    /// Makes a table the root of a guest's tables, which start at level 1.
    pub(super) fn set_root(&mut self, table: u64) {
        if let Some(of) = self.0.get_mut(&table) {
            (of.phase, of.root, of.level) = (Phase::Linked { seen: true }, table, 1);
        }
    }

    pub(super) fn is_empty(&self, table: u64) -> bool {
        self.0.get(&table).is_none_or(|of| !of.words.iter().any(|bits| is_valid(*bits)))
    }

    pub(super) fn is_zeroed(&self, table: u64) -> bool {
        self.0.get(&table).is_none_or(|of| of.words.iter().all(|bits| *bits == 0))
    }

    pub(super) fn take_out(&mut self, table: u64) {
        if let Some(of) = self.0.get_mut(&table) {
            of.phase = Phase::TakenOut;
        }
    }
}

impl Checker {
    pub(super) fn stores(&mut self, event: &Event) {
        for (address, bits) in stores(event) {
            self.store(event, address, bits);
        }
    }

    pub(super) fn copy(&mut self, event: &Event) {
        let Some(from) = self.tables.0.get(&event.b) else {
            return self.breaks(Rule::WriteTable, "what is copied is no table");
        };
        for (index, bits) in (0..).zip(*from.words.clone()) {
            self.store(event, event.a + index * 8, bits);
        }
    }

    fn store(&mut self, event: &Event, address: u64, bits: u64) {
        self.report.stores += 1;
        let (page, index) = (address & !(PAGE - 1), (address % PAGE / 8) as usize);
        let Some(table) = self.tables.0.get_mut(&page) else {
            return self.breaks(Rule::WriteTable, "this is no table");
        };
        let before = std::mem::replace(&mut table.words[index], bits);
        let Table { owner, phase, root, level, base, .. } = *table;
        if owner == EL2 {
            return self.store_el2(event, address, before, bits);
        }
        let lock = if phase == Phase::InHand { self.root_of(owner) } else { Some(root) };
        let holder = lock.and_then(|lock| self.roots.get(&lock)?.holder);
        if holder != Some(event.cpu) {
            return self.breaks(Rule::WriteLocked, "this CPU has not locked the tables");
        }
        match phase {
            Phase::InHand => {}
            Phase::TakenOut => self.breaks(Rule::WriteTable, "this table was taken out"),
            Phase::Linked { seen } => {
                let at = Entry {
                    slot: address,
                    root,
                    level,
                    first: base + index as u64 * covers(level),
                };
                self.change(event.cpu, at, seen, before, bits);
            }
        }
    }

    fn root_of(&self, owner: u16) -> Option<u64> {
        self.roots.iter().find(|(_, root)| root.owner == owner).map(|(root, _)| *root)
    }

    /// An entry of a table that is linked changed.
    fn change(&mut self, cpu: u8, at: Entry, seen: bool, before: u64, bits: u64) {
        if before != bits && !only_flag(before, bits) {
            if seen && is_valid(before) && is_valid(bits) {
                self.breaks(Rule::BreakBeforeMake, format!("it was {before:#x}, and valid"));
            }
            self.unlink(cpu, at, seen, before);
        }
        self.link(at, seen, bits);
    }

    /// `before` is gone from an entry: what it led to was taken out, and TLBs may hold it.
    fn unlink(&mut self, cpu: u8, at: Entry, seen: bool, before: u64) {
        let below =
            if is_table(before, at.level) { Some(before & ADDRESS) } else { pending(before) };
        if seen && is_valid(before) {
            let bytes = if below.is_some() { PAGE } else { covers(at.level) };
            let stale = Stale::new(cpu, at, before & ADDRESS, bytes);
            if let Some(root) = self.roots.get_mut(&at.root) {
                root.stale.push(stale);
            }
            if below.is_none() {
                self.frames.set_mapped(before & ADDRESS, covers(at.level), false);
            }
        }
        let Some(table) = below.and_then(|below| self.tables.0.get_mut(&below)) else { return };
        let seen = table.phase == Phase::Linked { seen: true };
        table.phase = Phase::TakenOut;
        let words = table.words.clone();
        for (below, bits) in at.below().zip(*words) {
            self.unlink(cpu, below, seen, bits);
        }
    }

    /// `bits` stand in an entry now: what they lead to is linked.
    fn link(&mut self, at: Entry, seen: bool, bits: u64) {
        if seen && is_valid(bits) {
            self.is_forgotten(at, is_table(bits, at.level));
        }
        let table = if is_table(bits, at.level) { Some(bits & ADDRESS) } else { pending(bits) };
        let Some(table) = table else {
            if seen && is_valid(bits) {
                self.maps(at, bits & ADDRESS);
            }
            return;
        };
        let seen = seen && is_valid(bits);
        let owner = self.roots.get(&at.root).map(|root| root.owner);
        let Some(below) = self.tables.0.get_mut(&table).filter(|below| Some(below.owner) == owner)
        else {
            return self.breaks(Rule::TableOwner, format!("{table:#x} is no table of the guest's"));
        };
        let new = Phase::Linked { seen };
        if below.phase == new && below.root == at.root && below.base == at.first {
            return;
        }
        (below.phase, below.root, below.level, below.base) = (new, at.root, at.level + 1, at.first);
        let words = below.words.clone();
        for (below, bits) in at.below().zip(*words) {
            if bits != 0 {
                self.link(below, seen, bits);
            }
        }
    }

    /// An entry of EL2's own tables was stored.
    fn store_el2(&mut self, event: &Event, address: u64, before: u64, bits: u64) {
        if self.store_in_window(event, address, before, bits) || !self.el2_is_on {
            return;
        }
        let holder = self.roots.get(&self.el2).and_then(|root| root.holder);
        if holder != Some(event.cpu) {
            self.breaks(Rule::WriteLocked, "this CPU has not locked EL2's tables");
        }
        if is_valid(before) && before != bits {
            self.breaks(Rule::BreakBeforeMake, format!("it was {before:#x}, and valid, at EL2"));
        }
    }
}

/// An entry of a table that is linked.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub slot: u64,
    pub root: u64,
    pub level: u8,
    /// The first address that it is for.
    pub first: u64,
}

impl Entry {
    /// The entries of the table that it leads to; where these stand does not matter.
    fn below(self) -> impl Iterator<Item = Self> {
        let level = self.level + 1;
        (0..512u64).map(move |index| Self {
            slot: 0,
            level,
            first: self.first + index * covers(level),
            ..self
        })
    }
}
