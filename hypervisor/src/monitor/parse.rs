//! What people type: commands, sizes, ranges.

use crate::addr::{Ipa, IpaRange, PAGE_SIZE, Pa, PaRange, ipa_range};
use log::LevelFilter;

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// What commands there are, or how one is used.
    Help(Option<&'a Verb>),
    /// The guests.
    Guests,
    /// Who owns how much.
    Memory,
    /// A guest's memory is to become this many bytes.
    Balloon(&'a str, u64),
    /// What a guest's driver reports.
    Stats(&'a str),
    /// A guest's tables, all or of a range.
    Tables(&'a str, Option<IpaRange>),
    /// The epoch scheme.
    Epoch,
    /// The audit.
    Audit,
    /// The audit that goes on: turned on or off, or shown.
    AuditContinuous(Option<bool>),
    /// The last lines of the log.
    Log(usize),
    /// What is logged from now on.
    LogLevel(LevelFilter),
    /// Makes a guest of the bundle, under another name if one is given.
    Create(&'a str, Option<&'a str>),
    /// Starts a guest that is off.
    Start(&'a str),
    /// Turns a guest off.
    Stop(&'a str),
    /// Turns a guest off for good.
    Destroy(&'a str),
    /// Shows a guest's console.
    Console(&'a str),
    /// Starts a guest anew.
    Reset(&'a str),
    /// Empties a range of memory under running guests.
    Offline(PaRange),
    /// Brings a range of memory back.
    Online(PaRange),
    /// Takes a page of memory out of use for good; all of it.
    Poison(PaRange),
    /// Whose a byte of memory is.
    Owner(Pa),
    /// A guest is given this many bytes, at this address or where there is room.
    Add(&'a str, u64, Option<Ipa>),
    /// A guest loses a range; at once, if so.
    Remove(&'a str, IpaRange, bool),
    /// A guest's memory device is to have this many bytes more.
    Plug(&'a str, u64),
    /// A guest's memory device is to have this many bytes less.
    Unplug(&'a str, u64),
    /// Moves so many bytes from the first guest to the second.
    Move(u64, &'a str, &'a str),
    /// Takes so many bytes from guests that can spare them.
    Reclaim(u64),
    /// Something about the governor.
    Balance(Balance),
    /// How guests are, each second anew.
    Top,
    /// Waits until what is retired now is free.
    Quiesce,
    /// Ends a job early, or all that programs have begun.
    Cancel(Option<u64>),
    /// The counters of this machine.
    Counters,
    /// What operations at EL2 cost.
    Bench(Bench),
    /// Ends the machine.
    Quit,
}

/// What is asked of the governor.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Balance {
    /// How it is.
    Show,
    /// To begin or to end its work.
    Switch(bool),
    /// The last so many decisions.
    Log(usize),
}

/// What is to be measured.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Bench {
    /// What every build can measure.
    All,
    /// A pin, a walk, a read of a guest's memory.
    Operations,
    /// Emptying memory.
    Offline,
    /// Adding and removing memory.
    Hotplug,
    /// The epoch scheme, beside a lock.
    #[cfg(feature = "scheme")]
    Scheme,
}

/// A command's name and use.
#[derive(Debug, PartialEq, Eq)]
pub struct Verb {
    /// Its name.
    pub name: &'static str,
    /// Its arguments.
    pub arguments: &'static str,
    /// What it does.
    pub help: &'static str,
}

const fn verb(name: &'static str, arguments: &'static str, help: &'static str) -> Verb {
    Verb { name, arguments, help }
}

/// All commands, in the order of `help`.
pub static VERBS: &[Verb] = &[
    verb("help", "[command]", "say what commands there are, or how one is used"),
    verb("guests", "", "list the guests and their vCPUs"),
    verb("memory", "", "say who owns how much"),
    verb("balloon", "<guest> <size>", "set the target of a guest's memory, as 512M or 1G"),
    verb("plug", "<guest> <size>", "plug more memory into a guest, up to its maximum"),
    verb(
        "unplug",
        "<guest> <size>",
        "unplug memory that was plugged, as far as the guest can spare it",
    ),
    verb("add", "<guest> <size> [at <address>]", "give a guest memory at an address of its own"),
    verb(
        "remove",
        "<guest> <range> [now]",
        "take a range from a guest: asking it, if it listens and it need not be now",
    ),
    verb("stats", "<guest>", "show what the guest's balloon driver reports"),
    verb(
        "tables",
        "<guest> [range]",
        "dump a guest's tables; a range as 0x40000000+16M or 0x40000000-0x41000000",
    ),
    verb("epoch", "", "show the epoch, each CPU's state, and what is retired"),
    verb(
        "audit",
        "[continuous [on|off]]",
        "compare the frame table with all tables of all guests, once or for ever",
    ),
    verb(
        "log",
        "[lines] | level <level>",
        "show the last lines of the log; set the level: error, warn, info, debug, trace, off",
    ),
    verb("counters", "", "show counters: exits of each vCPU, the heap"),
    verb(
        "bench",
        "[operations | offline | hotplug]",
        "time what is done at EL2, in ticks of the counter: small operations, emptying, adding and removing memory",
    ),
    verb(
        "offline",
        "<pa-range>",
        "empty physical memory under running guests; a range as 0x40000000+256M",
    ),
    verb("online", "<pa-range>", "bring physical memory back that is offline"),
    verb("poison", "<pa>", "take a page of physical memory, gone bad, out of use for good"),
    verb("owner", "<pa>", "say whose a byte of physical memory is"),
    verb(
        "move",
        "<size> from <guest> to <guest>",
        "move memory from one guest to another, by what their drivers offer",
    ),
    verb("reclaim", "<size>", "take memory from the guests that can spare it"),
    verb(
        "balance",
        "[on | off | log [decisions]]",
        "have memory moved to where it is needed, or not; show the last decisions and why",
    ),
    verb("top", "", "show how guests are, each second; any key ends it"),
    verb("quiesce", "", "wait until the frames that are retired now are free"),
    verb(
        "cancel",
        "[job]",
        "end a command that is at work on the control port; Ctrl-C does so here",
    ),
    verb("console", "<guest>", "show a guest's console; Ctrl-] leaves it"),
    verb(
        "create",
        "<guest> [as <name>]",
        "make a guest of the bundle's manifest, perhaps by another name; it is off",
    ),
    verb("start", "<guest>", "start a guest that is off"),
    verb("stop", "<guest>", "turn a guest off, as a power cut does; 'off' is the same"),
    verb("reset", "<guest>", "start a guest anew, as a reset button does"),
    verb("destroy", "<guest>", "turn a guest off for good, and give all of it back"),
    verb("quit", "", "end the machine, guests and all"),
];

/// Why a line is no command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParseError<'a> {
    /// There is nothing in it.
    Empty,
    /// No command has that name; perhaps this one was meant.
    Unknown(&'a str, Option<&'static Verb>),
    /// The arguments are not those of the command; which is wrong, and why.
    Arguments(&'static Verb, &'a str, &'static str),
}

impl core::fmt::Display for ParseError<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Empty => f.write_str("no command"),
            Self::Unknown(name, Some(near)) => {
                write!(f, "there is no command '{name}'; did you mean '{}'?", near.name)
            }
            Self::Unknown(name, None) => write!(f, "there is no command '{name}'; try 'help'"),
            Self::Arguments(_, "", why) => f.write_str(why),
            Self::Arguments(_, what, why) => write!(f, "'{what}': {why}"),
        }
    }
}

impl ParseError<'_> {
    /// Returns the command whose use is to be shown.
    pub fn usage(&self) -> Option<&'static Verb> {
        match self {
            Self::Arguments(verb, ..) => Some(verb),
            _ => None,
        }
    }
}

const NOT_A_SIZE: &str = "not a size; write 512M, 1.5G or a number of bytes";

const NOT_A_RANGE: &str = "not a range; write 0x40000000+16M or 0x40000000-0x41000000";

/// Reads a size: a number, decimal or 0x and hexadecimal, with K, M, G or T behind it for powers of 1024. A decimal
/// number may have a fraction, as 1.5G.
pub fn size(text: &str) -> Option<u64> {
    let text = text.strip_suffix("iB").or(text.strip_suffix('B')).unwrap_or(text);
    let (number, shift) = match text.char_indices().next_back()? {
        (at, 'k' | 'K') => (text.get(..at)?, 10),
        (at, 'm' | 'M') => (text.get(..at)?, 20),
        (at, 'g' | 'G') => (text.get(..at)?, 30),
        (at, 't' | 'T') => (text.get(..at)?, 40),
        _ => (text, 0),
    };
    if let Some((whole, fraction)) = number.split_once('.') {
        if shift == 0 || fraction.is_empty() || fraction.len() > 9 {
            return None;
        }
        let whole = digits(whole, 10)?.checked_mul(1 << shift)?;
        let parts = u128::from(digits(fraction, 10)?) << shift;
        let rest = parts / 10u128.pow(fraction.len() as u32);
        return whole.checked_add(u64::try_from(rest).ok()?);
    }
    self::number(number)?.checked_mul(1 << shift)
}

fn digits(text: &str, radix: u32) -> Option<u64> {
    // `from_str_radix` takes a sign, which no size has.
    if text.starts_with(['+', '-']) { None } else { u64::from_str_radix(text, radix).ok() }
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        Some(hexadecimal) => digits(hexadecimal, 16),
        None => digits(text, 10),
    }
}

/// Reads a range: `start-end`, `start+size` or `start`, which is one page.
pub fn range(text: &str) -> Option<IpaRange> {
    let whole =
        |range: IpaRange| Some(range.start.align_down(PAGE_SIZE)..range.end.align_up(PAGE_SIZE)?);
    if let Some((start, length)) = text.split_once('+') {
        return whole(ipa_range(Ipa::new(number(start)?), size(length)?)?);
    }
    if let Some((start, end)) = text.split_once('-') {
        let range = Ipa::new(number(start)?)..Ipa::new(number(end)?);
        return if range.start < range.end { whole(range) } else { None };
    }
    whole(ipa_range(Ipa::new(number(text)?), 1)?)
}

/// Reads a range of physical memory, written as [`range`] has it.
pub fn pa_range(text: &str) -> Option<PaRange> {
    let range = range(text)?;
    Some(Pa::new(range.start.as_u64())..Pa::new(range.end.as_u64()))
}

/// The number of edits (insertion, removal, exchange of one character) between two words, up to 15 characters.
fn distance(one: &str, other: &str) -> usize {
    let mut row: [usize; 16] = core::array::from_fn(|index| index);
    let other = other.as_bytes();
    if one.len() > 15 || other.len() > 15 {
        return usize::MAX;
    }
    for (line, a) in one.bytes().enumerate() {
        let mut diagonal = line;
        row[0] = line + 1;
        for (column, b) in other.iter().enumerate() {
            let above = row[column + 1];
            let change = diagonal + usize::from(a != *b);
            row[column + 1] = change.min(above + 1).min(row[column] + 1);
            diagonal = above;
        }
    }
    row[other.len()]
}

fn nearest(name: &str) -> Option<&'static Verb> {
    let best = VERBS.iter().min_by_key(|verb| distance(name, verb.name))?;
    let starts = VERBS.iter().find(|verb| !name.is_empty() && verb.name.starts_with(name));
    starts.or(Some(best).filter(|best| distance(name, best.name) <= 2))
}

/// Reads a command line.
///
/// # Errors
///
/// [`ParseError`] says which word is wrong and which command's use to show.
pub fn parse(line: &str) -> Result<Command<'_>, ParseError<'_>> {
    let mut words = line.split_ascii_whitespace();
    let name = words.next().ok_or(ParseError::Empty)?;
    let find = |name: &str| {
        // What programs of before call it.
        let name = if name == "off" { "stop" } else { name };
        VERBS.iter().find(|verb| verb.name == name)
    };
    let verb = find(name).ok_or_else(|| ParseError::Unknown(name, nearest(name)))?;
    let wrong = |what, why| ParseError::Arguments(verb, what, why);
    let mut guest = || words.next().ok_or(wrong("", "which guest?"));
    let command = match verb.name {
        "help" => match words.next() {
            None => Command::Help(None),
            Some(other) => {
                let found = find(other).ok_or(ParseError::Unknown(other, nearest(other)))?;
                Command::Help(Some(found))
            }
        },
        "guests" => Command::Guests,
        "memory" => Command::Memory,
        "balloon" => {
            let guest = guest()?;
            let word = words.next().ok_or(wrong("", "to which size?"))?;
            Command::Balloon(guest, size(word).ok_or(wrong(word, NOT_A_SIZE))?)
        }
        "plug" | "unplug" => {
            let guest = guest()?;
            let word = words.next().ok_or(wrong("", "how much?"))?;
            let bytes = size(word).ok_or(wrong(word, NOT_A_SIZE))?;
            if verb.name == "plug" {
                Command::Plug(guest, bytes)
            } else {
                Command::Unplug(guest, bytes)
            }
        }
        "add" => {
            let guest = guest()?;
            let word = words.next().ok_or(wrong("", "how much?"))?;
            let bytes = size(word).ok_or(wrong(word, NOT_A_SIZE))?;
            let at = match words.next() {
                None => None,
                Some("at") => {
                    let word = words.next().ok_or(wrong("", "at which address?"))?;
                    let address = number(word).filter(|at| at.is_multiple_of(PAGE_SIZE));
                    let why = "not the address of a page; write 0x80000000";
                    Some(Ipa::new(address.ok_or(wrong(word, why))?))
                }
                Some(other) => return Err(wrong(other, "only 'at' can come here")),
            };
            Command::Add(guest, bytes, at)
        }
        "remove" => {
            let guest = guest()?;
            let word = words.next().ok_or(wrong("", "which range?"))?;
            let not_a_range = "not a range; write 0x80000000+16M or 0x80000000-0x81000000";
            let range = range(word).ok_or(wrong(word, not_a_range))?;
            let now = match words.next() {
                None => false,
                Some("now") => true,
                Some(other) => return Err(wrong(other, "only 'now' can come here")),
            };
            Command::Remove(guest, range, now)
        }
        "stats" => Command::Stats(guest()?),
        "tables" => {
            let guest = guest()?;
            let range = words.next().map(|word| range(word).ok_or(wrong(word, NOT_A_RANGE)));
            Command::Tables(guest, range.transpose()?)
        }
        "epoch" => Command::Epoch,
        "audit" => match (words.next(), words.next()) {
            (None, _) => Command::Audit,
            (Some("continuous"), None) => Command::AuditContinuous(None),
            (Some("continuous"), Some("on")) => Command::AuditContinuous(Some(true)),
            (Some("continuous"), Some("off")) => Command::AuditContinuous(Some(false)),
            (Some("continuous"), Some(word)) => return Err(wrong(word, "neither on nor off")),
            (Some(word), _) => {
                return Err(wrong(word, "write: audit, or: audit continuous [on|off]"));
            }
        },
        "log" => match words.next() {
            None => Command::Log(20),
            Some("level") => {
                let word = words.next().ok_or(wrong("", "which level?"))?;
                let unknown = "no level; there are error, warn, info, debug, trace and off";
                Command::LogLevel(word.parse().map_err(|_| wrong(word, unknown))?)
            }
            Some(word) => {
                let lines = word.parse().map_err(|_| wrong(word, "not a number of lines"))?;
                Command::Log(lines)
            }
        },
        "move" => {
            let word = words.next().ok_or(wrong("", "how much?"))?;
            let bytes = size(word).ok_or(wrong(word, NOT_A_SIZE))?;
            let mut party = |preposition, which| match words.next() {
                Some(word) if word == preposition => words.next().ok_or(wrong("", which)),
                Some(other) => Err(wrong(other, which)),
                None => Err(wrong("", which)),
            };
            let from = party("from", "from which guest? write: from <guest> to <guest>")?;
            Command::Move(bytes, from, party("to", "to which guest? write: to <guest>")?)
        }
        "reclaim" => {
            let word = words.next().ok_or(wrong("", "how much?"))?;
            Command::Reclaim(size(word).ok_or(wrong(word, NOT_A_SIZE))?)
        }
        "balance" => Command::Balance(match words.next() {
            None => Balance::Show,
            Some("on") => Balance::Switch(true),
            Some("off") => Balance::Switch(false),
            Some("log") => {
                let count = words
                    .next()
                    .map(|word| word.parse().map_err(|_| wrong(word, "not a number of decisions")));
                Balance::Log(count.transpose()?.unwrap_or(10))
            }
            Some(word) => return Err(wrong(word, "neither on nor off nor log")),
        }),
        "top" => Command::Top,
        "counters" => Command::Counters,
        "bench" => Command::Bench(match words.next() {
            None => Bench::All,
            Some("operations") => Bench::Operations,
            Some("offline") => Bench::Offline,
            Some("hotplug") => Bench::Hotplug,
            #[cfg(feature = "scheme")]
            Some("scheme") => Bench::Scheme,
            Some(word) => return Err(wrong(word, "this is not measured")),
        }),
        "offline" | "online" | "poison" | "owner" => {
            let word = words.next().ok_or(wrong("", "which physical memory?"))?;
            let range = pa_range(word).ok_or(wrong(word, NOT_A_RANGE))?;
            match verb.name {
                "offline" => Command::Offline(range),
                "online" => Command::Online(range),
                _ => {
                    let address = number(word).ok_or(wrong(word, "not an address"))?;
                    let pa = Pa::new(address);
                    if verb.name == "poison" { Command::Poison(range) } else { Command::Owner(pa) }
                }
            }
        }
        "quiesce" => Command::Quiesce,
        "cancel" => {
            let number =
                words.next().map(|word| number(word).ok_or(wrong(word, "not a job's number")));
            Command::Cancel(number.transpose()?)
        }
        "start" => Command::Start(guest()?),
        "stop" => Command::Stop(guest()?),
        "destroy" => Command::Destroy(guest()?),
        "console" => Command::Console(guest()?),
        "create" => {
            let guest = guest()?;
            let alias = match words.next() {
                None => None,
                Some("as") => Some(words.next().ok_or(wrong("", "as which name?"))?),
                Some(word) => return Err(wrong(word, "write 'as' before the name")),
            };
            Command::Create(guest, alias)
        }
        "reset" => Command::Reset(guest()?),
        _ => Command::Quit,
    };
    match words.next() {
        Some(extra) => Err(wrong(extra, "one word too many")),
        None => Ok(command),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("4096", 4096),
            ("0x1000", 4096),
            ("512M", 512 << 20),
            ("512m", 512 << 20),
            ("1G", 1 << 30),
            ("1GiB", 1 << 30),
            ("1.5G", 3 << 29),
            ("0.25K", 256),
            ("2T", 2 << 40),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in
            ["", "G", "x", "1.5", "1.G", ".5G", "-1M", "+1M", "1 M", "20000000T", "1.5.5G", "ü"]
        {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn ranges_cover_whole_pages() {
        let of = |start, end| Some(Ipa::new(start)..Ipa::new(end));
        assert_eq!(range("0x40000000+16M"), of(0x4000_0000, 0x4100_0000));
        assert_eq!(range("0x40000000-0x40000001"), of(0x4000_0000, 0x4000_1000));
        assert_eq!(range("0x40000123"), of(0x4000_0000, 0x4000_1000));
        assert_eq!(range("5-4"), None);
        assert_eq!(range("0xffffffffffffffff+1"), None);
    }

    #[test]
    fn commands_are_understood() {
        assert_eq!(parse("balloon linux 512M"), Ok(Command::Balloon("linux", 512 << 20)));
        assert_eq!(parse("  memory "), Ok(Command::Memory));
        let moved = Command::Move(512 << 20, "db", "web");
        assert_eq!(parse("move 512M from db to web"), Ok(moved));
        assert_eq!(parse("audit"), Ok(Command::Audit));
        assert_eq!(parse("audit continuous"), Ok(Command::AuditContinuous(None)));
        assert_eq!(parse("audit continuous on"), Ok(Command::AuditContinuous(Some(true))));
        assert_eq!(parse("balance"), Ok(Command::Balance(Balance::Show)));
        assert_eq!(parse("balance on"), Ok(Command::Balance(Balance::Switch(true))));
        assert_eq!(parse("balance log 3"), Ok(Command::Balance(Balance::Log(3))));
        assert_eq!(parse("log level debug"), Ok(Command::LogLevel(LevelFilter::Debug)));
        assert_eq!(parse("bench"), Ok(Command::Bench(Bench::All)));
        assert_eq!(parse("bench hotplug"), Ok(Command::Bench(Bench::Hotplug)));
        let range = Pa::new(0x4000_0000)..Pa::new(0x5000_0000);
        assert_eq!(parse("offline 0x40000000+256M"), Ok(Command::Offline(range)));
        assert_eq!(parse("owner 0x40000123"), Ok(Command::Owner(Pa::new(0x4000_0123))));
        let page = Pa::new(0x4000_0000)..Pa::new(0x4000_1000);
        assert_eq!(parse("poison 0x40000123"), Ok(Command::Poison(page)));
        assert_eq!(parse("tables 0"), Ok(Command::Tables("0", None)));
        assert_eq!(parse("create linux"), Ok(Command::Create("linux", None)));
        assert_eq!(parse("create linux as two"), Ok(Command::Create("linux", Some("two"))));
        assert_eq!(parse("off linux"), parse("stop linux"));
        assert_eq!(
            parse("help balloon"),
            Ok(Command::Help(VERBS.iter().find(|v| v.name == "balloon")))
        );
    }

    #[test]
    fn mistakes_get_the_usage_of_the_command() {
        let usage = |line: &'static str| parse(line).expect_err(line).usage().map(|verb| verb.name);
        assert_eq!(usage("balloon"), Some("balloon"));
        assert_eq!(usage("plug linux"), Some("plug"));
        assert_eq!(usage("unplug linux much"), Some("unplug"));
        assert_eq!(usage("balloon linux"), Some("balloon"));
        assert_eq!(usage("balloon linux lots"), Some("balloon"));
        assert_eq!(usage("balloon linux 1G now"), Some("balloon"));
        assert_eq!(usage("tables linux x-y"), Some("tables"));
        assert_eq!(usage("log level loud"), Some("log"));
        assert_eq!(usage("memory please"), Some("memory"));
        for line in ["move", "move 1G", "move 1G from", "move 1G from db", "move 1G to db from db"]
        {
            assert_eq!(usage(line), Some("move"), "{line}");
        }
        assert_eq!(usage("balance maybe"), Some("balance"));
        assert_eq!(usage("audit for ever"), Some("audit"));
        assert_eq!(usage("audit continuous maybe"), Some("audit"));
        assert_eq!(usage("bench everything"), Some("bench"));
        assert_eq!(usage("create linux two"), Some("create"));
        assert_eq!(usage("create linux as"), Some("create"));
        assert_eq!(usage("create linux as two three"), Some("create"));
        assert_eq!(usage("ballon linux 1G"), None);
    }

    #[test]
    fn the_nearest_name_is_offered() {
        let near = |line: &'static str| match parse(line) {
            Err(ParseError::Unknown(_, near)) => near.map(|verb| verb.name),
            _ => None,
        };
        assert_eq!(near("ballon"), Some("balloon"));
        assert_eq!(near("mem"), Some("memory"));
        assert_eq!(near("xyzzy"), None);
    }

    proptest! {
        #[test]
        fn no_line_panics(line in ".{0,80}") {
            let _ = parse(&line);
        }

        #[test]
        fn no_argument_panics(index in 0..VERBS.len(), rest in "[ 0-9a-zA-Z.+x-]{0,40}") {
            let line = format!("{} {rest}", VERBS[index].name);
            let _ = parse(&line);
        }
    }
}
