//! A machine: QEMU with Sluice, or with a Linux kernel alone, its console, and its control
//! port. It ends when the value is dropped.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{env, process, thread};

use crate::accelerator::Accelerator;
use crate::artefacts;
use crate::bundle::{Guest, bundle, bundle_files};
use crate::console::Console;
use crate::control::Control;
use crate::failure::{Failure, Outcome};

/// How long a guest may take from power-on to its shell. It takes some 2 s on a good day;
/// this is for a loaded machine with one slow CPU.
pub const BOOT: Duration = Duration::from_secs(240);

/// How long a command in a guest's shell may take that does little.
pub const COMMAND: Duration = Duration::from_secs(60);

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// What is in the machine's guest bundle.
enum Initrd {
    None,
    File(PathBuf),
    Bundle(Vec<u8>),
}

/// What a machine is made of, before it is switched on.
pub struct Plan {
    name: String,
    qemu: PathBuf,
    accelerator: Accelerator,
    board: String,
    cpu: String,
    cpus: u32,
    memory: String,
    kernel: Option<PathBuf>,
    initrd: Initrd,
    append: String,
    control: bool,
    echo: bool,
    extra: Vec<OsString>,
}

impl Plan {
    /// A machine with Sluice and these guests. `name` is that of the log in `build/logs/`.
    ///
    /// # Errors
    /// A file is not there.
    pub fn new(name: &str, guests: &[Guest]) -> Outcome<Self> {
        Self::with_image(name, "sluice", guests)
    }

    /// The same with another build of Sluice.
    ///
    /// # Errors
    /// A file is not there.
    pub fn with_image(name: &str, image: &str, guests: &[Guest]) -> Outcome<Self> {
        Ok(Self {
            name: name.into(),
            qemu: artefacts::qemu(),
            accelerator: Accelerator::of_hypervisors(),
            board: "virt,virtualization=on,gic-version=3".into(),
            cpu: "cortex-a72".into(),
            cpus: 2,
            memory: "2G".into(),
            kernel: Some(artefacts::image(image)?),
            initrd: Initrd::Bundle(bundle(guests)?),
            append: String::new(),
            control: true,
            echo: false,
            extra: Vec::new(),
        })
    }

    /// A machine without Sluice, on which the guest is all there is: what others are measured
    /// against.
    ///
    /// # Errors
    /// A file is not there.
    pub fn bare(name: &str, guest: &Guest) -> Outcome<Self> {
        let initrd = guest.initrd.clone().map_or(Initrd::None, Initrd::File);
        Ok(Self {
            kernel: Some(guest.kernel.clone()),
            initrd,
            append: guest.command_line.clone(),
            cpus: guest.vcpus,
            memory: format!("{}M", guest.memory >> 20),
            board: "virt,gic-version=3".into(),
            control: false,
            accelerator: Accelerator::of_bare_machines(),
            ..Self::new(name, &[])?
        })
    }

    /// Replaces the bundle by one of this manifest and these files.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn manifest(mut self, source: &str, files: &[PathBuf]) -> Outcome<Self> {
        self.initrd = Initrd::Bundle(bundle_files(source, files)?);
        Ok(self)
    }

    /// Replaces the bundle by these bytes.
    #[must_use]
    pub fn raw_bundle(mut self, bytes: Vec<u8>) -> Self {
        self.initrd = Initrd::Bundle(bytes);
        self
    }

    /// Leaves the bundle out.
    #[must_use]
    pub fn no_bundle(mut self) -> Self {
        self.initrd = Initrd::None;
        self
    }

    /// Sets QEMU's machine and its options.
    #[must_use]
    pub fn board(mut self, machine: &str) -> Self {
        self.board = machine.into();
        self
    }

    /// Sets the CPU model.
    #[must_use]
    pub fn cpu(mut self, model: &str) -> Self {
        self.cpu = model.into();
        self
    }

    /// Sets the number of CPUs.
    #[must_use]
    pub fn cpus(mut self, count: u32) -> Self {
        self.cpus = count;
        self
    }

    /// Sets the machine's memory, as QEMU's `-m` has it.
    #[must_use]
    pub fn memory(mut self, size: &str) -> Self {
        self.memory = size.into();
        self
    }

    /// Sets the emulator.
    #[must_use]
    pub fn qemu(mut self, program: PathBuf) -> Self {
        self.qemu = program;
        self
    }

    /// Sets Sluice's command line.
    #[must_use]
    pub fn append(mut self, words: &str) -> Self {
        self.append = words.into();
        self
    }

    /// Has the console shown while the machine runs.
    #[must_use]
    pub fn echo(mut self, echo: bool) -> Self {
        self.echo = echo;
        self
    }

    /// Has no kernel started, and this file put into memory instead; execution begins at it
    /// if `starts`, with nothing in the registers, and the device tree at the start of memory.
    #[must_use]
    pub fn load(mut self, file: &Path, address: u64, starts: bool) -> Self {
        let start = if starts { ",cpu-num=0" } else { "" };
        self.kernel = None;
        self.initrd = Initrd::None;
        self.option("-device")
            .option(format!("loader,file={},addr={address:#x},force-raw=on{start}", file.display()))
    }

    /// Has the emulator count instructions instead of time, the same on every host.
    #[must_use]
    pub fn counting(mut self) -> Self {
        self.accelerator = Accelerator::Tcg;
        self.option("-icount").option("shift=0,sleep=off").option("-seed").option("1")
    }

    /// Leaves the control port out, on a machine that has no virtio devices.
    #[must_use]
    pub fn without_control(mut self) -> Self {
        self.control = false;
        self
    }

    /// Adds a word to QEMU's command line.
    #[must_use]
    pub fn option(mut self, word: impl Into<OsString>) -> Self {
        self.extra.push(word.into());
        self
    }

    /// Switches the machine on.
    ///
    /// # Errors
    /// QEMU does not start.
    pub fn start(self) -> Outcome<Machine> {
        Machine::start(self)
    }
}

/// A machine that runs.
pub struct Machine {
    /// What the serial port says.
    pub console: Console,
    child: Child,
    keyboard: ChildStdin,
    control: Option<Control>,
    scratch: PathBuf,
    log: PathBuf,
}

impl Machine {
    fn start(plan: Plan) -> Outcome<Self> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // Not in build/: the path of a socket has room for 107 bytes.
        let scratch = env::temp_dir().join(format!("sluice-{}-{number}", process::id()));
        fs::create_dir_all(&scratch)?;
        let logs = artefacts::build().join("logs");
        fs::create_dir_all(&logs)?;
        let log = logs.join(format!("{}.log", plan.name));
        let errors = logs.join(format!("{}.qemu", plan.name));

        // Should this process be killed, the machine is to end with it.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(&plan.qemu);
        command
            .args(["-machine", &plan.board])
            .args(plan.accelerator.options(&plan.cpu))
            .args(["-smp", &plan.cpus.to_string()])
            .args(["-m", &plan.memory])
            .args(["-display", "none", "-monitor", "none", "-nic", "none", "-no-reboot"])
            .args(["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]);
        if let Some(kernel) = &plan.kernel {
            command.arg("-kernel").arg(kernel).args(["-append", &plan.append]);
        }
        match &plan.initrd {
            Initrd::None => {}
            Initrd::File(path) => {
                command.arg("-initrd").arg(path);
            }
            Initrd::Bundle(bytes) => {
                let path = scratch.join("bundle.cpio");
                fs::write(&path, bytes)?;
                command.arg("-initrd").arg(path);
            }
        }
        let port = scratch.join("control");
        if plan.control {
            command
                .args(["-global", "virtio-mmio.force-legacy=false"])
                .args(["-device", "virtio-serial-device"])
                .arg("-chardev")
                .arg(format!("socket,id=control,path={},server=on,wait=off", port.display()))
                .args(["-device", "virtconsole,chardev=control"]);
        }
        command.args(&plan.extra);

        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&errors)?)
            .spawn()
            .map_err(|error| Failure::new(format!("{}: {error}", plan.qemu.display())))?;
        let (Some(keyboard), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Failure::new("QEMU has no pipes"));
        };
        let console = Console::follow(output, File::create(&log)?, plan.echo);
        let mut machine = Self { console, child, keyboard, control: None, scratch, log };
        if plan.control {
            match Control::connect(&port, Duration::from_secs(60)) {
                Ok(control) => machine.control = Some(control),
                Err(error) => {
                    let said = fs::read_to_string(&errors).unwrap_or_default();
                    return Err(Failure::new(format!("{error}; QEMU says: {}", said.trim())));
                }
            }
        }
        Ok(machine)
    }

    /// Types this.
    ///
    /// # Errors
    /// The machine has ended.
    pub fn type_text(&mut self, text: &str) -> Outcome {
        self.keyboard.write_all(text.as_bytes())?;
        self.keyboard.flush()?;
        Ok(())
    }

    /// Waits for what the console is to say; see [`Console::expect`].
    ///
    /// # Errors
    /// It does not say it.
    pub fn expect(&mut self, pattern: &str, patience: Duration) -> Outcome<Vec<String>> {
        let log = self.log.display().to_string();
        self.console
            .expect(pattern, patience)
            .map_err(|error| Failure::new(format!("{error}(whole console: {log})")))
    }

    /// The control port.
    ///
    /// # Errors
    /// This machine has none.
    pub fn control(&mut self) -> Outcome<&mut Control> {
        self.control.as_mut().ok_or_else(|| Failure::new("a bare machine has no control port"))
    }

    /// Gives the monitor a command and returns its answer; see [`Control::ask`].
    ///
    /// # Errors
    /// It does not answer, or the command failed.
    pub fn ask(&mut self, command: &str) -> Outcome<serde_json::Value> {
        let tail = self.console.tail();
        self.control()?
            .ask(command)
            .map_err(|error| Failure::new(format!("{error}; last on the console:\n{tail}")))
    }

    /// Waits until the machine switches itself off.
    ///
    /// # Errors
    /// It does not within `patience`.
    pub fn wait_for_end(&mut self, patience: Duration) -> Outcome<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                let tail = self.console.tail();
                return Err(Failure::new(format!("the machine does not end; last:\n{tail}")));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The emulator's process.
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail where the machine has ended by itself, and that is well.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.scratch);
    }
}
