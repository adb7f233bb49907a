//! The rendering for Casemate, the break-before-make monitor of the REMS project: S-expressions, one an event, that
//! its offline checker takes (`casemate-check`).
//!
//! Most events are one of Casemate's each. Where its model has no word for something, what is written instead claims
//! less than was done, or is said here:
//!
//! - The lock on a guest's tables is named by their root, the lock on EL2's by the first CPU's root.
//! - VTTBR_EL2 of 0, *nobody's tables*, is an empty root at address 0 with a VMID that no guest has. So a root that is
//!   given up while a CPU has it loaded is still noticed.
//! - EL2's tables are one tree, the first CPU's: the other CPUs' roots are copies of its root, which Casemate would take
//!   for tables in two trees. The windows, which each CPU has for itself and maintains by TLBIs and DSBs of its own,
//!   are left out, and so are those TLBIs and DSBs.
//! - A change of the access flag alone is left out: the hardware does it as well, and no lock is taken for it.
//! - A range TLBI is a VMALLS12E1IS: Casemate has none. Where the CPU has FEAT_TLBIRANGE, Casemate's verdict on what was
//!   invalidated is worth less; that is left to Sluice's own checker.
//! - What an edit clears in a table that it takes out before it flushes is told by the taking out alone. Casemate wants
//!   the entries of a table clean before the table goes, which nothing in the architecture asks for where one TLBI by VMID
//!   covers both.
//! - Retirement, grace periods, zeroing and frames that are no tables are nothing to Casemate; a table is `mem-free`d when
//!   its grace period is over and `mem-init`ialised when it is taken again.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};

use super::record::{EL2, Kind, Register, Tlbi};
use super::{ADDRESS, Event, PAGE, Trace, is_valid, stores, text};

/// The root that stands for VTTBR_EL2 of 0, and its VMID in VTTBR_EL2.
const NOBODY: u64 = 0xffff << 48;
/// The entry of EL2's roots where each CPU's window hangs.
const WINDOW: u64 = 511 * 8;

/// What is in the tables.
#[derive(Default)]
struct Words(HashMap<u64, u64>);

impl Words {
    fn get(&self, address: u64) -> u64 {
        self.0.get(&address).copied().unwrap_or(0)
    }

    /// Returns what was there.
    fn put(&mut self, address: u64, bits: u64) -> u64 {
        let before = if bits == 0 { self.0.remove(&address) } else { self.0.insert(address, bits) };
        before.unwrap_or(0)
    }

    fn clear(&mut self, table: u64) {
        (table..table + PAGE).step_by(8).for_each(|address| {
            self.0.remove(&address);
        });
    }
}

/// What an event stores, copies included, as addresses and values.
fn all_stores(event: &Event, words: &Words) -> Vec<(u64, u64)> {
    if event.kind == Kind::Copy {
        return (0..PAGE).step_by(8).map(|at| (event.a + at, words.get(event.b + at))).collect();
    }
    stores(event).collect()
}

/// Finds the stores of entries that left with their table before they were flushed: by the numbers of their events.
fn told_by_their_table(trace: &Trace) -> HashSet<u64> {
    let mut told = HashSet::new();
    let mut words = Words::default();
    // By CPU and table: what was cleared since the CPU last invalidated.
    let mut cleared: HashMap<(u8, u64), Vec<u64>> = HashMap::new();
    for event in trace.whole() {
        match event.kind {
            Kind::Table => words.clear(event.a),
            Kind::Tlbi | Kind::Unlock => cleared.retain(|(cpu, _), _| *cpu != event.cpu),
            _ => {}
        }
        for (address, bits) in all_stores(event, &words) {
            let before = words.put(address, bits);
            if is_valid(before) && !is_valid(bits) {
                if let Some(entries) = cleared.get(&(event.cpu, before & ADDRESS))
                    && before & 3 == 3
                {
                    told.extend(entries);
                }
                cleared.entry((event.cpu, address & !(PAGE - 1))).or_default().push(event.order);
            }
        }
    }
    told
}

/// How much of what was rendered.
#[derive(Copy, Clone, Debug, Default)]
pub struct Rendered {
    /// Transitions of Casemate's.
    pub transitions: u64,
    /// Bytes.
    pub bytes: u64,
}

struct Renderer<'o, W> {
    out: &'o mut W,
    rendered: Rendered,
    words: Words,
    tables: HashSet<u64>,
    roots: HashMap<u16, u64>,
    el2: u64,
}

/// Renders `trace`, as far as it is [whole](Trace::whole).
///
/// # Errors
/// `out` does not take it.
pub fn render(trace: &Trace, out: &mut impl Write) -> io::Result<Rendered> {
    let told = told_by_their_table(trace);
    let mut renderer = Renderer {
        out,
        rendered: Rendered::default(),
        words: Words::default(),
        tables: HashSet::new(),
        roots: HashMap::new(),
        el2: 0,
    };
    for event in trace.whole() {
        renderer.event(event, told.contains(&event.order))?;
    }
    Ok(renderer.rendered)
}

impl<W: Write> Renderer<'_, W> {
    /// Writes one transition; Casemate wants to know of which line of the source.
    fn put(&mut self, event: &Event, name: &str, fields: &str) -> io::Result<()> {
        self.rendered.transitions += 1;
        let (id, cpu, at) = (self.rendered.transitions, event.cpu, event.order);
        let line = format!("({name} (id {id}) (tid {cpu}) {fields} (src \"event:{at}\"))\n");
        self.rendered.bytes += line.len() as u64;
        self.out.write_all(line.as_bytes())
    }

    fn init(&mut self, event: &Event, table: u64) -> io::Result<()> {
        self.put(event, "mem-init", &format!("(address {table:#x}) (size {PAGE:#x})"))
    }

    fn hint(&mut self, event: &Event, kind: &str, location: u64, value: u64) -> io::Result<()> {
        let fields = format!("(kind {kind}) (location {location:#x}) (value {value:#x})");
        self.put(event, "hint", &fields)
    }

    fn free(&mut self, event: &Event, table: u64) -> io::Result<()> {
        if !self.tables.remove(&table) {
            return Ok(());
        }
        self.words.clear(table);
        self.put(event, "mem-free", &format!("(address {table:#x}) (size {PAGE:#x})"))
    }

    fn event(&mut self, event: &Event, told: bool) -> io::Result<()> {
        match event.kind {
            Kind::Begin => {
                self.init(event, 0)?;
                self.hint(event, "set_root_lock", 0, PAGE / 2)
            }
            Kind::Table => self.table(event),
            Kind::TableBack | Kind::Free => self.free(event, event.a),
            Kind::Root => self.root(event),
            Kind::RootEnd => {
                self.roots.remove(&event.what);
                self.hint(event, "release_table", event.a, 0)
            }
            Kind::Lock => self.put(event, "lock", &format!("(address {:#x})", event.a)),
            Kind::Unlock => self.put(event, "unlock", &format!("(address {:#x})", event.a)),
            Kind::Write | Kind::Run | Kind::Copy => self.stores(event, told),
            Kind::Barrier => self.barrier(event),
            Kind::Tlbi => self.tlbi(event),
            Kind::Register => self.register(event),
            _ => Ok(()),
        }
    }

    fn table(&mut self, event: &Event) -> io::Result<()> {
        if !self.tables.insert(event.a) {
            return Ok(());
        }
        self.words.clear(event.a);
        self.init(event, event.a)?;
        match self.roots.get(&event.what).copied() {
            Some(root) => self.hint(event, "set_owner_root", event.a, root),
            None => Ok(()),
        }
    }

    fn root(&mut self, event: &Event) -> io::Result<()> {
        if event.what == EL2 {
            if event.b != 0 {
                return Ok(());
            }
            self.el2 = event.a;
        }
        self.roots.insert(event.what, event.a);
        self.hint(event, "set_root_lock", event.a, event.a)?;
        self.hint(event, "set_owner_root", event.a, event.a)
    }

    fn stores(&mut self, event: &Event, told: bool) -> io::Result<()> {
        for (address, bits) in all_stores(event, &self.words) {
            self.words.put(address, bits);
            let is_window = address == self.el2 + WINDOW;
            if !told && !is_window {
                let fields =
                    format!("(mem-order release) (address {address:#x}) (value {bits:#x})");
                self.put(event, "mem-write", &fields)?;
            }
        }
        Ok(())
    }

    fn barrier(&mut self, event: &Event) -> io::Result<()> {
        match text::barrier(event.what).split_once(' ') {
            Some(("dsb", kind @ ("ish" | "ishst"))) => {
                self.put(event, "barrier", &format!("dsb (kind {kind})"))
            }
            // Of this CPU alone: for the windows.
            Some(_) => Ok(()),
            None => self.put(event, "barrier", text::barrier(event.what)),
        }
    }

    fn tlbi(&mut self, event: &Event) -> io::Result<()> {
        match event.what {
            what if what == Tlbi::Vae2 as u16 => Ok(()),
            what if what == Tlbi::Ripas2e1is as u16 => self.put(event, "tlbi", "vmalls12e1is"),
            what if what == Tlbi::Ipas2e1is as u16 => {
                self.put(event, "tlbi", &format!("ipas2e1is (value {:#x})", event.a))
            }
            what => self.put(event, "tlbi", text::tlbi(what)),
        }
    }

    fn register(&mut self, event: &Event) -> io::Result<()> {
        let value = match event.what {
            what if what == Register::Vttbr as u16 && event.a == 0 => NOBODY,
            what if what == Register::Ttbr0 as u16 => self.el2,
            _ => event.a,
        };
        let fields = format!("(sysreg {}) (value {value:#x})", text::register(event.what));
        self.put(event, "sysreg-write", &fields)
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Barrier;
    use super::*;

    const ROOT: u64 = 0x4000_0000;
    const TABLE: u64 = 0x4000_1000;
    const LEAF: u64 = 0x8000_07ff;

    fn at(kind: Kind, what: u16, a: u64, b: u64) -> Event {
        Event { order: 0, kind, cpu: 1, what, count: 1, a, b }
    }

    /// What becomes of `events`, without what each line begins and ends with.
    fn rendered(events: &[Event]) -> Vec<String> {
        let number = |(order, event): (u64, &Event)| Event { order, ..*event };
        let events = (0..).zip(events).map(number).collect();
        let mut out = Vec::new();
        let rendered = render(&Trace { events }, &mut out).unwrap();
        assert_eq!(rendered.bytes, out.len() as u64);
        let text = String::from_utf8(out).unwrap();
        let without_ends = |(number, line): (usize, &str)| {
            let (name, fields) = line.split_once(&format!(" (id {}) (tid 1)", number + 1)).unwrap();
            let (fields, source) = fields.split_once(" (src \"event:").unwrap();
            assert!(source.ends_with("\"))"), "{line}");
            format!("{name}{fields}")
        };
        text.lines().enumerate().map(without_ends).collect()
    }

    /// A guest with a table and a page in it.
    fn made() -> Vec<Event> {
        vec![
            at(Kind::Table, 0, ROOT, 0),
            at(Kind::Root, 0, ROOT, 1),
            at(Kind::Table, 0, TABLE, 0),
            at(Kind::Write, 0, ROOT, TABLE | 3),
            at(Kind::Write, 0, TABLE, LEAF),
        ]
    }

    fn after_made(events: &[Event]) -> Vec<String> {
        let mut all = made();
        let before = rendered(&all).len();
        all.extend(events);
        rendered(&all).split_off(before)
    }

    #[test]
    fn tables_and_roots_are_told_before_they_are_used() {
        let expected = [
            "(mem-init (address 0x40000000) (size 0x1000)",
            "(hint (kind set_root_lock) (location 0x40000000) (value 0x40000000)",
            "(hint (kind set_owner_root) (location 0x40000000) (value 0x40000000)",
            "(mem-init (address 0x40001000) (size 0x1000)",
            "(hint (kind set_owner_root) (location 0x40001000) (value 0x40000000)",
            "(mem-write (mem-order release) (address 0x40000000) (value 0x40001003)",
            "(mem-write (mem-order release) (address 0x40001000) (value 0x800007ff)",
        ];
        assert_eq!(rendered(&made()), expected);
    }

    #[test]
    fn maintenance_and_registers_are_said_in_its_words() {
        let said = after_made(&[
            at(Kind::Lock, 0, ROOT, 0),
            at(Kind::Barrier, Barrier::DsbIshst as u16, 0, 0),
            at(Kind::Tlbi, Tlbi::Ipas2e1is as u16, 5, 0),
            at(Kind::Barrier, Barrier::DsbIsh as u16, 0, 0),
            at(Kind::Tlbi, Tlbi::Vmalle1is as u16, 0, 0),
            at(Kind::Tlbi, Tlbi::Ripas2e1is as u16, 5, 0),
            at(Kind::Barrier, Barrier::Isb as u16, 0, 0),
            at(Kind::Unlock, 0, ROOT, 0),
            at(Kind::Register, Register::Vttbr as u16, ROOT | 1 << 48, 0),
            at(Kind::Register, Register::Vttbr as u16, 0, 0),
            at(Kind::RootEnd, 0, ROOT, 0),
            at(Kind::Free, 0, TABLE, 0),
        ]);
        let expected = [
            "(lock (address 0x40000000)",
            "(barrier dsb (kind ishst)",
            "(tlbi ipas2e1is (value 0x5)",
            "(barrier dsb (kind ish)",
            "(tlbi vmalle1is",
            "(tlbi vmalls12e1is",
            "(barrier isb",
            "(unlock (address 0x40000000)",
            "(sysreg-write (sysreg vttbr_el2) (value 0x1000040000000)",
            "(sysreg-write (sysreg vttbr_el2) (value 0xffff000000000000)",
            "(hint (kind release_table) (location 0x40000000) (value 0x0)",
            "(mem-free (address 0x40001000) (size 0x1000)",
        ];
        assert_eq!(said, expected);
    }

    #[test]
    fn what_it_has_no_words_for_is_left_out() {
        let said = after_made(&[
            at(Kind::Tlbi, Tlbi::Vae2 as u16, 5, 0),
            at(Kind::Barrier, Barrier::DsbNsh as u16, 0, 0),
            at(Kind::Flag, 0, TABLE, LEAF & !(1 << 10)),
            at(Kind::Pin, 0, 0, 0),
            at(Kind::Zero, 0, 0x5000_0000, 0),
            at(Kind::Free, 0, 0x5000_0000, 0),
        ]);
        assert_eq!(said, [""; 0]);
    }

    #[test]
    fn entries_that_leave_with_their_table_are_told_by_it() {
        let clear = [at(Kind::Write, 0, TABLE, 0), at(Kind::Write, 0, ROOT, 0)];
        let table_goes = "(mem-write (mem-order release) (address 0x40000000) (value 0x0)";
        assert_eq!(after_made(&clear), [table_goes]);
        // Flushed before: then it is told by itself.
        let flush = at(Kind::Tlbi, Tlbi::Vmalls12e1is as u16, 0, 0);
        assert_eq!(after_made(&[clear[0], flush, clear[1]]).len(), 3);
    }

    #[test]
    fn a_copy_of_a_table_is_all_its_entries() {
        let copy = 0x4000_2000;
        let said = after_made(&[at(Kind::Table, 0, copy, 0), at(Kind::Copy, 0, copy, TABLE)]);
        assert_eq!(said.len(), 2 + 512);
        assert!(said[2].contains("(address 0x40002000) (value 0x800007ff)"), "{}", said[2]);
        assert!(said[3].contains("(address 0x40002008) (value 0x0)"), "{}", said[3]);
    }
}
