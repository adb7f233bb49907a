//! Commands of all kinds with arguments of all kinds: each is answered, and nothing is lost by any.

use std::env;

use sluice_tests::artefacts::stub;
use sluice_tests::bundle::Guest;
use sluice_tests::ensure;
use sluice_tests::failure::{Failure, Outcome};
use sluice_tests::machine::{BOOT, Machine, Plan};
use sluice_tests::monitor::{rows, text, wait_until};
use sluice_tests::operations::Random;

const MIB: u64 = 1 << 20;
/// Where QEMU's `virt` has its memory, and how much the machine has.
const START: u64 = 0x4000_0000;
const MEMORY: u64 = 1 << 30;

/// The commands, but for `quit`. What stands in brackets is drawn from [`argument`].
const FORMS: [&str; 42] = [
    "help",
    "help {word}",
    "guests",
    "memory",
    "balloon {guest} {size}",
    "plug {guest} {size}",
    "unplug {guest} {size}",
    "add {guest} {size}",
    "add {guest} {size} at {ipa}",
    "remove {guest} {ipas}",
    "remove {guest} {ipas} now",
    "stats {guest}",
    "tables {guest}",
    "tables {guest} {ipas}",
    "epoch",
    "audit",
    "audit continuous {word}",
    "log {number}",
    "log level {word}",
    "counters",
    "bench {word}",
    "offline {pas}",
    "online {pas}",
    "poison {pa}",
    "owner {pa}",
    "move {size} from {guest} to {guest}",
    "reclaim {size}",
    "balance {word}",
    "balance log {number}",
    "top",
    "quiesce",
    "cancel",
    "cancel {number}",
    "console {guest}",
    "create {guest}",
    "create {guest} as {guest}",
    "start {guest}",
    "start {guest}",
    "stop {guest}",
    "reset {guest}",
    "destroy {guest}",
    "{word} {word} {size} {word}",
];

/// What is drawn where no argument of the right kind is.
const WORDS: [&str; 20] = [
    "",
    "on",
    "off",
    "now",
    "at",
    "from",
    "to",
    "as",
    "log",
    "level",
    "trace",
    "info",
    "guests",
    "offline",
    "--json",
    "-",
    "+",
    "0x",
    "\u{1f6b0}",
    "a\tb",
];

fn pick<T: Copy>(random: &mut Random, of: &[T]) -> T {
    of[random.below(of.len() as u64) as usize]
}

/// A number that somebody may type where an address or a size should be.
fn number(random: &mut Random, near: u64, range: u64) -> u64 {
    match random.below(8) {
        0 => random.below(u64::MAX),
        1 => pick(random, &[0, 1, 4095, u64::MAX, 1 << 63, 1 << 39, 1 << 48, 0x0900_0000]),
        2 => near + random.below(range),
        3 | 4 => near + (random.below(range) & !0xfff),
        _ => near + (random.below(range) & !0x1f_ffff),
    }
}

fn size(random: &mut Random) -> String {
    match random.below(4) {
        0 => number(random, 0, 256 * MIB).to_string(),
        1 => {
            pick(random, &["0", "-1", "4K", "1T", "0x200000", "99999999999999999999", "1.5M", "M"])
                .into()
        }
        _ => format!("{}M", random.below(128)),
    }
}

fn range(random: &mut Random, near: u64, range: u64) -> String {
    let start = number(random, near, range);
    match random.below(6) {
        0 => format!("{start:#x}-{:#x}", number(random, near, range)),
        1 => format!("{start:#x}+{}", number(random, 0, range)),
        _ => format!("{start:#x}+{}", size(random)),
    }
}

fn argument(random: &mut Random, kind: &str) -> String {
    if random.below(30) == 0 {
        return pick(random, &WORDS).into();
    }
    match kind {
        "guest" => pick(random, &["balloon", "plug", "churn", "a", "b", "nobody", "\u{e9}"]).into(),
        "size" => size(random),
        "ipa" => format!("{:#x}", number(random, 2 * START, 512 * MIB)),
        "ipas" => {
            let near = START * (1 + random.below(2));
            range(random, near, 512 * MIB)
        }
        "pa" => format!("{:#x}", number(random, START, MEMORY)),
        "pas" => range(random, START, MEMORY),
        "number" => number(random, 0, 40).to_string(),
        _ => pick(random, &WORDS).into(),
    }
}

/// A line that is typed. (To an empty one there is no answer.)
fn line(random: &mut Random) -> String {
    if random.below(100) == 0 {
        // Perhaps longer than a line can be.
        let letters = random.below(1200);
        return (0..letters).map(|_| char::from(b' ' + random.below(95) as u8)).collect();
    }
    let form = pick(random, &FORMS);
    let mut line = String::new();
    for word in form.split(' ') {
        let kind = word.strip_prefix('{').and_then(|word| word.strip_suffix('}'));
        line.push_str(&kind.map_or(word.into(), |kind| argument(random, kind)));
        line.push(' ');
    }
    line.trim().into()
}

fn guest(name: &str, vcpus: u32, orders: &str) -> Outcome<Guest> {
    let mut guest = stub(orders)?;
    (guest.name, guest.vcpus, guest.memory) = (name.into(), vcpus, 64 * MIB);
    guest.maximum_memory = Some(320 * MIB);
    Ok(guest)
}

/// Ends all guests and jobs, and sees that every frame is somebody's.
fn clear(machine: &mut Machine) -> Outcome {
    machine.control()?.ask_any("cancel")?;
    machine.ask("balance off")?;
    machine.ask("audit continuous off")?;
    wait_until("there is no guest", BOOT, || {
        let answer = machine.ask("guests")?;
        let guests = rows(&answer, "guests")?;
        for guest in guests {
            machine.control()?.ask_any(&format!("destroy {}", text(guest, "guest")?))?;
        }
        Ok(guests.is_empty().then_some(()))
    })?;
    machine.audit_at_rest(0)?;
    let owners = machine.owners_at_rest()?;
    ensure!(owners.accounted() == owners.total, "lost: {owners:?}");
    Ok(())
}

#[test]
fn commands_at_random_are_answered_and_lose_nothing() -> Outcome {
    let number = |name: &str| env::var(name).ok().and_then(|value| value.parse().ok());
    let (count, seed) = (number("COMMANDS").unwrap_or(10_000), number("SEED").unwrap_or(1));
    println!("COMMANDS={count} SEED={seed}");
    let guests = [
        guest("balloon", 1, "test=balloon-follow seconds=1000000 touch=1")?,
        guest("plug", 1, "test=plug-follow seconds=1000000 patient=1")?,
        guest("churn", 2, "test=churn cycles=4000000000")?,
    ];
    let plan = Plan::new("commands", &guests)?.memory("1G").append("when-off=stay");
    let mut machine = plan.start()?;
    let mut random = Random(seed);
    let (mut last, mut refused) = (Vec::new(), 0);
    for _ in 0..count {
        let line = match line(&mut random) {
            line if line.trim().is_empty() => "help".into(),
            line => line,
        };
        last.push(line.clone());
        let begun = last.len().saturating_sub(12);
        let answer = machine
            .control()?
            .ask_any(&line)
            .map_err(|error| Failure::new(format!("{error}; the last: {:#?}", &last[begun..])))?;
        if let Some(error) = answer.get("error") {
            ensure!(error.as_str().is_some_and(|text| !text.is_empty()), "{line}: {answer}");
            refused += 1;
        }
    }
    println!("{refused} of {count} were refused");
    clear(&mut machine)
}
