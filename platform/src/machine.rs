//! The machine, as its device tree describes it.

use crate::error::PlatformError;
use crate::tree::{self, CellSizes};
use core::ops::Range;
use dtoolkit::fdt::{Fdt, FdtNode};
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
const MAX_REDISTRIBUTORS: usize = 8;
const MAX_ARGUMENTS: usize = 512;

/// How PSCI is called.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// By SMC.
    Smc,
    /// By HVC.
    Hvc,
}

/// A CPU.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// MPIDR_EL1's affinity fields: Aff3 in bits 39:32, Aff2 to Aff0 in bits 23:0.
    pub affinity: u64,
}

/// A PL011.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uart {
    /// Its registers.
    pub registers: Range<u64>,
    /// Its interrupt's INTID.
    pub interrupt: u32,
}

/// A GICv3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gic {
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
    /// What of it must not be touched.
    pub reserved: Vec<Range<u64>, MAX_RESERVED_RANGES>,
    /// The CPUs, in the order of their nodes.
    pub cpus: Vec<Cpu, MAX_CPUS>,
    /// How firmware is called.
    pub conduit: Conduit,
    /// The console.
    pub uart: Uart,
    /// The interrupt controller.
    pub gic: Gic,
    /// The timers' interrupts.
    pub timer: Timer,
    /// Where virtio devices may be.
    pub virtio: Vec<VirtioSlot, MAX_VIRTIO_SLOTS>,
    /// The command line.
    pub arguments: String<MAX_ARGUMENTS>,
    /// What the loader loaded beside the image.
    pub initrd: Option<Range<u64>>,
}

/// An interrupt of the GIC's device tree binding: three cells, of which the first says SPI or PPI and the
/// third has the trigger in its lowest bits (1 and 2 are edges).
fn interrupt(bytes: &mut &[u8]) -> Option<(u32, bool)> {
    let kind = tree::take_cells(bytes, 1)?;
    let number = tree::take_cells(bytes, 1)?;
    let flags = tree::take_cells(bytes, 1)?;
    let first = match kind {
        0 => 32,
        1 => 16,
        _ => return None,
    };
    let edge = matches!(flags & 0xf, 1 | 2);
    (number < 988).then_some((first + number as u32, edge))
}

fn first_range(node: &FdtNode<'_>, sizes: CellSizes) -> Option<Range<u64>> {
    let mut first = None;
    sizes.ranges(node, |range| {
        first.get_or_insert(range);
        Some(())
    })?;
    first
}

/// What has been found so far.
struct Found {
    memory: Vec<Range<u64>, MAX_MEMORY_RANGES>,
    uart: Option<Uart>,
    gic: Option<Gic>,
    timer: Option<Timer>,
    virtio: Vec<VirtioSlot, MAX_VIRTIO_SLOTS>,
    conduit: Option<Conduit>,
}

impl Found {
    fn look_at(&mut self, node: &FdtNode<'_>, sizes: CellSizes) -> Result<(), PlatformError> {
        if node.property("device_type").is_some_and(|kind| kind.value() == b"memory\0") {
            self.memory(node, sizes)
        } else if tree::is_compatible(node, "arm,gic-v3") {
            self.gic(node, sizes)
        } else if tree::is_compatible(node, "arm,cortex-a15-gic")
            || tree::is_compatible(node, "arm,gic-400")
        {
            Err(PlatformError::Unsupported {
                what: "a GICv2",
                needs: "Sluice needs a GICv3 (QEMU: -machine virt,gic-version=3)",
            })
        } else if tree::is_compatible(node, "arm,armv8-timer") {
            self.timer(node)
        } else if tree::is_compatible(node, "arm,pl011") && self.uart.is_none() {
            self.uart = Some(uart(node, sizes)?);
            Ok(())
        } else if tree::is_compatible(node, "virtio,mmio") {
            self.virtio(node, sizes)
        } else if tree::is_compatible(node, "arm,psci-1.0")
            || tree::is_compatible(node, "arm,psci-0.2")
        {
            self.psci(node)
        } else {
            Ok(())
        }
    }

    fn memory(&mut self, node: &FdtNode<'_>, sizes: CellSizes) -> Result<(), PlatformError> {
        let mut full = false;
        let all = sizes.ranges(node, |range| {
            full |= !range.is_empty() && self.memory.push(range).is_err();
            Some(())
        });
        if full {
            return Err(PlatformError::TooMany {
                what: "ranges of memory",
                most: MAX_MEMORY_RANGES,
            });
        }
        all.ok_or(PlatformError::Property { node: "memory", property: "reg" })
    }

    fn gic(&mut self, node: &FdtNode<'_>, sizes: CellSizes) -> Result<(), PlatformError> {
        const REG: PlatformError = PlatformError::Property { node: "GIC", property: "reg" };
        let regions = tree::cell(node, "#redistributor-regions").unwrap_or(1) as usize;
        let mut distributor = None;
        let mut redistributors = Vec::new();
        sizes
            .ranges(node, |range| {
                if distributor.is_none() {
                    distributor = Some(range);
                    Some(())
                } else if redistributors.len() < regions {
                    redistributors.push(range).ok()
                } else {
                    Some(())
                }
            })
            .ok_or(REG)?;
        if redistributors.is_empty() {
            return Err(REG);
        }
        let stride = tree::number(node, "redistributor-stride").unwrap_or(0x2_0000);
        self.gic = Some(Gic {
            distributor: distributor.ok_or(REG)?,
            redistributors,
            stride: stride.max(0x2_0000),
        });
        Ok(())
    }

    fn timer(&mut self, node: &FdtNode<'_>) -> Result<(), PlatformError> {
        const WRONG: PlatformError =
            PlatformError::Property { node: "timer", property: "interrupts" };
        let property = node.property("interrupts").ok_or(WRONG)?;
        let mut bytes = property.value();
        let mut next = || interrupt(&mut bytes).map(|(intid, _)| intid).ok_or(WRONG);
        let _secure = next()?;
        self.timer = Some(Timer { physical: next()?, virtual_: next()?, hypervisor: next()? });
        Ok(())
    }

    fn virtio(&mut self, node: &FdtNode<'_>, sizes: CellSizes) -> Result<(), PlatformError> {
        let registers = first_range(node, sizes)
            .ok_or(PlatformError::Property { node: "virtio-mmio slot", property: "reg" })?;
        let line =
            node.property("interrupts").and_then(|property| interrupt(&mut property.value()));
        let (interrupt, edge) = line
            .ok_or(PlatformError::Property { node: "virtio-mmio slot", property: "interrupts" })?;
        // A machine with more slots than are kept account of still has those that are.
        let _ = self.virtio.push(VirtioSlot { registers, interrupt, edge });
        Ok(())
    }

    fn psci(&mut self, node: &FdtNode<'_>) -> Result<(), PlatformError> {
        let method = node.property("method");
        self.conduit = match method.as_ref().map(|method| method.value()) {
            Some(b"smc\0") => Some(Conduit::Smc),
            Some(b"hvc\0") => Some(Conduit::Hvc),
            _ => return Err(PlatformError::Property { node: "psci", property: "method" }),
        };
        Ok(())
    }
}

fn uart(node: &FdtNode<'_>, sizes: CellSizes) -> Result<Uart, PlatformError> {
    let registers = first_range(node, sizes)
        .ok_or(PlatformError::Property { node: "PL011", property: "reg" })?;
    let line = node.property("interrupts").and_then(|property| interrupt(&mut property.value()));
    let (interrupt, _) =
        line.ok_or(PlatformError::Property { node: "PL011", property: "interrupts" })?;
    Ok(Uart { registers, interrupt })
}

fn cpus(tree: Fdt<'_>) -> Result<Vec<Cpu, MAX_CPUS>, PlatformError> {
    let node = tree.find_node("/cpus").ok_or(PlatformError::MissingNode { what: "/cpus" })?;
    let sizes = CellSizes::below(&node);
    let mut cpus = Vec::new();
    for cpu in node.children() {
        let is_cpu = cpu.property("device_type").is_some_and(|kind| kind.value() == b"cpu\0");
        if !is_cpu || !tree::is_available(&cpu) {
            continue;
        }
        let affinity = cpu
            .property("reg")
            .and_then(|reg| tree::take_cells(&mut reg.value(), sizes.address))
            .ok_or(PlatformError::Property { node: "cpu", property: "reg" })?;
        // CPUs beyond those stay off.
        if cpus.push(Cpu { affinity }).is_err() {
            break;
        }
    }
    if cpus.is_empty() {
        return Err(PlatformError::MissingNode { what: "cpu in /cpus" });
    }
    Ok(cpus)
}

/// Returns the PL011 that /chosen's stdout-path names, by path or by alias.
fn stdout(tree: Fdt<'_>) -> Option<Result<Uart, PlatformError>> {
    let chosen = tree.find_node("/chosen")?;
    let property = chosen.property("stdout-path")?;
    let path = property.value_as::<&str>().ok()?.split(':').next()?;
    let node = if path.starts_with('/') {
        tree.find_node(path)?
    } else {
        let aliases = tree.find_node("/aliases")?;
        let alias = aliases.property(path)?;
        tree.find_node(alias.value_as::<&str>().ok()?)?
    };
    if !tree::is_compatible(&node, "arm,pl011") {
        return None;
    }
    Some(uart(&node, CellSizes::below(&tree.root())))
}

/// Finds the console alone: for telling why the machine could not be made out.
pub(crate) fn find_uart(tree: Fdt<'_>) -> Option<Uart> {
    if let Some(Ok(uart)) = stdout(tree) {
        return Some(uart);
    }
    let mut found = None;
    tree::visit(tree, |node, sizes| {
        if tree::is_compatible(node, "arm,pl011") {
            found = uart(node, sizes).ok();
        }
        found.is_none()
    });
    found
}

fn reserved(tree: Fdt<'_>) -> Result<Vec<Range<u64>, MAX_RESERVED_RANGES>, PlatformError> {
    const FULL: PlatformError =
        PlatformError::TooMany { what: "reserved ranges", most: MAX_RESERVED_RANGES };
    let mut reserved = Vec::new();
    for one in tree.memory_reservations() {
        let end = one.address().checked_add(one.size()).ok_or(PlatformError::Malformed)?;
        reserved.push(one.address()..end).map_err(|_| FULL)?;
    }
    if let Some(node) = tree.find_node("/reserved-memory") {
        let sizes = CellSizes::below(&node);
        for child in node.children() {
            if child.property("reg").is_none() {
                continue;
            }
            let mut full = false;
            sizes
                .ranges(&child, |range| {
                    full |= reserved.push(range).is_err();
                    Some(())
                })
                .ok_or(PlatformError::Property { node: "reserved-memory", property: "reg" })?;
            if full {
                return Err(FULL);
            }
        }
    }
    Ok(reserved)
}

fn initrd(tree: Fdt<'_>) -> Option<Range<u64>> {
    let chosen = tree.find_node("/chosen")?;
    let start = tree::number(&chosen, "linux,initrd-start")?;
    let end = tree::number(&chosen, "linux,initrd-end")?;
    (start < end).then_some(start..end)
}

impl Machine {
    /// Makes the machine out in a flattened device tree of version 16 or later.
    ///
    /// # Errors
    ///
    /// [`PlatformError`] says what is missing, malformed or not supported.
    pub fn from_device_tree(blob: &[u8]) -> Result<Self, PlatformError> {
        let tree = Fdt::new(blob).map_err(|_| PlatformError::Malformed)?;
        let mut found = Found {
            memory: Vec::new(),
            uart: None,
            gic: None,
            timer: None,
            virtio: Vec::new(),
            conduit: None,
        };
        let mut outcome = Ok(());
        tree::visit(tree, |node, sizes| {
            outcome = found.look_at(node, sizes);
            outcome.is_ok()
        });
        outcome?;
        if let Some(uart) = stdout(tree) {
            found.uart = Some(uart?);
        }
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
        Ok(Self {
            model,
            memory: found.memory,
            reserved: reserved(tree)?,
            cpus: cpus(tree)?,
            conduit: found.conduit.ok_or(PlatformError::MissingNode { what: "psci node" })?,
            uart: found.uart.ok_or(PlatformError::MissingNode { what: "PL011 UART" })?,
            gic: found.gic.ok_or(PlatformError::MissingNode { what: "GICv3" })?,
            timer: found.timer.ok_or(PlatformError::MissingNode { what: "Armv8 timer" })?,
            virtio: found.virtio,
            arguments: arguments(tree)?,
            initrd: initrd(tree),
        })
    }

    /// Finds only the console and how firmware is called, to tell somebody why nothing more can be done.
    pub fn last_resort(blob: &[u8]) -> (Option<Uart>, Option<Conduit>) {
        let Ok(tree) = Fdt::new(blob) else { return (None, None) };
        let mut conduit = None;
        if let Some(psci) = tree.find_node("/psci")
            && let Some(method) = psci.property("method")
        {
            conduit = match method.value() {
                b"smc\0" => Some(Conduit::Smc),
                b"hvc\0" => Some(Conduit::Hvc),
                _ => None,
            };
        }
        (find_uart(tree), conduit)
    }
}

fn arguments(tree: Fdt<'_>) -> Result<String<MAX_ARGUMENTS>, PlatformError> {
    let mut arguments = String::new();
    if let Some(chosen) = tree.find_node("/chosen")
        && let Some(property) = chosen.property("bootargs")
    {
        const WRONG: PlatformError =
            PlatformError::Property { node: "chosen", property: "bootargs" };
        let text = property.value_as::<&str>().map_err(|_| WRONG)?;
        arguments.push_str(text).map_err(|_| WRONG)?;
    }
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemu_virt_is_made_out() {
        let machine = Machine::from_device_tree(include_bytes!("../fixtures/virt-gicv3.dtb"))
            .expect("QEMU's device tree is good");
        assert_eq!(machine.memory.as_slice(), &[0x4000_0000..0x1_4000_0000]);
        assert_eq!(machine.cpus.len(), 2);
        assert_eq!(machine.conduit, Conduit::Smc);
        assert_eq!(machine.uart.registers.start, 0x900_0000);
        assert_eq!(machine.uart.interrupt, 33);
        assert_eq!(machine.gic.distributor, 0x800_0000..0x801_0000);
        assert_eq!(machine.gic.redistributors.as_slice(), &[0x80a_0000..0x900_0000]);
        let timer = Timer { physical: 30, virtual_: 27, hypervisor: 26 };
        assert_eq!(machine.timer, timer);
        assert_eq!(machine.virtio.len(), 32);
        assert_eq!(machine.virtio.iter().map(|slot| slot.interrupt).min(), Some(48));
    }

    #[test]
    fn a_gicv2_is_named() {
        let error = Machine::from_device_tree(include_bytes!("../fixtures/virt-gicv2.dtb"));
        assert!(matches!(error, Err(PlatformError::Unsupported { what: "a GICv2", .. })));
    }

    #[test]
    fn a_cut_blob_is_malformed() {
        let blob = include_bytes!("../fixtures/virt-gicv3.dtb");
        for length in [0, 3, 40, 100, 1000, blob.len() - 1] {
            assert_eq!(Machine::from_device_tree(&blob[..length]), Err(PlatformError::Malformed));
        }
    }
}
