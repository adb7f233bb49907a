//! Tests of the GIC, on a machine that has CPU interfaces of its own.

mod backed;
mod lifecycle;
mod machine;
mod overflow;
mod power;
mod reference;
mod registers;
mod routing;
mod steps;
mod threads;
mod v2;
