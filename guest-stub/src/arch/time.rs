//! The generic timer (Arm ARM, chapter D12): the counters, the two timers of EL1.
#![expect(unsafe_code, reason = "names system registers")]

use super::barrier::isb;

/// The two timers that EL1 has.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Timer {
    /// CNTP, against CNTPCT_EL0.
    Physical,
    /// CNTV, against CNTVCT_EL0.
    Virtual,
}

/// CNTx_CTL_EL0.ENABLE.
pub const ENABLE: u64 = 1;
/// CNTx_CTL_EL0.IMASK.
pub const MASKED: u64 = 2;
/// CNTx_CTL_EL0.ISTATUS: the condition is met.
pub const MET: u64 = 4;

/// Returns the virtual counter, not read early.
#[inline(always)]
pub fn now() -> u64 {
    isb();
    mrs!("CNTVCT_EL0")
}

/// Returns the ticks of a second.
pub fn frequency() -> u64 {
    mrs!("CNTFRQ_EL0")
}

/// Returns the ticks of `microseconds`, at least one.
pub fn ticks(microseconds: u64) -> u64 {
    (frequency() / 1000 * microseconds / 1000).max(1)
}

/// Waits actively until `done` or until `microseconds` have passed; returns whether it was `done`.
pub fn poll(microseconds: u64, mut done: impl FnMut() -> bool) -> bool {
    let end = now() + ticks(microseconds);
    loop {
        if done() {
            return true;
        }
        if now() > end {
            return done();
        }
        super::cpu::relax();
    }
}

impl Timer {
    /// Returns the counter that this timer compares with.
    #[inline(always)]
    pub fn counter(self) -> u64 {
        isb();
        match self {
            Self::Physical => mrs!("CNTPCT_EL0"),
            Self::Virtual => mrs!("CNTVCT_EL0"),
        }
    }

    /// Lets the timer fire when its counter reaches `deadline`.
    #[inline(always)]
    pub fn fire_at(self, deadline: u64) {
        match self {
            Self::Physical => msr!("CNTP_CVAL_EL0", deadline),
            Self::Virtual => msr!("CNTV_CVAL_EL0", deadline),
        }
        self.control(ENABLE);
    }

    /// Writes the control register.
    #[inline(always)]
    pub fn control(self, value: u64) {
        match self {
            Self::Physical => msr!("CNTP_CTL_EL0", value),
            Self::Virtual => msr!("CNTV_CTL_EL0", value),
        }
    }

    /// Reads the control register.
    pub fn status(self) -> u64 {
        match self {
            Self::Physical => mrs!("CNTP_CTL_EL0"),
            Self::Virtual => mrs!("CNTV_CTL_EL0"),
        }
    }

    /// Sets the deadline `ticks` from now by the 32-bit, signed TVAL register.
    pub fn fire_in(self, ticks: i32) {
        let value = u64::from(ticks.cast_unsigned());
        match self {
            Self::Physical => msr!("CNTP_TVAL_EL0", value),
            Self::Virtual => msr!("CNTV_TVAL_EL0", value),
        }
        self.control(ENABLE);
    }

    /// Reads back what is left of the time set by [`Self::fire_in`].
    pub fn left(self) -> i32 {
        let value = match self {
            Self::Physical => mrs!("CNTP_TVAL_EL0"),
            Self::Virtual => mrs!("CNTV_TVAL_EL0"),
        };
        (value as u32).cast_signed()
    }
}
