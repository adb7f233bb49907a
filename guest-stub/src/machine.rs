//! The machine as the device tree tells it.
#![expect(unsafe_code, reason = "reads the device tree where the loader put it")]

use crate::arch::cpu::{self, MAX_CPUS};
use crate::arch::probe::Conduit;
use crate::memory::Range;
use crate::outcome::Text;
use core::fmt::{self, Write};
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::standard::NodeStandard;
use dtoolkit::{Node, Property};

/// The most ranges of memory.
const MAX_RAM: usize = 4;
/// The most virtio-mmio slots.
const MAX_SLOTS: usize = 32;

/// A device of one range and one interrupt.
#[derive(Copy, Clone, Debug, Default)]
pub struct Device {
    /// Its registers.
    pub registers: Range,
    /// Its interrupt, as the GIC numbers it.
    pub interrupt: u32,
}

/// The machine as the device tree tells it.
#[derive(Clone)]
pub struct Machine {
    /// The device tree itself.
    pub device_tree: Range,
    ram: [Range; MAX_RAM],
    cpus: [u64; MAX_CPUS],
    cpu_count: usize,
    /// The first PL011.
    pub uart: Device,
    /// The distributor of the GIC.
    pub distributor: Range,
    /// The redistributors of a GICv3; empty with a GICv2.
    pub redistributors: Range,
    /// The CPU interface of a GICv2; empty with a GICv3.
    pub cpu_interface: Range,
    slots: [Device; MAX_SLOTS],
    slot_count: usize,
    /// The interrupt of the physical timer of EL1.
    pub physical_timer: u32,
    /// The interrupt of the virtual timer.
    pub virtual_timer: u32,
    /// How PSCI is called.
    pub conduit: Conduit,
    /// `/chosen/bootargs`.
    pub orders: Text<1024>,
}

/// Why the device tree is of no use.
pub struct Unusable(pub &'static str);

fn ranges<'a>(node: FdtNode<'a>) -> impl Iterator<Item = Range> + 'a {
    node.reg()
        .ok()
        .flatten()
        .into_iter()
        .flatten()
        .filter_map(|reg| Some(Range::sized(reg.address::<u64>().ok()?, reg.size::<u64>().ok()?)))
}

/// Returns the interrupt in entry `index` of a GIC's `interrupts` property: type, number, flags.
fn interrupt(node: FdtNode<'_>, index: usize) -> u32 {
    let Some(property) = node.property("interrupts") else { return 0 };
    let mut cells = property.value().chunks_exact(12).skip(index);
    let cell = |entry: &[u8], at: usize| {
        entry
            .get(at * 4..at * 4 + 4)
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(0, u32::from_be_bytes)
    };
    cells.next().map_or(0, |entry| match cell(entry, 0) {
        0 => 32 + cell(entry, 1),
        _ => 16 + cell(entry, 1),
    })
}

fn text<'a>(node: FdtNode<'a>, name: &str) -> Option<&'a str> {
    node.properties().find(|property| property.name() == name)?.value_as::<&str>().ok()
}

impl Machine {
    /// Reads the device tree at `address`.
    ///
    /// # Errors
    ///
    /// [`Unusable`] names what is missing; where a UART was found, `found_uart` has been told first.
    pub fn read(address: u64, found_uart: impl FnOnce(u64)) -> Result<Self, Unusable> {
        if address == 0 || !address.is_multiple_of(8) {
            return Err(Unusable("no device tree"));
        }
        // SAFETY: the boot protocol has x0 point to a device tree in memory; its header is checked before the rest is read.
        let tree = unsafe { Fdt::from_raw(address as *const u8) }
            .map_err(|_| Unusable("no valid device tree"))?;
        let root = tree.root();
        let mut machine = Self {
            device_tree: Range::sized(address, tree.data().len() as u64),
            ram: [Range::default(); MAX_RAM],
            cpus: [0; MAX_CPUS],
            cpu_count: 0,
            uart: Device::default(),
            distributor: Range::default(),
            redistributors: Range::default(),
            cpu_interface: Range::default(),
            slots: [Device::default(); MAX_SLOTS],
            slot_count: 0,
            physical_timer: 30,
            virtual_timer: 27,
            conduit: Conduit::Hvc,
            orders: Text::new(),
        };
        let mut ram_count = 0;
        for node in root.children() {
            if text(node, "device_type") == Some("memory") {
                for range in ranges(node) {
                    if range.size() > 0 && ram_count < MAX_RAM {
                        machine.ram[ram_count] = range;
                        ram_count += 1;
                    }
                }
            } else {
                machine.adopt(node);
            }
            // Devices may stand under a bus whose addresses are the CPU's.
            if node.is_compatible("simple-bus") {
                node.children().for_each(|child| machine.adopt(child));
            }
        }
        if machine.uart.registers.size() > 0 {
            found_uart(machine.uart.registers.start);
        }
        machine.complete()
    }

    fn adopt(&mut self, node: FdtNode<'_>) {
        let device = Device {
            registers: ranges(node).next().unwrap_or_default(),
            interrupt: interrupt(node, 0),
        };
        let name = node.name_without_address();
        if node.is_compatible("arm,pl011") && self.uart.registers.size() == 0 {
            // A second UART may be for the secure world, or of no concern to us.
            if text(node, "status").is_none_or(|status| status.starts_with("ok")) {
                self.uart = device;
            }
        } else if node.is_compatible("arm,gic-v3") {
            let mut parts = ranges(node);
            self.distributor = parts.next().unwrap_or_default();
            self.redistributors = parts.next().unwrap_or_default();
        } else if node.is_compatible("arm,cortex-a15-gic") || node.is_compatible("arm,gic-400") {
            let mut parts = ranges(node);
            self.distributor = parts.next().unwrap_or_default();
            self.cpu_interface = parts.next().unwrap_or_default();
        } else if node.is_compatible("virtio,mmio") {
            if let Some(slot) = self.slots.get_mut(self.slot_count) {
                *slot = device;
                self.slot_count += 1;
            }
        } else if node.is_compatible("arm,armv8-timer") {
            self.physical_timer = interrupt(node, 1);
            self.virtual_timer = interrupt(node, 2);
        } else if text(node, "method") == Some("smc") {
            self.conduit = Conduit::Smc;
        } else if name == "chosen" {
            let _ = self.orders.write_str(text(node, "bootargs").unwrap_or(""));
        } else if name == "cpus" {
            for cpu in node.children().filter(|child| text(*child, "device_type") == Some("cpu")) {
                let Some(property) = cpu.property("reg") else { continue };
                let id =
                    property.value().iter().fold(0, |id: u64, byte| id << 8 | u64::from(*byte));
                if let Some(place) = self.cpus.get_mut(self.cpu_count) {
                    *place = id;
                    self.cpu_count += 1;
                }
            }
        }
    }

    fn complete(mut self) -> Result<Self, Unusable> {
        let present = |range: Range| range.size() > 0;
        if !present(self.uart.registers) {
            Err(Unusable("no PL011 in the device tree"))
        } else if !present(self.distributor)
            || !present(self.redistributors) && !present(self.cpu_interface)
        {
            Err(Unusable("no GICv3 and no GICv2 in the device tree"))
        } else if !present(self.ram[0]) {
            Err(Unusable("no memory in the device tree"))
        } else if self.cpu_count == 0 {
            Err(Unusable("no CPUs in the device tree"))
        } else {
            // The boot CPU is number 0, wherever the device tree has it.
            let boot = self.cpus[..self.cpu_count].iter().position(|id| *id == cpu::affinity());
            let Some(boot) = boot else {
                return Err(Unusable("the boot CPU is not in the device tree"));
            };
            self.cpus.swap(0, boot);
            // QEMU lists the slots from the last to the first.
            self.slots[..self.slot_count].sort_unstable_by_key(|slot| slot.registers.start);
            Ok(self)
        }
    }

    /// Returns the ranges of memory.
    pub fn ram(&self) -> impl Iterator<Item = Range> {
        self.ram.iter().copied().filter(|range| range.size() > 0)
    }

    /// Returns the affinities of the CPUs, as MPIDR_EL1 has them.
    pub fn cpus(&self) -> &[u64] {
        &self.cpus[..self.cpu_count]
    }

    /// Returns the virtio-mmio slots, the lowest address first.
    pub fn slots(&self) -> &[Device] {
        &self.slots[..self.slot_count]
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: u64 = self.ram().map(Range::size).sum();
        write!(
            f,
            "{} CPUs, {} MiB from {:#x}, {} virtio-mmio slots, PSCI by {:?}",
            self.cpu_count,
            bytes >> 20,
            self.ram[0].start,
            self.slot_count,
            self.conduit
        )
    }
}
