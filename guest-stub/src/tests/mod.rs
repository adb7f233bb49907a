//! What a machine has to do, each a test of its own.

pub mod smccc;
