//! Finding the parts of the machine among the nodes of its device tree.

use crate::error::PlatformError;
use crate::machine::{
    Conduit, Cpu, Gic, GicV2, GicV3, MAX_CPUS, MAX_MEMORY_RANGES, MAX_REDISTRIBUTORS,
    MAX_RESERVED_RANGES, MAX_VIRTIO_SLOTS, Start, Timer, Uart, UartKind, VirtioSlot,
};
use crate::tree::{self, CellSizes, REG};
use core::ops::Range;
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};
use heapless::Vec;

/// The size in bytes of a redistributor without virtual LPIs (GICv3 architecture, 12.10).
const REDISTRIBUTOR: u64 = 0x2_0000;
/// What a GICv2 with the virtualization extensions calls itself (Linux,
/// Documentation/devicetree/bindings/interrupt-controller/arm,gic.yaml).
const GICV2: [&str; 3] = ["arm,gic-400", "arm,cortex-a15-gic", "arm,cortex-a7-gic"];
/// What the UARTs call themselves.
const UARTS: [(&str, UartKind); 2] =
    [("arm,pl011", UartKind::Pl011), ("cdns,uart-r1p12", UartKind::Cadence)];
const INTERRUPTS: &str = "an interrupt of the GIC: kind, number, flags";

/// What there is.
pub struct Found {
    pub memory: Vec<Range<u64>, MAX_MEMORY_RANGES>,
    pub uart: Option<Uart>,
    pub gic: Option<Gic>,
    pub timer: Option<Timer>,
    pub virtio: Vec<VirtioSlot, MAX_VIRTIO_SLOTS>,
    pub conduit: Option<Conduit>,
    /// How many cells an interrupt of the GIC has.
    pub interrupt_cells: usize,
}

impl Found {
    /// Looks at every node that [`tree::visit`] comes to.
    pub fn below_the_root(tree: Fdt<'_>) -> Result<Self, PlatformError> {
        let mut found = Self {
            memory: Vec::new(),
            uart: None,
            gic: None,
            timer: None,
            virtio: Vec::new(),
            conduit: None,
            interrupt_cells: interrupt_cells(tree)?,
        };
        let mut outcome = Ok(());
        tree::visit(tree, |node, sizes| {
            outcome = found.look_at(node, sizes);
            outcome.is_ok()
        });
        outcome.map(|()| found)
    }

    fn look_at(&mut self, node: &FdtNode<'_>, sizes: CellSizes<'_>) -> Result<(), PlatformError> {
        let is = |with| tree::is_compatible(node, with);
        if node.property("device_type").is_some_and(|kind| kind.value() == b"memory\0") {
            self.memory(node, sizes)?;
        } else if is("arm,gic-v3") {
            self.gic = Some(gic_v3(node, sizes)?);
        } else if is_gic_v2(node) {
            self.gic = Some(gic_v2(node, sizes)?);
        } else if is("arm,armv8-timer") {
            self.timer = Some(timer(node, self.interrupt_cells)?);
        } else if self.uart.is_none()
            && let Some(kind) = uart_kind(node)
        {
            self.uart = Some(uart(kind, node, sizes, self.interrupt_cells)?);
        } else if is("virtio,mmio") {
            self.virtio(node, sizes)?;
        } else if is("arm,psci-1.0") || is("arm,psci-0.2") {
            self.conduit = Some(conduit(node)?);
        } else if is("arm,psci") {
            return Err(PlatformError::Unsupported {
                what: "PSCI 0.1",
                needs: "Sluice needs firmware with PSCI 0.2 or later",
            });
        }
        Ok(())
    }

    fn memory(&mut self, node: &FdtNode<'_>, sizes: CellSizes<'_>) -> Result<(), PlatformError> {
        let what = "ranges of memory";
        sizes.ranges(node, "memory", |range| {
            if range.is_empty() {
                return Ok(());
            }
            let full = PlatformError::TooMany { what, most: MAX_MEMORY_RANGES };
            self.memory.push(range).map_err(|_| full)
        })
    }

    fn virtio(&mut self, node: &FdtNode<'_>, sizes: CellSizes<'_>) -> Result<(), PlatformError> {
        const NODE: &str = "virtio-mmio slot";
        let registers = sizes.first_range(node, NODE)?;
        let (interrupt, edge) = first_interrupt(node, NODE, self.interrupt_cells)?;
        // A machine with more slots than are kept account of still has those that are.
        let _ = self.virtio.push(VirtioSlot { registers, interrupt, edge });
        Ok(())
    }
}

/// Returns how many cells the GIC's interrupts have: three, or four where PPIs are partitioned.
/// Without it, no interrupt can be read.
pub fn interrupt_cells(tree: Fdt<'_>) -> Result<usize, PlatformError> {
    let mut cells = Err(PlatformError::MissingNode { what: "GICv2 or GICv3" });
    tree::visit(tree, |node, _| {
        if is_gic_v2(node) || tree::is_compatible(node, "arm,gic-v3") {
            cells = Ok(tree::cell(node, "#interrupt-cells").map_or(3, |cells| cells as usize));
        }
        cells.is_err()
    });
    cells
}

/// Reads interrupt number `index` of `interrupts`, of `cells` cells each: its INTID, and whether it
/// is edge-triggered.
///
/// The first cell says SPI or PPI, the third has the trigger in its lowest bits: 1 and 2 are edges
/// (Linux, Documentation/devicetree/bindings/interrupt-controller/arm,gic-v3.yaml).
fn interrupt(interrupts: &[u8], index: usize, cells: usize) -> Option<(u32, bool)> {
    let start = index.checked_mul(cells)?.checked_mul(4)?;
    let mut bytes = interrupts.get(start..)?.get(..cells.checked_mul(4)?)?;
    let kind = tree::take_cells(&mut bytes, 1)?;
    let number = tree::take_cells(&mut bytes, 1)?;
    let flags = tree::take_cells(&mut bytes, 1)?;
    let (first, most) = match kind {
        0 => (32, 988),
        1 => (16, 16),
        _ => return None,
    };
    let edge = matches!(flags & 0xf, 1 | 2);
    (number < most).then(|| (first + number as u32, edge))
}

fn first_interrupt(
    node: &FdtNode<'_>,
    what: &'static str,
    cells: usize,
) -> Result<(u32, bool), PlatformError> {
    let property = node.property("interrupts");
    property
        .and_then(|property| interrupt(property.value(), 0, cells))
        .ok_or(PlatformError::Property { node: what, property: "interrupts", wanted: INTERRUPTS })
}

fn is_gic_v2(node: &FdtNode<'_>) -> bool {
    GICV2.iter().any(|with| tree::is_compatible(node, with))
}

fn gic_v2(node: &FdtNode<'_>, sizes: CellSizes<'_>) -> Result<Gic, PlatformError> {
    let mut ranges = Vec::<_, 4>::new();
    sizes.ranges(node, "GIC", |range| {
        // More than these four are nobody's.
        let _ = ranges.push(range);
        Ok(())
    })?;
    let Ok([distributor, cpu_interface, virtual_control, virtual_interface]) = ranges.into_array()
    else {
        let wanted = "GICD, GICC, GICH and GICV: Sluice needs the virtualization extensions \
                      (QEMU: -machine virtualization=on)";
        return Err(PlatformError::Property { node: "GIC", property: REG, wanted });
    };
    Ok(Gic::V2(GicV2 { distributor, cpu_interface, virtual_control, virtual_interface }))
}

fn gic_v3(node: &FdtNode<'_>, sizes: CellSizes<'_>) -> Result<Gic, PlatformError> {
    let regions = tree::cell(node, "#redistributor-regions").unwrap_or(1) as usize;
    if regions > MAX_REDISTRIBUTORS {
        let what = "regions of redistributors";
        return Err(PlatformError::TooMany { what, most: MAX_REDISTRIBUTORS });
    }
    let mut distributor = None;
    let mut redistributors = Vec::new();
    sizes.ranges(node, "GIC", |range| {
        if distributor.is_none() {
            distributor = Some(range);
        } else if redistributors.len() < regions {
            // It has room for that many.
            let _ = redistributors.push(range);
        }
        Ok(())
    })?;
    let (Some(distributor), true) = (distributor, redistributors.len() == regions.max(1)) else {
        let wanted = "the distributor and each region of redistributors";
        return Err(PlatformError::Property { node: "GIC", property: REG, wanted });
    };
    let stride = tree::number(node, "redistributor-stride").unwrap_or(REDISTRIBUTOR);
    let stride = stride.max(REDISTRIBUTOR);
    Ok(Gic::V3(GicV3 { distributor, redistributors, stride }))
}

/// Reads the timer's interrupts by name, or where they have none, in the order of the binding
/// (Linux, Documentation/devicetree/bindings/timer/arm,arch_timer.yaml).
fn timer(node: &FdtNode<'_>, cells: usize) -> Result<Timer, PlatformError> {
    let line = |name: &[u8], position: usize| {
        let wanted = "the timers' PPIs: secure physical, physical, virtual, hypervisor";
        let wrong = PlatformError::Property { node: "timer", property: "interrupts", wanted };
        let index = match node.property("interrupt-names") {
            Some(names) => names.value().split(|&byte| byte == 0).position(|one| one == name),
            None => Some(position),
        };
        let property = node.property("interrupts").ok_or(wrong)?;
        let found = index.and_then(|index| interrupt(property.value(), index, cells));
        found.map(|(intid, _)| intid).ok_or(wrong)
    };
    Ok(Timer {
        physical: line(b"phys", 1)?,
        virtual_: line(b"virt", 2)?,
        hypervisor: line(b"hyp-phys", 3)?,
    })
}

/// Reads how PSCI is called.
pub fn conduit(psci: &FdtNode<'_>) -> Result<Conduit, PlatformError> {
    match psci.property("method").as_ref().map(|method| method.value()) {
        Some(b"smc\0") => Ok(Conduit::Smc),
        Some(b"hvc\0") => Ok(Conduit::Hvc),
        _ => Err(PlatformError::Property {
            node: "psci",
            property: "method",
            wanted: "\"smc\" or \"hvc\"",
        }),
    }
}

/// Says which UART `node` is, if it is one that Sluice drives.
pub fn uart_kind(node: &FdtNode<'_>) -> Option<UartKind> {
    let is = |(with, _): &&(&str, UartKind)| tree::is_compatible(node, with);
    UARTS.iter().find(is).map(|&(_, kind)| kind)
}

/// Reads a UART.
pub fn uart(
    kind: UartKind,
    node: &FdtNode<'_>,
    sizes: CellSizes<'_>,
    cells: usize,
) -> Result<Uart, PlatformError> {
    let registers = sizes.first_range(node, "UART")?;
    let (interrupt, _) = first_interrupt(node, "UART", cells)?;
    Ok(Uart { kind, registers, interrupt })
}

/// Lists the memory whose nodes say that it is there and not operational yet (Devicetree Specification 0.4, 2.3.4:
/// "disabled"). What belongs to the Secure world says so too, and is left out: it will never be.
pub fn offline(tree: Fdt<'_>) -> Result<Vec<Range<u64>, MAX_MEMORY_RANGES>, PlatformError> {
    let mut offline = Vec::new();
    let root = tree.root();
    let sizes = CellSizes::below(&root);
    let is = |node: &FdtNode<'_>, property, value: &[u8]| {
        node.property(property).is_some_and(|property| property.value() == value)
    };
    for node in root.children() {
        let memory = is(&node, "device_type", b"memory\0") && is(&node, "status", b"disabled\0");
        if memory && node.property("secure-status").is_none() {
            sizes.ranges(&node, "memory", |range| {
                if range.is_empty() {
                    return Ok(());
                }
                let what = "ranges of memory";
                let full = PlatformError::TooMany { what, most: MAX_MEMORY_RANGES };
                offline.push(range).map_err(|_| full)
            })?;
        }
    }
    Ok(offline)
}

/// Reads how a CPU is started (Linux, Documentation/arch/arm64/booting.rst, and
/// Documentation/devicetree/bindings/arm/cpus.yaml).
fn start(cpu: &FdtNode<'_>) -> Result<Start, PlatformError> {
    const RELEASE: &str = "cpu-release-addr";
    let method = cpu.property("enable-method");
    match method.as_ref().map(|method| method.value()) {
        // A machine with one CPU need not say how it is started.
        None | Some(b"psci\0") => Ok(Start::Psci),
        Some(b"spin-table\0") => tree::number(cpu, RELEASE)
            .filter(|address| address.is_multiple_of(8))
            .map(Start::SpinTable)
            .ok_or(PlatformError::Property {
                node: "cpu",
                property: RELEASE,
                wanted: "an address that is a multiple of 8, where CPUs with enable-method \"spin-table\" look",
            }),
        Some(_) => Err(PlatformError::Unsupported {
            what: "CPUs whose enable-method is neither PSCI nor a spin table",
            needs: "Sluice needs firmware that starts them by one of these",
        }),
    }
}

/// Lists the CPUs that are not disabled.
pub fn cpus(tree: Fdt<'_>) -> Result<Vec<Cpu, MAX_CPUS>, PlatformError> {
    let node = tree.find_node("/cpus").ok_or(PlatformError::MissingNode { what: "/cpus" })?;
    let sizes = CellSizes::below(&node);
    let mut cpus = Vec::new();
    for cpu in node.children() {
        let is_cpu = cpu.property("device_type").is_some_and(|kind| kind.value() == b"cpu\0");
        if !is_cpu || !tree::is_available(&cpu) {
            continue;
        }
        let start = start(&cpu)?;
        let affinity = cpu
            .property(REG)
            .and_then(|reg| tree::take_cells(&mut reg.value(), sizes.address))
            .ok_or(PlatformError::Property {
                node: "cpu",
                property: REG,
                wanted: "the affinity in as many cells as /cpus says",
            })?;
        // CPUs beyond those stay off.
        if cpus.push(Cpu { affinity, start }).is_err() {
            break;
        }
    }
    if cpus.is_empty() {
        return Err(PlatformError::MissingNode { what: "cpu in /cpus" });
    }
    Ok(cpus)
}

/// Lists what of memory is reserved, in the reservation block and by /reserved-memory. What is to
/// be placed at will there (`size` without `reg`) is none of the hypervisor's.
pub fn reserved(tree: Fdt<'_>) -> Result<Vec<Range<u64>, MAX_RESERVED_RANGES>, PlatformError> {
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
            if child.property(REG).is_some() && tree::is_available(&child) {
                sizes.ranges(&child, "reserved-memory", |range| {
                    reserved.push(range).map_err(|_| FULL)
                })?;
            }
        }
    }
    Ok(reserved)
}
