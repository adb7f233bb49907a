//! The machine, as its device tree describes it.

use crate::blob;
use crate::chosen::{self, Chosen};
use crate::error::PlatformError;
use crate::reader::{self, Found};
use core::ops::Range;
use dtoolkit::{Node, Property};
use heapless::{String, Vec};

/// The most CPUs.
pub const MAX_CPUS: usize = 16;
/// The most ranges of memory.
pub const MAX_MEMORY_RANGES: usize = 16;
/// The most ranges that are reserved.
pub const MAX_RESERVED_RANGES: usize = 32;
/// The most slots for virtio devices.
pub const MAX_VIRTIO_SLOTS: usize = 64;
/// The most regions of redistributors.
pub const MAX_REDISTRIBUTORS: usize = 8;
/// The longest command line in bytes.
pub const MAX_ARGUMENTS: usize = 512;

/// How PSCI is called.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// By SMC.
    Smc,
    /// By HVC.
    Hvc,
}

/// How a CPU is started.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// By PSCI CPU_ON.
    Psci,
    /// By writing where it is to begin to this address, at which it looks after an event.
    SpinTable(u64),
}

/// A CPU.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// MPIDR_EL1's affinity fields: Aff3 in bits 39:32, Aff2 to Aff0 in bits 23:0.
    pub affinity: u64,
    /// How it is started.
    pub start: Start,
}

/// Which UART it is.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum UartKind {
    /// Arm's PL011 (DDI 0183).
    Pl011,
    /// Cadence's, as Zynq UltraScale+ has it (UG1085, chapter 21).
    Cadence,
}

/// A UART.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uart {
    /// Which.
    pub kind: UartKind,
    /// Its registers.
    pub registers: Range<u64>,
    /// Its interrupt's INTID.
    pub interrupt: u32,
}

/// The interrupt controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gic {
    /// A GICv2 with the virtualization extensions (IHI 0048).
    V2(GicV2),
    /// A GICv3 (IHI 0069).
    V3(GicV3),
}

impl Gic {
    /// Returns the distributor's registers.
    pub const fn distributor(&self) -> &Range<u64> {
        match self {
            Self::V2(gic) => &gic.distributor,
            Self::V3(gic) => &gic.distributor,
        }
    }
}

/// The registers of a GICv2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GicV2 {
    /// GICD: the distributor.
    pub distributor: Range<u64>,
    /// GICC: the CPU interface, each CPU's own at the same place.
    pub cpu_interface: Range<u64>,
    /// GICH: what a hypervisor controls the virtual CPU interface by.
    pub virtual_control: Range<u64>,
    /// GICV: the virtual CPU interface, for guests.
    pub virtual_interface: Range<u64>,
}

/// The registers of a GICv3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GicV3 {
    /// The distributor's registers.
    pub distributor: Range<u64>,
    /// The regions of the redistributors.
    pub redistributors: Vec<Range<u64>, MAX_REDISTRIBUTORS>,
    /// The distance between two redistributors in bytes.
    pub stride: u64,
}

/// The INTIDs of the generic timer.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Timer {
    /// EL1's physical timer.
    pub physical: u32,
    /// EL1's virtual timer.
    pub virtual_: u32,
    /// EL2's physical timer.
    pub hypervisor: u32,
}

/// A place where a virtio-mmio device may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtioSlot {
    /// Its registers.
    pub registers: Range<u64>,
    /// Its interrupt's INTID.
    pub interrupt: u32,
    /// Says that the interrupt is edge-triggered.
    pub edge: bool,
}

/// The machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// What it calls itself.
    pub model: String<64>,
    /// Memory, in bytes; as listed, neither sorted nor merged.
    pub memory: Vec<Range<u64>, MAX_MEMORY_RANGES>,
    /// Memory that is there and not to be used before somebody says so: nodes with `status = "disabled"`. It is not in
    /// `memory`.
    pub offline: Vec<Range<u64>, MAX_MEMORY_RANGES>,
    /// What of it must not be touched.
    pub reserved: Vec<Range<u64>, MAX_RESERVED_RANGES>,
    /// The CPUs, in the order of their nodes until [`Machine::put_first`]; those beyond [`MAX_CPUS`] are left out, and stay off.
    pub cpus: Vec<Cpu, MAX_CPUS>,
    /// How firmware is called, where there is any; then [`Start::Psci`] is possible.
    pub conduit: Option<Conduit>,
    /// The console.
    pub uart: Uart,
    /// The interrupt controller.
    pub gic: Gic,
    /// The timers' interrupts.
    pub timer: Timer,
    /// Where virtio devices may be; those beyond [`MAX_VIRTIO_SLOTS`] are left out.
    pub virtio: Vec<VirtioSlot, MAX_VIRTIO_SLOTS>,
    /// The command line.
    pub arguments: String<MAX_ARGUMENTS>,
    /// What the loader loaded beside the image.
    pub initrd: Option<Range<u64>>,
    /// Random bytes from the loader (`rng-seed`), where it has 32 or more.
    pub seed: Option<[u8; 32]>,
}

impl Machine {
    /// Makes the machine out in a flattened device tree of version 17, at any alignment. `blob` is
    /// as long as its header says.
    ///
    /// # Errors
    ///
    /// [`PlatformError`] says what is missing, malformed or not supported.
    pub fn from_device_tree(blob: &[u8]) -> Result<Self, PlatformError> {
        let tree = blob::open(blob)?;
        let found = Found::below_the_root(tree)?;
        let chosen = Chosen::read(tree)?;
        let uart = match chosen::stdout(tree, found.interrupt_cells) {
            Some(uart) => Some(uart?),
            None => found.uart,
        };
        if found.memory.is_empty() {
            return Err(PlatformError::MissingNode { what: "memory" });
        }
        let mut model = String::new();
        if let Some(property) = tree.root().property("model")
            && let Ok(text) = property.value_as::<&str>()
        {
            // A model's name too long to keep is not worth failing for.
            let _ = model.push_str(text);
        }
        let cpus = reader::cpus(tree)?;
        // The first may be the one that boots, and only started in that case.
        if found.conduit.is_none() && cpus.iter().any(|cpu| cpu.start == Start::Psci) {
            return Err(PlatformError::MissingNode { what: "PSCI" });
        }
        Ok(Self {
            model,
            memory: found.memory,
            offline: reader::offline(tree)?,
            reserved: reader::reserved(tree)?,
            cpus,
            conduit: found.conduit,
            uart: uart.ok_or(PlatformError::MissingNode {
                what: "UART that is known here (PL011, Cadence)",
            })?,
            gic: found.gic.ok_or(PlatformError::MissingNode { what: "GICv2 or GICv3" })?,
            timer: found.timer.ok_or(PlatformError::MissingNode { what: "Armv8 timer" })?,
            virtio: found.virtio,
            arguments: chosen.arguments,
            initrd: chosen.initrd,
            seed: chosen.seed,
        })
    }

    /// Makes the CPU of `affinity`, which runs this, the first of `cpus`; the others keep their order. Firmware may boot
    /// any of them, even one that is not listed, or one beyond the last that is kept account of.
    pub fn put_first(&mut self, affinity: u64) {
        match self.cpus.iter().position(|cpu| cpu.affinity == affinity) {
            Some(index) => self.cpus[..=index].rotate_right(1),
            None => {
                if self.cpus.is_full() {
                    self.cpus.pop();
                }
                // There is room.
                let _ = self.cpus.insert(0, Cpu { affinity, start: Start::Psci });
            }
        }
    }

    /// Finds only the console and how firmware is called, to tell somebody why nothing more can be
    /// done.
    pub fn last_resort(blob: &[u8]) -> (Option<Uart>, Option<Conduit>) {
        let Ok(tree) = blob::open(blob) else { return (None, None) };
        let conduit = tree.find_node("/psci").and_then(|psci| reader::conduit(&psci).ok());
        (chosen::find_uart(tree), conduit)
    }
}

#[cfg(test)]
mod tests;
