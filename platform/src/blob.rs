//! Opening a flattened device tree (Devicetree Specification 0.4, chapter 5).
//!
//! The library that reads them refuses a tree with a name of more than 31 characters, which the specification does
//! (section 2.2) and real trees do not: those of boards have symbols and properties of any length. Such a tree is
//! opened all the same, once its structure has been looked through here: names are the last thing that the library
//! checks besides.

use crate::error::PlatformError;
use dtoolkit::error::FdtErrorKind;
use dtoolkit::fdt::Fdt;

const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// Opens the device tree `blob`, which is as long as its header says.
///
/// # Errors
///
/// [`PlatformError::Malformed`] where it is no device tree, or not a whole one.
pub fn open(blob: &[u8]) -> Result<Fdt<'_>, PlatformError> {
    match Fdt::new(blob) {
        Ok(tree) => Ok(tree),
        Err(error) => match error.kind {
            FdtErrorKind::InvalidPropertyName | FdtErrorKind::InvalidNodeName
                if Structure::of(blob).is_some_and(|mut structure| structure.is_sound()) =>
            {
                Ok(Fdt::new_unchecked(blob))
            }
            _ => Err(PlatformError::Malformed),
        },
    }
}

/// The structure block, from where it has not been read yet, and the strings that it names.
struct Structure<'a> {
    rest: &'a [u8],
    strings: &'a [u8],
}

impl<'a> Structure<'a> {
    /// Finds the two blocks, whose places in the header the library has checked.
    fn of(blob: &'a [u8]) -> Option<Self> {
        let field = |index: usize| {
            let bytes = blob.get(index * 4..)?.first_chunk::<4>()?;
            usize::try_from(u32::from_be_bytes(*bytes)).ok()
        };
        let block = |start: usize, size: usize| blob.get(start..start.checked_add(size)?);
        Some(Self { rest: block(field(2)?, field(9)?)?, strings: block(field(3)?, field(8)?)? })
    }

    fn word(&mut self) -> Option<u32> {
        let (word, rest) = self.rest.split_first_chunk::<4>()?;
        self.rest = rest;
        Some(u32::from_be_bytes(*word))
    }

    /// Leaves out `bytes`, and what comes before the next word.
    fn skip(&mut self, bytes: usize) -> Option<()> {
        self.rest = self.rest.get(bytes.checked_next_multiple_of(4)?..)?;
        Some(())
    }

    /// Says whether nodes are nested as they should, and all names are text.
    fn is_sound(&mut self) -> bool {
        self.walk().is_some()
    }

    fn walk(&mut self) -> Option<()> {
        let mut depth = 0_u32;
        // Properties come before the nodes below.
        let mut has_nodes = false;
        loop {
            match self.word()? {
                BEGIN_NODE => {
                    let length = text(self.rest)?;
                    self.skip(length + 1)?;
                    depth += 1;
                    has_nodes = false;
                }
                PROPERTY if depth > 0 && !has_nodes => {
                    let length = self.word()?;
                    let name = self.word()? as usize;
                    text(self.strings.get(name..)?)?;
                    self.skip(length as usize)?;
                }
                END_NODE => {
                    depth = depth.checked_sub(1)?;
                    has_nodes = true;
                    if depth == 0 {
                        return (self.word()? == END).then_some(());
                    }
                }
                NOP => {}
                _ => return None,
            }
        }
    }
}

/// Returns the length of the text that `bytes` begin with and a zero ends.
fn text(bytes: &[u8]) -> Option<usize> {
    let length = bytes.iter().position(|&byte| byte == 0)?;
    core::str::from_utf8(bytes.get(..length)?).ok()?;
    Some(length)
}
