//! CPUs that wait for an interrupt with nothing to do, of which whoever retires something rouses one: it ends the grace
//! period and recycles, where all the others may be in guests and never come to it.
//!
//! A CPU announces that it goes to sleep, and then looks whether something is retired; a remover retires something, and
//! then looks for a sleeper. Both look under the lock of what is retired, or after it: so one of them sees the other.

use super::Memory;
use crate::arch::cpu::{CpuId, MAX_CPUS};
use crate::sync::{AtomicU32, Edge, Ordering, is_missing};

const _: () = assert!(MAX_CPUS <= u32::BITS as usize);

/// The CPUs that sleep, and how one is roused.
pub(super) struct Sleepers {
    /// A bit each.
    asleep: AtomicU32,
    rouse: fn(CpuId),
}

impl Sleepers {
    pub(super) fn new() -> Self {
        Self { asleep: AtomicU32::new(0), rouse: |_| {} }
    }

    /// Adds `cpu`, and says what `is_any_retired` says, which looks under the lock.
    pub(super) fn falls_asleep(&self, cpu: CpuId, is_any_retired: impl Fn() -> bool) -> bool {
        let early = is_missing(Edge::SleepFirst) && is_any_retired();
        self.asleep.fetch_or(1 << cpu.index(), Ordering::Relaxed);
        if is_missing(Edge::SleepFirst) { early } else { is_any_retired() }
    }

    fn remove(&self, cpu: CpuId) -> bool {
        let bit = 1 << cpu.index();
        self.asleep.fetch_and(!bit, Ordering::Relaxed) & bit != 0
    }

    /// Takes one of them: it is about to be roused.
    pub(super) fn take(&self) -> Option<CpuId> {
        // The last of them: the first CPU has the machine's other work to do.
        let last = self.asleep.load(Ordering::Relaxed).checked_ilog2()?;
        CpuId::new(last as usize).filter(|&cpu| self.remove(cpu))
    }
}

impl Memory {
    /// Sets what rouses a CPU from waiting for an interrupt. (At first nothing does.) It is called by whoever has
    /// retired something, on any CPU, with no lock held, perhaps pinned.
    pub fn set_rouse(&mut self, rouse: fn(CpuId)) {
        self.sleepers.rouse = rouse;
    }

    /// Notes that `cpu`, which this runs on and which has found nothing to do, is about to wait for an interrupt. From
    /// here on one may come because something was retired. Says whether something already is, that no grace period
    /// could be ended for yet: it must look again soon.
    pub fn falls_asleep(&self, cpu: CpuId) -> bool {
        self.sleepers.falls_asleep(cpu, || self.garbage.lock().frames() > 0)
    }

    /// Notes that `cpu`, which this runs on, waits no longer.
    pub fn is_awake(&self, cpu: CpuId) {
        self.sleepers.remove(cpu);
    }

    /// Rouses a CPU that has nothing to do, if there is one. What it is to find is retired.
    #[inline]
    pub(super) fn rouse_sleeper(&self) {
        if let Some(cpu) = self.sleepers.take() {
            (self.sleepers.rouse)(cpu);
        }
    }
}
