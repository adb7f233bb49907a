//! Packs the guest's initramfs: busybox, the modules of one kernel, and `tests/initramfs`.

use std::path::Path;
use std::{fs, io};

use crate::cpio::Archive;

/// Packs the scripts in `scripts`, `busybox`, and the modules that the file `order` in
/// `modules` names, one a line in the order in which they are loaded.
///
/// # Errors
/// A file that cannot be read; the error names it.
pub fn pack(scripts: &Path, busybox: &Path, modules: &Path) -> io::Result<Vec<u8>> {
    let mut archive = Archive::new();
    for folder in ["bin", "dev", "modules", "proc", "sluice", "sys", "tmp"] {
        archive.folder(folder);
    }
    // Without it the first process has no standard output until it mounts devtmpfs.
    archive.character_device("dev/console", 5, 1);
    archive.file("bin/busybox", &read(busybox)?, true);
    archive.file("init", &read(&scripts.join("init"))?, true);

    let mut names: Vec<_> = fs::read_dir(scripts)
        .map_err(|error| named(scripts, &error))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()?;
    names.sort();
    for name in names.iter().filter(|name| *name != "init") {
        archive.file(&format!("sluice/{name}"), &read(&scripts.join(name))?, true);
    }

    let order = read(&modules.join("order"))?;
    archive.file("modules/order", &order, false);
    for module in String::from_utf8_lossy(&order).lines() {
        let file = format!("{module}.ko");
        archive.file(&format!("modules/{file}"), &read(&modules.join(&file))?, false);
    }
    Ok(archive.finish())
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    fs::read(path).map_err(|error| named(path, &error))
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
