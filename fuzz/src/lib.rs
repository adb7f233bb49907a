//! Everything that takes a guest's or a loader's data, given data at random.
//!
//! A target is a function of bytes that panics where something is wrong: Sluice's code panics, works without end, or
//! breaks a promise that the target checks. libFuzzer runs them by `make fuzz` (`fuzz_targets/` is what it links);
//! `tests/replay.rs` runs each over its corpus and a fixed number of inputs made of that, wherever Rust runs.

mod driver;
mod input;
pub mod mutate;
mod targets;
mod world;

pub use input::Input;

/// A fuzz target.
#[derive(Copy, Clone, Debug)]
pub struct Target {
    /// Its name, which its folder in `corpus/` has too.
    pub name: &'static str,
    /// What is done with an input.
    pub run: fn(&[u8]),
    /// Of how many inputs it does about as many in a second as the others: their cost differs by far.
    pub share: u32,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "bundle", run: targets::bundle::run, share: 4 },
    Target { name: "calls", run: targets::calls::run, share: 4 },
    Target { name: "device_tree", run: targets::device_tree::run, share: 2 },
    Target { name: "gic", run: targets::gic::run, share: 1 },
    Target { name: "manifest", run: targets::manifest::run, share: 2 },
    Target { name: "memory", run: targets::memory::run, share: 1 },
    Target { name: "uart", run: targets::uart::run, share: 4 },
];

/// Runs the target called `name`.
///
/// # Panics
///
/// There is none, or it found something.
pub fn run(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.unwrap_or_else(|| panic!("no target {name}")).run)(input);
}
