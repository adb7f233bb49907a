//! Writes cpio archives of the "newc" kind, which Linux and Sluice take as an initrd.
//!
//! Device nodes are just entries, so packing one needs no root; and equal input gives equal
//! bytes, whatever the time and the user.

/// What an entry is, beside its name.
enum Kind {
    Folder,
    File { executable: bool },
    CharacterDevice { major: u32, minor: u32 },
}

/// An archive that is being written.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Starts an empty archive.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a folder; those above it must have been added before.
    pub fn folder(&mut self, name: &str) {
        self.entry(name, &Kind::Folder, &[]);
    }

    /// Adds a file.
    pub fn file(&mut self, name: &str, contents: &[u8], executable: bool) {
        self.entry(name, &Kind::File { executable }, contents);
    }

    /// Adds a character device.
    pub fn character_device(&mut self, name: &str, major: u32, minor: u32) {
        self.entry(name, &Kind::CharacterDevice { major, minor }, &[]);
    }

    /// Ends the archive and gives its bytes.
    pub fn finish(mut self) -> Vec<u8> {
        self.entries = 0;
        self.entry("TRAILER!!!", &Kind::File { executable: false }, &[]);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self.bytes
    }

    fn entry(&mut self, name: &str, kind: &Kind, contents: &[u8]) {
        let (mode, device) = match *kind {
            Kind::Folder => (0o040_755, (0, 0)),
            Kind::File { executable: true } => (0o100_755, (0, 0)),
            Kind::File { executable: false } => (0o100_644, (0, 0)),
            Kind::CharacterDevice { major, minor } => (0o020_600, (major, minor)),
        };
        self.entries += 1;
        let size = u32::try_from(contents.len()).expect("newc holds files below 4 GiB");
        let name_size = name.len() as u32 + 1;
        let header = [
            self.entries, // inode
            mode,
            0, // user
            0, // group
            1, // links
            0, // time
            size,
            0, // device of the file system
            0,
            device.0,
            device.1,
            name_size,
            0, // check sum, which this kind does not use
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in header {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(contents);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn an_entry_is_header_name_and_contents_each_aligned() {
        let mut archive = Archive::new();
        archive.file("ab", b"xyz", true);
        let bytes = archive.finish();
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[14..22], b"000081ed");
        assert_eq!(&bytes[54..62], b"00000003");
        assert_eq!(&bytes[110..113], b"ab\0");
        assert_eq!(&bytes[116..119], b"xyz");
        assert_eq!(&bytes[120..126], b"070701");
        assert_eq!(bytes.len() % 512, 0);
    }
}
