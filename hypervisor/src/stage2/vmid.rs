//! Which VMID a guest's translations are tagged with.
//!
//! A VMID is handed out again only in a later *generation*, and a generation begins with the
//! invalidation of every guest's TLB entries on all CPUs, so that nothing a dead guest left behind
//! is taken for a living one's. Guests keep their VMID for life: there are far fewer of them
//! (`MAX_GUESTS`) than the 255 VMIDs of the smallest CPU, so a new generation never has to take one
//! away from a guest that is running, and the guest entry compares nothing. (Linux, with more
//! address spaces than ASIDs, pays a compare at each switch and tracks what each CPU has loaded.)

use crate::arch;
use crate::mem::MAX_GUESTS;
use crate::sync::{Edge, Lock, is_missing};

/// A guest's tag in the TLBs; 0 is the hypervisor's and never a guest's.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Vmid {
    number: u16,
    generation: u32,
}

impl Vmid {
    /// Returns the number, 1 to 255 or 65535.
    pub const fn number(self) -> u16 {
        self.number
    }

    /// Returns how many times the numbers had been used up when this one was handed out.
    pub const fn generation(self) -> u32 {
        self.generation
    }

    /// Returns the number where VTTBR_EL2 has it (Arm ARM, D23.2.210).
    pub const fn in_vttbr(self) -> u64 {
        (self.number as u64) << 48
    }
}

struct State {
    /// The VMIDs of living guests; 0 is no guest.
    living: [u16; MAX_GUESTS],
    next: u16,
    generation: u32,
}

/// Hands out VMIDs.
pub struct VmidPool {
    state: Lock<State>,
    last: u16,
}

impl VmidPool {
    /// Makes a pool of VMIDs of `bits` bits: 8, or 16 where the CPU has FEAT_VMID16.
    pub const fn new(bits: u8) -> Self {
        Self::with_last(if bits >= 16 { u16::MAX } else { u8::MAX as u16 })
    }

    const fn with_last(last: u16) -> Self {
        Self {
            state: Lock::new(
                Edge::VmidLock,
                State { living: [0; MAX_GUESTS], next: 1, generation: 0 },
            ),
            last,
        }
    }

    /// Hands out a VMID that no TLB holds anything of; `None` where `MAX_GUESTS` guests live.
    pub fn allocate(&self) -> Option<Vmid> {
        let mut state = self.state.lock();
        let place = state.living.iter().position(|&vmid| vmid == 0)?;
        // One more candidate than there are living guests: one of them is free.
        for _ in 0..=MAX_GUESTS {
            if state.next > self.last || state.next == 0 {
                state.next = 1;
                state.generation = state.generation.wrapping_add(1);
                if !is_missing(Edge::Generation) {
                    arch::tlb::invalidate_all_guests();
                }
            }
            let number = state.next;
            state.next = state.next.wrapping_add(1);
            if !state.living.contains(&number) {
                if let Some(place) = state.living.get_mut(place) {
                    *place = number;
                }
                return Some(Vmid { number, generation: state.generation });
            }
        }
        None
    }

    /// Takes back the VMID of a guest that no CPU will enter again.
    pub fn release(&self, vmid: Vmid) {
        for place in &mut self.state.lock().living {
            if *place == vmid.number {
                *place = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_comes_back_before_the_next_generation() {
        let pool = VmidPool::new(8);
        let mut seen = std::collections::HashSet::new();
        for _ in 0..1000 {
            let vmid = pool.allocate().unwrap();
            assert!((1..=255).contains(&vmid.number()));
            assert!(seen.insert((vmid.generation(), vmid.number())), "{vmid:?} handed out twice");
            pool.release(vmid);
        }
        assert_eq!(seen.iter().map(|&(generation, _)| generation).max(), Some(3));
    }

    #[test]
    fn living_guests_keep_theirs_over_a_new_generation() {
        let pool = VmidPool::with_last(MAX_GUESTS as u16);
        let kept: Vec<_> = (0..MAX_GUESTS - 1).map(|_| pool.allocate().unwrap()).collect();
        for _ in 0..100 {
            let vmid = pool.allocate().unwrap();
            assert!(kept.iter().all(|kept| kept.number() != vmid.number()));
            pool.release(vmid);
        }
    }

    #[test]
    fn there_is_none_past_the_largest_number_of_guests() {
        let pool = VmidPool::new(16);
        let all: Vec<_> = (0..MAX_GUESTS).map(|_| pool.allocate().unwrap()).collect();
        assert_eq!(pool.allocate(), None);
        pool.release(all[5]);
        assert!(pool.allocate().is_some());
    }
}
