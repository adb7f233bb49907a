//! One cell: a machine, and a guest that boots there, gives memory, gets it back, gets more, and goes.

use std::fs::{self, File};
use std::io::Write;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

use super::board::Board;
use super::by_console;
use super::emulator::Emulator;
use super::loader::ARGUMENTS;
use crate::artefacts::{build, linux, u_boot};
use crate::bundle::{Guest, bundle};
use crate::ensure;
use crate::failure::{Failure, Outcome};
use crate::machine::{BOOT, COMMAND, Machine, Plan};
use crate::monitor::number;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// The most that a guest gets here, in bytes: for each GiB, Linux writes 16 MiB of records.
const MOST: u64 = 32 * GIB;
/// From how many MiB on the host is told that it need not have the machine's memory.
const LARGE: u64 = 12 << 10;
/// What the guest gives and gets, in bytes: whole memory blocks of Linux with pages of any size.
const MOVED: u64 = 512 * MIB;
/// How long that may take on an emulated machine of many CPUs and much memory.
const MOVE: Duration = Duration::from_secs(240);

/// What the guest boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// A kernel of Debian's, by its name in the cache.
    Debian(&'static str),
    /// The same, compressed by gzip.
    Packed(&'static str),
    /// Debian's U-Boot.
    UBoot,
}

/// A machine and a guest.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    /// The machine.
    pub board: Board,
    /// Its CPUs' model.
    pub cpu: &'static str,
    /// How many.
    pub cpus: u32,
    /// Its memory in MiB.
    pub memory: u64,
    /// What the guest boots.
    pub kernel: Kernel,
    /// Tried in every test run.
    pub quick: bool,
}

/// What came of a cell.
pub enum Verdict {
    /// All was done. What Sluice says of the CPU.
    Well(String),
    /// This emulator has no such thing.
    Absent(&'static str),
}

impl Kernel {
    /// What the table calls it.
    pub fn name(self) -> String {
        match self {
            Self::Debian(name) => name.into(),
            Self::Packed(name) => format!("{name}, by gzip"),
            Self::UBoot => "U-Boot".into(),
        }
    }

    /// A guest that boots it.
    fn guest(self) -> Outcome<Guest> {
        match self {
            Self::Debian(name) => linux(name),
            Self::Packed(name) => {
                let mut guest = linux(name)?;
                let packed = build().join(format!("matrix/Image-{name}.gz"));
                fs::create_dir_all(build().join("matrix"))?;
                let mut gzip = GzEncoder::new(File::create(&packed)?, Compression::fast());
                gzip.write_all(&fs::read(&guest.kernel)?)?;
                gzip.finish()?;
                guest.kernel = packed;
                Ok(guest)
            }
            Self::UBoot => Ok(Guest::new("linux", &u_boot()?)),
        }
    }
}

impl Cell {
    /// What it is called, in one line.
    pub fn name(&self) -> String {
        let Self { cpu, cpus, memory, .. } = self;
        let (board, kernel) = (self.board.name, self.kernel.name());
        let kind = if self.kernel == Kernel::UBoot { "" } else { "Linux " };
        format!("{board}, {cpus} x {cpu}, {memory} MiB, {kind}{kernel}")
    }

    /// The guest's memory in bytes: half of the machine's, as more is plugged.
    fn guest_memory(&self) -> u64 {
        (self.board.room.unwrap_or(self.memory) * MIB / 2).min(MOST)
    }

    /// What is plugged, in bytes.
    fn more(&self) -> u64 {
        MOVED.min(self.guest_memory() / 2)
    }

    fn guest(&self) -> Outcome<Guest> {
        let mut guest = self.kernel.guest()?;
        guest.vcpus = self.cpus;
        guest.memory = self.guest_memory();
        guest.maximum_memory = Some(guest.memory + self.more());
        guest.command_line += " memhp_default_state=online_movable";
        Ok(guest)
    }

    /// Says what this emulator has not, of what the cell needs.
    pub fn absent(&self, emulator: &Emulator) -> Option<&'static str> {
        if !emulator.has_machine(self.board.machine) {
            return Some("this QEMU has no such machine");
        }
        (!emulator.has_model(self.cpu)).then_some("this QEMU has no such CPU")
    }

    /// Switches the machine on under this emulator and has all of it done.
    ///
    /// # Errors
    /// What went wrong first.
    pub fn run(&self, emulator: &Emulator) -> Outcome<Verdict> {
        if let Some(why) = self.absent(emulator) {
            return Ok(Verdict::Absent(why));
        }
        let guest = self.guest()?;
        let bundle = bundle(std::slice::from_ref(&guest))?;
        let mut machine = self.plan(emulator, &bundle)?.start()?;
        self.board.loader.boot(&mut machine, &bundle)?;
        let cpus = machine.expect(r"(\d+) CPUs, ", COMMAND)?[1].parse::<u32>().ok();
        ensure!(cpus == Some(self.cpus - self.board.without), "it has {cpus:?} CPUs");
        let features = machine.expect(r"CPU: ([^\r\n]*)[\r\n]", COMMAND)?;
        if self.kernel == Kernel::UBoot {
            self.commands_u_boot(&mut machine, &guest)?;
            self.is_gone(&mut machine)?;
            return Ok(Verdict::Well(features[1].clone()));
        }
        let said = machine.shell()?;
        let all = machine.console.all();
        ensure!(!all.contains("not turned on"), "a CPU was not turned on");
        self.has_what_was_promised(&guest, said.1, said.2)?;
        if self.board.bare {
            by_console::moves_memory(&mut machine, guest.memory, self.more())?;
            return Ok(Verdict::Well(features[1].clone()));
        }
        self.reserved_is_nobodys(&mut machine)?;
        let all = machine.guest("linux")?.memory;
        ensure!(all == guest.memory, "it has {all} bytes at first");
        machine.resize("linux", guest.memory - self.more() / 2, MOVE)?;
        machine.resize("linux", guest.memory, MOVE)?;
        self.moves(&mut machine, "plug")?;
        self.moves(&mut machine, "unplug")?;
        machine.audit_at_rest(1)?;
        machine.power_off_guest()?;
        self.is_gone(&mut machine)?;
        Ok(Verdict::Well(features[1].clone()))
    }

    /// Stops U-Boot before it looks for a system, asks what memory it has, and has it turn its machine off.
    fn commands_u_boot(&self, machine: &mut Machine, guest: &Guest) -> Outcome {
        machine.expect("Hit any key to stop autoboot", BOOT)?;
        machine.type_text("\r")?;
        machine.expect("=> ", BOOT)?;
        machine.type_text("bdinfo\r")?;
        let size = machine.expect(r"-> size\s+= 0x([0-9a-f]+)\s", COMMAND)?;
        let size = u64::from_str_radix(&size[1], 16).unwrap_or_default();
        ensure!(size == guest.memory, "U-Boot found {size} bytes of memory");
        machine.type_text("poweroff\r")
    }

    /// Waits until the guest is off, and has nothing.
    fn is_gone(&self, machine: &mut Machine) -> Outcome {
        machine.control()?.event("off", COMMAND)?;
        let owners = machine.owners_at_rest()?;
        ensure!(owners.guest("linux") == 0, "it is off and owns {} bytes", owners.guest("linux"));
        ensure!(owners.accounted() == owners.total, "lost: {owners:?}");
        machine.audit()?;
        Ok(())
    }

    /// Has all that can be plugged plugged or unplugged. What a busy guest has in use it gives at the second or third time.
    fn moves(&self, machine: &mut Machine, command: &str) -> Outcome {
        let mut left = self.more();
        for _ in 0..3 {
            let command = format!("{command} linux {}M", left / MIB);
            let end = machine.control()?.do_whole(&command, MOVE)?;
            if end.get("whole") == Some(&Value::Bool(true)) {
                return Ok(());
            }
            left = number(&end, "left")?;
        }
        Err(Failure::new(format!("{command}: {left} bytes are left")))
    }

    /// The machine, with Sluice and the guest.
    fn plan(&self, emulator: &Emulator, bundle: &[u8]) -> Outcome<Plan> {
        let log = format!("matrix-{}-{}", self.name(), emulator.version).replace([' ', ','], "-");
        let mut plan = Plan::new(&log, &[])?
            .raw_bundle(bundle.to_vec())
            .qemu(emulator.program.clone())
            .board(self.board.machine)
            .cpu(self.cpu)
            .cpus(self.cpus)
            .memory(&format!("{}M", self.memory))
            .append(ARGUMENTS);
        let mut options: Vec<String> = self.board.options.iter().map(|&word| word.into()).collect();
        if self.memory > LARGE {
            // The host gives it page by page, and need not have it all.
            let object = format!("memory-backend-ram,id=all,size={}M,reserve=off", self.memory);
            options
                .extend(["-object", &object, "-machine", "memory-backend=all"].map(String::from));
        }
        let mut words: Vec<String> =
            ["-machine", self.board.machine, "-cpu", self.cpu].map(String::from).into();
        words.extend([
            "-smp".into(),
            self.cpus.to_string(),
            "-m".into(),
            format!("{}M", self.memory),
        ]);
        words.extend(options.iter().cloned());
        if self.board.bare {
            plan = plan.without_control();
        }
        for word in options {
            plan = plan.option(word);
        }
        let folder = build().join("matrix").join(&log);
        self.board.loader.prepare(plan, &self.board, &emulator.program, &words, &folder, bundle)
    }

    fn has_what_was_promised(&self, guest: &Guest, cpus: u32, memory: u64) -> Outcome {
        ensure!(cpus == guest.vcpus, "the guest has {cpus} CPUs");
        // What the kernel keeps for itself is not in MemTotal.
        let promised = guest.memory >> 10;
        ensure!(memory <= promised && memory * 100 > promised * 70, "the guest has {memory} kB");
        Ok(())
    }

    fn reserved_is_nobodys(&self, machine: &mut Machine) -> Outcome {
        let bad = machine.owners()?.bad;
        ensure!(
            bad == self.board.reserved,
            "{bad} bytes are nobody's, not {}",
            self.board.reserved
        );
        Ok(())
    }
}
