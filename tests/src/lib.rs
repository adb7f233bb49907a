//! The host side of Sluice: packs guests, runs QEMU, and drives what runs in it.
//!
//! Nothing here links the hypervisor; it is used as its users have it, as an image.

pub mod accelerator;
pub mod artefacts;
pub mod bundle;
pub mod console;
pub mod control;
pub mod cpio;
pub mod curve;
pub mod driven;
pub mod failure;
pub mod flat_image;
pub mod initramfs;
pub mod instructions;
pub mod kernel;
pub mod machine;
pub mod matrix;
pub mod monitor;
pub mod operations;
pub mod shell;
pub mod timeline;
pub mod trace;
