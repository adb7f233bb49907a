//! The compact rendering: one line an event, `<order> <cpu> <event> <operands>`, numbers in hexadecimal where they are
//! addresses or values.

use std::io::{self, Write};

use super::record::{Barrier, EL2, Kind, Register, SAME, Tlbi};
use super::{Event, Trace};

/// The barriers' names, by their numbers from 1.
pub(super) fn barrier(what: u16) -> &'static str {
    match what {
        what if what == Barrier::DsbIsh as u16 => "dsb ish",
        what if what == Barrier::DsbIshst as u16 => "dsb ishst",
        what if what == Barrier::DsbNsh as u16 => "dsb nsh",
        what if what == Barrier::DsbNshst as u16 => "dsb nshst",
        what if what == Barrier::Isb as u16 => "isb",
        _ => "barrier?",
    }
}

/// The invalidations' names.
pub(super) fn tlbi(what: u16) -> &'static str {
    match what {
        what if what == Tlbi::Ipas2e1is as u16 => "ipas2e1is",
        what if what == Tlbi::Ripas2e1is as u16 => "ripas2e1is",
        what if what == Tlbi::Vmalle1is as u16 => "vmalle1is",
        what if what == Tlbi::Vmalls12e1is as u16 => "vmalls12e1is",
        what if what == Tlbi::Alle1is as u16 => "alle1is",
        what if what == Tlbi::Vae2 as u16 => "vae2",
        _ => "tlbi?",
    }
}

/// The registers' names.
pub(super) fn register(what: u16) -> &'static str {
    match what {
        what if what == Register::Vttbr as u16 => "vttbr_el2",
        what if what == Register::Ttbr0 as u16 => "ttbr0_el2",
        what if what == Register::Vtcr as u16 => "vtcr_el2",
        what if what == Register::Tcr as u16 => "tcr_el2",
        what if what == Register::Mair as u16 => "mair_el2",
        what if what == Register::Hcr as u16 => "hcr_el2",
        what if what == Register::Sctlr as u16 => "sctlr_el2",
        _ => "register?",
    }
}

fn owner(what: u16) -> String {
    if what == EL2 { "el2".into() } else { what.to_string() }
}

/// Writes one event, without the end of the line.
///
/// # Errors
/// `out` does not take it.
pub fn event(event: &Event, out: &mut impl Write) -> io::Result<()> {
    let Event { order, kind, cpu, what, count, a, b } = *event;
    write!(out, "{order} {cpu} ")?;
    match kind {
        Kind::Begin => write!(out, "begin"),
        Kind::End => write!(out, "end"),
        Kind::Root => write!(out, "root {a:#x} of {} vmid {b}", owner(what)),
        Kind::RootEnd => write!(out, "root-end {a:#x} of {}", owner(what)),
        Kind::Lock => write!(out, "lock {a:#x}"),
        Kind::Unlock => write!(out, "unlock {a:#x}"),
        Kind::Write => write!(out, "write {a:#x} {b:#x}"),
        Kind::Run if what == SAME => write!(out, "write {a:#x} {b:#x} *{count}"),
        Kind::Run => write!(out, "write {a:#x} {b:#x} *{count} +{:#x}", 1u64 << (what % 64)),
        Kind::Copy => write!(out, "copy {a:#x} from {b:#x}"),
        Kind::Barrier => write!(out, "{}", barrier(what)),
        Kind::Tlbi if count > 1 => write!(out, "tlbi {} {a:#x} *{count}", tlbi(what)),
        Kind::Tlbi => write!(out, "tlbi {} {a:#x}", tlbi(what)),
        Kind::Register => write!(out, "msr {} {a:#x}", register(what)),
        Kind::Table => write!(out, "table {a:#x} of {}", owner(what)),
        Kind::TableBack => write!(out, "table-back {a:#x}"),
        Kind::Assign => write!(out, "assign {a:#x} order {count} to {what} at {b:#x}"),
        Kind::AssignCopy => write!(out, "assign-copy {a:#x} order {count} to {what} at {b:#x}"),
        Kind::Own => write!(out, "own {a:#x}"),
        Kind::OwnBack => write!(out, "own-back {a:#x}"),
        Kind::Retire => write!(out, "retire {a:#x} order {count}"),
        Kind::RetiredIn => write!(out, "retired-in {a}"),
        Kind::Grace => write!(out, "epoch {a}"),
        Kind::Free => write!(out, "free {a:#x} order {count} in {b}"),
        Kind::Zero => write!(out, "zero {a:#x} order {count}"),
        Kind::Pin => write!(out, "pin"),
        Kind::Unpin => write!(out, "unpin"),
        Kind::Flag => write!(out, "flag {a:#x} {b:#x}"),
    }
}

/// Writes a trace.
///
/// # Errors
/// `out` does not take it.
pub fn render(trace: &Trace, out: &mut impl Write) -> io::Result<()> {
    for one in &trace.events {
        event(one, out)?;
        writeln!(out)?;
    }
    Ok(())
}
