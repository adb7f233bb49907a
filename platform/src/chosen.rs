//! What the loader says in /chosen (Devicetree Specification 0.4, section 3.6, and Linux's
//! additions).

use crate::error::PlatformError;
use crate::machine::{MAX_ARGUMENTS, Uart};
use crate::reader;
use crate::tree;
use core::ops::Range;
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};
use heapless::String;

/// What the loader chose.
#[derive(Default)]
pub struct Chosen {
    pub arguments: String<MAX_ARGUMENTS>,
    pub initrd: Option<Range<u64>>,
    pub seed: Option<[u8; 32]>,
}

impl Chosen {
    pub fn read(tree: Fdt<'_>) -> Result<Self, PlatformError> {
        let Some(node) = tree.find_node("/chosen") else { return Ok(Self::default()) };
        let seed = node.property("rng-seed");
        Ok(Self {
            arguments: arguments(&node)?,
            initrd: initrd(&node)?,
            seed: seed.and_then(|seed| seed.value().first_chunk::<32>().copied()),
        })
    }
}

fn arguments(chosen: &FdtNode<'_>) -> Result<String<MAX_ARGUMENTS>, PlatformError> {
    const NODE: &str = "chosen";
    const PROPERTY: &str = "bootargs";
    let wrong = |wanted| PlatformError::Property { node: NODE, property: PROPERTY, wanted };
    let mut arguments = String::new();
    if let Some(property) = chosen.property(PROPERTY) {
        let text = property.value_as::<&str>().map_err(|_| wrong("text in UTF-8"))?;
        arguments.push_str(text).map_err(|_| wrong("text of at most 512 bytes"))?;
    }
    Ok(arguments)
}

fn initrd(chosen: &FdtNode<'_>) -> Result<Option<Range<u64>>, PlatformError> {
    const START: &str = "linux,initrd-start";
    const END: &str = "linux,initrd-end";
    let number = |property: &'static str| match chosen.property(property) {
        None => Ok(None),
        Some(_) => tree::number(chosen, property).map(Some).ok_or(PlatformError::Property {
            node: "chosen",
            property,
            wanted: "an address of one or two cells",
        }),
    };
    match (number(START)?, number(END)?) {
        (None, None) => Ok(None),
        (Some(start), Some(end)) if start < end => Ok(Some(start..end)),
        // A loader with nothing to load may say so.
        (Some(start), Some(end)) if start == end => Ok(None),
        _ => Err(PlatformError::Property {
            node: "chosen",
            property: END,
            wanted: "an address above linux,initrd-start",
        }),
    }
}

/// Returns the UART that stdout-path names, by path or by alias.
pub fn stdout(tree: Fdt<'_>, interrupt_cells: usize) -> Option<Result<Uart, PlatformError>> {
    let chosen = tree.find_node("/chosen")?;
    let property = chosen.property("stdout-path")?;
    // What follows a colon are the line's settings.
    let path = property.value_as::<&str>().ok()?.split(':').next()?;
    let aliases = tree.find_node("/aliases");
    let alias = aliases.and_then(|aliases| aliases.property(path));
    let path = match &alias {
        Some(alias) if !path.starts_with('/') => alias.value_as::<&str>().ok()?,
        _ => path,
    };
    let (node, sizes) = tree::descend(tree, path)?;
    let kind = reader::uart_kind(&node)?;
    Some(reader::uart(kind, &node, sizes, interrupt_cells))
}

/// Finds the console alone: for telling why the machine could not be made out.
pub fn find_uart(tree: Fdt<'_>) -> Option<Uart> {
    // Its interrupt is of no use where there is no GIC to take it.
    let cells = reader::interrupt_cells(tree).unwrap_or(3);
    if let Some(Ok(uart)) = stdout(tree, cells) {
        return Some(uart);
    }
    let mut found = None;
    tree::visit(tree, |node, sizes| {
        if let Some(kind) = reader::uart_kind(node) {
            found = reader::uart(kind, node, sizes, cells).ok();
        }
        found.is_none()
    });
    found
}
