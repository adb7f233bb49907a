//! All that the stub can do, one line each.

use crate::benches::{Measurement, balloon as balloon_bench, faults, traps, wakeups};
use crate::hostile::{attack, blocks, calls, mmio, pages, queues, registers, rings, storms, walks};
use crate::outcome::{Outcome, Verdict};
use crate::run::Stub;
use crate::tests::{
    balloon, beats, churn, cpu_features, driven, float, gic, hammer, id_registers, memory, plug,
    psci, service, smccc, timer, uart,
};

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

/// A test that goes on until the machine is stopped, or needs somebody outside.
const fn by_full_name(name: &'static str, run: fn(&Stub) -> Outcome) -> Test {
    Test { name, open: false, run }
}

const fn bench(name: &'static str, run: fn(&Stub) -> Result<Measurement, Verdict>) -> Bench {
    Bench { name, run }
}

/// The tests, in the order in which they are run: the last one takes all the memory that is left.
pub static TESTS: &[Test] = &[
    test("smccc-version", smccc::version),
    test("smccc-unknown", smccc::unknown_functions),
    test("smccc-conduits", smccc::other_conduits),
    test("smccc-registers", smccc::registers),
    test("psci-version", psci::version),
    test("psci-parameters", psci::wrong_parameters),
    test("psci-on-off", psci::on_and_off),
    test("psci-already-on", psci::already_on),
    test("psci-suspend", psci::suspend),
    by_full_name("psci-reset", psci::reset),
    by_full_name("spin", psci::spin),
    test("cpu-features", cpu_features::agree),
    test("cpu-debug", cpu_features::debug),
    test("id-sane", id_registers::sane),
    test("id-reserved", id_registers::reserved),
    test("id-alike", id_registers::alike),
    test("gic-identity", gic::identity),
    test("gic-sgi-self", gic::sgi_to_self),
    test("gic-sgi-others", gic::sgi_to_others),
    test("gic-spi", gic::spi),
    test("gic-spi-configuration", gic::spi_configuration),
    test("gic-spi-routing", gic::spi_routing),
    test("gic-priority-mask", gic::priority_mask),
    test("gic-priority-order", gic::priority_order),
    test("gic-preemption", gic::preemption),
    test("gic-flood", gic::flood),
    test("timer-counter", timer::counter),
    test("timer-virtual", timer::virtual_timer),
    test("timer-physical", timer::physical_timer),
    test("timer-both", timer::both),
    test("float-kept", float::kept),
    test("uart-registers", uart::registers),
    test("uart-interrupt", uart::interrupt),
    test("memory-absent", memory::absent),
    test("memory-holes", memory::holes),
    by_full_name("memory-failing", memory::failing),
    test("balloon-identity", balloon::identity),
    test("balloon-block", balloon::whole_block),
    test("balloon-scattered", balloon::scattered),
    test("balloon-buffers", balloon::many_buffers),
    test("balloon-direction", balloon::wrong_direction),
    test("balloon-untold", balloon::untold),
    test("balloon-cycle", balloon::cycle),
    test("balloon-reporting", balloon::reporting),
    test("balloon-poison", balloon::poison),
    test("balloon-reset", balloon::reset_returns),
    test("balloon-interrupts", balloon::interrupts),
    test("balloon-statistics", balloon::statistics),
    by_full_name("balloon-follow", balloon::follow),
    test("service-identity", service::identity),
    test("service-unknown", service::unknown),
    test("service-memory", service::memory),
    test("service-aborts", service::aborts),
    test("service-region", service::region),
    test("service-all", service::all),
    test("service-wrong", service::wrong_ranges),
    by_full_name("driven", driven::driven),
    test("plug-identity", plug::identity),
    test("plug-block", plug::block),
    test("plug-absent", plug::absent),
    test("plug-many", plug::many),
    test("plug-limit", plug::limit),
    test("plug-reset", plug::reset),
    test("plug-old-driver", plug::old_driver),
    test("plug-interrupts", plug::interrupts),
    test("plug-balloon", plug::with_balloon),
    by_full_name("plug-follow", plug::follow),
    test("hammer-page", hammer::page),
    test("hammer-block", hammer::block),
    test("hammer-report", hammer::report),
    test("hammer-release", hammer::release),
    test("hammer-plugged", hammer::plugged),
    test("churn", churn::churn),
    test("hostile-calls", calls::random),
    test("hostile-cpu-on", calls::cpu_on),
    test("hostile-immediates", calls::immediates),
    test("hostile-service", service::hostile),
    test("hostile-registers", registers::read_and_write_back),
    test("hostile-instructions", registers::system_instructions),
    test("hostile-interrupts", registers::send_interrupts),
    test("hostile-outside", pages::outside),
    test("hostile-repeated", pages::repeated),
    test("hostile-reported", pages::reported),
    test("hostile-lists", pages::lists),
    test("hostile-chains", queues::chains),
    test("hostile-indices", queues::indices),
    test("hostile-scribbled", queues::scribbled),
    test("hostile-rings", rings::placed),
    test("hostile-own-page", rings::own_page),
    test("hostile-protocol", rings::protocol),
    test("hostile-blocks", blocks::random),
    test("hostile-block-requests", blocks::shapes),
    test("hostile-block-resets", blocks::resets),
    test("hostile-unplugged", blocks::unplugged_in_balloon),
    test("hostile-tables", walks::tables),
    test("hostile-table-gone", walks::table_given_away),
    test("hostile-devices", walks::devices_as_memory),
    test("hostile-mmio-across", mmio::across),
    test("hostile-mmio-uart", mmio::uart),
    test("hostile-mmio-virtio", mmio::virtio),
    test("hostile-mmio-gic", mmio::interrupt_controller),
    test("hostile-storm", storms::all),
    test("hostile-power", storms::power),
    by_full_name("attack", attack::all),
    by_full_name("beats", beats::beats),
    test("memory-pattern", memory::pattern_everywhere),
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
    bench("balloon-inflate", balloon_bench::inflate),
    bench("balloon-inflate-single", balloon_bench::inflate_single),
    bench("balloon-deflate", balloon_bench::deflate),
    bench("report-block", balloon_bench::report_block),
    bench("report-batch", balloon_bench::report_batch),
];
