//! Runs whose traces are for the checker in the package `sluice-tests`: each writes one to the folder that
//! `SLUICE_TRACES` names.
//!
//! A recording is of all that is done in the process, so these run one at a time and alone:
//! `cargo test --features trace traced -- --test-threads=1`.

use super::operations::{Op, op};
use super::reference::Test;
use super::stress;
use crate::trace;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::path::PathBuf;

fn traced(name: &str, run: impl FnOnce()) {
    trace::begin();
    run();
    let bytes = trace::end();
    let folder = PathBuf::from(std::env::var_os("SLUICE_TRACES").unwrap_or_else(|| "/tmp".into()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(name).with_extension("trace"), bytes).unwrap();
}

/// Guests, balloons, walkers and audits at the same time.
#[test]
fn threads_that_move_memory_are_traced() {
    traced("host-threads", stress::run);
}

/// All operations on tables, each with allocations that fail.
#[test]
fn random_operations_are_traced() {
    traced("host-operations", || {
        let mut runner = TestRunner::deterministic();
        let ops = prop::collection::vec((op(), prop::option::weighted(0.3, 0..6_u64)), 1..40);
        for _ in 0..64 {
            let mut ops = ops.new_tree(&mut runner).unwrap().current();
            // A walker's pin is dropped by another CPU's thread there, which no real one can be.
            ops.retain(|(op, _)| !matches!(op, Op::Watch(_) | Op::Unwatch));
            Test::run(64 << 20, &ops);
        }
    });
}
