//! Moving memory between guests: on an operator's word, and by a governor's own judgement.
//!
//! [`policy`] judges, from [`mod@sample`]s of how guests are, and gives its [`reason`]; [`transfer`] asks guests' drivers
//! and watches what they do; [`mod@journal`] keeps what was decided and how it came out. None of these knows the machine,
//! and all are tested on the host, with guests that are made up. `hands` ties them to real guests, and `governor` runs
//! them on the first CPU, in bounded steps, while `balance` is on.

#[cfg(target_os = "none")]
mod governor;
#[cfg(target_os = "none")]
mod hands;
pub mod journal;
pub mod policy;
pub mod reason;
pub mod sample;
#[cfg(test)]
mod tests;
pub mod transfer;
#[cfg(target_os = "none")]
mod wishes;

#[cfg(target_os = "none")]
pub use governor::{due, is_on, journal, reclaim_now, set_on, snapshot, step};
#[cfg(target_os = "none")]
pub use hands::{Claim, Hands, free_bytes, sample};
