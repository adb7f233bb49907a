//! Sluice: a type-1 hypervisor for AArch64 whose trade is memory.
#![cfg_attr(target_os = "none", no_std)]

extern crate alloc;

pub mod addr;
pub mod arch;
pub mod audit;
#[cfg(target_os = "none")]
pub mod boot;
pub mod device;
pub mod epoch;
pub mod exit;
pub mod guest;
#[cfg(target_os = "none")]
pub mod heap;
pub mod mem;
#[cfg(target_os = "none")]
pub mod panic;
pub mod psci;
pub mod stage2;
pub mod sync;
