//! TLB maintenance for guests, each sequence whole (Arm ARM, section D8.17).
#![expect(unsafe_code, reason = "runs TLBI instructions and switches the VMID for them")]

use super::barrier::{dsb_ish, dsb_ishst, isb};
use crate::addr::{Ipa, IpaRange, PAGE_SIZE};
use crate::tally::{Event, count};
use crate::trace::{self, Register, Tlbi};
use aarch64_cpu::registers::{Readable, VTTBR_EL2, Writeable};
use core::arch::asm;

/// Runs `maintenance` under the VMID in `vttbr`, whichever guest this CPU was running, and waits until
/// it has completed on all CPUs.
fn under_vmid(vttbr: u64, maintenance: impl FnOnce()) {
    // The table writes must be seen by every walker before anything is invalidated.
    dsb_ishst();
    let before = VTTBR_EL2.get();
    if before != vttbr {
        VTTBR_EL2.set(vttbr);
        trace::sysreg_write(Register::Vttbr, vttbr);
        isb();
    }
    maintenance();
    dsb_ish();
    if before != vttbr {
        VTTBR_EL2.set(before);
        trace::sysreg_write(Register::Vttbr, before);
    }
    isb();
}

fn invalidate_page(page: Ipa) {
    let operand = page.page();
    count(Event::Tlbi, 1);
    // SAFETY: invalidating a TLB entry only costs a walk.
    unsafe { asm!("tlbi ipas2e1is, {}", in(reg) operand, options(nostack, preserves_flags)) };
    trace::tlbi(Tlbi::Ipas2e1is, operand);
}

/// Invalidates a run by one RIPAS2E1IS, whose operand holds BaseADDR\[36:0\], TTL, NUM\[43:39\],
/// SCALE\[45:44\] and TG\[47:46\]: (NUM + 1) * 2^(5 * SCALE + 1) pages (Arm ARM, C5.5).
/// Rounding the number of pages up invalidates more than was asked, which is harmless.
fn invalidate_run(start: Ipa, pages: u64) {
    let mut scale = 0;
    while scale < 3 && pages > 32 << (5 * scale + 1) {
        scale += 1;
    }
    let unit = 1u64 << (5 * scale + 1);
    let number = pages.div_ceil(unit).clamp(1, 32) - 1;
    let operand = (start.page() & 0x1f_ffff_ffff) | number << 39 | scale << 44 | 1 << 46;
    count(Event::Tlbi, 1);
    // SAFETY: invalidating TLB entries only costs walks; the caller knows that the CPU has FEAT_TLBIRANGE.
    unsafe {
        asm!(".arch_extension tlb-rmi", "tlbi ripas2e1is, {}", in(reg) operand, options(nostack, preserves_flags));
    }
    trace::tlbi(Tlbi::Ripas2e1is, operand);
}

/// The most pages that one range operation covers.
const RUN_PAGES: u64 = 32 << 16;

fn stage1_of_this_vmid() {
    dsb_ish();
    count(Event::Tlbi, 1);
    // SAFETY: as above. What stage 1 and stage 2 combined gave is cached under the VMID alone.
    unsafe { asm!("tlbi vmalle1is", options(nostack, preserves_flags)) };
    trace::tlbi(Tlbi::Vmalle1is, 0);
}

/// The most pages that are invalidated one by one where the CPU has no FEAT_TLBIRANGE.
const SINGLE_PAGES: u64 = 16;

/// Removes every cached translation of `ranges` of the guest that `vttbr` names, stage 2 and combined, on
/// all CPUs, whatever entries they were mapped by. Without FEAT_TLBIRANGE a long range costs the guest
/// all of its translations.
pub fn invalidate_stage2(vttbr: u64, ranges: &[IpaRange]) {
    let by_run = super::features().tlb_range;
    let pages = |range: &IpaRange| (range.end.as_u64() - range.start.as_u64()) / PAGE_SIZE;
    if !by_run && ranges.iter().map(pages).sum::<u64>() > SINGLE_PAGES {
        return invalidate_vmid(vttbr);
    }
    under_vmid(vttbr, || {
        for range in ranges {
            let mut start = range.start;
            while start < range.end {
                let left = (range.end.as_u64() - start.as_u64()) / PAGE_SIZE;
                let run = if by_run { left.min(RUN_PAGES) } else { 1 };
                if run == 1 {
                    invalidate_page(start);
                } else {
                    invalidate_run(start, run);
                }
                start = Ipa::from_page(start.page() + run);
            }
        }
        stage1_of_this_vmid();
    });
}

/// Removes every cached translation of the guest that `vttbr` names, on all CPUs.
pub fn invalidate_vmid(vttbr: u64) {
    under_vmid(vttbr, || {
        count(Event::Tlbi, 1);
        // SAFETY: invalidating TLB entries only costs walks.
        unsafe { asm!("tlbi vmalls12e1is", options(nostack, preserves_flags)) };
        trace::tlbi(Tlbi::Vmalls12e1is, 0);
    });
}

/// Removes every cached translation of every guest, on all CPUs.
pub fn invalidate_all_guests() {
    dsb_ishst();
    count(Event::Tlbi, 1);
    // SAFETY: invalidating TLB entries only costs walks.
    unsafe { asm!("tlbi alle1is", options(nostack, preserves_flags)) };
    trace::tlbi(Tlbi::Alle1is, 0);
    dsb_ish();
    isb();
}
