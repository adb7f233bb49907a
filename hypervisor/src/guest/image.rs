//! A guest's kernel: an arm64 Image (Documentation/arch/arm64/booting.rst in Linux), or a flat
//! binary.

use super::layout::RAM_START;
use crate::addr::{BLOCK_2M, Ipa, IpaRange, PAGE_SIZE};
use core::fmt;

/// Where QEMU's loader puts a binary without a header: this many bytes above the start of memory.
const FLAT_OFFSET: u64 = 0x8_0000;
/// The most that a device tree may take in bytes. The boot protocol allows 2 MiB; this is several
/// times what the largest one takes, and the initrd may follow in the same 2 MiB block.
pub const DEVICE_TREE_MAX: u64 = 64 << 10;

/// What the header of a kernel says.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Where it goes, in bytes from the start of memory.
    pub offset: u64,
    /// What it takes from there in bytes, .bss included.
    pub size: u64,
    /// It has no header. It may be firmware for QEMU's `virt`, which finds the device tree at the start of memory.
    pub flat: bool,
}

/// Why a kernel cannot be loaded.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// It is compressed, or another format that is not an Image.
    Format(&'static str),
    /// It is built for a big-endian CPU.
    BigEndian,
    /// It takes more than the guest has.
    TooLarge {
        /// What kernel, initrd and device tree take, in bytes.
        wanted: u64,
        /// What the guest has, in bytes.
        memory: u64,
    },
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format(what) => {
                write!(f, "the file is {what}; give an uncompressed arm64 Image or a flat binary")
            }
            Self::BigEndian => {
                f.write_str("the file is built for big-endian CPUs; give a little-endian one")
            }
            Self::TooLarge { wanted, memory } => write!(
                f,
                "{} MiB are too little; kernel, initrd and device tree take {} MiB",
                memory >> 20,
                wanted.div_ceil(1 << 20)
            ),
        }
    }
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(offset..offset + 8)?.try_into().ok()?))
}

impl Image {
    /// Reads the header of `kernel`.
    ///
    /// # Errors
    ///
    /// It is something that is known not to be runnable; what has no header is taken for a flat
    /// binary.
    pub fn parse(kernel: &[u8]) -> Result<Self, ImageError> {
        let size = kernel.len() as u64;
        if kernel.get(56..60) == Some(b"ARM\x64") {
            let text_offset = u64_at(kernel, 8).unwrap_or(0);
            let image_size = u64_at(kernel, 16).unwrap_or(0);
            let flags = u64_at(kernel, 24).unwrap_or(0);
            if flags & 1 != 0 {
                return Err(ImageError::BigEndian);
            }
            // Before Linux 3.17 the size was 0, and the offset what it was by custom.
            let (offset, image_size) =
                if image_size == 0 { (FLAT_OFFSET, size) } else { (text_offset, image_size) };
            return Ok(Self { offset, size: image_size.max(size), flat: false });
        }
        match unsuitable(kernel) {
            Some(what) => Err(ImageError::Format(what)),
            None => Ok(Self { offset: FLAT_OFFSET, size, flat: true }),
        }
    }
}

/// Says what a file without the header is, where it is known not to be a flat binary.
fn unsuitable(kernel: &[u8]) -> Option<&'static str> {
    Some(match kernel {
        [] => "empty",
        [0x1f, 0x8b, ..] => "compressed by gzip",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "compressed by zstd",
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "compressed by xz",
        [b'B', b'Z', b'h', ..] => "compressed by bzip2",
        [0x02, 0x21, 0x4c, 0x18, ..] | [0x04, 0x22, 0x4d, 0x18, ..] => "compressed by lz4",
        [0x89, b'L', b'Z', b'O', ..] => "compressed by lzop",
        [0x7f, b'E', b'L', b'F', ..] => "an ELF file",
        [0x27, 0x05, 0x19, 0x56, ..] => "an image of U-Boot's",
        [0xd0, 0x0d, 0xfe, 0xed, ..] => "a device tree or a FIT image",
        [b'M', b'Z', _, _, b'z', b'i', b'm', b'g', ..] => {
            "an EFI program that holds a compressed kernel (CONFIG_EFI_ZBOOT)"
        }
        _ if kernel.get(0x202..0x206) == Some(b"HdrS") => "a kernel for x86",
        [b'M', b'Z', ..] => "an EFI program",
        _ => return None,
    })
}

/// Where in a guest's memory its images go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The kernel's first byte, where the first vCPU starts.
    pub kernel: Ipa,
    /// The initrd.
    pub initrd: Option<IpaRange>,
    /// The device tree's first byte; it has [`DEVICE_TREE_MAX`] bytes.
    pub device_tree: Ipa,
}

impl Placement {
    /// Places a kernel, an initrd of `initrd` bytes (0 for none) and a device tree in `memory`
    /// bytes from the start of memory.
    ///
    /// The kernel is at a multiple of 2 MiB plus its text offset. The device tree follows at the
    /// next multiple of 2 MiB: it is at a multiple of 8 bytes, crosses no multiple of 2 MiB (Linux
    /// before 4.2 needs that), and shares no block with the kernel. The initrd follows the device
    /// tree at a multiple of 4 KiB; what a bundle can hold, 4 GiB, is within 32 GiB of the kernel.
    /// For a flat binary the device tree is at the start of memory instead.
    ///
    /// # Errors
    ///
    /// They do not fit.
    pub fn find(image: Image, initrd: u64, memory: u64) -> Result<Self, ImageError> {
        let too_large = |wanted| ImageError::TooLarge { wanted, memory };
        let kernel_end = image.offset.checked_add(image.size).ok_or(too_large(u64::MAX))?;
        let tree = kernel_end.checked_next_multiple_of(BLOCK_2M).ok_or(too_large(u64::MAX))?;
        let initrd_start = tree.checked_add(DEVICE_TREE_MAX).ok_or(too_large(u64::MAX))?;
        let end = initrd_start.checked_add(initrd).ok_or(too_large(u64::MAX))?;
        if end.checked_next_multiple_of(PAGE_SIZE).is_none_or(|end| end > memory) {
            return Err(too_large(end));
        }
        let at = |offset| Ipa::new(RAM_START.as_u64() + offset);
        Ok(Self {
            kernel: at(image.offset),
            initrd: (initrd > 0).then(|| at(initrd_start)..at(end)),
            device_tree: at(if image.flat { 0 } else { tree }),
        })
    }
}

// What lies below a flat binary has room for it.
const _: () = assert!(DEVICE_TREE_MAX <= FLAT_OFFSET);

#[cfg(test)]
mod tests {
    use super::*;

    fn header(text_offset: u64, image_size: u64, flags: u64) -> Vec<u8> {
        let mut kernel = vec![0; 64];
        kernel[8..16].copy_from_slice(&text_offset.to_le_bytes());
        kernel[16..24].copy_from_slice(&image_size.to_le_bytes());
        kernel[24..32].copy_from_slice(&flags.to_le_bytes());
        kernel[56..60].copy_from_slice(b"ARM\x64");
        kernel
    }

    #[test]
    fn a_header_is_believed_and_a_flat_binary_goes_where_qemu_puts_it() {
        assert_eq!(
            Image::parse(&header(0, 0x20_0000, 0xa)),
            Ok(Image { offset: 0, size: 0x20_0000, flat: false })
        );
        assert_eq!(Image::parse(&[0; 100]), Ok(Image { offset: 0x8_0000, size: 100, flat: true }));
        assert_eq!(
            Image::parse(&header(0, 0, 0)),
            Ok(Image { offset: 0x8_0000, size: 64, flat: false })
        );
    }

    #[test]
    fn what_cannot_run_is_named() {
        assert_eq!(Image::parse(&header(0, 4096, 1)), Err(ImageError::BigEndian));
        let mut x86 = vec![0; 0x210];
        x86[..2].copy_from_slice(b"MZ");
        x86[0x202..0x206].copy_from_slice(b"HdrS");
        for (kernel, what) in [
            (&b"\x1f\x8b\x08"[..], "gzip"),
            (b"\xfd7zXZ\0", "xz"),
            (b"\x28\xb5\x2f\xfd", "zstd"),
            (b"\x7fELF", "ELF"),
            (b"MZ\0\0zimg", "ZBOOT"),
            (b"MZ\0\0....", "EFI"),
            (&x86, "x86"),
            (b"", "empty"),
        ] {
            let error = Image::parse(kernel).expect_err(what).to_string();
            assert!(error.contains(what), "{what}: {error}");
        }
        // The beginning of one does not make it one.
        assert!(Image::parse(b"\x1f\x8c").is_ok());
        assert!(Image::parse(b"\x7fELG").is_ok());
    }

    #[test]
    fn nothing_overlaps() {
        let image = Image { offset: 0, size: 33 << 20, flat: false };
        let placed = Placement::find(image, 5 << 20, 512 << 20).expect("it fits");
        let initrd = placed.initrd.expect("there is one");
        assert!(placed.device_tree.as_u64() >= placed.kernel.as_u64() + image.size);
        assert!(initrd.start.as_u64() >= placed.device_tree.as_u64() + DEVICE_TREE_MAX);
        assert_eq!(initrd.end.as_u64() - initrd.start.as_u64(), 5 << 20);
        // 33 MiB of kernel end in the block that ends at 34 MiB.
        let least = (34 << 20) + DEVICE_TREE_MAX + (5 << 20);
        assert!(Placement::find(image, 5 << 20, least).is_ok());
        let wanted = least;
        let memory = least - BLOCK_2M;
        let error = Placement::find(image, 5 << 20, memory).expect_err("it does not fit");
        assert_eq!(error, ImageError::TooLarge { wanted, memory });
        assert!(
            Placement::find(Image { offset: u64::MAX, size: 2, flat: false }, 0, 1 << 30).is_err()
        );
        assert!(
            Placement::find(Image { offset: 0, size: u64::MAX - 5, flat: false }, 0, 1 << 30)
                .is_err()
        );
        assert!(Placement::find(image, u64::MAX, 1 << 30).is_err());
        // What ends in the last page that a number can name must not come round to 0.
        let last = Image { offset: 0, size: u64::MAX - BLOCK_2M, flat: false };
        assert!(Placement::find(last, BLOCK_2M - DEVICE_TREE_MAX - 1, 1 << 30).is_err());
    }

    #[test]
    fn a_flat_binary_has_the_device_tree_at_the_start_of_memory() {
        let image = Image::parse(&[0; 100]).expect("it may be anything");
        let placed = Placement::find(image, 1, 64 << 20).expect("it fits");
        assert_eq!(placed.device_tree, RAM_START);
        assert!(placed.device_tree.as_u64() + DEVICE_TREE_MAX <= placed.kernel.as_u64());
        assert!(placed.initrd.expect("there is one").start.as_u64() > placed.kernel.as_u64() + 100);
    }

    #[test]
    fn the_boot_protocol_is_kept() {
        for size in [1, BLOCK_2M - 1, BLOCK_2M, 37 << 20] {
            for offset in [0, FLAT_OFFSET] {
                let image = Image { offset, size, flat: false };
                let placed = Placement::find(image, 1, 64 << 20).expect("it fits");
                assert_eq!(placed.kernel.as_u64() % BLOCK_2M, offset);
                let tree = placed.device_tree.as_u64();
                assert!(tree.is_multiple_of(8));
                assert_eq!(tree / BLOCK_2M, (tree + DEVICE_TREE_MAX - 1) / BLOCK_2M);
                let initrd = placed.initrd.expect("there is one");
                assert!(initrd.start.is_aligned(PAGE_SIZE));
            }
        }
        assert_eq!(
            Placement::find(Image { offset: 0, size: 1, flat: false }, 0, 4 << 20).unwrap().initrd,
            None
        );
    }

    proptest::proptest! {
        #[test]
        fn what_fits_is_apart_and_in_memory(
            offset in 0u64..8 << 20,
            size in 1u64..1 << 30,
            initrd in 0u64..1 << 30,
            blocks in 1u64..2048,
        ) {
            let memory = blocks * BLOCK_2M;
            let Ok(placed) = Placement::find(Image { offset, size, flat: false }, initrd, memory) else {
                // Two blocks beside the images are always enough.
                assert!(offset + size + initrd + 2 * BLOCK_2M > memory);
                return Ok(());
            };
            let at = |ipa: Ipa| ipa.as_u64() - RAM_START.as_u64();
            let tree = at(placed.device_tree);
            assert!(at(placed.kernel) + size <= tree);
            assert_eq!(placed.initrd.is_some(), initrd > 0);
            let end = placed.initrd.map_or(tree + DEVICE_TREE_MAX, |range| {
                assert!(tree + DEVICE_TREE_MAX <= at(range.start));
                assert_eq!(at(range.end) - at(range.start), initrd);
                at(range.end)
            });
            assert!(end <= memory);
        }
    }
}
