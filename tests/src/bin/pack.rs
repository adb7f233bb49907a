//! Packs what the machine is started with: `pack flat`, `pack initramfs`, `pack bundle`.

use std::env::Args;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use sluice_tests::bundle::{self, Guest, Population, parse_size};
use sluice_tests::{flat_image, initramfs};

const USAGE: &str = "usage:
  pack flat <elf> <image>
  pack initramfs <scripts> <busybox> <modules> <archive>
  pack bundle <archive> <manifest.dts> [file...]
  pack bundle <archive> kernel=<file> [initrd=<file>] [guests=] [name=] [vcpus=] [memory=]
                        [maximum-memory=] [command-line=] [population=lazy|eager]
    several guests are alike, and called <name>1, <name>2, ...";

fn main() -> ExitCode {
    match run(env::args()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut arguments: Args) -> Result<(), String> {
    let command = arguments.nth(1);
    let rest: Vec<String> = arguments.collect();
    let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
    match (command.as_deref(), rest.as_slice()) {
        (Some("flat"), [elf, image]) => {
            let contents = fs::read(elf).map_err(|error| format!("{elf}: {error}"))?;
            let flat = flat_image::flatten(&contents).map_err(|error| format!("{elf}: {error}"))?;
            write(image, &flat)
        }
        (Some("initramfs"), [scripts, busybox, modules, archive]) => {
            let bytes = initramfs::pack(scripts.as_ref(), busybox.as_ref(), modules.as_ref())
                .map_err(|error| error.to_string())?;
            write(archive, &bytes)
        }
        (Some("bundle"), [archive, options @ ..])
            if options.iter().all(|word| word.contains('=')) =>
        {
            let bytes = bundle::bundle(&guests(options)?).map_err(|error| error.to_string())?;
            write(archive, &bytes)
        }
        (Some("bundle"), [archive, manifest, files @ ..]) => {
            let source =
                fs::read_to_string(manifest).map_err(|error| format!("{manifest}: {error}"))?;
            let files: Vec<PathBuf> = files.iter().map(PathBuf::from).collect();
            let bytes = bundle::bundle_files(&source, &files).map_err(|error| error.to_string())?;
            write(archive, &bytes)
        }
        _ => Err(USAGE.into()),
    }
}

/// Reads how many guests there are to be, and what each is.
fn guests(options: &[&str]) -> Result<Vec<Guest>, String> {
    let (count, options): (Vec<&str>, Vec<&str>) =
        options.iter().partition(|option| option.starts_with("guests="));
    let guest = guest(&options)?;
    let count = count.last().and_then(|option| option.strip_prefix("guests=")).unwrap_or("");
    match count {
        "" | "1" => Ok(vec![guest]),
        _ => {
            let count = count.parse::<usize>().ok().filter(|count| (1..=8).contains(count));
            let count = count.ok_or("guests: there can be 1 to 8")?;
            let named = |number| Guest { name: format!("{}{number}", guest.name), ..guest.clone() };
            Ok((1..=count).map(named).collect())
        }
    }
}

/// Reads one guest's options.
fn guest(options: &[&str]) -> Result<Guest, String> {
    let mut guest = Guest::new("linux", Path::new(""));
    for option in options {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        match name {
            _ if value.is_empty() && name != "command-line" => {}
            "name" => guest.name = value.into(),
            "vcpus" => guest.vcpus = value.parse().map_err(|_| format!("{option}: no number"))?,
            "memory" => guest.memory = parse_size(value)?,
            "maximum-memory" => guest.maximum_memory = Some(parse_size(value)?),
            "minimum-memory" => guest.minimum_memory = Some(parse_size(value)?),
            "kernel" => guest.kernel = file("kernel", value)?,
            "initrd" => guest.initrd = Some(file("initrd", value)?),
            "command-line" => guest.command_line = value.into(),
            "population" if value == "lazy" => guest.population = Population::Lazy,
            "population" if value == "eager" => guest.population = Population::Eager,
            _ => return Err(format!("{option}: no such option\n{USAGE}")),
        }
    }
    if guest.kernel.as_os_str().is_empty() {
        return Err("kernel: none given".into());
    }
    Ok(guest)
}

fn file(what: &str, path: &str) -> Result<PathBuf, String> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(path.into()),
        Ok(_) => Err(format!("{what} {path}: no file")),
        Err(error) => Err(format!("{what} {path}: {error}")),
    }
}

fn write(path: &str, bytes: &[u8]) -> Result<(), String> {
    if let Some(folder) = Path::new(path).parent() {
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    fs::write(path, bytes).map_err(|error| format!("{path}: {error}"))
}
