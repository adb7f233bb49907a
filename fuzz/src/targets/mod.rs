//! The targets, one a file.

pub mod bundle;
pub mod calls;
pub mod device_tree;
pub mod gic;
pub mod manifest;
pub mod memory;
pub mod uart;
