//! The registers that compiled code here never touches: FP and SIMD.
#![expect(unsafe_code, reason = "names registers")]

use core::arch::global_asm;

global_asm!(include_str!("float.S"));

/// FPCR bits that every CPU has and that change nothing of what is loaded and stored: rounding mode, FZ, DN.
const CONTROL: u64 = 0x3c0_0000;
/// FPSR bits that every CPU has: QC and the cumulative flags.
const STATUS: u64 = 0x0800_009f;

/// v0 to v31, FPCR, FPSR.
#[repr(C, align(16))]
#[derive(Clone, PartialEq, Eq)]
pub struct State {
    vectors: [[u64; 2]; 32],
    control: u64,
    status: u64,
}

unsafe extern "C" {
    fn float_load(state: *const State);
    fn float_store(state: *mut State);
}

impl State {
    /// Makes a state that differs from that of every other `seed` in every register.
    pub fn pattern(seed: u64) -> Self {
        let word = |index: u64| (seed << 8 | index).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self {
            vectors: core::array::from_fn(|index| {
                [word(index as u64 * 2), word(index as u64 * 2 + 1)]
            }),
            control: word(64) & CONTROL,
            status: word(65) & STATUS,
        }
    }

    /// Loads the registers.
    pub fn load(&self) {
        // SAFETY: the routine reads the state; compiled code here has no use for the registers.
        unsafe { float_load(self) }
    }

    /// Returns the registers as they are.
    pub fn current() -> Self {
        let mut state = Self { vectors: [[0; 2]; 32], control: 0, status: 0 };
        // SAFETY: the routine writes the state.
        unsafe { float_store(&raw mut state) }
        state
    }

    /// Names the first register that differs.
    pub fn difference(&self, other: &Self) -> Option<(&'static str, usize)> {
        let vector = self.vectors.iter().zip(&other.vectors).position(|(a, b)| a != b);
        match vector {
            Some(index) => Some(("v", index)),
            None if self.control != other.control => Some(("FPCR", 0)),
            None if self.status != other.status => Some(("FPSR", 0)),
            None => None,
        }
    }
}
