//! `make demo`: the main job without a person. Boots two Linux guests, moves half of the one's memory to the other
//! while both work, and back, and says at each step what the guests see and who owns what. Ends with a table, and a
//! picture in `build/demo.svg`.

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
/// What both guests have from their start.
const FULL: u64 = 1024 * MIB;
const HALF: u64 = 512 * MIB;
const MOVE: Duration = Duration::from_secs(240);
/// Who gives, and who gets.
const GUESTS: [&str; 2] = ["east", "west"];

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
    /// What each guest sees.
    seen: Option<[MemInfo; 2]>,
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
            "A machine with 2 CPUs and 3 GiB; in it Sluice, and two Linux guests, east with 1 GiB and west\n\
             with 512 MiB that can have 512 MiB more. Each has 2 vCPUs.\n"
        );
        let guest = |name: &str, memory| -> Outcome<_> {
            let mut guest = linux(KERNEL)?;
            (guest.name, guest.memory, guest.maximum_memory) = (name.into(), memory, Some(FULL));
            guest.command_line += " memhp_default_state=online_movable";
            Ok(guest)
        };
        let guests = [guest(GUESTS[0], FULL)?, guest(GUESTS[1], HALF)?];
        let machine = Plan::new("demo", &guests)?.memory("3G").append("when-off=stay").start()?;
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
        let [east, west] = GUESTS;
        self.moment("power on");
        self.watch_boot()?;
        self.row("booted")?;

        say("Both fill 128 MiB with data and keep copying it about.");
        self.moment("guests work");
        for guest in GUESTS {
            self.command(guest, "load start 128")?;
        }
        self.row("guests work")?;

        say("east uses 400 MiB more for a while.");
        self.moment("east uses more");
        self.command(east, "dd if=/dev/zero of=/tmp/more bs=1M count=400")?;
        self.row("east uses more")?;
        self.command(east, "rm /tmp/more")?;

        say("move 512M from east to west: out of the one's balloon, into the other by virtio-mem.");
        self.moment("move 512M to west");
        self.move_half(east, west)?;
        self.row("moved")?;

        say("west uses what it got.");
        self.moment("west uses it");
        let mount = "mkdir -p /tmp/more && mount -t tmpfs -o size=600M none /tmp/more";
        self.command(west, mount)?;
        self.command(west, "dd if=/dev/zero of=/tmp/more/all bs=1M count=500")?;
        self.row("west uses it")?;
        self.command(west, "umount /tmp/more")?;

        say("move 512M from west to east: and back.");
        self.moment("move 512M to east");
        self.move_half(west, east)?;
        self.row("moved back")?;

        for guest in GUESTS {
            let check = self.command(guest, "load check")?;
            println!("  {guest}: {check}");
            ensure!(check.contains("load: intact"), "the data of {guest} is damaged");
            self.command(guest, "load stop")?;
        }
        let audit = self.machine.audit_at_rest(2)?;
        println!(
            "  audit: clean; {} mappings in {} tables, {} blocks in the frame table\n",
            number(&audit, "leaves")?,
            number(&audit, "tables")?,
            number(&audit, "blocks")?
        );

        say("Both power off.");
        self.sample()?;
        self.moment("power off");
        for guest in GUESTS {
            self.machine.show(guest)?;
            self.machine.power_off_guest()?;
            self.machine.control()?.event("off", COMMAND)?;
            self.sample()?;
        }
        let rest = self.machine.owners_at_rest()?;
        self.sample()?;
        self.rows.push(Row {
            seconds: self.seconds(),
            what: "both are off".into(),
            owners: rest.clone(),
            seen: None,
        });
        ensure!(rest.guests.values().all(|bytes| *bytes == 0), "they are off: {rest:?}");
        ensure!(rest.accounted() == rest.total, "frames are lost: {rest:?}");
        self.machine.audit_at_rest(0)?;
        println!("  every frame of theirs is free again; audit: clean\n");
        self.machine.control()?.send("quit")?;
        let status = self.machine.wait_for_end(COMMAND)?;
        ensure!(status.success(), "QEMU ended with {status}");
        Ok(())
    }

    /// Takes samples while the first guest boots, which takes the console's word for the end.
    fn watch_boot(&mut self) -> Outcome {
        wait_until("the first guest boots", BOOT, || {
            self.sample()?;
            Ok(self.machine.console.all().contains("guest# ").then_some(()))
        })?;
        let mut booted = vec![(GUESTS[0], self.machine.shell()?)];
        for line in self.machine.console.all().lines().filter(|line| line.starts_with("sluice:")) {
            println!("  {}", line.trim_end());
        }
        self.machine.show(GUESTS[1])?;
        booted.push((GUESTS[1], self.machine.shell()?));
        for (guest, (version, cpus, memory)) in booted {
            say(&format!("{guest}: Linux {version} is up: {cpus} vCPUs, {memory} kB."));
        }
        Ok(())
    }

    /// Moves memory, and takes samples until that has ended.
    fn move_half(&mut self, from: &str, to: &str) -> Outcome {
        let job = self.machine.control()?.begin(&format!("move 512M from {from} to {to}"))?;
        let end = wait_until("the move", MOVE, || {
            self.sample()?;
            let said = self.machine.control()?.heard(job, MOVE)?;
            Ok(said.get("done").is_some().then_some(said))
        })?;
        ensure!(number(&end, "moved")? == HALF, "it says {end}");
        Ok(())
    }

    /// Runs a command in a guest, and takes samples until it ends.
    fn command(&mut self, guest: &str, command: &str) -> Outcome<String> {
        self.machine.show(guest)?;
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
        let mut see = |guest: &str| {
            self.machine.show(guest)?;
            self.machine.meminfo()
        };
        let seen = [see(GUESTS[0])?, see(GUESTS[1])?];
        let owners = self.sample()?;
        println!("  guests, /proc/meminfo      east         west        Sluice, memory");
        let pairs = [
            ("MemTotal", seen.map(|seen| seen.total), ("east", owners.guest("east"))),
            ("MemFree", seen.map(|seen| seen.free), ("west", owners.guest("west"))),
            ("MemAvailable", seen.map(|seen| seen.available), ("free", owners.free)),
        ];
        for (left, [east, west], (right, bytes)) in pairs {
            println!(
                "  {left:<13} {east:>13} kB {west:>9} kB        {right:<5} {:>9} kB",
                bytes >> 10
            );
        }
        println!();
        let (seconds, what, seen) = (self.seconds(), what.into(), Some(seen));
        self.rows.push(Row { seconds, what, owners, seen });
        Ok(())
    }

    fn table(&self) {
        println!("Who owned how much when:\n");
        println!(
            "  {:>7}  {:<15} {:>9} {:>9} {:>8} {:>8} {:>9} {:>10} | {:>18}",
            "seconds",
            "",
            "east",
            "west",
            "tables",
            "retired",
            "free",
            "hypervisor",
            "available in them"
        );
        for row in &self.rows {
            let owners = &row.owners;
            let seen = row.seen.map(|seen| seen.map(|seen| size(seen.available << 10)));
            println!(
                "  {:>7.1}  {:<15} {:>9} {:>9} {:>8} {:>8} {:>9} {:>10} | {:>18}",
                row.seconds,
                row.what,
                size(owners.guest("east")),
                size(owners.guest("west")),
                size(owners.all_tables()),
                size(owners.retired + owners.in_hand),
                size(owners.free),
                size(owners.hypervisor),
                seen.map_or("-".into(), |seen| seen.join(", "))
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
        let title = "Half of a guest's memory moves to another while both work, and back";
        fs::write(&path, draw(title, &self.samples, &self.moments))?;
        println!("  The same as a picture: build/demo.svg");
        Ok(())
    }
}

fn say(text: &str) {
    println!("{text}");
}
