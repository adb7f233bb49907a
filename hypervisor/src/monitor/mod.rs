//! The monitor: commands for people and for programs. [`parse`] reads them, [`report`] renders what they answer,
//! [`mod@line`] is what is being typed.

#[cfg(target_os = "none")]
mod audit;
#[cfg(target_os = "none")]
mod balance;
#[cfg(target_os = "none")]
mod bench;
#[cfg(target_os = "none")]
mod commands;
#[cfg(all(target_os = "none", feature = "fault-injection"))]
mod faults;
#[cfg(target_os = "none")]
pub mod job;
#[cfg(target_os = "none")]
mod lifecycle;
pub mod line;
#[cfg(target_os = "none")]
mod offline;
pub mod parse;
#[cfg(target_os = "none")]
mod plug;
#[cfg(target_os = "none")]
mod quiesce;
#[cfg(target_os = "none")]
mod range;
pub mod report;
#[cfg(target_os = "none")]
mod top;
#[cfg(target_os = "none")]
mod transfer;

#[cfg(all(target_os = "none", feature = "scheme"))]
pub use bench::crowd;
#[cfg(target_os = "none")]
pub use commands::execute;
