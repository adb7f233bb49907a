//! Writing a flattened device tree, version 17 (Devicetree Specification 0.4, chapter 5): what a
//! guest's machine needs of that, in a fraction of the code of a library that can edit trees.

use alloc::vec::Vec;

const MAGIC: u32 = 0xd00d_feed;
const VERSION: u32 = 17;
const LAST_COMPATIBLE_VERSION: u32 = 16;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const END: u32 = 9;
/// The header's size in bytes.
const HEADER: usize = 40;
/// The reservation block is one entry of zeros, its end. A boot loader's reservations have no place
/// in it.
const RESERVATIONS: usize = 16;
const STRUCTURE: usize = HEADER + RESERVATIONS;

/// A device tree that is being written, node by node: of each, first the properties, then the nodes
/// below.
///
/// Names and values are the hypervisor's own, a few KiB in all, so that no size overflows 32 bits.
pub struct Writer {
    structure: Vec<u8>,
    /// The names of properties, each once.
    strings: Vec<u8>,
}

impl Writer {
    /// Begins a tree with its root.
    pub fn new() -> Self {
        let mut writer = Self { structure: Vec::new(), strings: Vec::new() };
        writer.begin("");
        writer
    }

    /// Begins a node below the one that was begun last and not ended.
    pub fn begin(&mut self, name: &str) {
        self.word(BEGIN_NODE);
        self.structure.extend_from_slice(name.as_bytes());
        self.structure.push(0);
        self.align();
    }

    /// Ends the node that was begun last.
    pub fn end(&mut self) {
        self.word(END_NODE);
    }

    /// Sets a property. Returns where in the blob its value is.
    pub fn property(&mut self, name: &str, value: &[u8]) -> usize {
        let name = self.string(name);
        self.word(PROPERTY);
        self.word(value.len() as u32);
        self.word(name);
        let offset = STRUCTURE + self.structure.len();
        self.structure.extend_from_slice(value);
        self.align();
        offset
    }

    /// Sets a property without a value.
    pub fn flag(&mut self, name: &str) {
        self.property(name, &[]);
    }

    /// Sets a property of one string or several.
    pub fn text(&mut self, name: &str, texts: &[&str]) {
        let mut value = Vec::new();
        for text in texts {
            value.extend_from_slice(text.as_bytes());
            value.push(0);
        }
        self.property(name, &value);
    }

    /// Sets a property of 32-bit cells.
    pub fn cells(&mut self, name: &str, cells: &[u32]) {
        let mut value = Vec::new();
        for cell in cells {
            value.extend_from_slice(&cell.to_be_bytes());
        }
        self.property(name, &value);
    }

    /// Ends the root and returns the blob.
    pub fn finish(mut self) -> Vec<u8> {
        self.end();
        self.word(END);
        let strings_at = STRUCTURE + self.structure.len();
        let header = [
            MAGIC,
            (strings_at + self.strings.len()) as u32,
            STRUCTURE as u32,
            strings_at as u32,
            HEADER as u32,
            VERSION,
            LAST_COMPATIBLE_VERSION,
            // The CPU that boots.
            0,
            self.strings.len() as u32,
            self.structure.len() as u32,
        ];
        let mut blob = Vec::with_capacity(strings_at + self.strings.len());
        for word in header {
            blob.extend_from_slice(&word.to_be_bytes());
        }
        blob.extend_from_slice(&[0; RESERVATIONS]);
        blob.extend_from_slice(&self.structure);
        blob.extend_from_slice(&self.strings);
        blob
    }

    fn word(&mut self, word: u32) {
        self.structure.extend_from_slice(&word.to_be_bytes());
    }

    fn align(&mut self) {
        self.structure.resize(self.structure.len().next_multiple_of(4), 0);
    }

    /// Returns where among the names `name` is.
    fn string(&mut self, name: &str) -> u32 {
        let mut at = 0;
        for known in self.strings.split_inclusive(|&byte| byte == 0) {
            if known.strip_suffix(&[0]) == Some(name.as_bytes()) {
                return at;
            }
            at += known.len() as u32;
        }
        self.strings.extend_from_slice(name.as_bytes());
        self.strings.push(0);
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dtoolkit::fdt::Fdt;
    use dtoolkit::{Node, Property};

    #[test]
    fn what_is_written_is_read() {
        let mut writer = Writer::new();
        writer.cells("#address-cells", &[2]);
        writer.begin("a");
        writer.flag("empty");
        writer.text("text", &["one", "three"]);
        writer.begin("below");
        let offset = writer.property("empty", b"12345");
        writer.end();
        writer.end();
        writer.begin("b@1");
        writer.cells("cells", &[1, 0xffff_fffe]);
        writer.end();
        let blob = writer.finish();
        assert_eq!(blob[offset..offset + 5], *b"12345");
        let tree = Fdt::new(&blob).expect("it is valid");
        let value = |path: &str, property: &str| {
            let node = tree.find_node(path).expect("the node is there");
            node.property(property).expect("the property is there").value().to_vec()
        };
        assert_eq!(value("/", "#address-cells"), [0, 0, 0, 2]);
        assert_eq!(value("/a", "empty"), []);
        assert_eq!(value("/a", "text"), b"one\0three\0");
        assert_eq!(value("/a/below", "empty"), b"12345");
        assert_eq!(value("/b@1", "cells"), [0, 0, 0, 1, 0xff, 0xff, 0xff, 0xfe]);
        assert_eq!(tree.memory_reservations().count(), 0);
    }

    #[test]
    fn a_name_is_kept_once_and_whole() {
        let mut writer = Writer::new();
        for name in ["reg", "reg-shift", "reg", "shift", "g"] {
            writer.flag(name);
        }
        assert_eq!(writer.strings, b"reg\0reg-shift\0shift\0g\0");
    }
}
