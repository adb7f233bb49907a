//! What TLBs may still hold of what was removed, and what makes them forget it (Arm ARM, D8.16 and D8.17).
//!
//! An entry that was removed goes the way *written, ordered, invalidated, gone*: the CPU that removed it executes a DSB,
//! then a TLBI that reaches it under the guest's VMID, then a DSB ISH. By IPA that takes two rounds: IPAS2E1IS reaches
//! stage 2, and after a DSB VMALLE1IS reaches what stage 1 and 2 combined gave.

use super::super::record::{Barrier, Tlbi};
use super::super::{ADDRESS, Event, PAGE, covers};
use super::tables::Entry;
use super::{Checker, Rule};

/// How far the maintenance of an entry has come.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Progress {
    Written,
    Ordered,
    /// Stage 2 was told to forget it.
    Stage2,
    /// Stage 2 has.
    Stage2Done,
    /// Both were told.
    Invalidated,
}

/// An entry that was removed.
#[derive(Clone, Debug)]
pub(super) struct Stale {
    cpu: u8,
    progress: Progress,
    /// The addresses that it was for.
    first: u64,
    bytes: u64,
    /// Where it led: memory, or a table.
    to: u64,
    to_bytes: u64,
}

impl Stale {
    pub(super) fn new(cpu: u8, at: Entry, to: u64, to_bytes: u64) -> Self {
        let (first, bytes) = (at.first, covers(at.level));
        Self { cpu, progress: Progress::Written, first, bytes, to, to_bytes }
    }

    pub(super) fn leads_to(&self, first: u64, bytes: u64) -> bool {
        self.to < first + bytes && first < self.to + self.to_bytes
    }
}

/// What a TLBI reaches.
#[derive(Copy, Clone)]
enum Reach {
    /// Stage 2 of the addresses in a range.
    Range(u64, u64),
    /// Stage 1 of the guest, and what was combined.
    Stage1,
    /// All of the guest.
    Guest,
    /// All guests.
    All,
}

/// Returns the addresses that a RIPAS2E1IS reaches (Arm ARM, C5.5): BaseADDR, NUM, SCALE, and TG, which must be 4 KiB.
fn range(operand: u64) -> (u64, u64) {
    let (base, number, scale) = (operand & 0x1f_ffff_ffff, operand >> 39 & 31, operand >> 44 & 3);
    let pages = if operand >> 46 & 3 == 1 { (number + 1) << (5 * scale + 1) } else { 0 };
    (base * PAGE, (base + pages) * PAGE)
}

impl Checker {
    pub(super) fn barrier(&mut self, event: &Event) {
        self.barrier_for_windows(event);
        let complete = event.what == Barrier::DsbIsh as u16;
        if !complete && event.what != Barrier::DsbIshst as u16 {
            return;
        }
        for root in self.roots.values_mut() {
            let before = root.stale.len();
            root.stale.retain_mut(|stale| {
                if stale.cpu == event.cpu {
                    stale.progress = match stale.progress {
                        Progress::Written => Progress::Ordered,
                        Progress::Stage2 if complete => Progress::Stage2Done,
                        Progress::Invalidated if complete => return false,
                        other => other,
                    };
                }
                true
            });
            self.report.flushed += (before - root.stale.len()) as u64;
        }
    }

    pub(super) fn tlbi(&mut self, event: &Event) {
        let page = (event.a & 0xf_ffff_ffff) * PAGE;
        let reach = match event.what {
            what if what == Tlbi::Ipas2e1is as u16 => Reach::Range(page, page + PAGE),
            what if what == Tlbi::Ripas2e1is as u16 => {
                let (start, end) = range(event.a);
                Reach::Range(start, end)
            }
            what if what == Tlbi::Vmalle1is as u16 => Reach::Stage1,
            what if what == Tlbi::Vmalls12e1is as u16 => Reach::Guest,
            what if what == Tlbi::Alle1is as u16 => Reach::All,
            _ => return self.tlbi_for_windows(event),
        };
        if let Reach::All = reach {
            self.used_vmids.clear();
        }
        let vttbr = self.cpu(event.cpu).vttbr;
        for (base, root) in &mut self.roots {
            // The VMID decides; the root's address is compared for a trace of two guests with one VMID.
            let ours = root.vmid == vttbr >> 48 && *base == vttbr & ADDRESS;
            if !ours && !matches!(reach, Reach::All) {
                continue;
            }
            for stale in root.stale.iter_mut().filter(|stale| stale.cpu == event.cpu) {
                stale.progress = match (stale.progress, reach) {
                    (Progress::Ordered, Reach::Range(start, end))
                        if start < stale.first + stale.bytes && stale.first < end =>
                    {
                        Progress::Stage2
                    }
                    (Progress::Stage2Done, Reach::Stage1) => Progress::Invalidated,
                    (Progress::Written, _) => Progress::Written,
                    (_, Reach::Guest | Reach::All) => Progress::Invalidated,
                    (other, _) => other,
                };
            }
        }
    }

    /// Something valid stands in an entry, a table or not: TLBs must have forgotten what was for its addresses before.
    /// Of a table the entries in it are looked at by themselves.
    pub(super) fn is_forgotten(&mut self, at: Entry, is_table: bool) {
        let (bytes, end) = (covers(at.level), at.first + covers(at.level));
        let clashes = |stale: &&Stale| {
            let overlaps = stale.first < end && at.first < stale.first + stale.bytes;
            overlaps && (!is_table || stale.bytes >= bytes)
        };
        let held =
            self.roots.get(&at.root).and_then(|root| Some(root.stale.iter().find(clashes)?.to));
        if let Some(to) = held {
            self.breaks(
                Rule::BreakBeforeMake,
                format!("TLBs may hold {to:#x} for {:#x} still", at.first),
            );
        }
    }

    /// Says whether TLBs may still lead to any of these bytes.
    pub(super) fn may_be_held(&self, first: u64, bytes: u64) -> bool {
        self.roots.values().any(|root| root.stale.iter().any(|stale| stale.leads_to(first, bytes)))
    }
}
