//! Which vCPUs must notice that something changed.

/// A set of vCPUs whose list registers no longer show what the model holds.
///
/// Each vCPU of the set is [dirty](super::Gic::is_dirty). One that is in its guest has to be taken
/// out of it (by a physical SGI to the CPU that it is loaded on, which is also what ends the race
/// with a guest entry that is under way), and one that waits for interrupts has to be woken; both
/// then call [`sync`](super::Gic::sync) before they enter the guest. For a vCPU that is powered
/// off there is nothing to do.
#[must_use = "vCPUs that are not kicked miss their interrupts"]
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Kick(u32);

impl Kick {
    /// Nobody.
    pub const NONE: Self = Self(0);

    /// Returns the set of `vcpu` alone; [`Kick::NONE`] for a number that no vCPU has.
    pub const fn one(vcpu: usize) -> Self {
        if vcpu < super::MAX_VCPUS { Self(1 << vcpu) } else { Self::NONE }
    }

    /// Says whether nobody need be told.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Says whether `vcpu` is in the set.
    pub const fn contains(self, vcpu: usize) -> bool {
        self.0 & Self::one(vcpu).0 != 0
    }

    /// Leaves `vcpu` out: the one that made the change finds it at its next guest entry.
    pub const fn without(self, vcpu: usize) -> Self {
        Self(self.0 & !Self::one(vcpu).0)
    }

    /// Returns the set as bits, bit n for vCPU n.
    pub const fn bits(self) -> u32 {
        self.0
    }

    pub(super) const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

impl core::ops::BitOr for Kick {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl core::ops::BitOrAssign for Kick {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl Iterator for Kick {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let vcpu = self.0.trailing_zeros();
        self.0 &= self.0.wrapping_sub(1);
        (vcpu < u32::BITS).then_some(vcpu as usize)
    }
}
