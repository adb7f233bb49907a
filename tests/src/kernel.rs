//! The files that people have kernels in, and the one that Sluice starts, which knows nothing packed.

use std::io::{self, Read};

use flate2::read::GzDecoder;

/// Where an EFI program that unpacks its kernel (Linux's `vmlinuz.efi`, `zboot-header.S`) says where that is, how long,
/// and how it is packed.
const ZBOOT: (usize, usize, usize) = (8, 12, 24);
/// The most that a kernel is unpacked to, in bytes: more than any guest can be given.
const MOST: u64 = 1 << 30;

/// Returns the arm64 Image or flat binary in a kernel's file: as it is, or unpacked where it is compressed by gzip, also
/// as an EFI program that would unpack it itself.
///
/// # Errors
/// What the file is, where it is nothing that can be started, or how it is damaged.
pub fn unpacked(contents: Vec<u8>) -> Result<Vec<u8>, String> {
    let contents = match contents.as_slice() {
        [0x1f, 0x8b, ..] => gunzipped(&contents)?,
        [b'M', b'Z', _, _, b'z', b'i', b'm', b'g', ..] => within_zboot(&contents)?,
        _ => contents,
    };
    let unsuitable = |what: &str| Err(format!("{what}; wanted: an arm64 Image"));
    match contents.as_slice() {
        [] => unsuitable("empty"),
        [0x1f, 0x8b, ..] => unsuitable("compressed twice by gzip"),
        [0xfd, b'7', b'z', ..] => unsuitable("compressed by xz, unpack it first"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => unsuitable("compressed by zstd, unpack it first"),
        [0x7f, b'E', b'L', b'F', ..] => unsuitable("an ELF file"),
        bytes if bytes.get(0x202..0x206) == Some(b"HdrS") => unsuitable("an x86 kernel"),
        [b'M', b'Z', ..] if contents.get(0x38..0x3c) != Some(b"ARM\x64") => {
            unsuitable("an EFI program of another machine")
        }
        _ => Ok(contents),
    }
}

fn gunzipped(packed: &[u8]) -> Result<Vec<u8>, String> {
    let damaged = |error: io::Error| format!("compressed by gzip, and damaged: {error}");
    let mut contents = Vec::new();
    GzDecoder::new(packed).take(MOST).read_to_end(&mut contents).map_err(damaged)?;
    if contents.len() as u64 == MOST {
        return Err("compressed by gzip, and larger than 1 GiB when it is not".into());
    }
    Ok(contents)
}

fn within_zboot(program: &[u8]) -> Result<Vec<u8>, String> {
    let (start, length, packing) = ZBOOT;
    let number = |at: usize| {
        let bytes = program.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let packing = program.get(packing..).and_then(|rest| rest.split(|&byte| byte == 0).next());
    if packing != Some(b"gzip") {
        let packing = String::from_utf8_lossy(packing.unwrap_or_default());
        return Err(format!(
            "an EFI program that unpacks its kernel itself, by {packing:?}; unpack it first"
        ));
    }
    let payload = number(start)
        .zip(number(length))
        .and_then(|(start, length)| program.get(start..start.checked_add(length)?));
    gunzipped(payload.ok_or("an EFI program that unpacks its kernel itself, and cut off")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    fn image() -> Vec<u8> {
        let mut image = vec![0; 100_000];
        image[0x38..0x3c].copy_from_slice(b"ARM\x64");
        image
    }

    fn gzip(contents: &[u8]) -> Vec<u8> {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(contents).unwrap();
        packed.finish().unwrap()
    }

    fn zboot(packing: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut program = b"MZ\0\0zimg".to_vec();
        program.extend(64_u32.to_le_bytes());
        program.extend((payload.len() as u32).to_le_bytes());
        program.resize(ZBOOT.2, 0);
        program.extend(packing);
        program.resize(64, 0);
        program.extend(payload);
        program
    }

    #[test]
    fn what_is_compressed_by_gzip_is_unpacked() {
        assert_eq!(unpacked(image()), Ok(image()));
        assert_eq!(unpacked(gzip(&image())), Ok(image()));
        assert_eq!(unpacked(zboot(b"gzip", &gzip(&image()))), Ok(image()));
    }

    #[test]
    fn what_is_damaged_or_of_another_kind_is_told() {
        let packed = gzip(&image());
        let cut = packed[..packed.len() / 2].to_vec();
        let mut spoilt = packed.clone();
        let middle = spoilt.len() / 2;
        spoilt[middle] ^= 0xff;
        let mut short = zboot(b"gzip", &packed);
        short.truncate(70);
        for (contents, words) in [
            (cut.clone(), "damaged"),
            (spoilt, "damaged"),
            (vec![0x1f, 0x8b, 8], "damaged"),
            (zboot(b"gzip", &cut), "damaged"),
            (short, "cut off"),
            (b"MZ\0\0zimg".to_vec(), "itself"),
            (zboot(b"zstd22", &packed), "zstd22"),
            (gzip(&packed), "twice"),
            (gzip(b"\x7fELF"), "ELF"),
            (Vec::new(), "empty"),
        ] {
            let error = unpacked(contents).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
