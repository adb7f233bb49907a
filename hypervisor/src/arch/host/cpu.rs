//! Which CPU a thread pretends to be.

use core::cell::Cell;

/// The largest number of CPUs.
pub const MAX_CPUS: usize = 16;

/// A physical CPU's number, 0 to [`MAX_CPUS`] - 1, in the order in which they are listed in the device tree.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuId(u8);

impl CpuId {
    /// The CPU that boots.
    pub const FIRST: Self = Self(0);

    /// Makes a CPU number; `None` where there cannot be such a CPU.
    pub const fn new(index: usize) -> Option<Self> {
        if index < MAX_CPUS { Some(Self(index as u8)) } else { None }
    }

    /// Returns the number as an index into an array of [`MAX_CPUS`].
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

#[cfg(not(shuttle))]
thread_local! {
    static CURRENT: Cell<CpuId> = const { Cell::new(CpuId(0)) };
}

#[cfg(shuttle)]
shuttle::thread_local! {
    static CURRENT: Cell<CpuId> = Cell::new(CpuId(0));
}

/// Returns the CPU that this code runs on.
pub fn current() -> CpuId {
    CURRENT.with(Cell::get)
}

/// Makes the calling thread pretend to be `cpu`.
pub fn set_current(cpu: CpuId) {
    CURRENT.with(|current| current.set(cpu));
}

/// Tells the CPU that this is a spin loop.
pub fn relax() {
    #[cfg(not(shuttle))]
    std::thread::yield_now();
    #[cfg(shuttle)]
    shuttle::thread::yield_now();
}
