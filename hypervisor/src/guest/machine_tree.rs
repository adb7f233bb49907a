//! The device tree that a guest gets: its machine as [`layout`] has it, in the words of QEMU's
//! `virt`.
//!
//! Names and properties are those of `virt`, for kernels and boot loaders that look for nodes by
//! name. What differs does so on purpose:
//! - virtio-mmio interrupts are level-triggered, not edge-triggered: the line is the OR of two
//!   status bits, and a second cause that comes before the first is acknowledged makes no edge.
//! - PSCI has the ids of version 0.2 and later only, which are fixed, and so are not listed.
//! - What is not emulated (PCIe, RTC, GPIO, flash, fw-cfg, ITS, PMU) is not there.

use super::fdt::Writer;
use super::layout;
use super::seed::Seed;
use crate::addr::IpaRange;
use crate::device::gic::Version;
use alloc::format;
use alloc::vec::Vec;

const UART_PATH: &str = "/pl011@9000000";
const PHANDLE_GIC: u32 = 1;
const PHANDLE_CLOCK: u32 = 2;
/// The PL011's clock in Hz, as `virt` has it.
const CLOCK_HZ: u32 = 24_000_000;

/// The GIC binding's first cell for shared and for private interrupts.
const SPI: u32 = 0;
const PPI: u32 = 1;
/// The GIC binding's flag for interrupts that are active while the line is high.
const LEVEL_HIGH: u32 = 4;

/// What of a guest's machine differs from guest to guest.
pub struct Description<'a> {
    /// Which interrupt controller it has.
    pub gic: Version,
    /// Number of vCPUs, 1 to [`layout::MAX_VCPUS`]; vCPU n has affinity 0.0.0.n.
    pub vcpus: usize,
    /// Bytes of memory from [`layout::RAM_START`].
    pub memory: u64,
    /// The kernel's command line, at most [`super::manifest::MAX_COMMAND_LINE`] bytes.
    pub command_line: &'a str,
    /// Where the initrd was loaded.
    pub initrd: Option<IpaRange>,
    /// Says that there will be random numbers for the kernel's generator to start from, and not
    /// only for its address layout. Kernels believe that those are random.
    pub random: bool,
}

/// A guest's device tree, with room for the random numbers of each start. Starting a guest
/// allocates nothing, as the guest itself can start anew at any time.
pub struct MachineTree {
    blob: Vec<u8>,
    /// Where in it the seeds are.
    kaslr_seed: usize,
    rng_seed: Option<usize>,
}

impl MachineTree {
    /// Writes the device tree, a blob of version 17 (Devicetree Specification 0.4, chapter 5).
    ///
    /// It takes about 3 KiB, 150 bytes for each vCPU, and the command line.
    pub fn new(machine: &Description<'_>) -> Self {
        let mut tree = Writer::new();
        tree.cells("interrupt-parent", &[PHANDLE_GIC]);
        tree.text("model", &["linux,dummy-virt"]);
        tree.cells("#size-cells", &[2]);
        tree.cells("#address-cells", &[2]);
        tree.text("compatible", &["linux,dummy-virt"]);
        psci(&mut tree);
        memory(&mut tree, machine.memory);
        cpus(&mut tree, machine.vcpus);
        timer(&mut tree);
        clock(&mut tree);
        interrupt_controller(&mut tree, machine.gic, machine.vcpus);
        uart(&mut tree);
        for slot in 0..layout::VIRTIO_SLOTS {
            virtio_slot(&mut tree, slot);
        }
        tree.begin("aliases");
        tree.text("serial0", &[UART_PATH]);
        tree.end();
        let (kaslr_seed, rng_seed) = chosen(&mut tree, machine);
        Self { blob: tree.finish(), kaslr_seed, rng_seed }
    }

    /// Returns the blob, in which the random numbers are zero.
    pub fn bytes(&self) -> &[u8] {
        &self.blob
    }

    /// Calls `each` with the parts of the blob for a start with `seed`, in their order, and where
    /// in the blob they begin.
    ///
    /// # Errors
    ///
    /// What `each` returns; it then is called no more.
    pub fn parts<E>(
        &self,
        seed: &Seed,
        mut each: impl FnMut(usize, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        each(0, &self.blob)?;
        each(self.kaslr_seed, &seed.kaslr.to_be_bytes())?;
        if let (Some(at), Some(seed)) = (self.rng_seed, &seed.rng) {
            each(at, seed)?;
        }
        Ok(())
    }
}

/// Begins a node with registers: its name ends in their address.
fn begin_device(tree: &mut Writer, name: &str, registers: &[IpaRange]) {
    let start = registers.first().map_or(0, |range| range.start.as_u64());
    tree.begin(&format!("{name}@{start:x}"));
    let mut reg = Vec::new();
    for range in registers {
        let size = range.end.as_u64() - range.start.as_u64();
        reg.extend_from_slice(&range.start.as_u64().to_be_bytes());
        reg.extend_from_slice(&size.to_be_bytes());
    }
    tree.property("reg", &reg);
}

fn psci(tree: &mut Writer) {
    tree.begin("psci");
    tree.text("method", &["hvc"]);
    tree.text("compatible", &["arm,psci-1.0", "arm,psci-0.2"]);
    tree.end();
}

fn memory(tree: &mut Writer, bytes: u64) {
    let end = layout::RAM_START.checked_add(bytes).unwrap_or(layout::RAM_START);
    begin_device(tree, "memory", &[layout::RAM_START..end]);
    tree.text("device_type", &["memory"]);
    tree.end();
}

fn cpus(tree: &mut Writer, vcpus: usize) {
    tree.begin("cpus");
    tree.cells("#size-cells", &[0]);
    tree.cells("#address-cells", &[1]);
    for index in 0..vcpus.min(layout::MAX_VCPUS) as u32 {
        tree.begin(&format!("cpu@{index:x}"));
        tree.cells("reg", &[index]);
        tree.text("enable-method", &["psci"]);
        // What it is in detail, a kernel reads in MIDR_EL1.
        tree.text("compatible", &["arm,armv8"]);
        tree.text("device_type", &["cpu"]);
        tree.end();
    }
    tree.end();
}

fn timer(tree: &mut Writer) {
    tree.begin("timer");
    // EL1's secure physical, physical and virtual timer, EL2's physical timer.
    let lines = [13, 14, 11, 10].map(|ppi| [PPI, ppi, LEVEL_HIGH]);
    tree.cells("interrupts", lines.as_flattened());
    tree.flag("always-on");
    tree.text("compatible", &["arm,armv8-timer", "arm,armv7-timer"]);
    tree.end();
}

fn clock(tree: &mut Writer) {
    tree.begin("apb-pclk");
    tree.cells("phandle", &[PHANDLE_CLOCK]);
    tree.text("clock-output-names", &["clk24mhz"]);
    tree.cells("clock-frequency", &[CLOCK_HZ]);
    tree.cells("#clock-cells", &[0]);
    tree.text("compatible", &["fixed-clock"]);
    tree.end();
}

fn interrupt_controller(tree: &mut Writer, version: Version, vcpus: usize) {
    let second = match version {
        Version::V2 => layout::CPU_INTERFACE,
        Version::V3 => layout::redistributors(vcpus),
    };
    begin_device(tree, "intc", &[layout::DISTRIBUTOR, second]);
    tree.cells("phandle", &[PHANDLE_GIC]);
    // The maintenance interrupt, for hypervisors: there is no EL2, and `virt` lists it
    // nevertheless.
    tree.cells("interrupts", &[PPI, 9, LEVEL_HIGH]);
    match version {
        Version::V2 => tree.text("compatible", &["arm,cortex-a15-gic"]),
        Version::V3 => {
            tree.cells("#redistributor-regions", &[1]);
            tree.text("compatible", &["arm,gic-v3"]);
        }
    }
    tree.flag("ranges");
    tree.cells("#size-cells", &[2]);
    tree.cells("#address-cells", &[2]);
    tree.flag("interrupt-controller");
    tree.cells("#interrupt-cells", &[3]);
    tree.end();
}

fn uart(tree: &mut Writer) {
    begin_device(tree, "pl011", &[layout::UART]);
    tree.text("clock-names", &["uartclk", "apb_pclk"]);
    tree.cells("clocks", &[PHANDLE_CLOCK, PHANDLE_CLOCK]);
    tree.cells("interrupts", &[SPI, layout::UART_SPI, LEVEL_HIGH]);
    tree.text("compatible", &["arm,pl011", "arm,primecell"]);
    tree.end();
}

fn virtio_slot(tree: &mut Writer, slot: usize) {
    begin_device(tree, "virtio_mmio", &[layout::virtio_slot(slot)]);
    tree.flag("dma-coherent");
    tree.cells("interrupts", &[SPI, layout::VIRTIO_FIRST_SPI + slot as u32, LEVEL_HIGH]);
    tree.text("compatible", &["virtio,mmio"]);
    tree.end();
}

/// Returns where the seeds are: that of the address layout, and that of the generator, if it gets
/// one.
fn chosen(tree: &mut Writer, machine: &Description<'_>) -> (usize, Option<usize>) {
    tree.begin("chosen");
    tree.text("stdout-path", &[UART_PATH]);
    if !machine.command_line.is_empty() {
        tree.text("bootargs", &[machine.command_line]);
    }
    if let Some(initrd) = &machine.initrd {
        tree.property("linux,initrd-start", &initrd.start.as_u64().to_be_bytes());
        tree.property("linux,initrd-end", &initrd.end.as_u64().to_be_bytes());
    }
    let kaslr_seed = tree.property("kaslr-seed", &[0; 8]);
    let rng_seed = machine.random.then(|| tree.property("rng-seed", &[0; 32]));
    tree.end();
    (kaslr_seed, rng_seed)
}

#[cfg(test)]
mod tests;
