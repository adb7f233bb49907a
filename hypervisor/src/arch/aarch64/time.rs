//! The generic timer (Arm ARM, chapter D12).

use aarch64_cpu::registers::{
    CNTFRQ_EL0, CNTHP_CTL_EL2, CNTP_CTL_EL0, CNTP_CVAL_EL0, CNTPCT_EL0, CNTV_CTL_EL0,
    CNTV_CVAL_EL0, Readable, Writeable,
};

/// The PPI of EL2's physical timer.
pub const HYPERVISOR_TIMER: u32 = 26;

/// The physical count in ticks.
#[inline(always)]
pub fn now() -> u64 {
    CNTPCT_EL0.get()
}

/// Ticks in a second.
pub fn frequency() -> u64 {
    CNTFRQ_EL0.get().max(1)
}

/// Has EL2's timer fire at `deadline`, in ticks of [`now`].
pub fn arm(deadline: u64) {
    set_compare(deadline);
    CNTHP_CTL_EL2.set(1);
}

/// Stops EL2's timer.
pub fn disarm() {
    CNTHP_CTL_EL2.set(0);
}

#[expect(unsafe_code, reason = "writes EL2's own timer")]
fn set_compare(deadline: u64) {
    // SAFETY: nothing but EL2's timer interrupt follows from it.
    unsafe { msr!("CNTHP_CVAL_EL2", deadline) };
}

/// The timers of a vCPU.
#[derive(Copy, Clone, Debug, Default)]
pub struct GuestTimers {
    /// CNTV_CTL_EL0.
    pub virtual_control: u64,
    /// CNTV_CVAL_EL0.
    pub virtual_compare: u64,
    /// CNTP_CTL_EL0.
    pub physical_control: u64,
    /// CNTP_CVAL_EL0.
    pub physical_compare: u64,
}

impl GuestTimers {
    /// Takes the timers of the vCPU that leaves, and stops them.
    pub fn save() -> Self {
        let timers = Self {
            virtual_control: CNTV_CTL_EL0.get() & 3,
            virtual_compare: CNTV_CVAL_EL0.get(),
            physical_control: CNTP_CTL_EL0.get() & 3,
            physical_compare: CNTP_CVAL_EL0.get(),
        };
        CNTV_CTL_EL0.set(0);
        CNTP_CTL_EL0.set(0);
        timers
    }

    /// Gives the timers to the vCPU that comes.
    pub fn load(&self) {
        CNTV_CVAL_EL0.set(self.virtual_compare);
        CNTV_CTL_EL0.set(self.virtual_control);
        CNTP_CVAL_EL0.set(self.physical_compare);
        CNTP_CTL_EL0.set(self.physical_control);
    }

    /// Returns when the next of them fires, in ticks of [`now`]: both counters are the same, CNTVOFF_EL2 being 0.
    pub fn deadline(&self) -> Option<u64> {
        let armed = |control: u64, compare: u64| (control & 3 == 1).then_some(compare);
        let virtual_one = armed(self.virtual_control, self.virtual_compare);
        let physical_one = armed(self.physical_control, self.physical_compare);
        match (virtual_one, physical_one) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }
}
