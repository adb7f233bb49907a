//! Sluice's own checker: does a trace keep the rules that Casemate has, and those that it has no notion of (whose a frame
//! is, that it was zeroed, grace periods, range TLBIs, the windows)?
//!
//! It follows the trace event by event and keeps what the machine's state must be: the words of all tables (`tables`),
//! what TLBs may still hold of what was removed (`tlb`), whose each frame is (`frames`), and the windows of EL2
//! (`windows`). What it is told is what was done; nothing of Sluice's own code is used to judge it.

mod frames;
#[cfg(test)]
mod life;
mod tables;
#[cfg(test)]
mod tests;
mod tlb;
mod windows;

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use super::record::{EL2, Kind, Register};
use super::{ADDRESS, Event, Trace, text};
use frames::Frames;
use tables::Tables;
use tlb::Stale;
use windows::Windows;

/// What a trace must keep to. Each has a trace among the tests that breaks it and no other.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// The events are numbered without a gap, from the beginning of the recording to its end.
    Complete,
    /// A lock is taken when it is free, and released by who has it.
    Lock,
    /// Tables are written under their lock.
    WriteLocked,
    /// Only tables are written, and none that was taken out.
    WriteTable,
    /// A valid entry becomes another valid one by break-before-make only.
    BreakBeforeMake,
    /// What TLBs may hold of what was removed is gone before the lock is released.
    FlushedBeforeUnlock,
    /// What TLBs may lead to is not retired.
    FlushedBeforeRetire,
    /// What a table leads to is not retired.
    UnlinkedBeforeRetire,
    /// A guest's tables lead to the guest's frames only, each at its own address.
    Owner,
    /// A frame has one owner: it is given to another only when it is free.
    OneOwner,
    /// Tables of a guest are its own.
    TableOwner,
    /// What becomes a guest's, or a table, holds zeroes.
    Zeroed,
    /// Only what was retired becomes free, once.
    FreedRetired,
    /// What was retired becomes free two epochs later at the earliest.
    TwoEpochs,
    /// What was retired becomes free only when every pin of that time is gone.
    PinsGone,
    /// VTTBR_EL2 holds the root of a guest that there is, or 0.
    RootLoaded,
    /// A root that a CPU has loaded, or in which something is mapped, is not given up.
    RootInUse,
    /// Two guests have not the same VMID, nor one that TLBs may know from a guest before.
    VmidUnique,
    /// A window is written by its own CPU, and a slot only used again when the CPU's TLB has forgotten it.
    Window,
}

/// Where a trace breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// The event's place in the order.
    pub order: u64,
    /// The event, and what is wrong with it.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}: {}", self.rule, self.what)
    }
}

/// What a check came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What breaks a rule, in order; at most [`MOST`] of each rule, for one mistake makes many.
    pub violations: Vec<Violation>,
    /// How many events there were.
    pub events: usize,
    /// How many descriptors were stored.
    pub stores: u64,
    /// How many TLB entries had to go, and went.
    pub flushed: u64,
    /// How many frames were given to guests, retired, and became free again.
    pub frames: [u64; 3],
    /// How many pins there were, and how many of them had what was retired wait.
    pub pins: [u64; 2],
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [given, retired, freed] = self.frames;
        let [pins, waited] = self.pins;
        write!(
            formatter,
            "{} events: {} stores, {} TLB entries flushed, frames: {given} given to guests, {retired} retired, {freed} \
             freed; {pins} pins, {waited} of them waited for; {} violations",
            self.events,
            self.stores,
            self.flushed,
            self.violations.len()
        )
    }
}

/// The most violations of one rule that are told.
pub const MOST: usize = 5;

/// What one CPU is about.
#[derive(Default)]
struct Cpu {
    vttbr: u64,
    /// The number of its pin, where it holds one.
    pin: Option<u64>,
    /// What it retired and has not said the epoch of: numbers of graves.
    retiring: Vec<usize>,
}

/// A root table that there is.
struct Root {
    owner: u16,
    vmid: u64,
    holder: Option<u8>,
    /// What TLBs may still hold.
    stale: Vec<Stale>,
}

/// The state of everything.
struct Checker {
    report: Report,
    now: Option<Event>,
    cpus: BTreeMap<u8, Cpu>,
    roots: HashMap<u64, Root>,
    tables: Tables,
    frames: Frames,
    windows: Windows,
    /// The root that names the lock on EL2's tables; 0 before there is one.
    el2: u64,
    /// EL2's tables are in use.
    el2_is_on: bool,
    /// VMIDs of guests that are gone, which TLBs may know.
    used_vmids: Vec<u64>,
}

/// Checks `trace`.
pub fn check(trace: &Trace) -> Report {
    let mut checker = Checker {
        report: Report { events: trace.events.len(), ..Report::default() },
        now: None,
        cpus: BTreeMap::new(),
        roots: HashMap::new(),
        tables: Tables::default(),
        frames: Frames::default(),
        windows: Windows::default(),
        el2: 0,
        el2_is_on: false,
        used_vmids: Vec::new(),
    };
    checker.complete(trace);
    for event in trace.whole() {
        checker.now = Some(*event);
        checker.event(event);
    }
    checker.report
}

impl Checker {
    fn breaks(&mut self, rule: Rule, why: impl fmt::Display) {
        let order = self.now.map_or(0, |event| event.order);
        let same = || self.report.violations.iter().filter(|other| other.rule == rule);
        // Of a table, all entries break it alike.
        if same().count() >= MOST || same().any(|other| other.order == order) {
            return;
        }
        let mut line = Vec::new();
        if let Some(event) = &self.now {
            // A vector takes everything.
            let _ = text::event(event, &mut line);
        }
        let what = format!("{}: {why}", String::from_utf8_lossy(&line));
        self.report.violations.push(Violation { rule, order, what });
    }

    fn complete(&mut self, trace: &Trace) {
        if trace.events.first().map(|event| event.kind) != Some(Kind::Begin) {
            self.breaks(Rule::Complete, "the trace does not begin with the beginning");
        }
        let whole = trace.whole();
        self.now = whole.last().copied();
        if whole.len() < trace.events.len() {
            self.breaks(Rule::Complete, "there is a hole behind this");
        } else if self.now.map(|event| event.kind) != Some(Kind::End) {
            self.breaks(Rule::Complete, "the trace ends before the end");
        }
    }

    fn cpu(&mut self, cpu: u8) -> &mut Cpu {
        self.cpus.entry(cpu).or_default()
    }

    fn event(&mut self, event: &Event) {
        match event.kind {
            // The flag leads nowhere, and the hardware changes it too.
            Kind::Begin | Kind::End | Kind::Grace | Kind::Flag => {}
            Kind::Root => self.root(event),
            Kind::RootEnd => self.root_end(event),
            Kind::Lock => self.lock(event),
            Kind::Unlock => self.unlock(event),
            Kind::Write | Kind::Run => self.stores(event),
            Kind::Copy => self.copy(event),
            Kind::Barrier => self.barrier(event),
            Kind::Tlbi => self.tlbi(event),
            Kind::Register => self.register(event),
            Kind::Table => self.table(event),
            Kind::TableBack => self.table_back(event),
            Kind::Assign | Kind::AssignCopy => self.assign(event),
            Kind::Own => self.own(event),
            Kind::OwnBack => self.own_back(event),
            Kind::Retire => self.retire(event),
            Kind::RetiredIn => self.retired_in(event),
            Kind::Free => self.free(event),
            Kind::Zero => self.zero(event),
            Kind::Pin => {
                self.report.pins[0] += 1;
                self.cpu(event.cpu).pin = Some(event.order);
            }
            Kind::Unpin => self.cpu(event.cpu).pin = None,
        }
    }

    fn root(&mut self, event: &Event) {
        if event.what == EL2 {
            self.windows.root(event.a, event.b as u8);
            if self.el2 != 0 {
                return;
            }
            self.el2 = event.a;
        } else {
            let same = |root: &Root| root.owner != EL2 && root.vmid == event.b;
            if self.roots.values().any(same) || self.used_vmids.contains(&event.b) {
                self.breaks(Rule::VmidUnique, "TLBs may know this VMID from another guest");
            }
            self.tables.set_root(event.a);
        }
        let root = Root { owner: event.what, vmid: event.b, holder: None, stale: Vec::new() };
        self.roots.insert(event.a, root);
    }

    fn root_end(&mut self, event: &Event) {
        let loaded = self.cpus.iter().find(|(_, cpu)| cpu.vttbr & ADDRESS == event.a);
        if let Some(loaded) = loaded.map(|(cpu, _)| *cpu) {
            self.breaks(Rule::RootInUse, format!("CPU {loaded} has it in VTTBR_EL2"));
        }
        if !self.tables.is_empty(event.a) {
            self.breaks(Rule::RootInUse, "something is mapped in it");
        }
        if let Some(root) = self.roots.remove(&event.a) {
            self.used_vmids.push(root.vmid);
        }
        self.tables.take_out(event.a);
    }

    fn lock(&mut self, event: &Event) {
        let Some(root) = self.roots.get_mut(&event.a) else {
            return self.breaks(Rule::Lock, "it is the lock of no tables");
        };
        if let Some(holder) = root.holder.replace(event.cpu) {
            self.breaks(Rule::Lock, format!("CPU {holder} has it"));
        }
    }

    fn unlock(&mut self, event: &Event) {
        let Some(root) = self.roots.get_mut(&event.a) else {
            return self.breaks(Rule::Lock, "it is the lock of no tables");
        };
        let left = root.stale.len();
        if root.holder.take() != Some(event.cpu) {
            self.breaks(Rule::Lock, "this CPU has not taken it");
        } else if left > 0 {
            self.breaks(
                Rule::FlushedBeforeUnlock,
                format!("TLBs may hold {left} entries that were removed"),
            );
        }
    }

    fn register(&mut self, event: &Event) {
        match event.what {
            what if what == Register::Vttbr as u16 => {
                self.cpu(event.cpu).vttbr = event.a;
                let of = self.roots.get(&(event.a & ADDRESS));
                let fits = of.is_some_and(|root| root.owner != EL2 && root.vmid == event.a >> 48);
                if event.a != 0 && !fits {
                    self.breaks(Rule::RootLoaded, "no guest has this root with this VMID");
                }
            }
            what if what == Register::Ttbr0 as u16 => self.el2_is_on = true,
            _ => {}
        }
    }
}
