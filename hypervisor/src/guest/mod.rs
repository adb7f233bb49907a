//! Guests: what the bundle says of them, and their machines.

pub mod balloon;
pub mod bundle;
pub mod commitment;
#[cfg(target_os = "none")]
mod device;
mod fdt;
pub mod holder;
pub mod image;
pub mod layout;
#[cfg(target_os = "none")]
mod life;
pub mod loader;
#[cfg(target_os = "none")]
mod machine;
pub mod machine_tree;
pub mod manifest;
pub mod plug;
pub mod seed;
pub mod service;

#[cfg(target_os = "none")]
pub use life::{StartError, State, Stop};
#[cfg(target_os = "none")]
pub use machine::{BalloonSlot, Guest, Interrupts, MakeError, MemorySlot};
