//! TLB maintenance, recorded; and a TLB that it is done to.
//!
//! The model stands for the TLBs of all CPUs at once, and caches all that an MMU may: leaves and
//! the tables on the way to them ([`access`]). Nothing leaves it but by invalidation, and by no
//! more of it than the architecture promises: an invalidation by address reaches the entries for
//! that one address, unless the CPU has FEAT_TLBIRANGE. [`check`] tells what a guest could still
//! reach that its tables do not lead to any more.
#![expect(unsafe_code, reason = "reads tables as an MMU does")]

use super::barrier::{dsb_ish, dsb_ishst, isb};
use super::{features, memory};
use crate::addr::{Ipa, IpaRange, PAGE_SHIFT, Pa};
use crate::trace::{self, Register, Tlbi};
use core::sync::atomic::{AtomicU64, Ordering};
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What was asked of the TLBs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invalidation {
    /// [`invalidate_stage2`].
    Stage2 {
        /// The root table's address and the VMID, as in VTTBR_EL2.
        vttbr: u64,
        /// What was invalidated.
        ranges: Vec<IpaRange>,
    },
    /// [`invalidate_vmid`].
    Vmid {
        /// The root table's address and the VMID, as in VTTBR_EL2.
        vttbr: u64,
    },
    /// [`invalidate_all_guests`].
    AllGuests,
}

/// An entry that a TLB holds and that should have been invalidated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stale {
    /// The addresses that it is used for.
    pub range: IpaRange,
    /// The level of the descriptor that it was made of, 1 to 3.
    pub level: u8,
    /// Where it leads.
    pub cached: Pa,
    /// The descriptor that a walk finds now.
    pub now: u64,
}

/// The bit of a descriptor of a page or block that says that it was used, in a CPU without FEAT_HAFDBS.
const ACCESS_FLAG: u64 = 1 << 10;

/// Says whether what is cached leads elsewhere than what a walk finds now. Of a clear access flag it need not know.
const fn differs(now: u64, cached: u64) -> bool {
    (now ^ cached) & !ACCESS_FLAG != 0
}

/// The entries of one VMID: by level and number of the entry in the whole address space, the
/// descriptor.
type Entries = HashMap<(u8, u64), u64>;

#[derive(Default)]
struct Tlb {
    log: Vec<Invalidation>,
    of: HashMap<u16, Entries>,
}

static TLB: Mutex<Option<Tlb>> = Mutex::new(None);

thread_local! {
    static BROKEN: Cell<bool> = const { Cell::new(false) };
}

fn with_tlb<R>(with: impl FnOnce(&mut Tlb) -> R) -> R {
    let mut tlb: MutexGuard<'_, _> = TLB.lock().unwrap_or_else(PoisonError::into_inner);
    with(tlb.get_or_insert_with(Tlb::default))
}

/// Runs `with` while what this thread asks of the TLBs is recorded and not done: for tests of
/// tests.
pub fn without_effect<R>(with: impl FnOnce() -> R) -> R {
    BROKEN.set(true);
    let result = with();
    BROKEN.set(false);
    result
}

/// Takes what was recorded for the guest whose root table and VMID are `vttbr`.
pub fn take_log(vttbr: u64) -> Vec<Invalidation> {
    let mine = |one: &Invalidation| match one {
        Invalidation::Stage2 { vttbr: of, .. } | Invalidation::Vmid { vttbr: of } => *of == vttbr,
        Invalidation::AllGuests => false,
    };
    with_tlb(|tlb| {
        let taken = tlb.log.iter().filter(|one| mine(one)).cloned().collect();
        tlb.log.retain(|one| !mine(one));
        taken
    })
}

/// The most pages that the real twin invalidates one by one.
const SINGLE_PAGES: u64 = 16;

/// Records what the real twin does to invalidate something of the guest that `vttbr` names.
fn record(vttbr: u64, maintenance: impl FnOnce()) {
    if cfg!(feature = "trace") && !BROKEN.get() {
        dsb_ishst();
        trace::sysreg_write(Register::Vttbr, vttbr);
        isb();
        maintenance();
        dsb_ish();
        trace::sysreg_write(Register::Vttbr, 0);
        isb();
    }
}

/// Removes every cached translation of `ranges` of the guest that `vttbr` names, stage 2 and
/// combined, on all CPUs. A range must have been mapped by one entry, or the CPU have
/// FEAT_TLBIRANGE; for more entries than that [`invalidate_vmid`] is the way.
pub fn invalidate_stage2(vttbr: u64, ranges: &[IpaRange]) {
    with_tlb(|tlb| {
        tlb.log.push(Invalidation::Stage2 { vttbr, ranges: ranges.to_vec() });
        if BROKEN.get() {
            return;
        }
        for range in ranges {
            let last = if features().tlb_range { range.end.page() - 1 } else { range.start.page() };
            tlb.of.entry(vmid(vttbr)).or_default().retain(|&(level, number), _| {
                let pages = pages_at(level);
                (number + 1) * pages <= range.start.page() || last < number * pages
            });
        }
    });
    let pages = |range: &IpaRange| range.end.page() - range.start.page();
    record(vttbr, || {
        // As the real twin does without FEAT_TLBIRANGE.
        if ranges.iter().map(pages).sum::<u64>() > SINGLE_PAGES {
            return trace::tlbi(Tlbi::Vmalls12e1is, 0);
        }
        for page in ranges.iter().flat_map(|range| range.start.page()..range.end.page()) {
            trace::tlbi(Tlbi::Ipas2e1is, page);
        }
        dsb_ish();
        trace::tlbi(Tlbi::Vmalle1is, 0);
    });
}

/// Removes every cached translation of the guest that `vttbr` names, on all CPUs.
pub fn invalidate_vmid(vttbr: u64) {
    with_tlb(|tlb| {
        tlb.log.push(Invalidation::Vmid { vttbr });
        if !BROKEN.get() {
            tlb.of.remove(&vmid(vttbr));
        }
    });
    record(vttbr, || trace::tlbi(Tlbi::Vmalls12e1is, 0));
}

/// Removes every cached translation of every guest, on all CPUs.
pub fn invalidate_all_guests() {
    with_tlb(|tlb| {
        tlb.log.push(Invalidation::AllGuests);
        if !BROKEN.get() {
            tlb.of.clear();
        }
    });
    record(0, || trace::tlbi(Tlbi::Alle1is, 0));
}

/// Translates `ipa` as the MMU of a CPU that runs the guest that `vttbr` names, from what is cached
/// as far as that goes, and caches all it meets. `None` is a fault.
pub fn access(vttbr: u64, ipa: Ipa) -> Option<Pa> {
    access_with(vttbr, ipa, |pa| pa)
}

/// Translates as [`access`] and runs `with`, which stands for the guest's load or store: an
/// invalidation completes only after it.
pub fn access_with<R>(vttbr: u64, ipa: Ipa, with: impl FnOnce(Pa) -> R) -> Option<R> {
    with_tlb(|tlb| {
        let entries = tlb.of.entry(vmid(vttbr)).or_default();
        let mut table = root(vttbr);
        for level in 1..=3 {
            let number = ipa.page() / pages_at(level);
            let bits = match entries.get(&(level, number)) {
                Some(&bits) => bits,
                None => descriptor(table, number),
            };
            let is_leaf = level == 3 || bits & 2 == 0;
            // What faults, by the access flag too, is not cached.
            if bits & 1 == 0 || is_leaf && bits & ACCESS_FLAG == 0 {
                return None;
            }
            entries.insert((level, number), bits);
            if is_leaf {
                let within = ipa.as_u64() & ((pages_at(level) << PAGE_SHIFT) - 1);
                return Some(with(Pa::new(address(bits).as_u64() | within)));
            }
            table = address(bits);
        }
        None
    })
}

/// Returns how many entries there are for the guest that `vttbr` names.
#[cfg(shuttle)]
pub fn cached(vttbr: u64) -> usize {
    with_tlb(|tlb| tlb.of.get(&vmid(vttbr)).map_or(0, HashMap::len))
}

/// Finds an entry for the guest that `vttbr` names that is not what a walk finds now. To be asked
/// while no edit is under way.
pub fn check(vttbr: u64) -> Result<(), Stale> {
    with_tlb(|tlb| {
        let Some(entries) = tlb.of.get(&vmid(vttbr)) else { return Ok(()) };
        for (&(level, number), &cached) in entries {
            let start = Ipa::from_page(number * pages_at(level));
            let now = walk(root(vttbr), level, start);
            if differs(now, cached) {
                let range = start..Ipa::from_page((number + 1) * pages_at(level));
                return Err(Stale { range, level, cached: address(cached), now });
            }
        }
        Ok(())
    })
}

/// Finds a place where the tables of the guest that `vttbr` names lead elsewhere than a TLB entry
/// does, both valid: break-before-make was not kept. May be asked at any time.
pub fn check_break_before_make(vttbr: u64, ipa: Ipa) -> Result<(), Stale> {
    with_tlb(|tlb| {
        let Some(entries) = tlb.of.get(&vmid(vttbr)) else { return Ok(()) };
        for level in 1..=3 {
            let number = ipa.page() / pages_at(level);
            let Some(&cached) = entries.get(&(level, number)) else { continue };
            let now = walk(root(vttbr), level, ipa);
            if now & 1 != 0 && differs(now, cached) {
                let range = ipa..ipa;
                return Err(Stale { range, level, cached: address(cached), now });
            }
        }
        Ok(())
    })
}

/// Returns the descriptor of `level` that a walk for `ipa` finds, or the one that ends it before.
fn walk(root: Pa, level: u8, ipa: Ipa) -> u64 {
    let mut table = root;
    for at in 1..=level {
        let bits = descriptor(table, ipa.page() / pages_at(at));
        if at == level || bits & 3 != 3 {
            return bits;
        }
        table = address(bits);
    }
    0
}

fn descriptor(table: Pa, number: u64) -> u64 {
    let words = memory::pointer(table).cast::<AtomicU64>();
    // SAFETY: the pointer is to a frame in the arena, which is never freed, and the index within
    // it; tables are accessed atomically.
    unsafe { words.add((number % 512) as usize).as_ref() }.load(Ordering::Acquire)
}

const fn root(vttbr: u64) -> Pa {
    address(vttbr)
}

const fn address(bits: u64) -> Pa {
    Pa::new(bits & 0x0000_ffff_ffff_f000)
}

const fn vmid(vttbr: u64) -> u16 {
    (vttbr >> 48) as u16
}

const fn pages_at(level: u8) -> u64 {
    1 << (9 * (3 - level))
}
