//! Each target over its corpus, and over a fixed number of inputs made of it.
//!
//! `FUZZ_RUNS` is how many for a target of share 1 (20,000 if not said), `FUZZ_SEED` where they begin; a failure leaves
//! its input in `target/fuzz/`, to be run again by `FUZZ_INPUT=<file> cargo test -p sluice-fuzz --test replay <target>`.

use sluice_fuzz::mutate::{self, Random};
use sluice_fuzz::{TARGETS, Target};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::{env, fs};

fn number(variable: &str, otherwise: u64) -> u64 {
    let Ok(text) = env::var(variable) else { return otherwise };
    text.parse().unwrap_or_else(|_| panic!("{variable}={text}: a number is wanted"))
}

fn folder(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name)
}

/// Reads the corpus, in an order that does not depend on the file system.
fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let folder = folder(target);
    let listed = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let mut files: Vec<PathBuf> = listed.map(|entry| entry.expect("it is listed").path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).expect("it can be read")).collect()
}

/// Runs one input; where that fails, says how to do so again.
fn run(target: &Target, input: &[u8], what: &str) {
    let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.run)(input))) else { return };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/fuzz");
    let file = folder.join(format!("failed-{}", target.name));
    fs::create_dir_all(&folder).and_then(|()| fs::write(&file, input)).expect("it can be written");
    eprintln!("target {}, {what}: the input is in {}", target.name, file.display());
    std::panic::resume_unwind(panic);
}

fn replay(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("there is such a target");
    if let Ok(file) = env::var("FUZZ_INPUT") {
        return (target.run)(&fs::read(&file).expect("FUZZ_INPUT can be read"));
    }
    let corpus = corpus(target);
    assert!(!corpus.is_empty(), "{name} has no corpus");
    for (index, input) in corpus.iter().enumerate() {
        run(target, input, &format!("number {index} of its corpus"));
    }
    let (first, runs) = (number("FUZZ_SEED", 1), number("FUZZ_RUNS", 20_000));
    for seed in first..first + runs * u64::from(target.share) {
        let input = mutate::input(&mut Random::new(seed), &corpus);
        run(target, &input, &format!("FUZZ_SEED={seed}"));
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test] fn $name() { replay(stringify!($name)); })*

        #[test]
        fn every_target_is_here() {
            let here = [$(stringify!($name)),*];
            assert!(TARGETS.iter().map(|target| target.name).eq(here));
        }
    };
}

targets! { bundle calls device_tree gic manifest memory uart }
