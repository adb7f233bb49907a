//! Tries every cell of the matrix and prints the table: `matrix [words that the cells' names must have]`.

use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;
use std::{env, fs, thread};

use sluice_tests::artefacts::build;
use sluice_tests::failure::Outcome;
use sluice_tests::matrix::cell::{Cell, Verdict};
use sluice_tests::matrix::cells;
use sluice_tests::matrix::emulator::Emulator;
use sluice_tests::matrix::table::{Ended, Row, table};

/// How many machines run at a time.
const MACHINES: usize = 2;

fn main() -> ExitCode {
    match tried() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Tries all, and says whether nothing failed.
fn tried() -> Outcome<bool> {
    let words: Vec<String> = env::args().skip(1).collect();
    let emulators = Emulator::all();
    let mut todo = Vec::new();
    for cell in cells()
        .into_iter()
        .filter(|cell| words.iter().all(|word| cell.name().contains(word.as_str())))
    {
        for emulator in &emulators {
            todo.push((todo.len(), cell, emulator));
        }
    }
    todo.reverse();
    let count = todo.len();
    let (todo, rows) = (Mutex::new(todo), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..MACHINES {
            scope.spawn(|| {
                while let Some((index, cell, emulator)) =
                    todo.lock().ok().and_then(|mut todo| todo.pop())
                {
                    let row = row(cell, emulator);
                    println!(
                        "{}/{count} {}, QEMU {}: {}, {} s",
                        index + 1,
                        cell.name(),
                        emulator.version,
                        said(&row.ended),
                        row.seconds
                    );
                    if let Ok(mut rows) = rows.lock() {
                        rows.push((index, row));
                    }
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap_or_default();
    rows.sort_by_key(|(index, _)| *index);
    let rows: Vec<Row> = rows.into_iter().map(|(_, row)| row).collect();
    let text = table(&rows);
    let path = build().join("matrix.md");
    fs::write(&path, &text)?;
    println!("\n{text}\nThe same stands in {}.", path.display());
    Ok(rows.len() == count && !rows.iter().any(|row| matches!(row.ended, Ended::Failed(_))))
}

fn row(cell: Cell, emulator: &Emulator) -> Row {
    let start = Instant::now();
    let ended = match cell.run(emulator) {
        Ok(Verdict::Well(features)) => Ended::Well(features),
        Ok(Verdict::Absent(why)) => Ended::Absent(why.into()),
        Err(error) => Ended::Failed(error.to_string()),
    };
    Row { cell, emulator: emulator.version.clone(), ended, seconds: start.elapsed().as_secs() }
}

const fn said(ended: &Ended) -> &str {
    match ended {
        Ended::Well(_) => "well",
        Ended::Absent(_) => "not here",
        Ended::Failed(_) => "FAILED",
    }
}
