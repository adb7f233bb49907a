//! Reading cells of a device tree without trusting it (Devicetree Specification 0.4, chapter 2).

use crate::error::PlatformError;
use core::ops::Range;
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};

/// The property with a node's addresses.
pub const REG: &str = "reg";
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

/// How many cells addresses and sizes have among the children of a node.
#[derive(Copy, Clone)]
pub struct CellSizes {
    pub address: u32,
    pub size: u32,
}

impl CellSizes {
    /// Reads them of the node above.
    pub fn below(node: &FdtNode<'_>) -> Self {
        Self {
            address: cell(node, "#address-cells").unwrap_or(2),
            size: cell(node, "#size-cells").unwrap_or(1),
        }
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
            each(start..start.checked_add(size).ok_or(wrong)?)?;
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

/// Says whether `node` is a bus whose children have the addresses of the bus above: one with an
/// empty `ranges`. The others' would have to be translated, which is not done: what is on them is
/// not there for Sluice.
fn is_transparent_bus(node: &FdtNode<'_>) -> bool {
    is_compatible(node, "simple-bus")
        && node.property("ranges").is_some_and(|ranges| ranges.value().is_empty())
}

/// Calls `visit` with every available node below the root and on transparent buses, and the cell
/// sizes that hold for it, until it says that it has seen enough.
pub fn visit(tree: Fdt<'_>, mut visit: impl FnMut(&FdtNode<'_>, CellSizes) -> bool) {
    visit_below(&tree.root(), MAX_BUSES, &mut visit);
}

fn visit_below(
    parent: &FdtNode<'_>,
    buses: usize,
    visit: &mut impl FnMut(&FdtNode<'_>, CellSizes) -> bool,
) -> bool {
    let sizes = CellSizes::below(parent);
    parent.children().filter(is_available).all(|node| {
        visit(&node, sizes)
            && (buses == 0 || !is_transparent_bus(&node) || visit_below(&node, buses - 1, visit))
    })
}

/// Returns the node at `path`, if all the way to it are transparent buses, and the cell sizes that
/// hold for it.
pub fn descend<'a>(tree: Fdt<'a>, path: &str) -> Option<(FdtNode<'a>, CellSizes)> {
    let mut node = tree.root();
    let mut sizes = None;
    for name in path.strip_prefix('/')?.split('/') {
        if sizes.is_some() && !is_transparent_bus(&node) {
            return None;
        }
        sizes = Some(CellSizes::below(&node));
        node = node.child(name)?;
    }
    Some((node, sizes?))
}
