//! `make demo`: the main job without a person. Boots a Linux guest, takes half of its memory
//! while it works, gives it back, and says at each step what the guest sees and who owns what.
//! Ends with a table, and a picture in `build/demo.svg`.

use std::fs;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use sluice_tests::artefacts::{self, KERNEL, linux};
use sluice_tests::ensure;
use sluice_tests::failure::Outcome;
use sluice_tests::machine::{BOOT, COMMAND, Machine, Plan};
use sluice_tests::monitor::{Owners, number, wait_until};
use sluice_tests::shell::MemInfo;
use sluice_tests::timeline::{Moment, Sample, draw, size};

const MIB: u64 = 1 << 20;
const FULL: u64 = 1024 * MIB;
const HALF: u64 = 512 * MIB;
const MOVE: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    match Demo::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One row of the table at the end.
struct Row {
    seconds: f64,
    what: String,
    owners: Owners,
    seen: Option<MemInfo>,
}

/// What the demo has seen so far.
struct Demo {
    machine: Machine,
    started: Instant,
    samples: Vec<Sample>,
    moments: Vec<Moment>,
    rows: Vec<Row>,
}

impl Demo {
    fn run() -> Outcome {
        println!(
            "A machine with 2 CPUs and 2 GiB; in it Sluice, and one Linux guest with 1 GiB.\n"
        );
        let machine = Plan::new("demo", &[linux(KERNEL)?])?.append("when-off=stay").start()?;
        let mut demo = Self {
            machine,
            started: Instant::now(),
            samples: Vec::new(),
            moments: Vec::new(),
            rows: Vec::new(),
        };
        demo.story()?;
        demo.table();
        demo.picture()
    }

    fn story(&mut self) -> Outcome {
        self.moment("power on");
        self.watch_boot()?;
        self.row("booted")?;

        say("The guest fills 256 MiB with data and keeps copying it about.");
        self.moment("guest works");
        self.command("load start 256")?;
        self.row("guest works")?;

        say("It uses 400 MiB more for a while.");
        self.moment("uses more");
        self.command("dd if=/dev/zero of=/tmp/more bs=1M count=400")?;
        self.row("uses more")?;
        self.command("rm /tmp/more")?;

        say("balloon linux 512M: the guest is to do with half.");
        self.moment("balloon 512M");
        self.resize(HALF)?;
        self.row("halved")?;

        say("balloon linux 1G: it may have it back, and uses it.");
        self.moment("balloon 1G");
        self.resize(FULL)?;
        self.row("whole again")?;
        self.command("dd if=/dev/zero of=/tmp/more bs=1M count=400")?;
        self.row("used again")?;
        self.command("rm /tmp/more")?;

        let check = self.command("load check")?;
        println!("  guest: {check}");
        ensure!(check.contains("load: intact"), "the guest's data is damaged");
        self.command("load stop")?;
        let audit = self.machine.audit_at_rest(1)?;
        println!(
            "  audit: clean; {} mappings in {} tables, {} blocks in the frame table\n",
            number(&audit, "leaves")?,
            number(&audit, "tables")?,
            number(&audit, "blocks")?
        );

        say("The guest powers off.");
        self.sample()?;
        self.moment("power off");
        self.machine.power_off_guest()?;
        self.machine.control()?.event("off", COMMAND)?;
        self.sample()?;
        let rest = self.machine.owners_at_rest()?;
        self.sample()?;
        self.rows.push(Row {
            seconds: self.seconds(),
            what: "guest is off".into(),
            owners: rest.clone(),
            seen: None,
        });
        ensure!(rest.guest("linux") == 0, "the guest is off and owns memory: {rest:?}");
        ensure!(rest.accounted() == rest.total, "frames are lost: {rest:?}");
        self.machine.audit_at_rest(0)?;
        println!("  every frame of it is free again; audit: clean\n");
        self.machine.control()?.send("quit")?;
        let status = self.machine.wait_for_end(COMMAND)?;
        ensure!(status.success(), "QEMU ended with {status}");
        Ok(())
    }

    /// Takes samples while the guest boots, which takes the console's word for the end.
    fn watch_boot(&mut self) -> Outcome {
        wait_until("the guest boots", BOOT, || {
            self.sample()?;
            Ok(self.machine.console.all().contains("guest# ").then_some(()))
        })?;
        let (version, cpus, memory) = self.machine.shell()?;
        for line in self.machine.console.all().lines().filter(|line| line.starts_with("sluice:")) {
            println!("  {}", line.trim_end());
        }
        say(&format!("Linux {version} is up: {cpus} vCPUs, {memory} kB."));
        Ok(())
    }

    fn resize(&mut self, bytes: u64) -> Outcome {
        self.machine.set_target("linux", bytes)?;
        wait_until("the balloon", MOVE, || {
            self.sample()?;
            Ok((self.machine.guest("linux")?.memory == bytes).then_some(()))
        })
    }

    /// Runs a command in the guest, and takes samples until it ends.
    fn command(&mut self, command: &str) -> Outcome<String> {
        let (samples, started) = (&mut self.samples, self.started);
        self.machine.command_while(command, BOOT, |machine| {
            let owners = machine.owners()?;
            samples.push(Sample { seconds: started.elapsed().as_secs_f64(), owners });
            Ok(())
        })
    }

    fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    fn moment(&mut self, what: &str) {
        self.moments.push(Moment { seconds: self.seconds(), what: what.into() });
    }

    fn sample(&mut self) -> Outcome<Owners> {
        let owners = self.machine.owners()?;
        self.samples.push(Sample { seconds: self.seconds(), owners: owners.clone() });
        Ok(owners)
    }

    /// Notes both views side by side, and shows them.
    fn row(&mut self, what: &str) -> Outcome {
        let owners = self.sample()?;
        let seen = self.machine.meminfo()?;
        println!("  guest, /proc/meminfo            Sluice, memory");
        let pairs = [
            (("MemTotal", seen.total), ("linux", owners.guest("linux"))),
            (("MemFree", seen.free), ("its tables", owners.all_tables())),
            (("MemAvailable", seen.available), ("free", owners.free)),
        ];
        for ((left, kib), (right, bytes)) in pairs {
            println!("  {left:<13} {kib:>9} kB      {right:<11} {:>9} kB", bytes >> 10);
        }
        println!();
        self.rows.push(Row {
            seconds: self.seconds(),
            what: what.into(),
            owners,
            seen: Some(seen),
        });
        Ok(())
    }

    fn table(&self) {
        println!("Who owned how much when:\n");
        println!(
            "  {:>7}  {:<13} {:>10} {:>10} {:>10} {:>10} {:>10} | {:>12}",
            "seconds", "", "guest", "tables", "retired", "free", "hypervisor", "guest: avail"
        );
        for row in &self.rows {
            let owners = &row.owners;
            println!(
                "  {:>7.1}  {:<13} {:>10} {:>10} {:>10} {:>10} {:>10} | {:>12}",
                row.seconds,
                row.what,
                size(owners.guest("linux")),
                size(owners.all_tables()),
                size(owners.retired + owners.in_hand),
                size(owners.free),
                size(owners.hypervisor),
                row.seen.map_or("-".into(), |seen| size(seen.available << 10))
            );
        }
        if let Some(row) = self.rows.first() {
            println!(
                "\n  The loader's bundle takes {} more; together {}.",
                size(row.owners.bundle),
                size(row.owners.total)
            );
        }
    }

    fn picture(&self) -> Outcome {
        let path = artefacts::build().join("demo.svg");
        let title = "A guest's memory: half of it taken while it works, and given back";
        fs::write(&path, draw(title, &self.samples, &self.moments))?;
        println!("  The same as a picture: build/demo.svg");
        Ok(())
    }
}

fn say(text: &str) {
    println!("{text}");
}
