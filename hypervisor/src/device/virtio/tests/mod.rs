//! Transport and queues under a driver that does what Linux does, and under those that do not.

mod broken_queues;
mod queues;
mod random;
mod registers;
