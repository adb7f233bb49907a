//! The table of all cells, and what came of each.

use std::fmt::Write as _;

use super::cell::Cell;

/// What came of one cell under one emulator.
pub struct Row {
    /// What was tried.
    pub cell: Cell,
    /// The emulator's version.
    pub emulator: String,
    /// How it ended.
    pub ended: Ended,
    /// How long that took.
    pub seconds: u64,
}

/// How a cell ended.
pub enum Ended {
    /// All was done; what Sluice says of the CPU.
    Well(String),
    /// There is no such thing here, and why.
    Absent(String),
    /// Something was not done, and what.
    Failed(String),
}

/// Writes the table in Markdown: a line for each cell, what failed at length below, and the sums.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| board | CPUs | MiB | guest | QEMU | | s | what Sluice says of the CPU |\n|---|---|--:|---|---|---|--:|---|\n",
    );
    let mut failures = String::new();
    let mut sums = [0; 3];
    for row in rows {
        let Cell { board, cpu, cpus, memory, kernel, .. } = row.cell;
        let (sum, verdict, remark) = match &row.ended {
            Ended::Well(features) => (0, "well", features.as_str()),
            Ended::Failed(why) => (1, "**FAILED**", why.lines().next().unwrap_or_default()),
            Ended::Absent(why) => (2, "not here", why.as_str()),
        };
        sums[sum] += 1;
        let remark = remark.replace('|', "\\|");
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {} | {cpus} x {cpu} | {memory} | {} | {} | {verdict} | {} | {remark} |",
            board.name,
            kernel.name(),
            row.emulator,
            row.seconds,
        );
        if let Ended::Failed(why) = &row.ended {
            let _ = writeln!(failures, "\n{}, QEMU {}:\n\n{why}", row.cell.name(), row.emulator);
        }
    }
    let _ = writeln!(text, "\n{} well, {} failed, {} not here", sums[0], sums[1], sums[2]);
    text + &failures
}

#[cfg(test)]
mod tests {
    use super::{Ended, Row, table};
    use crate::matrix::cells;

    #[test]
    fn what_failed_and_what_is_absent_stands_in_the_table() {
        let all = cells();
        let ends = [
            Ended::Well("40-bit PA".into()),
            Ended::Failed("it burns\nquite".into()),
            Ended::Absent("no such CPU".into()),
        ];
        let rows: Vec<Row> = all
            .into_iter()
            .zip(ends)
            .map(|(cell, ended)| Row { cell, emulator: "7.2".into(), ended, seconds: 1 })
            .collect();
        let text = table(&rows);
        assert!(text.contains("1 well, 1 failed, 1 not here"), "{text}");
        assert!(text.contains("| **FAILED** | 1 | it burns |"), "{text}");
        assert!(text.contains("| not here | 1 | no such CPU |"), "{text}");
        assert!(text.contains("it burns\nquite"), "{text}");
    }

    #[test]
    fn no_cell_is_there_twice() {
        let mut names: Vec<String> = cells().iter().map(super::Cell::name).collect();
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
