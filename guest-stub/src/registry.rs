//! All that the stub can do, one line each.

use crate::benches::{Measurement, balloon, faults, traps, wakeups};
use crate::outcome::{Outcome, Verdict};
use crate::run::Stub;
use crate::tests::smccc;

/// A test: its name, whether `all` and its group's name include it, and how it is run.
pub struct Test {
    pub name: &'static str,
    pub open: bool,
    pub run: fn(&Stub) -> Outcome,
}

/// A benchmark: its name and how it is run.
pub struct Bench {
    pub name: &'static str,
    pub run: fn(&Stub) -> Result<Measurement, Verdict>,
}

const fn test(name: &'static str, run: fn(&Stub) -> Outcome) -> Test {
    Test { name, open: true, run }
}

const fn bench(name: &'static str, run: fn(&Stub) -> Result<Measurement, Verdict>) -> Bench {
    Bench { name, run }
}

/// The tests, in the order in which they are run.
pub static TESTS: &[Test] = &[
    test("smccc-version", smccc::version),
    test("smccc-unknown", smccc::unknown_functions),
    test("smccc-conduits", smccc::other_conduits),
    test("smccc-registers", smccc::registers),
];

/// The benchmarks, in the order in which they are run.
pub static BENCHES: &[Bench] = &[
    bench("empty", traps::empty),
    bench("memory-read", traps::memory_read),
    bench("hypercall", traps::hypercall),
    bench("gicd-typer", traps::gicd_typer),
    bench("gicd-isenabler", traps::gicd_isenabler),
    bench("gicd-icenabler", traps::gicd_icenabler),
    bench("gicr-typer", traps::gicr_typer),
    bench("uart-flags", traps::uart_flags),
    bench("virtio-magic", traps::virtio_magic),
    bench("id-register", traps::id_register),
    bench("sgi-self", wakeups::sgi_self),
    bench("sgi-pair", wakeups::sgi_pair),
    bench("timer-now", wakeups::timer_now),
    bench("wfi-timer", wakeups::wfi_timer),
    bench("fault-block", faults::block),
    bench("fault-block-again", faults::block_again),
    bench("fault-page", faults::page),
    bench("balloon-inflate", balloon::inflate),
    bench("balloon-inflate-single", balloon::inflate_single),
    bench("balloon-deflate", balloon::deflate),
    bench("report-block", balloon::report_block),
    bench("report-batch", balloon::report_batch),
];
