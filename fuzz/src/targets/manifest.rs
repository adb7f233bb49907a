//! A manifest: a device tree in a bundle, beside a kernel and an initrd.

use crate::Input;
use sluice::addr::BLOCK_2M;
use sluice::device::gic::Version;
use sluice::guest::bundle::{Bundle, MANIFEST};
use sluice::guest::image::{DEVICE_TREE_MAX, Image, Placement};
use sluice::guest::layout::{MAX_RAM, MAX_VCPUS, RAM_START};
use sluice::guest::loader;
use sluice::guest::manifest::{self, MAX_COMMAND_LINE, MAX_GUESTS};
use std::fmt::Write as _;

/// Appends a file to an archive.
fn add(archive: &mut Vec<u8>, name: &str, bytes: &[u8]) {
    let fields = [1, 0o100_644, 0, 0, 1, 0, bytes.len(), 0, 0, 0, 0, name.len() + 1, 0];
    let mut header = String::from("070701");
    for field in fields {
        write!(header, "{field:08x}").expect("a string takes it");
    }
    archive.extend_from_slice(header.as_bytes());
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(bytes);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

/// Takes the first 64 bytes for the head of a kernel, and the others for a manifest that may name it. A guest that is
/// agreed to has what the limits say, and its images are apart and in its memory.
pub fn run(input: &[u8]) {
    let (kernel, tree) = input.split_at(input.len().min(64));
    let parsed = Image::parse(kernel);
    if let Ok(image) = parsed {
        let mut sizes = Input::new(tree);
        let _ = Placement::find(image, sizes.number(), sizes.number().min(MAX_RAM));
    }
    let mut archive = Vec::new();
    add(&mut archive, "Image", kernel);
    add(&mut archive, "stub.bin", &[0x5a; 4096]);
    add(&mut archive, "initramfs.cpio", &[0x70; 512]);
    add(&mut archive, MANIFEST, tree);
    add(&mut archive, "TRAILER!!!", &[]);
    let guests = match manifest::read(&Bundle::new(&archive)) {
        Ok(guests) => guests,
        Err(error) => {
            // It is told to whoever made it.
            let _ = error.to_string();
            return;
        }
    };
    assert!((1..=MAX_GUESTS).contains(&guests.len()));
    for (index, guest) in guests.iter().enumerate() {
        assert!(manifest::is_name(&guest.name), "{:?}", guest.name);
        assert!(guests[..index].iter().all(|other| other.name != guest.name), "two of one name");
        assert!((1..=MAX_VCPUS).contains(&guest.vcpus));
        assert!(guest.memory > 0 && guest.memory.is_multiple_of(BLOCK_2M));
        assert!(guest.maximum_memory.is_multiple_of(BLOCK_2M) && guest.maximum_memory <= MAX_RAM);
        assert!(guest.memory <= guest.maximum_memory && guest.minimum_memory <= guest.memory);
        assert!(guest.command_line.len() <= MAX_COMMAND_LINE);
        let at = |address: sluice::addr::Ipa| address.as_u64() - RAM_START.as_u64();
        let placed = &guest.placement;
        let (kernel, tree) = (at(placed.kernel), at(placed.device_tree));
        let mut pieces = vec![(kernel, kernel + guest.image.size), (tree, tree + DEVICE_TREE_MAX)];
        pieces.extend(placed.initrd.as_ref().map(|initrd| (at(initrd.start), at(initrd.end))));
        pieces.sort_unstable();
        assert!(pieces.windows(2).all(|two| two[0].1 <= two[1].0), "two overlap: {pieces:x?}");
        assert!(pieces.iter().all(|piece| piece.1 <= guest.memory), "images outside of memory");
        let machine = loader::describe(guest, Version::V3, true);
        assert!(machine.bytes().len() as u64 <= DEVICE_TREE_MAX);
    }
}
