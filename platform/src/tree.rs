//! Reading cells of a device tree without trusting it (Devicetree Specification 0.4, chapter 2).

use crate::error::PlatformError;
use core::ops::Range;
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};

/// The property with a node's addresses.
pub const REG: &str = "reg";
const RANGES: &str = "ranges";
/// How deep buses may be nested.
const MAX_BUSES: usize = 4;

/// Takes `count` 32-bit big-endian cells, at most two, off the front of `bytes` as one number.
pub fn take_cells(bytes: &mut &[u8], count: u32) -> Option<u64> {
    if count > 2 {
        return None;
    }
    let mut value = 0;
    for _ in 0..count {
        let (cell, rest) = bytes.split_first_chunk::<4>()?;
        value = value << 32 | u64::from(u32::from_be_bytes(*cell));
        *bytes = rest;
    }
    Some(value)
}

/// Returns the first cell of `property` of `node`.
pub fn cell(node: &FdtNode<'_>, property: &str) -> Option<u32> {
    let property = node.property(property)?;
    take_cells(&mut property.value(), 1).map(|cell| cell as u32)
}

/// Returns a number of one or two cells, whatever its length says.
pub fn number(node: &FdtNode<'_>, property: &str) -> Option<u64> {
    let property = node.property(property)?;
    let mut value = property.value();
    let cells = u32::try_from(value.len() / 4).ok().filter(|&cells| cells > 0)?;
    take_cells(&mut value, cells)
}

/// Says whether `node` is compatible with `with`.
pub fn is_compatible(node: &FdtNode<'_>, with: &str) -> bool {
    node.property("compatible").is_some_and(|property| {
        property.value().split(|&byte| byte == 0).any(|one| one == with.as_bytes())
    })
}

/// Says whether `node` is not disabled.
pub fn is_available(node: &FdtNode<'_>) -> bool {
    node.property("status").is_none_or(|status| matches!(status.value(), b"okay\0" | b"ok\0"))
}

/// A bus between the root and a node, and how its addresses are those of the bus above (section 2.3.8).
#[derive(Copy, Clone)]
struct Bus<'a> {
    /// Its node, whose `ranges` has entries of an address on the bus, one above it, and a size; none where all
    /// addresses are the same.
    node: FdtNode<'a>,
    /// How many cells each of these has.
    cells: [u32; 3],
}

impl Bus<'_> {
    /// Returns what `range` on the bus is above it; `None` where nothing is.
    fn translate(&self, range: Range<u64>) -> Option<Range<u64>> {
        let ranges = self.node.property(RANGES)?;
        let mut entries = ranges.value();
        if entries.is_empty() {
            return Some(range);
        }
        while !entries.is_empty() {
            let [below, above, size] = self.cells.map(|cells| take_cells(&mut entries, cells));
            let (below, above) = (below?, above?);
            let end = below.checked_add(size?)?;
            if below <= range.start && range.end <= end {
                let start = above.checked_add(range.start - below)?;
                return Some(start..start.checked_add(range.end - range.start)?);
            }
        }
        None
    }
}

/// How many cells addresses and sizes have among the children of a node, and how they get to the CPUs.
#[derive(Copy, Clone)]
pub struct CellSizes<'a> {
    pub address: u32,
    pub size: u32,
    /// The buses, the outermost first.
    buses: [Option<Bus<'a>>; MAX_BUSES],
}

impl<'a> CellSizes<'a> {
    /// Reads them of the node above, of which no bus is.
    pub fn below(node: &FdtNode<'_>) -> Self {
        Self {
            address: cell(node, "#address-cells").unwrap_or(2),
            size: cell(node, "#size-cells").unwrap_or(1),
            buses: [None; MAX_BUSES],
        }
    }

    /// Returns those on the bus `node`, for which these hold; `None` where it is no bus that leads to the CPUs, or one
    /// too many.
    fn on_bus(self, node: &FdtNode<'a>) -> Option<Self> {
        if !is_compatible(node, "simple-bus") {
            return None;
        }
        node.property(RANGES)?;
        let mut inner = Self { buses: self.buses, ..Self::below(node) };
        let place = inner.buses.iter_mut().find(|bus| bus.is_none())?;
        *place = Some(Bus { node: *node, cells: [inner.address, self.address, inner.size] });
        Some(inner)
    }

    /// Returns what `range` is to the CPUs; `None` where they cannot reach it.
    fn translate(&self, range: Range<u64>) -> Option<Range<u64>> {
        let mut buses = self.buses.iter().rev().flatten();
        buses.try_fold(range, |range, bus| bus.translate(range))
    }

    /// Says whether the CPUs reach the registers of `node`, if it has any.
    fn reaches(&self, node: &FdtNode<'_>) -> bool {
        let Some(reg) = node.property(REG) else { return true };
        let mut bytes = reg.value();
        // What cannot be read is told of by whoever wants it.
        let Some(start) = take_cells(&mut bytes, self.address) else { return true };
        let Some(size) = take_cells(&mut bytes, self.size) else { return true };
        start.checked_add(size).is_none_or(|end| self.translate(start..end).is_some())
    }

    /// Calls `each` with the ranges in `reg` of `node`, a node of kind `what`, until it fails.
    pub fn ranges(
        self,
        node: &FdtNode<'_>,
        what: &'static str,
        mut each: impl FnMut(Range<u64>) -> Result<(), PlatformError>,
    ) -> Result<(), PlatformError> {
        let wanted = "addresses and sizes in as many cells as the node above says, two at most";
        let wrong = PlatformError::Property { node: what, property: REG, wanted };
        let reg = node.property(REG).ok_or(wrong)?;
        let mut bytes = reg.value();
        // Without cells there would be no end to it.
        if self.address == 0 && self.size == 0 {
            return Err(wrong);
        }
        while !bytes.is_empty() {
            let start = take_cells(&mut bytes, self.address).ok_or(wrong)?;
            let size = take_cells(&mut bytes, self.size).ok_or(wrong)?;
            let range = start..start.checked_add(size).ok_or(wrong)?;
            each(self.translate(range).ok_or(PlatformError::Property {
                node: what,
                property: REG,
                wanted: "addresses that the buses above lead to",
            })?)?;
        }
        Ok(())
    }

    /// Returns the first range in `reg` of `node`, a node of kind `what`.
    pub fn first_range(
        self,
        node: &FdtNode<'_>,
        what: &'static str,
    ) -> Result<Range<u64>, PlatformError> {
        let mut first = None;
        self.ranges(node, what, |range| {
            first.get_or_insert(range);
            Ok(())
        })?;
        first.filter(|range| !range.is_empty()).ok_or(PlatformError::Property {
            node: what,
            property: REG,
            wanted: "at least one range",
        })
    }
}

/// Calls `visit` with every available node below the root and on buses that lead to the CPUs, and the cell sizes that
/// hold for it, until it says that it has seen enough. What CPUs cannot reach is not there for Sluice.
pub fn visit<'a>(tree: Fdt<'a>, mut visit: impl FnMut(&FdtNode<'a>, CellSizes<'a>) -> bool) {
    let root = tree.root();
    visit_below(&root, CellSizes::below(&root), &mut visit);
}

fn visit_below<'a>(
    parent: &FdtNode<'a>,
    sizes: CellSizes<'a>,
    visit: &mut impl FnMut(&FdtNode<'a>, CellSizes<'a>) -> bool,
) -> bool {
    let mut there = parent.children().filter(|node| is_available(node) && sizes.reaches(node));
    there.all(|node| {
        visit(&node, sizes)
            && sizes.on_bus(&node).is_none_or(|sizes| visit_below(&node, sizes, visit))
    })
}

/// Returns the node at `path`, if CPUs reach it, and the cell sizes that hold for it.
pub fn descend<'a>(tree: Fdt<'a>, path: &str) -> Option<(FdtNode<'a>, CellSizes<'a>)> {
    let mut node = tree.root();
    let mut sizes = None;
    for name in path.strip_prefix('/')?.split('/') {
        sizes = Some(match sizes {
            None => CellSizes::below(&node),
            Some(above) => CellSizes::on_bus(above, &node)?,
        });
        node = node.child(name)?;
    }
    let sizes = sizes?;
    sizes.reaches(&node).then_some((node, sizes))
}
