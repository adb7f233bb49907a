//! Every kernel on every machine: a Linux guest boots to a shell with the CPUs and the memory
//! that it was promised, and goes.
//!
//! Each cell is a test of its own. All CPU models are tried with each kernel, and sizes and
//! vCPU counts take turns so that each meets each model; `SLUICE_MATRIX=full` tries the whole
//! product.

use std::path::PathBuf;
use std::process::Command;

use libtest_mimic::{Arguments, Trial};
use sluice_tests::artefacts::{KERNELS, linux, newer_qemu, qemu};
use sluice_tests::ensure;
use sluice_tests::failure::Outcome;
use sluice_tests::machine::{COMMAND, Plan};

const MODELS: [&str; 5] = ["cortex-a53", "cortex-a57", "cortex-a72", "neoverse-n1", "max"];
const VCPUS: [u32; 3] = [1, 2, 4];
/// The guest's memory and the machine's, in MiB.
const SIZES: [(u64, u64); 3] = [(512, 1024), (2048, 3072), (8192, 9216)];

#[derive(Clone)]
struct Cell {
    kernel: &'static str,
    model: &'static str,
    vcpus: u32,
    size: (u64, u64),
    emulator: (&'static str, PathBuf),
}

impl Cell {
    fn name(&self) -> String {
        let (kernel, model, vcpus) = (self.kernel, self.model, self.vcpus);
        format!("linux-{kernel} {model} {vcpus} vCPUs {}M {}", self.size.0, self.emulator.0)
    }

    fn boots(&self) -> Outcome {
        let mut guest = linux(self.kernel)?;
        guest.vcpus = self.vcpus;
        guest.memory = self.size.0 << 20;
        let mut machine = Plan::new(&self.name().replace(' ', "-"), &[guest])?
            .cpu(self.model)
            .cpus(self.vcpus.max(2))
            .memory(&format!("{}M", self.size.1))
            .qemu(self.emulator.1.clone())
            .start()?;
        let (version, cpus, memory) = machine.shell()?;
        ensure!(version.starts_with(&format!("{}.", self.kernel)), "it runs {version}");
        ensure!(cpus == self.vcpus, "it has {cpus} CPUs");
        // What the kernel keeps for itself is not in MemTotal.
        let promised = self.size.0 << 10;
        ensure!(memory <= promised && memory * 100 > promised * 85, "it has {memory} kB");
        machine.audit()?;
        machine.power_off_guest()?;
        machine.control()?.event("off", COMMAND)?;
        machine.wait_for_end(COMMAND)?;
        Ok(())
    }
}

fn cells() -> Vec<Cell> {
    let chosen = qemu();
    // Which may be the newer itself (`QEMU=newer`).
    let newer = newer_qemu().filter(|newer| *newer != chosen).map(|path| ("qemu-newer", path));
    let emulators: Vec<_> = [Some(("qemu", chosen)), newer].into_iter().flatten().collect();
    let full = std::env::var("SLUICE_MATRIX").is_ok_and(|value| value == "full");
    let mut cells = Vec::new();
    for (kernel_index, kernel) in KERNELS.into_iter().enumerate() {
        for (model_index, model) in MODELS.into_iter().enumerate() {
            for (vcpus_index, vcpus) in VCPUS.into_iter().enumerate() {
                for (size_index, size) in SIZES.into_iter().enumerate() {
                    for (index, emulator) in emulators.iter().enumerate() {
                        // A Latin square for the first emulator, its diagonal for the newer.
                        let square = (kernel_index + model_index + vcpus_index) % SIZES.len();
                        let diagonal = (kernel_index + model_index) % VCPUS.len();
                        let taken = size_index == square && (index == 0 || vcpus_index == diagonal);
                        if full || taken {
                            let emulator = emulator.clone();
                            cells.push(Cell { kernel, model, vcpus, size, emulator });
                        }
                    }
                }
            }
        }
    }
    cells
}

/// Says whether this QEMU has the CPU model.
fn has_model(emulator: &PathBuf, model: &str) -> bool {
    Command::new(emulator).args(["-machine", "virt", "-cpu", "help"]).output().is_ok_and(|output| {
        String::from_utf8_lossy(&output.stdout).split_whitespace().any(|word| word == model)
    })
}

fn main() {
    let mut arguments = Arguments::from_args();
    // Four vCPUs and the emulator's own threads are enough for two of the host's CPUs.
    arguments.test_threads = Some(arguments.test_threads.unwrap_or(2).min(2));
    let trials = cells()
        .into_iter()
        .map(|cell| {
            let missing = !has_model(&cell.emulator.1, cell.model);
            Trial::test(cell.name(), move || cell.boots().map_err(Into::into))
                .with_ignored_flag(missing)
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}
