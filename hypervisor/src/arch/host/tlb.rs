//! TLB maintenance, recorded.

use crate::addr::IpaRange;
use std::sync::Mutex;

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

static LOG: Mutex<Vec<Invalidation>> = Mutex::new(Vec::new());

fn record(invalidation: Invalidation) {
    LOG.lock().expect("recording does not panic").push(invalidation);
}

/// Takes what was recorded for the guest whose root table and VMID are `vttbr`.
pub fn take_log(vttbr: u64) -> Vec<Invalidation> {
    let mut log = LOG.lock().expect("recording does not panic");
    let mine = |one: &Invalidation| match one {
        Invalidation::Stage2 { vttbr: of, .. } | Invalidation::Vmid { vttbr: of } => *of == vttbr,
        Invalidation::AllGuests => false,
    };
    let taken = log.iter().filter(|one| mine(one)).cloned().collect();
    log.retain(|one| !mine(one));
    taken
}

/// Removes every cached translation of `ranges` of the guest that `vttbr` names, stage 2 and combined, on all CPUs.
pub fn invalidate_stage2(vttbr: u64, ranges: &[IpaRange]) {
    record(Invalidation::Stage2 { vttbr, ranges: ranges.to_vec() });
}

/// Removes every cached translation of the guest that `vttbr` names, on all CPUs.
pub fn invalidate_vmid(vttbr: u64) {
    record(Invalidation::Vmid { vttbr });
}

/// Removes every cached translation of every guest, on all CPUs.
pub fn invalidate_all_guests() {
    record(Invalidation::AllGuests);
}
