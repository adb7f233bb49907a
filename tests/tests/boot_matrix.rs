//! The quick part of the matrix: cells in which each of the things that matter is met once. `make matrix` tries all.

use libtest_mimic::{Arguments, Failed, Trial};
use sluice_tests::matrix::cell::{Cell, Verdict};
use sluice_tests::matrix::cells;
use sluice_tests::matrix::emulator::Emulator;

fn trial(cell: Cell, emulator: Emulator) -> Trial {
    let name = format!("{}, QEMU {}", cell.name(), emulator.version);
    let absent = cell.absent(&emulator).is_some();
    let run = move || match cell.run(&emulator)? {
        Verdict::Well(_) => Ok(()),
        Verdict::Absent(why) => Err(Failed::from(why)),
    };
    Trial::test(name, run).with_ignored_flag(absent)
}

fn main() {
    let mut arguments = Arguments::from_args();
    // Four vCPUs and the emulator's own threads are enough for two of the host's CPUs.
    arguments.test_threads = Some(arguments.test_threads.unwrap_or(2).min(2));
    let emulators = Emulator::all();
    let quick = cells().into_iter().filter(|cell| cell.quick).enumerate();
    // They take turns.
    let trials = quick.filter_map(|(index, cell)| {
        let emulator = emulators.get(index % emulators.len())?.clone();
        Some(trial(cell, emulator))
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}
