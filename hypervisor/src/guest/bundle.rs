//! The guests' bundle: a cpio archive in the "newc" format (cpio(5)), as the loader's initrd.
//!
//! As Linux does with an initramfs, several archives one after another, with zeros between and
//! behind them, are one: so a bundle can be put together with `cat`.

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
    digits
        .iter()
        .try_fold(0, |number, &digit| Some(number << 4 | char::from(digit).to_digit(16)? as usize))
}

impl<'a> Bundle<'a> {
    /// Takes the archive in `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Lists its files, in their order. After an error there is nothing more.
    pub const fn files(&self) -> Files<'a> {
        Files { archive: self.0, offset: 0 }
    }

    /// Finds the file called `name`; of several, the last, as unpacking would leave that one.
    ///
    /// # Errors
    ///
    /// The archive is malformed. `Ok(None)`: it has no such file.
    pub fn find(&self, name: &str) -> Result<Option<&'a [u8]>, BundleError> {
        let mut found = None;
        for file in self.files() {
            let file = file?;
            if file.name == name.as_bytes() {
                found = Some(file.bytes);
            }
        }
        Ok(found)
    }
}

/// The files of a [`Bundle`].
pub struct Files<'a> {
    archive: &'a [u8],
    offset: usize,
}

impl<'a> Files<'a> {
    /// Reads the entry at the offset, and where the next one is.
    fn entry(&self) -> Result<(File<'a>, usize), BundleError> {
        let offset = self.offset;
        let not_an_archive = BundleError::NotAnArchive { offset };
        let truncated = BundleError::Truncated { offset };
        let rest = self.archive.get(offset..).unwrap_or(&[]);
        if !matches!(rest.get(..6), Some(b"070701" | b"070702")) {
            return Err(not_an_archive);
        }
        let header = rest.get(..HEADER).ok_or(truncated)?;
        let size = field(header, 6).ok_or(not_an_archive)?;
        let name_size = field(header, 11).ok_or(not_an_archive)?;
        let name_end = HEADER.checked_add(name_size).ok_or(truncated)?;
        let name = rest.get(HEADER..name_end).ok_or(truncated)?;
        let name = name.strip_suffix(&[0]).unwrap_or(name);
        let start = name_end.checked_next_multiple_of(4).ok_or(truncated)?;
        let end = start.checked_add(size).ok_or(truncated)?;
        // A file without bytes may be the last thing there is, without padding.
        let bytes = if size == 0 { &[] } else { rest.get(start..end).ok_or(truncated)? };
        let next = end.checked_next_multiple_of(4).and_then(|size| offset.checked_add(size));
        let name = name.strip_prefix(b"./").unwrap_or(name);
        Ok((File { name, bytes }, next.ok_or(truncated)?))
    }

    /// Steps over the zeros up to the next archive; `false`: there is none.
    fn skip_padding(&mut self) -> bool {
        let rest = self.archive.get(self.offset..).unwrap_or(&[]);
        match rest.iter().position(|&byte| byte != 0) {
            Some(zeros) => {
                self.offset += zeros;
                true
            }
            None => false,
        }
    }
}

impl<'a> Iterator for Files<'a> {
    type Item = Result<File<'a>, BundleError>;

    fn next(&mut self) -> Option<Self::Item> {
        // An archive without anything is none, but one may end with padding.
        while self.offset == 0 || self.skip_padding() {
            match self.entry() {
                Ok((file, next)) => {
                    self.offset = next;
                    if file.name != TRAILER {
                        return Some(Ok(file));
                    }
                }
                Err(error) => {
                    self.offset = self.archive.len().max(1);
                    return Some(Err(error));
                }
            }
        }
        None
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
        bytes[6 + 6 * 8..14 + 6 * 8].copy_from_slice(b"+0000001");
        assert_eq!(Bundle::new(&bytes).find("two"), Err(BundleError::NotAnArchive { offset: 0 }));
    }

    #[test]
    fn archives_one_after_another_are_one() {
        let mut bytes = archive(&[("one", b"1"), ("two", b"old")]);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes.extend(archive(&[("two", b"new"), ("three", b"333")]));
        bytes.resize(bytes.len() + 1000, 0);
        let bundle = Bundle::new(&bytes);
        let names: Vec<&[u8]> = bundle.files().map(|file| file.expect("it is good").name).collect();
        assert_eq!(names, [&b"one"[..], b"two", b"two", b"three"]);
        assert_eq!(bundle.find("two"), Ok(Some(&b"new"[..])));
        bytes.push(b'x');
        let offset = bytes.len() - 1;
        assert_eq!(Bundle::new(&bytes).find("two"), Err(BundleError::NotAnArchive { offset }));
    }

    #[test]
    fn an_error_ends_the_list() {
        for bytes in [&b""[..], b"x", &[0; 600], b"070701"] {
            assert_eq!(Bundle::new(bytes).files().filter(Result::is_err).count(), 1);
            assert_eq!(Bundle::new(bytes).files().count(), 1);
        }
    }

    proptest::proptest! {
        #[test]
        fn corrupt_archives_do_no_harm(
            at in 0usize..300,
            with in proptest::collection::vec(proptest::prelude::any::<u8>(), 1..20),
            length in 0usize..600,
        ) {
            let mut bytes = archive(&[("one", b"1"), ("two", &[7; 100])]);
            for (byte, with) in bytes.iter_mut().skip(at).zip(with) {
                *byte = with;
            }
            bytes.truncate(length);
            let bundle = Bundle::new(&bytes);
            assert!(bundle.files().count() <= 4);
        }
    }
}
