//! Sluice: a type-1 hypervisor for AArch64 whose trade is memory.
//!
//! What it is about is in [`mem`] (who owns which frame), [`epoch`] (when nobody can still hold what was taken away) and
//! `stage2` (a guest's tables, edited while they are walked); each tells its protocol before its code. `exit` is where
//! guests come in, `boot` where it all begins, and `arch` the only place with registers and assembly. `docs/design.md`
//! has the whole.
#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(loom, allow(dead_code, reason = "a model has a part of the crate"))]

extern crate alloc;

// A model (`--cfg loom`) has the memory core and the virtqueues only: what else is built on them
// makes atomics in constants, which loom's cannot be.

pub mod addr;
pub mod arch;
#[cfg(not(loom))]
pub mod audit;
#[cfg(target_os = "none")]
pub mod boot;
#[cfg(target_os = "none")]
pub mod console;
#[cfg(target_os = "none")]
pub mod control;
pub mod device;
pub mod epoch;
#[cfg(not(loom))]
pub mod evacuation;
#[cfg(not(loom))]
pub mod exit;
#[cfg(not(loom))]
pub mod govern;
#[cfg(not(loom))]
pub mod guest;
#[cfg(target_os = "none")]
pub mod heap;
#[cfg(target_os = "none")]
pub mod logger;
pub mod mem;
#[cfg(not(loom))]
pub mod monitor;
#[cfg(target_os = "none")]
pub mod panic;
#[cfg(not(loom))]
pub mod psci;
#[cfg(not(loom))]
pub mod sched;
#[cfg(not(loom))]
pub mod service;
#[cfg(not(loom))]
pub mod spec;
#[cfg(not(loom))]
pub mod stage2;
pub mod sync;
#[cfg(target_os = "none")]
pub mod system;
pub mod tally;
pub mod trace;
#[cfg(target_os = "none")]
pub mod vcpu;
