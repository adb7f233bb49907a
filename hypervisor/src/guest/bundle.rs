//! The guests' bundle: a cpio archive in the "newc" format (cpio(5)), as the loader's initrd.

use core::fmt;

const HEADER: usize = 110;
const TRAILER: &[u8] = b"TRAILER!!!";
/// The name of the manifest, a device tree blob.
pub const MANIFEST: &str = "manifest.dtb";

/// An archive.
#[derive(Copy, Clone)]
pub struct Bundle<'a>(&'a [u8]);

/// Why an archive cannot be read.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum BundleError {
    /// At this offset there is no header of the "newc" format.
    NotAnArchive {
        /// In bytes from the start.
        offset: usize,
    },
    /// The entry at this offset is longer than the archive.
    Truncated {
        /// In bytes from the start.
        offset: usize,
    },
}

impl fmt::Display for BundleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnArchive { offset } => write!(
                f,
                "no cpio header at byte {offset}; make the bundle with `cpio -o -H newc`, uncompressed"
            ),
            Self::Truncated { offset } => write!(f, "the entry at byte {offset} is cut off"),
        }
    }
}

/// A file of an archive.
#[derive(Copy, Clone)]
pub struct File<'a> {
    /// Its name, without a leading "./".
    pub name: &'a [u8],
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// Reads field number `field`, eight hexadecimal digits behind the magic number.
fn field(header: &[u8], field: usize) -> Option<usize> {
    let digits = header.get(6 + field * 8..14 + field * 8)?;
    usize::from_str_radix(core::str::from_utf8(digits).ok()?, 16).ok()
}

impl<'a> Bundle<'a> {
    /// Takes the archive in `bytes`, which may be followed by padding.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Reads the entry at `offset`, and where the next one is; `None` at the archive's end.
    fn entry(&self, offset: usize) -> Result<Option<(File<'a>, usize)>, BundleError> {
        let not_an_archive = BundleError::NotAnArchive { offset };
        let truncated = BundleError::Truncated { offset };
        let rest = self.0.get(offset..).unwrap_or(&[]);
        let header = rest.get(..HEADER).ok_or(not_an_archive)?;
        if !matches!(header.get(..6), Some(b"070701" | b"070702")) {
            return Err(not_an_archive);
        }
        let size = field(header, 6).ok_or(not_an_archive)?;
        let name_size = field(header, 11).ok_or(not_an_archive)?;
        let name_end = HEADER.checked_add(name_size).ok_or(truncated)?;
        let name = rest.get(HEADER..name_end).ok_or(truncated)?;
        let name = name.strip_suffix(&[0]).unwrap_or(name);
        if name == TRAILER {
            return Ok(None);
        }
        let start = name_end.checked_next_multiple_of(4).ok_or(truncated)?;
        let end = start.checked_add(size).ok_or(truncated)?;
        let bytes = rest.get(start..end).ok_or(truncated)?;
        let next = end.checked_next_multiple_of(4).and_then(|size| offset.checked_add(size));
        let name = name.strip_prefix(b"./").unwrap_or(name);
        Ok(Some((File { name, bytes }, next.ok_or(truncated)?)))
    }

    /// Finds the file called `name`.
    ///
    /// # Errors
    ///
    /// The archive is malformed before the file was found. `Ok(None)`: it has no such file.
    pub fn find(&self, name: &str) -> Result<Option<&'a [u8]>, BundleError> {
        let mut offset = 0;
        while let Some((file, next)) = self.entry(offset)? {
            if file.name == name.as_bytes() {
                return Ok(Some(file.bytes));
            }
            offset = next;
        }
        Ok(None)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Makes an archive of `files`.
    pub(crate) fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = Vec::new();
        let mut add = |name: &str, bytes: &[u8]| {
            let name_size = name.len() + 1;
            let fields = [1, 0o100644, 0, 0, 1, 0, bytes.len(), 0, 0, 0, 0, name_size, 0]
                .map(|n| format!("{n:08x}"));
            archive.extend_from_slice(b"070701");
            archive.extend_from_slice(fields.concat().as_bytes());
            archive.extend_from_slice(name.as_bytes());
            archive.push(0);
            archive.resize(archive.len().next_multiple_of(4), 0);
            archive.extend_from_slice(bytes);
            archive.resize(archive.len().next_multiple_of(4), 0);
        };
        for (name, bytes) in files {
            add(name, bytes);
        }
        add("TRAILER!!!", &[]);
        archive
    }

    #[test]
    fn files_are_found_by_name() {
        let bytes = archive(&[("one", b"1"), ("./two", b"22222"), ("three", b"")]);
        let bundle = Bundle::new(&bytes);
        assert_eq!(bundle.find("one"), Ok(Some(&b"1"[..])));
        assert_eq!(bundle.find("two"), Ok(Some(&b"22222"[..])));
        assert_eq!(bundle.find("three"), Ok(Some(&b""[..])));
        assert_eq!(bundle.find("four"), Ok(None));
    }

    #[test]
    fn what_is_no_archive_is_said_to_be_none() {
        assert_eq!(
            Bundle::new(b"\x1f\x8b").find("x"),
            Err(BundleError::NotAnArchive { offset: 0 })
        );
        let bytes = archive(&[("one", &[7; 300])]);
        let cut = Bundle::new(&bytes[..200]).find("two");
        assert_eq!(cut, Err(BundleError::Truncated { offset: 0 }));
    }

    #[test]
    fn a_size_that_overflows_is_caught() {
        let mut bytes = archive(&[("one", b"1")]);
        bytes[6 + 6 * 8..14 + 6 * 8].copy_from_slice(b"ffffffff");
        assert_eq!(Bundle::new(&bytes).find("two"), Err(BundleError::Truncated { offset: 0 }));
    }
}
