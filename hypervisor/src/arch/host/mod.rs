//! The host twin of the machine: an arena for physical memory, a thread for each CPU, a log of TLB
//! maintenance.

pub mod barrier;
pub mod cpu;
mod features;
pub mod memory;
pub mod tlb;
pub mod window;

pub use features::{Features, features};
