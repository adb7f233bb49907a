//! Who loads Sluice: QEMU as it loads Linux, a loader that puts things where it likes, or U-Boot.

use std::fs;
use std::path::Path;

use crate::artefacts;
use crate::failure::Outcome;
use crate::machine::{BOOT, COMMAND, Machine, Plan};

use super::board::Board;

/// A loader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loader {
    /// QEMU, by Linux's boot protocol.
    Qemu,
    /// Four instructions, and everything at odd places.
    Anywhere,
    /// Debian's U-Boot, from flash.
    UBoot,
}

/// Sluice's command line.
pub const ARGUMENTS: &str = "when-off=stay";
/// Where the image goes, at no multiple of 2 MiB, above 4 GiB.
const IMAGE: u64 = 0x1_2345_7000;
/// Where the bundle goes, at no multiple of anything, and from one GiB into the next; the device tree begins in the page
/// where it ends.
const BUNDLE: u64 = 0x1_3f65_4321;
/// Where execution begins.
const START: u64 = 0x4a00_0000;
/// Where U-Boot is handed the image and the bundle.
const IN_MEMORY: (u64, u64) = (0x5000_0000, 0x5400_0000);

/// Loads x0 and x4 from the two words behind, and branches to x4.
const CODE: [u32; 4] = [0x5800_0080, 0x5800_00a4, 0xd61f_0080, 0xd503_201f];

impl Loader {
    /// Has this loader load Sluice and `bundle` on `board`, whose device tree QEMU makes with `words`.
    ///
    /// # Errors
    /// A file cannot be made.
    pub fn prepare(
        self,
        plan: Plan,
        board: &Board,
        emulator: &Path,
        words: &[String],
        folder: &Path,
        bundle: &[u8],
    ) -> Outcome<Plan> {
        if self == Self::Qemu {
            return Ok(match board.changed_tree(emulator, words, folder, "")? {
                Some(tree) => plan.option("-dtb").option(tree),
                None => plan,
            });
        }
        fs::create_dir_all(folder)?;
        let (image, packed) = (artefacts::image("sluice")?, folder.join("bundle.cpio"));
        fs::write(&packed, bundle)?;
        if self == Self::UBoot {
            let plan = plan.load(&image, IN_MEMORY.0, false).load(&packed, IN_MEMORY.1, false);
            return Ok(plan.option("-bios").option(artefacts::u_boot()?));
        }
        let end = BUNDLE + bundle.len() as u64;
        let tree = end.next_multiple_of(8);
        let cells = |address: u64| format!("<{:#x} {:#x}>", address >> 32, address & 0xffff_ffff);
        let chosen = format!(
            "/ {{ chosen {{ bootargs = \"{ARGUMENTS}\"; linux,initrd-start = {}; linux,initrd-end = {}; }}; }};",
            cells(BUNDLE),
            cells(end)
        );
        let mut code: Vec<u8> = CODE.into_iter().flat_map(u32::to_le_bytes).collect();
        code.extend(tree.to_le_bytes());
        code.extend(IMAGE.to_le_bytes());
        let start = folder.join("start");
        fs::write(&start, code)?;
        let plan =
            plan.load(&image, IMAGE, false).load(&packed, BUNDLE, false).load(&start, START, true);
        Ok(match board.changed_tree(emulator, words, folder, &chosen)? {
            Some(changed) => plan.load(&changed, tree, false),
            None => plan,
        })
    }

    /// Does by hand what this loader must be told.
    ///
    /// # Errors
    /// It does not answer.
    pub fn boot(self, machine: &mut Machine, bundle: &[u8]) -> Outcome {
        if self != Self::UBoot {
            return Ok(());
        }
        machine.expect("Hit any key to stop autoboot", BOOT)?;
        machine.type_text("\n")?;
        machine.expect("=> ", COMMAND)?;
        let (image, packed) = IN_MEMORY;
        machine.type_text(&format!("setenv bootargs {ARGUMENTS}\n"))?;
        machine.type_text(&format!(
            "booti {image:x} {packed:x}:{:x} ${{fdtcontroladdr}}\n",
            bundle.len()
        ))?;
        machine.expect("Starting kernel", COMMAND)?;
        Ok(())
    }
}
