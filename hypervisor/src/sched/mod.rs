//! Which vCPU a CPU runs: each in turn for a slice of time, those in WFI not at all; and what a CPU does when
//! there is none: background work in bounded steps, then WFI.
//!
//! The context of the vCPU that ran last stays loaded until another one is to run, so a CPU that goes idle
//! and comes back to the same vCPU moves nothing.
//!
//! A vCPU belongs to one CPU, its home, for as long as its guest lives ([`choice::homes`]).

pub mod choice;
#[cfg(target_os = "none")]
mod run;

#[cfg(target_os = "none")]
pub use run::{Loaded, run};
