//! Guests: what the bundle says of them, and their machines.

pub mod bundle;
pub mod image;
pub mod layout;
pub mod loader;
pub mod machine_tree;
pub mod manifest;
