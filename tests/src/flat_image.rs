//! Makes a flat image of an ELF file: what its segments hold, at the place where they lie,
//! with zeros in between. It does what `objcopy -O binary` does, which not every machine has.

use std::fmt;

/// Why a file cannot be made into a flat image.
#[derive(Debug, PartialEq, Eq)]
pub enum FlatError {
    /// The file is no little-endian ELF64.
    NotElf,
    /// A header or a segment points outside the file.
    Truncated,
    /// No segment has contents.
    Empty,
    /// The segments lie further apart than this many bytes.
    Sparse(u64),
}

impl fmt::Display for FlatError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotElf => write!(formatter, "no little-endian ELF64 file"),
            Self::Truncated => write!(formatter, "a segment points outside the file"),
            Self::Empty => write!(formatter, "no segment has contents"),
            Self::Sparse(size) => write!(formatter, "the image would be {size} bytes"),
        }
    }
}

impl std::error::Error for FlatError {}

/// No image of ours is near this; a wrong linker script easily is beyond it.
const LARGEST: u64 = 64 << 20;

const LOAD: u32 = 1;

struct Segment<'a> {
    address: u64,
    contents: &'a [u8],
}

/// Gives the flat image of an ELF file; its first byte is that of the lowest segment.
///
/// # Errors
/// What is wrong with the file.
pub fn flatten(elf: &[u8]) -> Result<Vec<u8>, FlatError> {
    if elf.get(..6) != Some(b"\x7fELF\x02\x01") {
        return Err(FlatError::NotElf);
    }
    let segments = segments(elf)?;
    let first = segments.iter().map(|segment| segment.address).min().ok_or(FlatError::Empty)?;
    let end = segments
        .iter()
        .map(|segment| segment.address + segment.contents.len() as u64)
        .max()
        .ok_or(FlatError::Empty)?;
    if end - first > LARGEST {
        return Err(FlatError::Sparse(end - first));
    }
    let mut image = vec![0; (end - first) as usize];
    for segment in segments {
        let at = (segment.address - first) as usize;
        image[at..at + segment.contents.len()].copy_from_slice(segment.contents);
    }
    Ok(image)
}

/// Gives the segments that are loaded and have bytes in the file.
fn segments(elf: &[u8]) -> Result<Vec<Segment<'_>>, FlatError> {
    let headers = number(elf, 32, 8)?;
    let header_size = number(elf, 54, 2)?;
    let count = number(elf, 56, 2)?;
    let mut segments = Vec::new();
    for index in 0..count {
        let header = headers.saturating_add(index * header_size);
        if number(elf, header, 4)? as u32 != LOAD {
            continue;
        }
        let offset = number(elf, header + 8, 8)?;
        let address = number(elf, header + 24, 8)?;
        let size = number(elf, header + 32, 8)?;
        if size > 0 {
            segments.push(Segment { address, contents: bytes(elf, offset, size)? });
        }
    }
    Ok(segments)
}

fn bytes(elf: &[u8], at: u64, size: u64) -> Result<&[u8], FlatError> {
    let end = at.checked_add(size).ok_or(FlatError::Truncated)?;
    elf.get(at as usize..end as usize).ok_or(FlatError::Truncated)
}

fn number(elf: &[u8], at: u64, size: u64) -> Result<u64, FlatError> {
    Ok(bytes(elf, at, size)?.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::{FlatError, flatten};

    fn elf(segments: &[(u64, &[u8])]) -> Vec<u8> {
        let mut file = vec![0; 64 + 56 * segments.len()];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[32] = 64;
        file[54] = 56;
        file[56] = segments.len() as u8;
        for (index, (address, contents)) in segments.iter().enumerate() {
            let header = 64 + 56 * index;
            let offset = file.len() as u64;
            file[header] = 1;
            file[header + 8..header + 16].copy_from_slice(&offset.to_le_bytes());
            file[header + 24..header + 32].copy_from_slice(&address.to_le_bytes());
            file[header + 32..header + 40].copy_from_slice(&(contents.len() as u64).to_le_bytes());
            file.extend_from_slice(contents);
        }
        file
    }

    #[test]
    fn segments_land_at_their_distance_from_the_first() {
        let file = elf(&[(0x1004, b"cd"), (0x1000, b"ab")]);
        assert_eq!(flatten(&file).unwrap(), b"ab\0\0cd");
    }

    #[test]
    fn what_is_no_elf_file_is_refused() {
        assert_eq!(flatten(b"MZ"), Err(FlatError::NotElf));
        assert_eq!(flatten(&elf(&[])), Err(FlatError::Empty));
    }

    #[test]
    fn a_segment_outside_the_file_is_refused() {
        let mut file = elf(&[(0, b"ab")]);
        file[64 + 33] = 1;
        assert_eq!(flatten(&file), Err(FlatError::Truncated));
    }

    #[test]
    fn segments_too_far_apart_are_refused() {
        assert!(matches!(flatten(&elf(&[(0, b"a"), (1 << 40, b"b")])), Err(FlatError::Sparse(_))));
    }
}
