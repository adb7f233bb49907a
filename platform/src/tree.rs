//! Reading cells of a device tree without trusting it (Devicetree Specification 0.4, chapter 2).

use core::ops::Range;
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};

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
    let cells = (value.len() / 4) as u32;
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
    pub fn below(node: &FdtNode<'_>) -> Self {
        Self {
            address: cell(node, "#address-cells").unwrap_or(2),
            size: cell(node, "#size-cells").unwrap_or(1),
        }
    }

    /// Calls `each` with the ranges in `reg` of `node`, until it fails; `None` where `reg` is missing
    /// or malformed.
    pub fn ranges(
        self,
        node: &FdtNode<'_>,
        mut each: impl FnMut(Range<u64>) -> Option<()>,
    ) -> Option<()> {
        let reg = node.property("reg")?;
        let mut bytes = reg.value();
        while !bytes.is_empty() {
            let start = take_cells(&mut bytes, self.address)?;
            let size = take_cells(&mut bytes, self.size)?;
            each(start..start.checked_add(size)?)?;
        }
        Some(())
    }
}

/// Calls `visit` with every available node below the root, and the cell sizes that hold for it, until it
/// says that it has seen enough.
///
/// Buses are entered only where their addresses are the root's: those with an empty `ranges`.
pub fn visit(tree: Fdt<'_>, mut visit: impl FnMut(&FdtNode<'_>, CellSizes) -> bool) {
    let root = tree.root();
    let sizes = CellSizes::below(&root);
    for node in root.children() {
        if !is_available(&node) {
            continue;
        }
        if !visit(&node, sizes) {
            return;
        }
        let is_bus = is_compatible(&node, "simple-bus")
            && node.property("ranges").is_some_and(|ranges| ranges.value().is_empty());
        if is_bus {
            let sizes = CellSizes::below(&node);
            for child in node.children() {
                if is_available(&child) && !visit(&child, sizes) {
                    return;
                }
            }
        }
    }
}
