//! The matrix: which machines, CPUs, sizes and kernels are tried together, and what each cell must do.

pub mod board;
mod by_console;
pub mod cell;
pub mod emulator;
pub mod loader;
pub mod table;

use board::Board;
use cell::{Cell, Kernel};

const BASE: Cell = Cell {
    board: Board::VIRT,
    cpu: "cortex-a72",
    cpus: 2,
    memory: 2048,
    kernel: Kernel::Debian("6.12"),
    quick: false,
};

/// All CPU models that Sluice is for. Each QEMU has some of them.
const MODELS: [&str; 11] = [
    "cortex-a35",
    "cortex-a53",
    "cortex-a55",
    "cortex-a57",
    "cortex-a72",
    "cortex-a76",
    "cortex-a710",
    "neoverse-n1",
    "neoverse-n2",
    "neoverse-v1",
    "max",
];

/// The cells: each thing by itself with everything else as usual, and some together.
pub fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for cpu in MODELS {
        for kernel in ["6.1", "6.12", "newest"] {
            let quick =
                matches!((cpu, kernel), ("cortex-a53" | "max", "6.1") | ("neoverse-n1", "6.12"));
            cells.push(Cell { cpu, kernel: Kernel::Debian(kernel), quick, ..BASE });
        }
    }
    for cpus in [1, 3, 4, 8, 16] {
        cells.push(Cell { cpus, cpu: "max", quick: cpus == 4, ..BASE });
    }
    for memory in [512, 1024, 4096, 8192, 16 << 10, 32 << 10, 64 << 10] {
        cells.push(Cell { memory, cpu: "max", quick: memory == 512, ..BASE });
    }
    // What addresses of fewer bits reach, and more than a guest's do.
    cells.push(Cell { memory: 64 << 10, cpu: "cortex-a53", ..BASE });
    cells.push(Cell { memory: 300 << 10, cpu: "cortex-a57", ..BASE });
    for kernel in ["full", "16k"] {
        for cpu in ["cortex-a76", "max"] {
            cells.push(Cell { cpu, kernel: Kernel::Debian(kernel), ..BASE });
        }
    }
    cells.push(Cell { kernel: Kernel::Packed("6.12"), ..BASE });
    cells.push(Cell { kernel: Kernel::UBoot, ..BASE });
    for board in board::OTHERS {
        let memory = board.memory.unwrap_or(BASE.memory);
        let (cpu, cpus) = board.cpus.unwrap_or((BASE.cpu, 4));
        cells.push(Cell { board, cpu, cpus, memory, quick: board.quick, ..BASE });
    }
    cells
}
