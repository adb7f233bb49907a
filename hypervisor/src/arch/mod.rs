//! The machine below: the only folder that names system registers or assembly.
//!
//! `aarch64` is the real one. `host` is its twin for tests: the same names, recording what was
//! asked of it.

#[cfg(target_os = "none")]
mod aarch64;
#[cfg(not(target_os = "none"))]
mod host;

#[cfg(target_os = "none")]
pub use aarch64::*;
#[cfg(not(target_os = "none"))]
pub use host::*;
