//! What the scheduler decides, as plain functions: which CPUs a guest's vCPUs belong to, and whose turn it is.

use crate::arch::cpu::{CpuId, MAX_CPUS};

/// Returns a home for each of `vcpus` vCPUs among the CPUs that `allowed` names: each time the CPU that has the fewest,
/// by `loads`, which counts what each CPU has, and is brought up to date. Nobody gets a home where `allowed` names no
/// CPU.
pub fn homes(
    loads: &mut [usize; MAX_CPUS],
    allowed: impl Fn(CpuId) -> bool,
    vcpus: usize,
) -> impl Iterator<Item = CpuId> {
    (0..vcpus).map_while(move |_| {
        let cpus = (0..MAX_CPUS).filter_map(CpuId::new).filter(|&cpu| allowed(cpu));
        let home = cpus.min_by_key(|cpu| loads[cpu.index()])?;
        loads[home.index()] += 1;
        Some(home)
    })
}

/// Whose turn it is on a CPU, and until when.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The place of the one whose turn it is in the list of those that belong to the CPU.
    place: usize,
    /// When its turn ends, in ticks.
    until: u64,
}

impl Turn {
    /// Before the first turn.
    pub const NOBODY: Self = Self { place: usize::MAX, until: 0 };

    /// Says whose turn it is `now` among `count`, of which `runs` says who has something to do; and how many those are.
    /// `slice` is how long a turn is.
    ///
    /// Round robin: each has its turn for a slice, or until it has nothing to do. Who is interrupted goes on, for what
    /// is left of its slice: else a guest whose vCPUs interrupt one another all the time would take everybody's.
    pub fn next(
        &mut self,
        count: usize,
        mut runs: impl FnMut(usize) -> bool,
        now: u64,
        slice: u64,
    ) -> (Option<usize>, usize) {
        let mut runnable = 0;
        let mut next = None;
        let mut goes_on = false;
        let first = if self.place < count { self.place + 1 } else { 0 };
        for place in (first..count).chain(0..first.min(count)) {
            if !runs(place) {
                continue;
            }
            runnable += 1;
            goes_on |= place == self.place && now < self.until;
            next = next.or(Some(place));
        }
        if !goes_on {
            let Some(place) = next else { return (None, 0) };
            *self = Self { place, until: now.saturating_add(slice) };
        }
        (Some(self.place), runnable)
    }

    /// Returns when the turn ends, in ticks.
    pub const fn until(&self) -> u64 {
        self.until
    }

    /// Ends the turn early: of one that gives it up.
    pub const fn end(&mut self) {
        self.until = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn numbers(homes: impl Iterator<Item = CpuId>) -> Vec<usize> {
        homes.map(CpuId::index).collect()
    }

    #[test]
    fn vcpus_are_spread_evenly_over_cpus() {
        let mut loads = [0; MAX_CPUS];
        let two = |cpu: CpuId| cpu.index() < 2;
        assert_eq!(numbers(homes(&mut loads, two, 1)), [0]);
        assert_eq!(numbers(homes(&mut loads, two, 1)), [1]);
        assert_eq!(numbers(homes(&mut loads, two, 3)), [0, 1, 0]);
        assert_eq!(numbers(homes(&mut loads, two, 2)), [1, 0]);
        assert_eq!(loads[..3], [4, 3, 0]);
    }

    #[test]
    fn pinned_vcpus_stay_where_they_may() {
        let mut loads = [0; MAX_CPUS];
        loads[3] = 5;
        assert_eq!(numbers(homes(&mut loads, |cpu| cpu.index() == 3, 2)), [3, 3]);
        assert_eq!(numbers(homes(&mut loads, |_| false, 2)), []);
    }

    #[test]
    fn each_has_its_slice_in_turn() {
        let mut turn = Turn::NOBODY;
        let order: Vec<_> = (0..6).map(|slice| turn.next(3, |_| true, slice * 10, 10).0).collect();
        assert_eq!(order, [0, 1, 2, 0, 1, 2].map(Some));
    }

    #[test]
    fn who_is_interrupted_goes_on() {
        let mut turn = Turn::NOBODY;
        assert_eq!(turn.next(2, |_| true, 0, 10), (Some(0), 2));
        for now in 1..10 {
            assert_eq!(turn.next(2, |_| true, now, 10), (Some(0), 2));
        }
        assert_eq!(turn.next(2, |_| true, 10, 10), (Some(1), 2));
        turn.end();
        assert_eq!(turn.next(2, |_| true, 11, 10), (Some(0), 2));
    }

    #[test]
    fn who_waits_has_no_turn() {
        let mut turn = Turn::NOBODY;
        assert_eq!(turn.next(3, |place| place == 2, 0, 10), (Some(2), 1));
        assert_eq!(turn.next(3, |place| place != 2, 1, 10), (Some(0), 2));
        assert_eq!(turn.next(3, |_| false, 2, 10), (None, 0));
        assert_eq!(turn.next(0, |_| true, 2, 10), (None, 0));
    }

    proptest! {
        /// However often a CPU has to look, and whoever waits meanwhile: over time those that always have something to
        /// do run for equally long.
        #[test]
        fn nobody_starves(
            count in 1usize..6,
            looks in proptest::collection::vec((1u64..15, any::<u8>()), 200..400),
        ) {
            let mut turn = Turn::NOBODY;
            let (mut now, mut ran) = (0, [0u64; 6]);
            for (time, others) in looks {
                // The first two always run; the others as it happens.
                let runs = |place: usize| place < 2 || others >> place & 1 == 1;
                let (chosen, _) = turn.next(count, runs, now, 10);
                let chosen = chosen.expect("somebody can always run");
                prop_assert!(runs(chosen));
                // EL2's timer ends the slice.
                let time = time.min(turn.until() - now).max(1);
                ran[chosen] += time;
                now += time;
            }
            if count >= 2 {
                prop_assert!(ran[0].abs_diff(ran[1]) <= 10, "{ran:?}");
            }
        }
    }
}
