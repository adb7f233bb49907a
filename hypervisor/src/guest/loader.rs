//! Puts a guest's images into its memory.

use super::image::DEVICE_TREE_MAX;
use super::machine_tree::{Description, MachineTree};
use super::manifest::GuestConfig;
use super::seed::Seed;
use crate::addr::{BLOCK_2M, Ipa};
use crate::device::gic::Version;
use core::fmt;

/// What the first vCPU starts with (Documentation/arch/arm64/booting.rst in Linux): the MMU off, at
/// EL1, x1 to x3 zero.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The kernel's first instruction.
    pub pc: Ipa,
    /// The device tree, for x0.
    pub device_tree: Ipa,
}

/// Why a guest's images are not in its memory.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum LoadError<E> {
    /// Its memory could not be written.
    Write {
        /// What was being written.
        what: &'static str,
        /// Where in it the write began.
        at: Ipa,
        /// Why.
        cause: E,
    },
    /// The device tree is larger than the boot protocol allows.
    TreeTooLarge {
        /// Its size in bytes.
        size: usize,
    },
}

impl<E: fmt::Debug> fmt::Display for LoadError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write { what, at, cause } => {
                write!(f, "the {what} could not be written at {at}: {cause:?}")
            }
            Self::TreeTooLarge { size } => {
                write!(f, "the device tree takes {size} bytes; {DEVICE_TREE_MAX} is the most")
            }
        }
    }
}

/// Describes the machine of a guest of `config` to it. `random`: there will be seeds for its
/// generator.
pub fn describe(config: &GuestConfig<'_>, gic: Version, random: bool) -> MachineTree {
    MachineTree::new(&Description {
        gic,
        vcpus: config.vcpus,
        memory: config.memory,
        command_line: &config.command_line,
        initrd: config.placement.initrd.clone(),
        random,
    })
}

/// The most that is written in one piece, in bytes.
pub const PIECE: usize = 64 << 10;

/// How far the images are in the guest's memory.
#[derive(Clone, Debug, Default)]
pub struct Cursor {
    what: What,
    offset: usize,
}

#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
enum What {
    #[default]
    Kernel,
    Initrd,
    Tree,
}

impl Cursor {
    /// Returns where the next piece goes.
    pub fn next(&self, config: &GuestConfig<'_>) -> Ipa {
        let placement = &config.placement;
        let start = match self.what {
            What::Kernel => placement.kernel,
            What::Initrd => placement.initrd.as_ref().map_or(placement.kernel, |at| at.start),
            What::Tree => placement.device_tree,
        };
        // The placement was checked to be in the guest's memory: this does not overflow.
        Ipa::new(start.as_u64().saturating_add(self.offset as u64))
    }
}

/// Writes the next piece of a guest's kernel, initrd or device tree through `write`, which gets parts of at most
/// [`PIECE`] bytes that do not cross a 2 MiB boundary (the device tree is one piece, but for such boundaries). Returns
/// what the first vCPU starts with when all of it is written. Allocates nothing.
///
/// The guest starts with its caches off: `write` must see to it that what it wrote is visible at
/// the point of coherency, and that no stale instruction is fetched there. Memory that is not
/// written must read as zero, as the kernel's .bss is in it.
///
/// # Errors
///
/// [`LoadError`]; some of the images may have been written.
pub fn load_some<E>(
    config: &GuestConfig<'_>,
    tree: &MachineTree,
    seed: &Seed,
    cursor: &mut Cursor,
    mut write: impl FnMut(Ipa, &[u8]) -> Result<(), E>,
) -> Result<Option<Loaded>, LoadError<E>> {
    let placement = &config.placement;
    let (bytes, name, then) = match cursor.what {
        What::Kernel => (config.kernel, "kernel", What::Initrd),
        What::Initrd => (config.initrd, "initrd", What::Tree),
        What::Tree => {
            let size = tree.bytes().len();
            if size as u64 > DEVICE_TREE_MAX {
                return Err(LoadError::TreeTooLarge { size });
            }
            let start = placement.device_tree.as_u64();
            tree.parts(seed, |offset, bytes| {
                write_parts(Ipa::new(start.saturating_add(offset as u64)), bytes, &mut write)
            })
            .map_err(|(at, cause)| LoadError::Write {
                what: "device tree",
                at,
                cause,
            })?;
            return Ok(Some(Loaded { pc: placement.kernel, device_tree: placement.device_tree }));
        }
    };
    let rest = bytes.get(cursor.offset..).unwrap_or(&[]);
    let piece = rest.get(..PIECE).unwrap_or(rest);
    write_parts(cursor.next(config), piece, &mut write)
        .map_err(|(at, cause)| LoadError::Write { what: name, at, cause })?;
    if piece.len() == rest.len() {
        *cursor = Cursor { what: then, offset: 0 };
    } else {
        cursor.offset += piece.len();
    }
    Ok(None)
}

fn write_parts<E>(
    start: Ipa,
    bytes: &[u8],
    write: &mut impl FnMut(Ipa, &[u8]) -> Result<(), E>,
) -> Result<(), (Ipa, E)> {
    let mut at = start;
    let mut rest = bytes;
    while !rest.is_empty() {
        let room = BLOCK_2M - at.as_u64() % BLOCK_2M;
        let (part, after) = rest.split_at(rest.len().min(room as usize));
        write(at, part).map_err(|cause| (at, cause))?;
        // The placement was checked to be in the guest's memory: this does not overflow.
        at = Ipa::new(at.as_u64().saturating_add(part.len() as u64));
        rest = after;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::bundle::{Bundle, tests::archive};
    use crate::guest::image::{Image, Placement};
    use crate::guest::layout;
    use crate::guest::manifest::Population;
    use dtoolkit::fdt::Fdt;
    use dtoolkit::{Node, Property};

    const MIB: usize = 1 << 20;

    fn config<'a>(kernel: &'a [u8], initrd: &'a [u8]) -> GuestConfig<'a> {
        let memory = 64 << 20;
        let image = Image::parse(kernel).expect("it is a flat binary");
        GuestConfig {
            name: "one".into(),
            vcpus: 2,
            memory,
            maximum_memory: memory,
            minimum_memory: memory,
            kernel,
            image,
            initrd,
            placement: Placement::find(image, initrd.len() as u64, memory).expect("it fits"),
            command_line: "quiet".into(),
            population: Population::Lazy,
            held: false,
            cpus: Vec::new(),
            overcommit: false,
        }
    }

    /// Loads all of it.
    fn load<E>(
        config: &GuestConfig<'_>,
        tree: &MachineTree,
        seed: &Seed,
        mut write: impl FnMut(Ipa, &[u8]) -> Result<(), E>,
    ) -> Result<Loaded, LoadError<E>> {
        let mut cursor = Cursor::default();
        loop {
            let next = cursor.next(config);
            let mut first = None;
            let done = load_some(config, tree, seed, &mut cursor, |at, bytes| {
                assert!(bytes.len() <= PIECE, "a piece is too long");
                assert!(*first.get_or_insert(at) == next, "the cursor pointed elsewhere");
                write(at, bytes)
            })?;
            if let Some(loaded) = done {
                return Ok(loaded);
            }
        }
    }

    const SEED: Seed = Seed { kaslr: 0x1234_5678, rng: None };

    #[test]
    fn images_are_where_the_entry_and_the_tree_say() {
        let files = archive(&[("k", &[0xaa; 5 * MIB + 3]), ("i", &[0xbb; 3 * MIB + 1])]);
        let bundle = Bundle::new(&files);
        let file = |name| bundle.find(name).expect("the archive is good").expect("it is there");
        let config = config(file("k"), file("i"));
        let mut memory = vec![0u8; 64 * MIB];
        let loaded = load(&config, &describe(&config, Version::V3, false), &SEED, |ipa, bytes| {
            let start = (ipa.as_u64() - layout::RAM_START.as_u64()) as usize;
            let end = start + bytes.len();
            assert_eq!(start / (2 * MIB), (end - 1) / (2 * MIB), "a part crosses a block");
            assert!(memory[start..end].iter().all(|&byte| byte == 0), "images overlap");
            memory[start..end].copy_from_slice(bytes);
            Ok::<(), ()>(())
        })
        .expect("nothing fails");
        let at = |ipa: Ipa| (ipa.as_u64() - layout::RAM_START.as_u64()) as usize;
        assert_eq!(at(loaded.pc), 0x8_0000);
        assert_eq!(memory[at(loaded.pc)..][..5 * MIB + 3], [0xaa; 5 * MIB + 3]);
        let tree = &memory[at(loaded.device_tree)..];
        let size = u32::from_be_bytes(tree[4..8].try_into().expect("a header has more"));
        let tree = Fdt::new(&tree[..size as usize]).expect("the tree is there");
        let chosen = tree.find_node("/chosen").expect("there is a chosen node");
        let number = |name| {
            let property = chosen.property(name).expect("it is set");
            u64::from_be_bytes(property.value().try_into().expect("it has two cells"))
        };
        assert_eq!(number("kaslr-seed"), SEED.kaslr);
        let (start, end) = (number("linux,initrd-start"), number("linux,initrd-end"));
        assert_eq!(memory[at(Ipa::new(start))..at(Ipa::new(end))], [0xbb; 3 * MIB + 1]);
    }

    #[test]
    fn a_write_that_fails_names_what_was_being_written() {
        let config = config(&[1; 100], &[2; 100]);
        let initrd = config.placement.initrd.clone().expect("there is one").start;
        let outcome = load(&config, &describe(&config, Version::V3, false), &SEED, |ipa, _| {
            if ipa == initrd { Err("no memory") } else { Ok(()) }
        });
        let error = outcome.expect_err("the initrd cannot be written");
        assert_eq!(error, LoadError::Write { what: "initrd", at: initrd, cause: "no memory" });
        assert!(error.to_string().starts_with("the initrd could not be written at 0x40"));
    }
}
