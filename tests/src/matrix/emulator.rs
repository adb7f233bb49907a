//! The emulators that cells are tried with.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::artefacts::{newer_qemu, qemu};

/// A QEMU.
#[derive(Clone, Debug)]
pub struct Emulator {
    /// How it is started.
    pub program: PathBuf,
    /// What it calls its version.
    pub version: String,
    models: String,
    machines: String,
}

impl Emulator {
    /// The system's, and the newer one where there is one.
    pub fn all() -> Vec<Self> {
        let chosen = qemu();
        // Which may be the newer itself (`QEMU=newer`).
        let newer = newer_qemu().filter(|newer| *newer != chosen);
        std::iter::once(chosen).chain(newer).map(Self::new).collect()
    }

    fn new(program: PathBuf) -> Self {
        let version = said(&program, &["--version"]);
        let version = version.split_whitespace().nth(3).unwrap_or("of no version").into();
        let models = said(&program, &["-machine", "virt", "-cpu", "help"]);
        let machines = said(&program, &["-machine", "help"]);
        Self { program, version, models, machines }
    }

    /// Says whether it has the machine, which may have options.
    pub fn has_machine(&self, machine: &str) -> bool {
        let name = machine.split(',').next();
        self.machines.lines().any(|line| line.split_whitespace().next() == name)
    }

    /// Says whether it has the CPU model.
    pub fn has_model(&self, model: &str) -> bool {
        self.models.split_whitespace().any(|word| word == model)
    }
}

fn said(program: &Path, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output();
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}
