//! The device tree that a guest gets: its machine as [`layout`] has it, in the words of QEMU's
//! `virt`.
//!
//! Names and properties are those of `virt`, for kernels and boot loaders that look for nodes by
//! name. What differs does so on purpose:
//! - virtio-mmio interrupts are level-triggered, not edge-triggered: the line is the OR of two
//!   status bits, and a second cause that comes before the first is acknowledged makes no edge.
//! - PSCI has the ids of version 0.2 and later only, which are fixed, and so are not listed.
//! - What is not emulated (PCIe, RTC, GPIO, flash, fw-cfg, ITS, PMU) is not there.

use super::layout;
use super::seed::Seed;
use crate::addr::IpaRange;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node, Property, ToPropertyValue};

const KASLR_SEED: &str = "kaslr-seed";
const RNG_SEED: &str = "rng-seed";
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
    kaslr_seed: Option<usize>,
    rng_seed: Option<usize>,
}

impl MachineTree {
    /// Writes the device tree, a blob of version 17 (Devicetree Specification 0.4, chapter 5).
    ///
    /// It takes about 3 KiB, 150 bytes for each vCPU, and the command line.
    pub fn new(machine: &Description<'_>) -> Self {
        let blob = write(machine);
        let offset = |name: &str| {
            let tree = Fdt::new(&blob).ok()?;
            let property = tree.find_node("/chosen")?.property(name)?.value().as_ptr_range();
            property.start.addr().checked_sub(blob.as_ptr().addr())
        };
        let (kaslr_seed, rng_seed) = (offset(KASLR_SEED), offset(RNG_SEED));
        Self { blob, kaslr_seed, rng_seed }
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
        if let Some(at) = self.kaslr_seed {
            each(at, &seed.kaslr.to_be_bytes())?;
        }
        if let (Some(at), Some(seed)) = (self.rng_seed, &seed.rng) {
            each(at, seed)?;
        }
        Ok(())
    }
}

fn write(machine: &Description<'_>) -> Vec<u8> {
    let mut tree = DeviceTree::new();
    let root = &mut tree.root;
    set(root, "interrupt-parent", PHANDLE_GIC);
    set(root, "model", "linux,dummy-virt");
    set(root, "#size-cells", 2u32);
    set(root, "#address-cells", 2u32);
    set(root, "compatible", "linux,dummy-virt");
    for node in [psci(), memory(machine.memory), cpus(machine.vcpus), timer(), clock()] {
        root.add_child(node);
    }
    root.add_child(interrupt_controller(machine.vcpus));
    let uart = uart();
    let uart_path = format!("/{}", uart.name());
    root.add_child(uart);
    for slot in 0..layout::VIRTIO_SLOTS {
        root.add_child(virtio_slot(slot));
    }
    let mut aliases = node("aliases");
    set(&mut aliases, "serial0", uart_path.as_str());
    root.add_child(aliases);
    root.add_child(chosen(machine, &uart_path));
    tree.to_dtb()
}

/// Makes a node; every name here is a valid one.
fn node(name: impl Into<String>) -> DeviceTreeNode {
    DeviceTreeNode::new_unchecked(name)
}

/// Makes a node with registers: its name ends in their address.
fn device(name: &str, registers: &[IpaRange]) -> DeviceTreeNode {
    let start = registers.first().map_or(0, |range| range.start.as_u64());
    let mut device = node(format!("{name}@{start:x}"));
    let mut reg = Vec::new();
    for range in registers {
        let size = range.end.as_u64() - range.start.as_u64();
        for value in [range.start.as_u64(), size] {
            reg.extend([(value >> 32) as u32, value as u32]);
        }
    }
    set(&mut device, "reg", reg);
    device
}

fn set(node: &mut DeviceTreeNode, name: &str, value: impl ToPropertyValue) {
    node.add_property(DeviceTreeProperty::new_unchecked(name, value));
}

/// Sets a property without a value.
fn flag(node: &mut DeviceTreeNode, name: &str) {
    set(node, name, [0u8; 0]);
}

fn psci() -> DeviceTreeNode {
    let mut psci = node("psci");
    set(&mut psci, "method", "hvc");
    set(&mut psci, "compatible", ["arm,psci-1.0", "arm,psci-0.2"].as_slice());
    psci
}

fn memory(bytes: u64) -> DeviceTreeNode {
    let end = layout::RAM_START.checked_add(bytes).unwrap_or(layout::RAM_START);
    let mut memory = device("memory", &[layout::RAM_START..end]);
    set(&mut memory, "device_type", "memory");
    memory
}

fn cpus(vcpus: usize) -> DeviceTreeNode {
    let mut cpus = node("cpus");
    set(&mut cpus, "#size-cells", 0u32);
    set(&mut cpus, "#address-cells", 1u32);
    for index in 0..vcpus.min(layout::MAX_VCPUS) as u32 {
        let mut cpu = node(format!("cpu@{index:x}"));
        set(&mut cpu, "reg", index);
        set(&mut cpu, "enable-method", "psci");
        // What it is in detail, a kernel reads in MIDR_EL1.
        set(&mut cpu, "compatible", "arm,armv8");
        set(&mut cpu, "device_type", "cpu");
        cpus.add_child(cpu);
    }
    cpus
}

fn timer() -> DeviceTreeNode {
    let mut timer = node("timer");
    // EL1's secure physical, physical and virtual timer, EL2's physical timer.
    let lines = [13, 14, 11, 10].map(|ppi| [PPI, ppi, LEVEL_HIGH]);
    set(&mut timer, "interrupts", lines.as_flattened());
    flag(&mut timer, "always-on");
    set(&mut timer, "compatible", ["arm,armv8-timer", "arm,armv7-timer"].as_slice());
    timer
}

fn clock() -> DeviceTreeNode {
    let mut clock = node("apb-pclk");
    set(&mut clock, "phandle", PHANDLE_CLOCK);
    set(&mut clock, "clock-output-names", "clk24mhz");
    set(&mut clock, "clock-frequency", CLOCK_HZ);
    set(&mut clock, "#clock-cells", 0u32);
    set(&mut clock, "compatible", "fixed-clock");
    clock
}

fn interrupt_controller(vcpus: usize) -> DeviceTreeNode {
    let mut gic = device("intc", &[layout::DISTRIBUTOR, layout::redistributors(vcpus)]);
    set(&mut gic, "phandle", PHANDLE_GIC);
    // The maintenance interrupt, for hypervisors: there is no EL2, and `virt` lists it
    // nevertheless.
    set(&mut gic, "interrupts", [PPI, 9, LEVEL_HIGH]);
    set(&mut gic, "#redistributor-regions", 1u32);
    set(&mut gic, "compatible", "arm,gic-v3");
    flag(&mut gic, "ranges");
    set(&mut gic, "#size-cells", 2u32);
    set(&mut gic, "#address-cells", 2u32);
    flag(&mut gic, "interrupt-controller");
    set(&mut gic, "#interrupt-cells", 3u32);
    gic
}

fn uart() -> DeviceTreeNode {
    let mut uart = device("pl011", &[layout::UART]);
    set(&mut uart, "clock-names", ["uartclk", "apb_pclk"].as_slice());
    set(&mut uart, "clocks", [PHANDLE_CLOCK, PHANDLE_CLOCK]);
    set(&mut uart, "interrupts", [SPI, layout::UART_SPI, LEVEL_HIGH]);
    set(&mut uart, "compatible", ["arm,pl011", "arm,primecell"].as_slice());
    uart
}

fn virtio_slot(slot: usize) -> DeviceTreeNode {
    let mut device = device("virtio_mmio", &[layout::virtio_slot(slot)]);
    flag(&mut device, "dma-coherent");
    set(&mut device, "interrupts", [SPI, layout::VIRTIO_FIRST_SPI + slot as u32, LEVEL_HIGH]);
    set(&mut device, "compatible", "virtio,mmio");
    device
}

fn chosen(machine: &Description<'_>, uart_path: &str) -> DeviceTreeNode {
    let mut chosen = node("chosen");
    set(&mut chosen, "stdout-path", uart_path);
    if !machine.command_line.is_empty() {
        set(&mut chosen, "bootargs", machine.command_line);
    }
    if let Some(initrd) = &machine.initrd {
        set(&mut chosen, "linux,initrd-start", initrd.start.as_u64());
        set(&mut chosen, "linux,initrd-end", initrd.end.as_u64());
    }
    set(&mut chosen, KASLR_SEED, [0u8; 8]);
    if machine.random {
        set(&mut chosen, RNG_SEED, [0u8; 32]);
    }
    chosen
}

#[cfg(test)]
mod tests;
