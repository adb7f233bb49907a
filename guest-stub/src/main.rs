//! A small EL1 guest for what Linux cannot show quickly and exactly: patterns, faults, hypercalls, SMP hammering, hostile
//! input, micro-benchmarks. It finds its machine in the device tree, takes its orders from `/chosen/bootargs` (see
//! [`orders`]), prints one line an answer and powers the machine off:
//!
//! ```text
//! stub: ready ...            the machine as it was found
//! pass <name>                fail <name>: <why>            skip <name>: <why>
//! note <name>: <what>        what a test saw that is worth telling and is no failure
//! bench <name> <iterations> <ticks of CNTVCT_EL0>
//! stub: done <passed> <failed>
//! ```
#![no_std]
#![no_main]
#![allow(
    clippy::result_large_err,
    reason = "an outcome carries its reason, for there is no heap; there are few"
)]

#[macro_use]
mod console;
#[macro_use]
mod outcome;
#[macro_use]
mod arch;
mod benches;
mod firmware;
mod gic;
mod hostile;
mod machine;
mod memory;
mod orders;
mod registry;
mod run;
mod service;
mod smp;
mod tests;
mod virtio;
