//! What the monitor tells, as data.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::ensure;
use crate::failure::{Failure, Outcome};
use crate::machine::Machine;

/// Bytes of a frame.
pub const FRAME: u64 = 4096;

/// How many bytes of each of Sluice's stacks must be left.
const STACK_SPARE: u64 = 8192;

/// How often something that changes by itself is looked at.
const GLANCE: Duration = Duration::from_millis(20);

/// Who owns how much of the machine's memory, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners {
    /// All of it.
    pub total: u64,
    /// Nobody's: zeroed, and to be zeroed.
    pub free: u64,
    /// Nobody's yet: their grace period goes on.
    pub retired: u64,
    /// The hypervisor's own, its spare table frames included.
    pub hypervisor: u64,
    /// What the loader brought.
    pub bundle: u64,
    /// Nobody's: taken offline.
    pub offline: u64,
    /// Nobody's: not to be used.
    pub bad: u64,
    /// Taken from the free, and not yet anybody's.
    pub in_hand: u64,
    /// Each guest's.
    pub guests: BTreeMap<String, u64>,
    /// Each guest's tables.
    pub tables: BTreeMap<String, u64>,
}

impl Owners {
    /// What a guest owns.
    pub fn guest(&self, name: &str) -> u64 {
        self.guests.get(name).copied().unwrap_or(0)
    }

    /// What all guests' tables take.
    pub fn all_tables(&self) -> u64 {
        self.tables.values().sum()
    }

    /// What has an owner, or is known to have none: at rest, all there is.
    pub fn accounted(&self) -> u64 {
        let guests: u64 = self.guests.values().sum();
        self.free
            + self.retired
            + self.hypervisor
            + self.bundle
            + self.in_hand
            + self.offline
            + self.bad
            + guests
            + self.all_tables()
    }

    fn read(answer: &Value) -> Outcome<Self> {
        let mut owners = Self { total: number(answer, "total")?, free: 0, ..Self::default() };
        for row in rows(answer, "owners")? {
            let bytes = number(row, "bytes")?;
            match text(row, "owner")? {
                "free, zeroed" | "free, to be zeroed" => owners.free += bytes,
                "retired" => owners.retired = bytes,
                "hypervisor" | "hypervisor, pool" => owners.hypervisor += bytes,
                "bundle" => owners.bundle = bytes,
                "offline" => owners.offline = bytes,
                "bad" => owners.bad = bytes,
                "in hand" => owners.in_hand = bytes,
                guest => {
                    owners.guests.insert(guest.into(), bytes);
                }
            }
        }
        for row in rows(answer, "tables")? {
            owners.tables.insert(text(row, "tables_of")?.into(), number(row, "bytes")?);
        }
        Ok(owners)
    }
}

/// One guest, as `guests` tells of it.
#[derive(Clone, Debug)]
pub struct GuestState {
    /// Whether it runs.
    pub on: bool,
    /// What its driver has agreed to, in bytes.
    pub memory: u64,
    /// What it was asked for, in bytes.
    pub target: u64,
    /// What it owns of the machine, in bytes.
    pub resident: u64,
}

/// A member of an answer that is a number.
///
/// # Errors
/// There is none.
pub fn number(object: &Value, member: &str) -> Outcome<u64> {
    object
        .get(member)
        .and_then(Value::as_u64)
        .ok_or_else(|| Failure::new(format!("no number {member:?} in {object}")))
}

/// A member of an answer that is text.
///
/// # Errors
/// There is none.
pub fn text<'a>(object: &'a Value, member: &str) -> Outcome<&'a str> {
    object
        .get(member)
        .and_then(Value::as_str)
        .ok_or_else(|| Failure::new(format!("no text {member:?} in {object}")))
}

/// A member of an answer that is a table.
///
/// # Errors
/// There is none.
pub fn rows<'a>(object: &'a Value, member: &str) -> Outcome<&'a [Value]> {
    object
        .get(member)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .ok_or_else(|| Failure::new(format!("no table {member:?} in {object}")))
}

/// Looks until `found` finds, but no longer than `patience`.
///
/// # Errors
/// It found nothing, or failed.
pub fn wait_until<T>(
    what: &str,
    patience: Duration,
    mut found: impl FnMut() -> Outcome<Option<T>>,
) -> Outcome<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = found()? {
            return Ok(value);
        }
        ensure!(Instant::now() < deadline, "{what}: not within {patience:?}");
        thread::sleep(GLANCE);
    }
}

impl Machine {
    /// Asks who owns how much.
    ///
    /// # Errors
    /// The monitor does not answer as it should.
    pub fn owners(&mut self) -> Outcome<Owners> {
        Owners::read(&self.ask("memory")?)
    }

    /// Asks how a guest is.
    ///
    /// # Errors
    /// The monitor does not answer as it should, or knows no such guest.
    pub fn guest(&mut self, name: &str) -> Outcome<GuestState> {
        let answer = self.ask("guests")?;
        for row in rows(&answer, "guests")? {
            if text(row, "guest")? == name {
                return Ok(GuestState {
                    on: text(row, "state")? == "on",
                    memory: number(row, "memory")?,
                    target: number(row, "target")?,
                    resident: number(row, "resident")?,
                });
            }
        }
        Err(Failure::new(format!("no guest {name} in {answer}")))
    }

    /// Has the monitor audit, and gives what it saw.
    ///
    /// # Errors
    /// It found something, or a CPU has been near the end of its stack.
    pub fn audit(&mut self) -> Outcome<Value> {
        let answer = self.ask("audit")?;
        ensure!(answer.get("clean") == Some(&Value::Bool(true)), "the audit found: {answer}");
        let unused = number(&self.ask("counters")?, "stack_unused")?;
        ensure!(unused >= STACK_SPARE, "only {unused} bytes of a CPU's stack were never used");
        Ok(answer)
    }

    /// Audits until nothing changed meanwhile, so that every counter was compared.
    ///
    /// # Errors
    /// It found something, or memory does not come to rest.
    pub fn audit_at_rest(&mut self, guests: u64) -> Outcome<Value> {
        wait_until("an audit that compared all", Duration::from_secs(60), || {
            let answer = self.audit()?;
            let settled = number(&answer, "guests_counted")? >= guests
                && number(&answer, "in_hand")? == 0
                && number(&answer, "unsettled")? == 0;
            Ok(settled.then_some(answer))
        })
    }

    /// Returns how many bytes of Sluice's heap are used.
    ///
    /// # Errors
    /// There is no answer.
    pub fn heap_used(&mut self) -> Outcome<u64> {
        number(&self.ask("counters")?, "heap_used")
    }

    /// Turns the continuous audit off when it has completed `rounds`.
    ///
    /// # Errors
    /// It found something, or does not get on.
    pub fn end_continuous_audit(&mut self, rounds: u64) -> Outcome<Value> {
        wait_until("rounds of the continuous audit", Duration::from_secs(120), || {
            let answer = self.ask("audit continuous")?;
            let clean = answer.get("clean") == Some(&Value::Bool(true));
            ensure!(clean, "the continuous audit found: {answer}");
            Ok((number(&answer, "rounds")? >= rounds).then_some(()))
        })?;
        self.ask("audit continuous off")
    }

    /// Sets the target of a guest's memory.
    ///
    /// # Errors
    /// The monitor refuses.
    pub fn set_target(&mut self, guest: &str, bytes: u64) -> Outcome {
        let answer = self.ask(&format!("balloon {guest} {}M", bytes >> 20))?;
        ensure!(number(&answer, "target")? == bytes, "asked for {bytes}: {answer}");
        Ok(())
    }

    /// Sets the target of a guest's memory and waits until the guest is there.
    ///
    /// # Errors
    /// It does not come there.
    pub fn resize(&mut self, guest: &str, bytes: u64, patience: Duration) -> Outcome {
        self.set_target(guest, bytes)?;
        wait_until(&format!("{guest} to {} MiB", bytes >> 20), patience, || {
            Ok((self.guest(guest)?.memory == bytes).then_some(()))
        })
    }

    /// Waits until nothing is retired or in hand, so that what is free can be compared.
    ///
    /// # Errors
    /// It does not come to rest.
    pub fn owners_at_rest(&mut self) -> Outcome<Owners> {
        wait_until("nothing is retired", Duration::from_secs(60), || {
            let owners = self.owners()?;
            Ok((owners.retired == 0 && owners.in_hand == 0).then_some(owners))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Owners;
    use serde_json::json;

    #[test]
    fn owners_are_read_from_the_answer() {
        let answer = json!({
            "owners": [
                {"owner": "free, zeroed", "frames": 1, "bytes": 4096},
                {"owner": "free, to be zeroed", "frames": 2, "bytes": 8192},
                {"owner": "retired", "frames": 0, "bytes": 0},
                {"owner": "linux", "frames": 3, "bytes": 12288},
            ],
            "tables": [{"tables_of": "linux", "frames": 1, "bytes": 4096}],
            "total": 65536,
        });
        let owners = Owners::read(&answer).unwrap();
        assert_eq!((owners.free, owners.guest("linux"), owners.all_tables()), (12288, 12288, 4096));
        assert!(Owners::read(&json!({"total": 1})).is_err());
    }
}
