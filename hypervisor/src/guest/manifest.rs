//! The manifest: which guests there are and what each has, as a device tree. `docs/manifest.md`
//! says what may stand in it.

use super::bundle::{Bundle, BundleError, MANIFEST};
use super::image::{Image, ImageError, Placement};
use super::layout::{MAX_RAM, MAX_VCPUS};
use crate::addr::BLOCK_2M;
use crate::arch::cpu::MAX_CPUS;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use dtoolkit::error::{FdtErrorKind, FdtParseError};
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};

/// The most guests.
pub const MAX_GUESTS: usize = 8;
/// The longest command line in bytes: Linux cuts one that is longer (COMMAND_LINE_SIZE on arm64).
pub const MAX_COMMAND_LINE: usize = 2047;
/// The part of its memory that a guest keeps, where the manifest does not say how much.
const MINIMUM_PART: u64 = 4;
const COMPATIBLE: &[u8] = b"sluice,manifest-v1\0";

/// When a guest's memory gets frames.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Population {
    /// All of it before the guest starts.
    Eager,
    /// Each block when it is first touched.
    Lazy,
}

/// One guest, as the manifest has it.
#[derive(Clone)]
pub struct GuestConfig<'a> {
    /// Its name.
    pub name: String,
    /// How many vCPUs, 1 to 16.
    pub vcpus: usize,
    /// Its memory at start in bytes, a multiple of 2 MiB.
    pub memory: u64,
    /// The most that it can grow to in bytes, a multiple of 2 MiB, at least `memory`.
    pub maximum_memory: u64,
    /// What it keeps when memory is moved to others, in bytes: at most `memory`.
    pub minimum_memory: u64,
    /// The kernel's bytes.
    pub kernel: &'a [u8],
    /// What the kernel's header says.
    pub image: Image,
    /// The initrd's bytes; empty where there is none.
    pub initrd: &'a [u8],
    /// Where they go.
    pub placement: Placement,
    /// The kernel's command line.
    pub command_line: String,
    /// When its memory gets frames.
    pub population: Population,
    /// Says that it is not started at boot.
    pub held: bool,
    /// The numbers of the physical CPUs that run it; empty for any.
    pub cpus: Vec<usize>,
    /// Says that it may be given more memory than there is for all.
    pub overcommit: bool,
}

/// What a guest's name looks like.
pub const NAME_FORM: &str = "a letter and up to 30 more letters, digits and any of \"-_.,+\"";

/// Says whether a guest may be called `name`.
pub fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.,+".contains(&byte);
    name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.len() <= 31
        && name.bytes().all(fits)
}

/// What is wrong with a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManifestError {
    /// The bundle cannot be read.
    Bundle(BundleError),
    /// The bundle has no file `manifest.dtb`.
    NoManifest,
    /// That file is no device tree blob, or a broken one.
    NotADeviceTree(FdtParseError),
    /// The root is not compatible with "sluice,manifest-v1".
    NotAManifest,
    /// There is no node /guests, or it is empty.
    NoGuests,
    /// More than [`MAX_GUESTS`].
    TooManyGuests,
    /// Two guests of one name.
    SameName {
        /// The name.
        guest: String,
    },
    /// A property of a guest.
    Property {
        /// The guest's name.
        guest: String,
        /// The property.
        property: String,
        /// What is wrong with it.
        wrong: Wrong,
    },
}

/// What is wrong with a property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It must be there.
    Missing,
    /// It has not this form.
    Form(&'static str),
    /// It is out of range: what it is, and what would be right.
    Range(u64, &'static str),
    /// The bundle has no such file.
    NoFile(String),
    /// The file cannot be loaded.
    Image(ImageError),
    /// The file is empty.
    EmptyFile(String),
    /// No such property or node is known.
    Unknown,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bundle(error) => write!(f, "bundle: {error}"),
            Self::NoManifest => write!(f, "bundle: there is no file {MANIFEST} in it"),
            Self::NotADeviceTree(error) => {
                write!(f, "{MANIFEST}: not a device tree blob: {error}")?;
                match error.kind {
                    FdtErrorKind::InvalidNodeName | FdtErrorKind::InvalidPropertyName => {
                        f.write_str("; names have at most 31 characters")
                    }
                    _ => f.write_str("; compile the source with dtc"),
                }
            }
            Self::NotAManifest => {
                write!(f, "{MANIFEST}: the root's 'compatible' is not \"sluice,manifest-v1\"")
            }
            Self::NoGuests => write!(f, "{MANIFEST}: there is no guest in /guests"),
            Self::TooManyGuests => write!(f, "{MANIFEST}: more than {MAX_GUESTS} guests"),
            Self::SameName { guest } => write!(f, "guest {guest}: there are two of that name"),
            Self::Property { guest, property, wrong } => {
                write!(f, "guest {guest}: {property}: {wrong}")
            }
        }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("is missing"),
            Self::Form(form) => write!(f, "must be {form}"),
            Self::Range(value, right) => write!(f, "{value} is not possible; it must be {right}"),
            Self::NoFile(name) => write!(f, "the bundle has no file \"{name}\""),
            Self::Image(error) => write!(f, "{error}"),
            Self::EmptyFile(name) => write!(f, "the bundle's file \"{name}\" is empty"),
            Self::Unknown => {
                f.write_str("no such property is known; these are: ")?;
                for (index, known) in PROPERTIES.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    write!(f, "{comma}{known}")?;
                }
                Ok(())
            }
        }
    }
}

impl From<BundleError> for ManifestError {
    fn from(error: BundleError) -> Self {
        Self::Bundle(error)
    }
}

/// Reads the manifest of `bundle`.
///
/// # Errors
///
/// [`ManifestError`] names the guest and the property.
pub fn read<'a>(bundle: &Bundle<'a>) -> Result<Vec<GuestConfig<'a>>, ManifestError> {
    let blob = bundle.find(MANIFEST)?.ok_or(ManifestError::NoManifest)?;
    let tree = Fdt::new(blob).map_err(ManifestError::NotADeviceTree)?;
    let root = tree.root();
    if root.property("compatible").map(|property| property.value() == COMPATIBLE) != Some(true) {
        return Err(ManifestError::NotAManifest);
    }
    let mut guests = Vec::new();
    let list = root.child("guests").ok_or(ManifestError::NoGuests)?;
    for node in list.children() {
        if guests.len() == MAX_GUESTS {
            return Err(ManifestError::TooManyGuests);
        }
        let guest = Reader::new(&node, bundle)?.guest()?;
        if guests.iter().any(|other: &GuestConfig<'_>| other.name == guest.name) {
            return Err(ManifestError::SameName { guest: guest.name });
        }
        guests.push(guest);
    }
    if guests.is_empty() { Err(ManifestError::NoGuests) } else { Ok(guests) }
}

const PROPERTIES: [&str; 11] = [
    "vcpus",
    "memory",
    "maximum-memory",
    "minimum-memory",
    "kernel",
    "initrd",
    "command-line",
    "population",
    "held",
    "cpus",
    "overcommit",
];
/// What dtc adds to a node that something refers to.
const PHANDLES: [&str; 2] = ["phandle", "linux,phandle"];

/// Reads one guest's node.
struct Reader<'r, 'a> {
    name: String,
    node: &'r FdtNode<'r>,
    bundle: &'r Bundle<'a>,
}

impl<'r, 'a> Reader<'r, 'a> {
    fn new(node: &'r FdtNode<'r>, bundle: &'r Bundle<'a>) -> Result<Self, ManifestError> {
        let reader = Self { name: String::from(node.name()), node, bundle };
        if !is_name(&reader.name) {
            return Err(reader.wrong("its name", Wrong::Form(NAME_FORM)));
        }
        for property in node.properties() {
            let name = property.name();
            if !PROPERTIES.contains(&name) && !PHANDLES.contains(&name) {
                return Err(reader.wrong(name, Wrong::Unknown));
            }
        }
        if let Some(child) = node.children().next() {
            return Err(reader.wrong(child.name(), Wrong::Unknown));
        }
        Ok(reader)
    }

    fn wrong(&self, property: &str, wrong: Wrong) -> ManifestError {
        ManifestError::Property { guest: self.name.clone(), property: property.into(), wrong }
    }

    fn number(&self, property: &str) -> Result<Option<u64>, ManifestError> {
        let Some(value) = self.node.property(property) else { return Ok(None) };
        let mut number = 0;
        if !matches!(value.value().len(), 4 | 8) {
            return Err(self.wrong(
                property,
                Wrong::Form("one or two cells, as <2> or /bits/ 64 <0x40000000>"),
            ));
        }
        for &byte in value.value() {
            number = number << 8 | u64::from(byte);
        }
        Ok(Some(number))
    }

    fn text(&self, property: &str) -> Result<Option<String>, ManifestError> {
        let Some(value) = self.node.property(property) else { return Ok(None) };
        match value.value() {
            [text @ .., 0] if !text.contains(&0) => core::str::from_utf8(text)
                .map(|text| Some(String::from(text)))
                .map_err(|_| self.wrong(property, Wrong::Form("text in UTF-8"))),
            _ => Err(self.wrong(property, Wrong::Form("one string"))),
        }
    }

    fn file(&self, property: &str) -> Result<Option<&'a [u8]>, ManifestError> {
        let Some(name) = self.text(property)? else { return Ok(None) };
        match self.bundle.find(&name)? {
            Some([]) => Err(self.wrong(property, Wrong::EmptyFile(name))),
            Some(bytes) => Ok(Some(bytes)),
            None => Err(self.wrong(property, Wrong::NoFile(name))),
        }
    }

    fn size(&self, property: &str) -> Result<Option<u64>, ManifestError> {
        let Some(size) = self.number(property)? else { return Ok(None) };
        if size == 0 || !size.is_multiple_of(BLOCK_2M) || size > MAX_RAM {
            let right = "a multiple of 2 MiB in bytes, from 2 MiB to 63 GiB";
            return Err(self.wrong(property, Wrong::Range(size, right)));
        }
        Ok(Some(size))
    }

    fn cpus(&self) -> Result<Vec<usize>, ManifestError> {
        let Some(value) = self.node.property("cpus") else { return Ok(Vec::new()) };
        let mut cpus = Vec::new();
        let (cells, rest) = value.value().as_chunks::<4>();
        if cells.is_empty() || !rest.is_empty() {
            let form = "one cell for each CPU that may run it, as <0 2 3>";
            return Err(self.wrong("cpus", Wrong::Form(form)));
        }
        for &cell in cells {
            let number = u32::from_be_bytes(cell);
            let cpu = number as usize;
            if cpu >= MAX_CPUS || cpus.contains(&cpu) {
                let right = "a CPU's number, 0 to 15, once";
                return Err(self.wrong("cpus", Wrong::Range(number.into(), right)));
            }
            cpus.push(cpu);
        }
        Ok(cpus)
    }

    fn guest(&self) -> Result<GuestConfig<'a>, ManifestError> {
        let vcpus = self.number("vcpus")?.unwrap_or(1);
        if !(1..=MAX_VCPUS as u64).contains(&vcpus) {
            return Err(self.wrong("vcpus", Wrong::Range(vcpus, "1 to 16")));
        }
        let memory = self.size("memory")?.ok_or_else(|| self.wrong("memory", Wrong::Missing))?;
        let maximum_memory = self.size("maximum-memory")?.unwrap_or(memory);
        if maximum_memory < memory {
            let wrong = Wrong::Range(maximum_memory, "at least as much as 'memory'");
            return Err(self.wrong("maximum-memory", wrong));
        }
        let minimum_memory = self.size("minimum-memory")?.unwrap_or(memory / MINIMUM_PART);
        if minimum_memory > memory {
            let wrong = Wrong::Range(minimum_memory, "at most as much as 'memory'");
            return Err(self.wrong("minimum-memory", wrong));
        }
        let kernel = self.file("kernel")?.ok_or_else(|| self.wrong("kernel", Wrong::Missing))?;
        let image =
            Image::parse(kernel).map_err(|error| self.wrong("kernel", Wrong::Image(error)))?;
        let initrd = self.file("initrd")?.unwrap_or(&[]);
        let placement = Placement::find(image, initrd.len() as u64, memory)
            .map_err(|error| self.wrong("memory", Wrong::Image(error)))?;
        let population = match self.text("population")?.as_deref() {
            None | Some("lazy") => Population::Lazy,
            Some("eager") => Population::Eager,
            Some(_) => return Err(self.wrong("population", Wrong::Form("\"eager\" or \"lazy\""))),
        };
        let command_line = self.text("command-line")?.unwrap_or_default();
        if command_line.len() > MAX_COMMAND_LINE {
            let wrong = Wrong::Range(command_line.len() as u64, "at most 2047 bytes long");
            return Err(self.wrong("command-line", wrong));
        }
        Ok(GuestConfig {
            name: self.name.clone(),
            vcpus: vcpus as usize,
            memory,
            maximum_memory,
            minimum_memory,
            kernel,
            image,
            initrd,
            placement,
            command_line,
            population,
            held: self.node.property("held").is_some(),
            cpus: self.cpus()?,
            overcommit: self.node.property("overcommit").is_some(),
        })
    }
}

#[cfg(test)]
mod tests;
