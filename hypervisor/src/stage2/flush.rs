//! What must leave the TLBs after an edit, in as few operations as the CPU allows.
//!
//! An edit collects what it removed in a [`FlushSet`], which has a fixed size: a few runs are
//! invalidated by address, anything more by VMID. One batch then costs at most
//! [`CAPACITY`] + 1 TLBIs, and two at most where it removed one block or one run. (Of runs beyond 8 GiB
//! each 8 GiB take one: that is as far as a range operation reaches.)

use crate::addr::IpaRange;
use crate::arch;
use crate::sync::{Edge, is_missing};

/// The number of runs that are worth invalidating one by one. VMALLE1IS has to follow in any case
/// and costs the guest most of what VMALLS12E1IS does.
pub const CAPACITY: usize = 4;

/// The addresses whose cached translations must go.
#[derive(Clone, Debug)]
pub struct FlushSet {
    runs: [IpaRange; CAPACITY],
    len: usize,
    everything: bool,
    by_range: bool,
}

impl FlushSet {
    /// Makes a set with nothing in it.
    pub fn new() -> Self {
        Self::for_cpu(arch::features().tlb_range)
    }

    fn for_cpu(by_range: bool) -> Self {
        Self { runs: [const { NOTHING }; CAPACITY], len: 0, everything: false, by_range }
    }

    /// Says whether there is nothing to invalidate.
    pub const fn is_empty(&self) -> bool {
        self.len == 0 && !self.everything
    }

    /// Adds what *one* descriptor mapped: a page, a block, or a table without a valid entry in it.
    pub fn add_entry(&mut self, range: IpaRange) {
        if self.everything || (self.by_range && self.widen(&range)) {
            return;
        }
        match self.runs.get_mut(self.len) {
            Some(run) => {
                *run = range;
                self.len += 1;
            }
            None => self.everything = true,
        }
    }

    /// Adds what a table mapped, by however many descriptors.
    pub fn add_table(&mut self, range: IpaRange) {
        if self.by_range {
            self.add_entry(range);
        } else {
            // Without FEAT_TLBIRANGE that would be one TLBI a page.
            self.everything = true;
        }
    }

    /// Joins `range` to a run that it touches.
    fn widen(&mut self, range: &IpaRange) -> bool {
        for run in self.runs.iter_mut().take(self.len) {
            if run.end == range.start {
                run.end = range.end;
                return true;
            }
            if run.start == range.end {
                run.start = range.start;
                return true;
            }
            if run.start <= range.start && range.end <= run.end {
                return true;
            }
        }
        false
    }

    /// Invalidates what is in the set for the guest that `vttbr` names, and returns when no CPU can
    /// use it any more.
    pub fn flush(self, vttbr: u64) {
        if cfg!(feature = "no-tlbi") || is_missing(Edge::Flush) {
            return;
        }
        if self.everything {
            arch::tlb::invalidate_vmid(vttbr);
        } else if let Some(runs) = self.runs.get(..self.len).filter(|runs| !runs.is_empty()) {
            arch::tlb::invalidate_stage2(vttbr, runs);
        }
    }
}

const NOTHING: IpaRange = crate::addr::Ipa::new(0)..crate::addr::Ipa::new(0);

impl Default for FlushSet {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Ipa;
    use crate::arch::tlb::{Invalidation, take_log};

    fn pages(first: u64, count: u64) -> IpaRange {
        Ipa::from_page(first)..Ipa::from_page(first + count)
    }

    fn flushed(set: FlushSet, vttbr: u64) -> Vec<Invalidation> {
        set.flush(vttbr);
        take_log(vttbr)
    }

    #[test]
    fn an_empty_set_costs_nothing() {
        let set = FlushSet::new();
        assert!(set.is_empty());
        assert_eq!(flushed(set, 0x101 << 48), []);
    }

    #[test]
    #[cfg_attr(feature = "no-tlbi", ignore = "the TLBI is left out")]
    fn one_block_is_invalidated_by_its_address() {
        let vttbr = 0x102 << 48;
        let mut set = FlushSet::for_cpu(false);
        set.add_entry(pages(512, 512));
        let expected = Invalidation::Stage2 { vttbr, ranges: vec![pages(512, 512)] };
        assert_eq!(flushed(set, vttbr), [expected]);
    }

    #[test]
    #[cfg_attr(feature = "no-tlbi", ignore = "the TLBI is left out")]
    fn neighbours_become_one_run_where_the_cpu_has_range_operations() {
        let vttbr = 0x103 << 48;
        let mut set = FlushSet::for_cpu(true);
        for page in [7, 6, 8, 5, 7] {
            set.add_entry(pages(page, 1));
        }
        let expected = Invalidation::Stage2 { vttbr, ranges: vec![pages(5, 4)] };
        assert_eq!(flushed(set, vttbr), [expected]);
    }

    #[test]
    #[cfg_attr(feature = "no-tlbi", ignore = "the TLBI is left out")]
    fn too_many_runs_become_the_whole_guest() {
        for by_range in [false, true] {
            let vttbr = 0x104 << 48;
            let mut set = FlushSet::for_cpu(by_range);
            for page in 0..=CAPACITY as u64 {
                set.add_entry(pages(page * 2, 1));
            }
            assert_eq!(flushed(set, vttbr), [Invalidation::Vmid { vttbr }]);
        }
    }

    #[test]
    #[cfg_attr(feature = "no-tlbi", ignore = "the TLBI is left out")]
    fn a_table_of_pages_is_never_invalidated_page_by_page() {
        let vttbr = 0x105 << 48;
        let mut set = FlushSet::for_cpu(false);
        set.add_table(pages(0, 512));
        assert_eq!(flushed(set, vttbr), [Invalidation::Vmid { vttbr }]);
    }
}
