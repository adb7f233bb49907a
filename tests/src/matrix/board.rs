//! The machines: QEMU's options, and what is changed in the device tree that QEMU makes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::loader::Loader;
use crate::artefacts::cache;
use crate::ensure;
use crate::failure::Outcome;

/// A machine, but for its CPUs.
#[derive(Clone, Copy, Debug)]
pub struct Board {
    /// What the table calls it.
    pub name: &'static str,
    /// QEMU's machine and its options.
    pub machine: &'static str,
    /// Further words for QEMU.
    pub options: &'static [&'static str],
    /// Who loads Sluice.
    pub loader: Loader,
    /// What is added to the device tree's source.
    pub tree: Option<&'static str>,
    /// The device tree, for a machine that QEMU makes none for: a file of Debian's kernel package.
    pub file: Option<&'static str>,
    /// Its CPUs' model and their number, where it has no others.
    pub cpus: Option<(&'static str, u32)>,
    /// Says that it has no virtio devices, and so no control port.
    pub bare: bool,
    /// The MiB that it must have, where it matters.
    pub memory: Option<u64>,
    /// How many of these there are guests for, where that is less: the device tree may not offer all.
    pub room: Option<u64>,
    /// The bytes that nobody may have.
    pub reserved: u64,
    /// How many of its CPUs the device tree does not offer.
    pub without: u32,
    /// Tried in every test run.
    pub quick: bool,
}

impl Board {
    /// QEMU's `virt` with a GICv3: an ITS, one region of redistributors, and room above 4 GiB are what it has.
    pub const VIRT: Self = Self {
        name: "virt",
        machine: "virt,virtualization=on,gic-version=3",
        options: &[],
        loader: Loader::Qemu,
        tree: None,
        file: None,
        cpus: None,
        bare: false,
        memory: None,
        room: None,
        reserved: 0,
        without: 0,
        quick: false,
    };

    /// Changes the device tree that `emulator` makes with these `words`, adds `more`, and returns where the changed one
    /// is; nothing where there is nothing to change.
    ///
    /// # Errors
    /// QEMU or dtc fails, and says why.
    pub fn changed_tree(
        &self,
        emulator: &Path,
        words: &[String],
        folder: &Path,
        more: &str,
    ) -> Outcome<Option<PathBuf>> {
        if let Some(file) = self.file {
            let path = cache().join("kernels/full/dtbs").join(file);
            ensure!(path.exists(), "{} is not there; use `make matrix`", path.display());
            return Ok(Some(path));
        }
        let change = self.tree.unwrap_or_default();
        if change.is_empty() && more.is_empty() {
            return Ok(None);
        }
        fs::create_dir_all(folder)?;
        let name = self.name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
        let file = |ending: &str| folder.join(format!("{name}.{ending}"));
        let (made, source, changed) = (file("dtb"), file("dts"), file("changed.dtb"));
        let mut dump = Command::new(emulator);
        dump.args(words).args(["-display", "none", "-nic", "none", "-machine"]);
        run(dump.arg(format!("dumpdtb={}", made.display())))?;
        run(Command::new("dtc").args(["-q", "-O", "dts", "-o"]).arg(&source).arg(&made))?;
        let mut text = fs::read_to_string(&source)?;
        text.push_str(change);
        text.push_str(more);
        fs::write(&source, text)?;
        run(Command::new("dtc").args(["-q", "-O", "dtb", "-o"]).arg(&changed).arg(&source))?;
        Ok(Some(changed))
    }
}

fn run(command: &mut Command) -> Outcome {
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {}", command.get_program().display(), said.trim());
    Ok(())
}

/// The machines beside [`Board::VIRT`].
pub const OTHERS: [Board; 18] = [
    Board {
        name: "virt, all loaded at odd places",
        loader: Loader::Anywhere,
        memory: Some(8192),
        quick: true,
        ..Board::VIRT
    },
    Board { name: "virt, started by U-Boot", loader: Loader::UBoot, ..Board::VIRT },
    Board {
        name: "virt, GICv2, started by U-Boot",
        machine: "virt,virtualization=on,gic-version=2",
        loader: Loader::UBoot,
        ..Board::VIRT
    },
    Board {
        name: "virt, GICv2",
        machine: "virt,virtualization=on,gic-version=2",
        quick: true,
        ..Board::VIRT
    },
    Board {
        name: "virt, GICv2, highmem off",
        machine: "virt,virtualization=on,gic-version=2,highmem=off",
        ..Board::VIRT
    },
    Board {
        name: "virt, highmem off",
        machine: "virt,virtualization=on,gic-version=3,highmem=off",
        ..Board::VIRT
    },
    Board {
        name: "virt, highmem off, all that fits",
        machine: "virt,virtualization=on,gic-version=3,highmem=off",
        memory: Some(3072),
        ..Board::VIRT
    },
    Board {
        name: "virt, no ITS",
        machine: "virt,virtualization=on,gic-version=3,its=off",
        ..Board::VIRT
    },
    Board {
        name: "virt, 2 memory nodes",
        options: &[
            "-object",
            "memory-backend-ram,id=near,size=512M",
            "-object",
            "memory-backend-ram,id=far,size=1536M",
            "-numa",
            "node,nodeid=0,cpus=0-1,memdev=near",
            "-numa",
            "node,nodeid=1,cpus=2-3,memdev=far",
        ],
        ..Board::VIRT
    },
    Board {
        name: "virt, 4 memory nodes above 4 GiB",
        options: &[
            "-object",
            "memory-backend-ram,id=a,size=1G",
            "-object",
            "memory-backend-ram,id=b,size=1G",
            "-object",
            "memory-backend-ram,id=c,size=2G",
            "-object",
            "memory-backend-ram,id=d,size=4G",
            "-numa",
            "node,nodeid=0,cpus=0,memdev=a",
            "-numa",
            "node,nodeid=1,cpus=1,memdev=b",
            "-numa",
            "node,nodeid=2,cpus=2,memdev=c",
            "-numa",
            "node,nodeid=3,cpus=3,memdev=d",
        ],
        memory: Some(8192),
        ..Board::VIRT
    },
    Board {
        name: "virt, memory reserved",
        // Two that overlap, one that is not whole pages, and one that is where memory is not.
        tree: Some(
            "/ { reserved-memory {
                #address-cells = <2>; #size-cells = <2>; ranges;
                nil@60000000 { reg = <0 0x60000000 0 0x200000>; };
                one@60100000 { reg = <0 0x60100000 0 0x700000>; no-map; };
                two@70000800 { reg = <0 0x70000800 0 0x1000>; };
                other@3000000 { reg = <0 0x3000000 0 0x10000>; };
                anywhere { size = <0 0x400000>; };
            }; };",
        ),
        reserved: (8 << 20) + (8 << 10),
        quick: true,
        ..Board::VIRT
    },
    Board {
        name: "virt, 2 regions of redistributors",
        tree: Some(
            "&{/intc@8000000} {
                #redistributor-regions = <2>;
                reg = <0 0x8000000 0 0x10000  0 0x80a0000 0 0x40000  0 0x80e0000 0 0xf20000>;
            };",
        ),
        quick: true,
        ..Board::VIRT
    },
    Board {
        name: "virt, CPU 1 is not there",
        tree: Some("/delete-node/ &{/cpus/cpu@1};"),
        without: 1,
        ..Board::VIRT
    },
    Board {
        name: "virt, booted by the last CPU",
        tree: Some("&{/cpus/cpu@0} { reg = <3>; }; &{/cpus/cpu@3} { reg = <0>; };"),
        quick: true,
        ..Board::VIRT
    },
    Board {
        name: "virt, one CPU disabled",
        tree: Some("&{/cpus/cpu@2} { status = \"fail\"; };"),
        without: 1,
        ..Board::VIRT
    },
    Board {
        name: "xlnx-zcu102",
        machine: "xlnx-zcu102,virtualization=on",
        file: Some("zynqmp-zcu102-rev1.0.dtb"),
        cpus: Some(("cortex-a53", 4)),
        bare: true,
        memory: Some(4096),
        room: Some(1024),
        // What its firmware has for the two other cores.
        reserved: 512 << 10,
        ..Board::VIRT
    },
    Board {
        name: "raspi4b",
        machine: "raspi4b",
        file: Some("bcm2711-rpi-4-b.dtb"),
        cpus: Some(("cortex-a72", 4)),
        bare: true,
        // QEMU's has no less, of which its device tree offers 960 MiB.
        memory: Some(2048),
        room: Some(512),
        ..Board::VIRT
    },
    Board {
        name: "virt with a Secure world",
        machine: "virt,virtualization=on,gic-version=3,secure=on",
        ..Board::VIRT
    },
];
