//! Makes guest bundles: the manifest, compiled, and the files that it names, in one archive
//! that a loader hands to Sluice as its initrd. `docs/manifest.md` says what stands in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fmt, fs};

use regex::Regex;

use crate::cpio::Archive;
use crate::kernel;

/// When a guest's memory is taken from the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Population {
    /// When the guest first touches it.
    Lazy,
    /// All of it before the guest runs.
    Eager,
}

/// One guest of a bundle.
#[derive(Clone, Debug)]
pub struct Guest {
    /// What the monitor calls it.
    pub name: String,
    /// Number of virtual CPUs.
    pub vcpus: u32,
    /// Bytes of memory at its start.
    pub memory: u64,
    /// Bytes of memory that it may grow to; the same as `memory` where not given.
    pub maximum_memory: Option<u64>,
    /// Bytes of memory that it keeps; a quarter of `memory` where not given.
    pub minimum_memory: Option<u64>,
    /// An arm64 Image, or a flat binary.
    pub kernel: PathBuf,
    /// Its initial file system.
    pub initrd: Option<PathBuf>,
    /// Its command line.
    pub command_line: String,
    /// When its memory is taken.
    pub population: Population,
    /// Whether it waits to be started.
    pub held: bool,
    /// The CPUs that may run it; none for any.
    pub cpus: Vec<u32>,
    /// Whether it may be promised more memory than there is.
    pub overcommit: bool,
}

impl Guest {
    /// A guest of two CPUs and 1 GiB that takes memory when it touches it.
    pub fn new(name: &str, kernel: &Path) -> Self {
        Self {
            name: name.into(),
            vcpus: 2,
            memory: 1 << 30,
            maximum_memory: None,
            minimum_memory: None,
            kernel: kernel.into(),
            initrd: None,
            command_line: "console=ttyAMA0".into(),
            population: Population::Lazy,
            held: false,
            cpus: Vec::new(),
            overcommit: false,
        }
    }

    fn manifest(&self, output: &mut String) -> fmt::Result {
        writeln!(output, "\t\t{} {{", self.name)?;
        writeln!(output, "\t\t\tvcpus = <{}>;", self.vcpus)?;
        writeln!(output, "\t\t\tmemory = /bits/ 64 <{:#x}>;", self.memory)?;
        if let Some(most) = self.maximum_memory {
            writeln!(output, "\t\t\tmaximum-memory = /bits/ 64 <{most:#x}>;")?;
        }
        if let Some(least) = self.minimum_memory {
            writeln!(output, "\t\t\tminimum-memory = /bits/ 64 <{least:#x}>;")?;
        }
        writeln!(output, "\t\t\tkernel = \"{}\";", file_name(&self.kernel))?;
        if let Some(initrd) = &self.initrd {
            writeln!(output, "\t\t\tinitrd = \"{}\";", file_name(initrd))?;
        }
        let escaped = self.command_line.replace('\\', "\\\\").replace('"', "\\\"");
        writeln!(output, "\t\t\tcommand-line = \"{escaped}\";")?;
        let population = match self.population {
            Population::Lazy => "lazy",
            Population::Eager => "eager",
        };
        writeln!(output, "\t\t\tpopulation = \"{population}\";")?;
        if self.held {
            writeln!(output, "\t\t\theld;")?;
        }
        if !self.cpus.is_empty() {
            let cpus: Vec<String> = self.cpus.iter().map(u32::to_string).collect();
            writeln!(output, "\t\t\tcpus = <{}>;", cpus.join(" "))?;
        }
        if self.overcommit {
            writeln!(output, "\t\t\tovercommit;")?;
        }
        writeln!(output, "\t\t}};")
    }
}

/// Writes the manifest of these guests as device tree source.
pub fn manifest(guests: &[Guest]) -> String {
    let mut output =
        String::from("/dts-v1/;\n\n/ {\n\tcompatible = \"sluice,manifest-v1\";\n\n\tguests {\n");
    for guest in guests {
        // Writing to a string cannot fail.
        let _ = guest.manifest(&mut output);
    }
    output.push_str("\t};\n};\n");
    output
}

/// Makes the bundle of these guests.
///
/// # Errors
/// A file that cannot be read, or two files of one name; the error names it.
pub fn bundle(guests: &[Guest]) -> io::Result<Vec<u8>> {
    let mut files = BTreeMap::new();
    for guest in guests {
        for path in std::iter::once(&guest.kernel).chain(&guest.initrd) {
            match files.insert(file_name(path), path.clone()) {
                Some(other) if other != *path => {
                    return Err(io::Error::other(format!(
                        "{} and {} have one name in the bundle",
                        other.display(),
                        path.display()
                    )));
                }
                _ => {}
            }
        }
    }
    bundle_files(&manifest(guests), &files.into_values().collect::<Vec<_>>())
}

/// Makes a bundle of a manifest's source and the files that it names, kernels unpacked ([`kernel::unpacked`]).
///
/// # Errors
/// What `dtc` says of the manifest, or a file that cannot be read or is no kernel; the error names it.
pub fn bundle_files(manifest: &str, files: &[PathBuf]) -> io::Result<Vec<u8>> {
    let mut archive = Archive::new();
    archive.file("manifest.dtb", &compile(manifest)?, false);
    let property = Regex::new(r#"\bkernel\s*=\s*"([^"]*)""#).expect("the pattern is well-formed");
    let kernels: BTreeSet<&str> =
        property.captures_iter(manifest).filter_map(|found| Some(found.get(1)?.as_str())).collect();
    for path in files {
        let contents = fs::read(path).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        })?;
        let name = file_name(path);
        let contents = if kernels.contains(name.as_str()) {
            kernel::unpacked(contents)
                .map_err(|error| io::Error::other(format!("kernel {}: {error}", path.display())))?
        } else {
            contents
        };
        archive.file(&name, &contents, false);
    }
    Ok(archive.finish())
}

/// What a file is called in the bundle: its folder and name, where both say something, as
/// two kernels may both be an `Image`.
fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match path.parent().and_then(Path::file_name) {
        Some(folder) if name == "Image" => format!("{name}-{}", folder.to_string_lossy()),
        _ => name,
    }
}

fn compile(source: &str) -> io::Result<Vec<u8>> {
    let mut child = Command::new("dtc")
        .args(["-q", "-I", "dts", "-O", "dtb"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("dtc does not start: {error}")))?;
    child.stdin.take().expect("stdin is piped").write_all(source.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        return Err(io::Error::other(format!("manifest: {message}")));
    }
    Ok(output.stdout)
}

/// Reads a size as people write them: `512M`, `1G`, `4096`.
///
/// # Errors
/// What is wrong with it.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" => 0,
        "K" | "KIB" => 10,
        "M" | "MIB" => 20,
        "G" | "GIB" => 30,
        unit => return Err(format!("{text}: {unit} is no unit of K, M, G")),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| format!("{text}: no size"))
}

#[cfg(test)]
mod tests {
    use super::{Guest, manifest, parse_size};
    use std::path::Path;

    #[test]
    fn a_manifest_says_what_the_guest_is() {
        let mut guest = Guest::new("one", Path::new("kernels/6.12/Image"));
        guest.command_line = "quote=\"a b\"".into();
        let text = manifest(&[guest.clone()]);
        assert!(text.contains("one {"));
        assert!(text.contains("memory = /bits/ 64 <0x40000000>;"));
        assert!(text.contains("kernel = \"Image-6.12\";"));
        assert!(text.contains(r#"command-line = "quote=\"a b\"";"#));
        assert!(
            !["initrd", "\tcpus =", "overcommit", "held"].iter().any(|word| text.contains(word))
        );
        guest.cpus = vec![0, 2];
        guest.overcommit = true;
        let text = manifest(&[guest]);
        assert!(text.contains("cpus = <0 2>;") && text.contains("overcommit;"));
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(parse_size("512M"), Ok(512 << 20));
        assert_eq!(parse_size("1g"), Ok(1 << 30));
        assert_eq!(parse_size("4096"), Ok(4096));
        for wrong in ["", "M", "1X", "-1", "99999999999999G"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
