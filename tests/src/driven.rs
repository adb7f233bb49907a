//! The guest stub when it is driven: it does what is typed at its console, a line an order. `guest-stub/src/tests/driven.rs`
//! says what there is.

use std::time::Duration;

use crate::artefacts;
use crate::bundle::Guest;
use crate::failure::{Failure, Outcome};
use crate::machine::{BOOT, COMMAND, Machine};

/// How long an order may take: as long as going through all memory on a slow day.
const ORDER: Duration = Duration::from_secs(300);

/// A range of a guest's addresses: where it begins, and its bytes.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// Where it begins.
    pub start: u64,
    /// Its bytes.
    pub bytes: u64,
}

impl Range {
    /// Names a part by its offset and its bytes.
    pub const fn part(self, offset: u64, bytes: u64) -> Self {
        Self { start: self.start + offset, bytes }
    }

    /// Writes it as the monitor reads it.
    pub fn for_monitor(self) -> String {
        format!("{:#x}+{:#x}", self.start, self.bytes)
    }

    fn read(start: &str, bytes: &str) -> Outcome<Self> {
        let number = |text: &str| {
            u64::from_str_radix(text.trim_start_matches("0x"), 16)
                .map_err(|error| Failure::new(format!("{text}: {error}")))
        };
        Ok(Self { start: number(start)?, bytes: number(bytes)? })
    }
}

/// A guest that is driven, of `memory` bytes and `more` that it can have.
///
/// # Errors
/// The stub was not built.
pub fn guest(name: &str, vcpus: u32, memory: u64, more: u64) -> Outcome<Guest> {
    let mut guest = artefacts::stub("test=driven")?;
    guest.name = name.into();
    guest.vcpus = vcpus;
    guest.memory = memory;
    guest.maximum_memory = Some(memory + more);
    Ok(guest)
}

impl Machine {
    /// Waits until the driven guest whose console is shown is ready, and returns where it can have more memory.
    ///
    /// # Errors
    /// It is not.
    pub fn driven_region(&mut self) -> Outcome<Range> {
        let said = self.expect(r"driven: ready, (0x[0-9a-f]+) (0x[0-9a-f]+)\s", BOOT)?;
        Range::read(&said[1], &said[2])
    }

    /// Types an order for the guest whose console is shown, and returns without its answer.
    ///
    /// # Errors
    /// The machine has ended.
    pub fn begin_order(&mut self, order: &str) -> Outcome {
        self.type_text(&format!("{order}\r"))
    }

    /// Waits for the answer to an order: the range that it says.
    ///
    /// # Errors
    /// The order failed, or is not answered; the error has the guest's words.
    pub fn answer_to(&mut self, order: &str) -> Outcome<Range> {
        let answer = r"(?:: done, (0x[0-9a-f]+) (0x[0-9a-f]+)| failed: ([^\r\n]*))[\r\n]";
        let said = self.expect(&format!("driven {}{answer}", regex::escape(order)), ORDER)?;
        if said[3].is_empty() {
            Range::read(&said[1], &said[2])
        } else {
            Err(Failure::new(format!("{order}: {}", said[3])))
        }
    }

    /// Has the guest whose console is shown do this, and returns the range that it says.
    ///
    /// # Errors
    /// It failed, or does not answer; the error has the guest's words.
    pub fn order(&mut self, order: &str) -> Outcome<Range> {
        self.begin_order(order)?;
        self.answer_to(order)
    }

    /// Has the guest whose console is shown do this to a range.
    ///
    /// # Errors
    /// It failed, or does not answer; the error has the guest's words.
    pub fn order_at(&mut self, verb: &str, range: Range) -> Outcome {
        self.order(&format!("{verb} {:#x} {:#x}", range.start, range.bytes)).map(|_| ())
    }

    /// Has the guest's other CPUs hammer a range.
    ///
    /// # Errors
    /// They do not.
    pub fn hammer(&mut self, range: Range) -> Outcome {
        let order = format!("hammer {:#x} {:#x}", range.start, range.bytes);
        self.begin_order(&order)?;
        self.expect(&format!("driven {order}: begun"), COMMAND).map(|_| ())
    }

    /// Tells the guest that what it hammers was taken, and returns when its CPUs have seen enough of it.
    ///
    /// # Errors
    /// One of them saw anything but external aborts.
    pub fn hammered_is_gone(&mut self, range: Range) -> Outcome {
        self.begin_order("gone")?;
        self.answer_to(&format!("hammer {:#x} {:#x}", range.start, range.bytes)).map(|_| ())
    }

    /// Goes to the console of the next guest.
    ///
    /// # Errors
    /// It is not this guest's.
    pub fn next_console(&mut self, guest: &str) -> Outcome {
        self.type_text("\x1d")?;
        self.expect(&format!("-- console of guest {guest};"), COMMAND).map(|_| ())
    }
}
