//! Counts the instructions that a machine executes, by a plugin of the emulator.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, process};

use crate::artefacts;
use crate::failure::{Failure, Outcome};
use crate::machine::Plan;

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// What a machine has executed.
pub struct Instructions {
    file: PathBuf,
}

impl Instructions {
    /// Has the machine's instructions counted.
    ///
    /// # Errors
    /// The plugin was not built, or the emulator does not say what it is.
    pub fn of(plan: Plan) -> Outcome<(Plan, Self)> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let file = env::temp_dir().join(format!("sluice-count-{}-{number}", process::id()));
        let plugin = artefacts::build().join(format!("count-{}.so", api()?));
        if !plugin.exists() {
            return Err(Failure::new(format!(
                "{} is not there; use `make bench`",
                plugin.display()
            )));
        }
        let option = format!("{},counts={}", plugin.display(), file.display());
        Ok((plan.counting().option("-plugin").option(option), Self { file }))
    }

    /// How many all CPUs have executed so far.
    ///
    /// # Errors
    /// The emulator has not begun to count.
    pub fn so_far(&self) -> Outcome<u64> {
        let bytes = fs::read(&self.file)?;
        Ok(bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).sum())
    }
}

impl Drop for Instructions {
    fn drop(&mut self) {
        // It is a temporary file; somebody else will clear it away.
        let _ = fs::remove_file(&self.file);
    }
}

/// The version of the plugin interface that the emulator has.
fn api() -> Outcome<u32> {
    let output = Command::new(artefacts::qemu()).arg("--version").output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let major = said
        .split_whitespace()
        .find_map(|word| word.split('.').next()?.parse::<u32>().ok())
        .ok_or_else(|| Failure::new(format!("which version is this: {said}")))?;
    Ok(if major < 9 { 1 } else { 2 })
}
