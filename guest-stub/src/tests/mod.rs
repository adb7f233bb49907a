//! What a machine has to do, each a test of its own.

pub mod balloon;
pub mod beats;
pub mod churn;
pub mod cpu_features;
pub mod driven;
pub mod float;
pub mod gic;
pub mod hammer;
pub mod id_registers;
pub mod memory;
pub mod plug;
pub mod psci;
pub mod service;
pub mod smccc;
pub mod timer;
pub mod uart;
