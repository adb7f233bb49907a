//! Much of it, for long: memory that comes and goes on all CPUs while walkers and audits look on.

use std::env;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use sluice_tests::artefacts::{KERNEL, linux, stub};
use sluice_tests::bundle::Guest;
use sluice_tests::ensure;
use sluice_tests::failure::{Failure, Outcome};
use sluice_tests::machine::{BOOT, COMMAND, Machine, Plan};
use sluice_tests::monitor::{number, rows, wait_until};
use sluice_tests::operations::{GUESTS, LINUX, Operation, Operations, Random};

const MIB: u64 = 1 << 20;
/// Where QEMU's `virt` has its memory.
const START: u64 = 0x4000_0000;
/// Where a small guest can have more memory: from the next GiB on.
const MORE: u64 = 0x8000_0000;
/// How long the emulator may take for one cycle, and for all that is around them.
const CYCLE: Duration = Duration::from_millis(30);
const AROUND: Duration = Duration::from_secs(180);

/// How many cycles there are; the environment may say another number.
fn cycles() -> u32 {
    env::var("CYCLES").ok().and_then(|cycles| cycles.parse().ok()).unwrap_or(10_000)
}

/// Walks the guest's tables, and sees that no more is retired than may be. Returns how many frames are.
fn look_on(machine: &mut Machine) -> Outcome<u64> {
    let dump = machine.ask("tables stub")?;
    ensure!(!rows(&dump, "runs")?.is_empty(), "the dump is empty");
    let epoch = machine.ask("epoch")?;
    let (most, bound) = (number(&epoch, "most_retired")?, number(&epoch, "retired_bound")?);
    ensure!(most <= bound, "{most} frames were retired, and {bound} may be");
    Ok(most)
}

/// Ranges of mixed sizes are added and removed on 4 vCPUs, against two walkers (dumps and access scans) and the audit.
#[test]
fn memory_comes_and_goes_on_four_cpus_while_walkers_look_on() -> Outcome {
    let cycles = cycles();
    let mut guest = stub(&format!("test=churn cycles={cycles}"))?;
    guest.vcpus = 4;
    guest.memory = 64 * MIB;
    guest.maximum_memory = Some(64 * MIB + 512 * MIB);
    let plan = Plan::new("soak-churn", &[guest])?.cpus(4).memory("1G").append("when-off=stay");
    let mut machine = plan.start()?;
    machine.expect(r"churn: \d+ cycles", AROUND)?;
    machine.ask("audit continuous on")?;
    machine.ask("balance on")?;
    let end = std::time::Instant::now() + AROUND + CYCLE * cycles;
    let mut walks = 0;
    let (said, most) = loop {
        let most = look_on(&mut machine)?;
        walks += 1;
        let pattern = r"churn: (\d+) cycles of (\d+) pages";
        if let Some(said) = machine.console.look_for(pattern, Duration::from_millis(1))? {
            break (said, most);
        }
        let all = machine.console.all();
        let failed = all.lines().find(|line| line.starts_with("fail "));
        ensure!(failed.is_none(), "in the guest: {failed:?}");
        ensure!(
            std::time::Instant::now() < end,
            "it does not come to an end: {:?}",
            machine.ask("top")
        );
    };
    ensure!(said[1].parse::<u32>().is_ok_and(|done| done >= cycles), "{} cycles", said[1]);
    machine.ask("balance off")?;
    let audited = machine.end_continuous_audit(2)?;
    println!("{} cycles of {} pages, {walks} dumps, most retired {most}", said[1], said[2]);
    println!("audited all the while: {audited}");
    machine.control()?.event("off", COMMAND)?;
    machine.audit_at_rest(0)?;
    let owners = machine.owners_at_rest()?;
    ensure!(owners.guest("stub") == 0 && owners.accounted() == owners.total, "left: {owners:?}");
    Ok(())
}

/// A number that the environment may say otherwise.
fn number_from(name: &str, otherwise: u64) -> u64 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// How often all is looked at, in operations.
const LOOK: u64 = 25;
/// What no guest says that only others' doing happens to.
const COMPLAINTS: &str =
    r"load: DAMAGED|BUG: |Oops|Internal error|Unable to handle|fail churn: [^\r\n]*";

/// The guests of a soak run, all of them off.
fn guests() -> Outcome<Vec<Guest>> {
    let guest = |(index, who): (usize, &sluice_tests::operations::Who)| {
        let mut guest = if index == LINUX { linux(KERNEL)? } else { stub("")? };
        guest.name = who.name.into();
        guest.command_line = who.orders.into();
        guest.vcpus = who.cpus.len() as u32;
        guest.cpus = who.cpus.to_vec();
        guest.memory = who.memory * MIB;
        guest.maximum_memory = Some((who.memory + who.more) * MIB);
        guest.minimum_memory = Some(who.floor * MIB);
        guest.held = true;
        Ok(guest)
    };
    GUESTS.iter().enumerate().map(guest).collect()
}

/// A soak run on a machine.
struct Soak {
    machine: Machine,
    /// How long to wait between operations.
    pauses: Random,
    /// How many operations were refused, which is in order.
    refused: u64,
}

impl Soak {
    /// Gives a command, and returns whether it was not refused.
    fn try_to(&mut self, command: &str) -> Outcome<bool> {
        let answer = self.machine.control()?.ask_any(command)?;
        let done = answer.get("error").is_none();
        self.refused += u64::from(!done);
        Ok(done)
    }

    /// Does one operation, which goes on while others follow.
    fn perform(&mut self, operation: Operation) -> Outcome {
        use Operation as Op;
        let name = |who: usize| GUESTS[who].name;
        let command = match operation {
            Op::Start(who) => {
                let create = format!("create {}", name(who));
                let created = self.machine.control()?.ask_any(&create)?;
                if created.get("created").is_some() && who == LINUX {
                    self.machine.ask("console linux")?;
                }
                format!("start {}", name(who))
            }
            Op::Stop(who) => format!("stop {}", name(who)),
            Op::Reset(who) => format!("reset {}", name(who)),
            Op::Destroy(who) => format!("destroy {}", name(who)),
            Op::Crash(LINUX) => {
                if self.try_to("console linux")? {
                    self.machine.type_text("echo c > /proc/sysrq-trigger\n")?;
                }
                return Ok(());
            }
            // Where its code is. (Of the last one nothing is to be wrong but what others did.)
            Op::Crash(who) if who + 1 < GUESTS.len() => {
                format!("remove {} 0x40000000+2M now", name(who))
            }
            Op::Crash(who) => format!("reset {}", name(who)),
            Op::Balloon(who, size) => format!("balloon {} {size}M", name(who)),
            Op::Plug(who, size) => format!("plug {} {size}M", name(who)),
            Op::Unplug(who, size) => format!("unplug {} {size}M", name(who)),
            Op::Add(who, size) => format!("add {} {size}M", name(who)),
            Op::Remove(who, at, size) => {
                format!("remove {} {:#x}+{size}M now", name(who), MORE + at * MIB)
            }
            Op::Move(size, from, to) => format!("move {size}M from {} to {}", name(from), name(to)),
            Op::Reclaim(size) => format!("reclaim {size}M"),
            Op::Balance(on) => format!("balance {}", if on { "on" } else { "off" }),
            Op::Offline(at, size) => format!("offline {:#x}+{size}M", START + at * MIB),
            Op::Online => format!("online {START:#x}+2G"),
            Op::Walk(who) => format!("tables {}", name(who)),
            Op::Quiesce => "quiesce".into(),
            Op::Cancel => "cancel".into(),
            Op::FailAfter(successes) => format!("fail after {successes}"),
            Op::FailOneIn(one_in, seed) => format!("fail one-in {one_in} {seed}"),
            Op::FailNever => "fail never".into(),
        };
        self.try_to(&command).map(|_| ())
    }

    /// Looks whether all is as it must be, whatever goes on.
    fn look(&mut self) -> Outcome {
        let machine = &mut self.machine;
        machine.audit()?;
        let continuous = machine.ask("audit continuous")?;
        let clean = continuous.get("clean") == Some(&Value::Bool(true));
        ensure!(clean, "the continuous audit found: {continuous}");
        let epoch = machine.ask("epoch")?;
        let (most, bound) = (number(&epoch, "most_retired")?, number(&epoch, "retired_bound")?);
        ensure!(most <= bound, "{most} frames were retired, and {bound} may be");
        // What the last one said while Linux was shown comes with its console.
        let last = GUESTS[GUESTS.len() - 1].name;
        for guest in [last, GUESTS[LINUX].name] {
            let _ = machine.control()?.ask_any(&format!("console {guest}"))?;
        }
        self.hear_complaints()
    }

    fn hear_complaints(&mut self) -> Outcome {
        match self.machine.console.look_for(COMPLAINTS, Duration::from_millis(1))? {
            Some(said) => Err(Failure::new(format!("a guest says: {}", said[0]))),
            None => Ok(()),
        }
    }

    fn pause(&mut self) {
        let pauses = [0, 0, 0, 5, 20, 60, 200];
        let pause = pauses[self.pauses.below(pauses.len() as u64) as usize];
        thread::sleep(Duration::from_millis(pause));
    }

    /// Ends all that goes on, and has no guest left.
    fn clear(&mut self) -> Outcome {
        for command in ["fail never", "balance off", "cancel"] {
            // There may be nothing to cancel.
            let _ = self.machine.control()?.ask_any(command)?;
        }
        let machine = &mut self.machine;
        wait_until("all is online", BOOT, || {
            // Refused while a range that was to be emptied is still being given back.
            let _ = machine.control()?.ask_any(&format!("online {START:#x}+2G"))?;
            Ok((machine.owners()?.offline == 0).then_some(()))
        })?;
        for who in GUESTS {
            let _ = machine.control()?.ask_any(&format!("destroy {}", who.name))?;
        }
        wait_until("no guest is left", BOOT, || {
            Ok(rows(&machine.ask("guests")?, "guests")?.is_empty().then_some(()))
        })
    }

    /// Clears, and says what there is then: what is free or kept for tables, and what of the heap is used.
    fn footprint(&mut self) -> Outcome<(u64, u64)> {
        self.clear()?;
        let machine = &mut self.machine;
        machine.audit_at_rest(0)?;
        // Whoever looked at a guest last has its tables until it lets go.
        let spare = wait_until("every frame has an owner that there is", BOOT, || {
            let owners = machine.owners_at_rest()?;
            let all = owners.accounted() == owners.total;
            Ok(all.then_some(owners.free + owners.hypervisor))
        })?;
        Ok((spare, machine.heap_used()?))
    }

    /// Makes all guests and starts them, and waits until the load of Linux has found its data as it was.
    fn all_work(&mut self) -> Outcome {
        for who in GUESTS {
            self.machine.ask(&format!("create {}", who.name))?;
            self.machine.ask(&format!("start {}", who.name))?;
        }
        self.machine.ask("console linux")?;
        self.machine.expect("load: intact after", BOOT)?;
        self.hear_complaints()
    }

    fn run(&mut self, seed: u64, count: u64) -> Outcome {
        let mut last = Vec::new();
        for (operation, index) in Operations::new(seed).zip(0..count) {
            last.push(operation);
            let looks = index % LOOK == LOOK - 1;
            let done = self.perform(operation).and_then(|()| {
                self.pause();
                if looks { self.look() } else { Ok(()) }
            });
            done.map_err(|error| {
                let since = last.len().saturating_sub(2 * LOOK as usize);
                let what = format!("operation {index}; the last were {:?}", &last[since..]);
                error.during(&what)
            })?;
        }
        Ok(())
    }
}

/// All there is to do, in any order: guests come, go and come to grief, memory moves, allocations fail, ranges of the
/// machine's memory come and go, and somebody walks and audits all the while.
#[test]
fn everything_at_once_at_random_leaves_nothing_behind() -> Outcome {
    let (seed, count) = (number_from("SEED", 1), number_from("OPS", 300));
    println!(
        "soak: SEED={seed} OPS={count}; its core on the host: make replay SEED={seed} OPS={count}"
    );
    let plan = Plan::with_image("soak", "sluice-faults", &guests()?)?
        .cpus(4)
        .memory("2G")
        .append("when-off=stay loglevel=warn");
    let mut soak = Soak { machine: plan.start()?, pauses: Random(!seed), refused: 0 };
    let during = |error: Failure| error.during(&format!("soak, SEED={seed} OPS={count}"));
    let before = soak.footprint().map_err(during)?;
    soak.machine.ask("audit continuous on")?;
    soak.all_work().map_err(during)?;
    soak.run(seed, count).map_err(during)?;
    // It works as on the first day.
    soak.clear().map_err(during)?;
    soak.all_work().map_err(during)?;
    let audited = soak.machine.end_continuous_audit(1).map_err(during)?;
    let epoch = soak.machine.ask("epoch")?;
    println!(
        "{count} operations, {} refused, {} retired at most",
        soak.refused,
        number(&epoch, "most_retired")?
    );
    println!("audited all the while: {audited}");
    wait_until("all is as it was", BOOT, || {
        let now = soak.footprint()?;
        ensure!(now.0 == before.0, "{before:?} became {now:?}");
        // The last of a guest that goes is its piece of the heap.
        Ok((now.1 <= before.1).then_some(()))
    })
    .map_err(during)
}
