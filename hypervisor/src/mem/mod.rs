//! Frames: who owns each, which are free, and how one that left a table becomes free again.

mod order;

pub use order::Order;
