//! Where the things are that `make` builds and the set-up fetches.

use std::env;
use std::path::{Path, PathBuf};

use crate::bundle::Guest;
use crate::failure::{Failure, Outcome};

/// The kernels of Debian that the set-up fetches, by version.
pub const KERNELS: [&str; 2] = ["6.1", "6.12"];

/// The kernel of all tests that do not say another.
pub const KERNEL: &str = "6.12";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/")).into()
}

/// The folder that downloads are kept in: `SLUICE_CACHE`, or `build/cache`.
pub fn cache() -> PathBuf {
    env::var_os("SLUICE_CACHE").map_or_else(|| root().join("build/cache"), PathBuf::from)
}

/// The folder of all that is built.
pub fn build() -> PathBuf {
    root().join("build")
}

/// An image of Sluice or of the guest stub, by its name in `build/`.
///
/// # Errors
/// It was not built.
pub fn image(name: &str) -> Outcome<PathBuf> {
    existing(build().join(format!("{name}.img")))
}

/// The kernel of a version.
///
/// # Errors
/// It was not fetched.
pub fn kernel(version: &str) -> Outcome<PathBuf> {
    existing(cache().join("kernels").join(version).join("Image"))
}

/// The initramfs for the kernel of a version.
///
/// # Errors
/// It was not packed.
pub fn initramfs(version: &str) -> Outcome<PathBuf> {
    existing(build().join(format!("guests/initramfs-{version}.cpio")))
}

/// U-Boot for QEMU's `virt`.
///
/// # Errors
/// It was not fetched.
pub fn u_boot() -> Outcome<PathBuf> {
    existing(cache().join("u-boot.bin"))
}

/// The default guest: Linux of this version, 2 CPUs, 1 GiB.
///
/// # Errors
/// Its files are not there.
pub fn linux(version: &str) -> Outcome<Guest> {
    let mut guest = Guest::new("linux", &kernel(version)?);
    guest.initrd = Some(initramfs(version)?);
    Ok(guest)
}

/// A guest that is the stub, with these orders on its command line.
///
/// # Errors
/// The stub was not built.
pub fn stub(orders: &str) -> Outcome<Guest> {
    let mut guest = Guest::new("stub", &image("guest-stub")?);
    guest.command_line = orders.into();
    Ok(guest)
}

/// The system's QEMU, or what `QEMU` names.
pub fn qemu() -> PathBuf {
    env::var_os("QEMU")
        .filter(|name| !name.is_empty())
        .map_or("qemu-system-aarch64".into(), PathBuf::from)
}

/// The newer QEMU that the set-up unpacked, where it could be had.
pub fn newer_qemu() -> Option<PathBuf> {
    existing(cache().join("qemu-newer/qemu-system-aarch64")).ok()
}

fn existing(path: PathBuf) -> Outcome<PathBuf> {
    if path.exists() {
        Ok(path)
    } else {
        Err(Failure::new(format!("{} is not there; use `make test`", path.display())))
    }
}
