//! The real machine.

#[macro_use]
mod sysreg;
pub mod barrier;
pub mod boot;
pub mod context;
pub mod cpu;
pub mod entry;
mod features;
pub mod gic;
pub mod id;
pub mod memory;
pub mod stage1;
pub mod time;
pub mod tlb;
pub mod uart;
pub mod window;

pub use features::{Features, MissingFeature, detect_features, features};
