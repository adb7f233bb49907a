//! The mistakes that checkers seed, and what they note of them.

use super::Edge;
use std::cell::Cell;
use std::fs;
use std::path::Path;

std::thread_local! {
    // A checker runs all threads of a model on the thread that started it.
    static MISSING: Cell<Option<Edge>> = const { Cell::new(None) };
}

/// Runs `model` with `edge` taken away.
pub fn without<R>(edge: Option<Edge>, model: impl FnOnce() -> R) -> R {
    MISSING.set(edge);
    let result = model();
    MISSING.set(None);
    result
}

/// Says whether the model that runs has taken `edge` away.
pub fn is_missing(edge: Edge) -> bool {
    MISSING.get() == Some(edge)
}

/// Notes that `checker` caught the want of `edge` by `model`, in schedule number `schedules`, because of `why`: a row of
/// the table of mutants, which `make mutations` puts together.
pub fn note(edge: Edge, checker: &str, model: &str, schedules: u64, why: &str) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../build/mutants");
    let why: String = why.lines().next().unwrap_or_default().chars().take(100).collect();
    let why = why.replace('|', "/");
    let row = format!("| `{edge:?}` | {checker}: {model} | {schedules} | {why} |\n");
    // By the order in which they are listed.
    let name = format!("{:02}-{checker}-{model}", edge as u8);
    let written =
        fs::create_dir_all(&directory).and_then(|()| fs::write(directory.join(name), row));
    written.expect("the rows can be written");
}

/// Returns what a panic said.
pub fn words(panic: &(dyn core::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()))
        .unwrap_or_else(|| "a panic without words".to_string())
}
