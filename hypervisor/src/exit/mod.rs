//! What a guest came out for, and what is done about it.

pub mod id_registers;
pub mod syndrome;
