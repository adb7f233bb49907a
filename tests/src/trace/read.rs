//! Reading a trace from its file.

use std::path::Path;

use super::record::{BYTES, Kind};
use crate::failure::{Failure, Outcome};

/// An event; the fields are those of a [`Record`](super::record::Record).
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its place in the order of all.
    pub order: u64,
    /// What happened.
    pub kind: Kind,
    /// On which CPU.
    pub cpu: u8,
    /// See [`Kind`].
    pub what: u16,
    /// See [`Kind`].
    pub count: u32,
    /// See [`Kind`].
    pub a: u64,
    /// See [`Kind`].
    pub b: u64,
}

/// All events of a run, in order.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// The events.
    pub events: Vec<Event>,
}

const KINDS: [Kind; 26] = [
    Kind::Begin,
    Kind::End,
    Kind::Root,
    Kind::RootEnd,
    Kind::Lock,
    Kind::Unlock,
    Kind::Write,
    Kind::Run,
    Kind::Copy,
    Kind::Barrier,
    Kind::Tlbi,
    Kind::Register,
    Kind::Table,
    Kind::TableBack,
    Kind::Assign,
    Kind::AssignCopy,
    Kind::Own,
    Kind::OwnBack,
    Kind::Retire,
    Kind::RetiredIn,
    Kind::Grace,
    Kind::Free,
    Kind::Zero,
    Kind::Pin,
    Kind::Unpin,
    Kind::Flag,
];

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

impl Trace {
    /// Reads the trace in the file at `path`.
    ///
    /// # Errors
    /// It cannot be read, or holds something else.
    pub fn read(path: &Path) -> Outcome<Self> {
        let bytes = std::fs::read(path)
            .map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
        Self::parse(&bytes)
    }

    /// Reads a trace from bytes: records, each CPU's in blocks that come in any order.
    ///
    /// # Errors
    /// They are not whole records, or one is of no known kind.
    pub fn parse(bytes: &[u8]) -> Outcome<Self> {
        if !bytes.len().is_multiple_of(BYTES) {
            return Err(Failure::new(format!("{} bytes are no whole records", bytes.len())));
        }
        let event = |record: &[u8]| {
            let kind = *KINDS.get(usize::from(record[8]).wrapping_sub(1))?;
            Some(Event {
                order: word(record, 0),
                kind,
                cpu: record[9],
                what: u16::from_le_bytes([record[10], record[11]]),
                count: (word(record, 8) >> 32) as u32,
                a: word(record, 16),
                b: word(record, 24),
            })
        };
        let events: Option<Vec<_>> = bytes.chunks_exact(BYTES).map(event).collect();
        let mut events = events.ok_or_else(|| Failure::new("a record is of no known kind"))?;
        events.sort_unstable_by_key(|event| event.order);
        Ok(Self { events })
    }

    /// Returns the events before the first hole. A machine that was killed has not written out its CPUs' last ones,
    /// and what comes behind a hole tells nothing.
    pub fn whole(&self) -> &[Event] {
        let hole = (0..).zip(&self.events).position(|(order, event)| order != event.order);
        hole.map_or(&self.events, |hole| &self.events[..hole])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_at_their_numbers() {
        for (index, kind) in KINDS.iter().enumerate() {
            assert_eq!(*kind as usize, index + 1);
        }
    }

    #[test]
    fn records_are_put_in_order() {
        let mut bytes = Vec::new();
        for order in [1u64, 0] {
            bytes.extend(order.to_le_bytes());
            bytes.extend([Kind::Write as u8, 3, 2, 1, 7, 0, 0, 0]);
            bytes.extend((0x1000 + order).to_le_bytes());
            bytes.extend(0x55u64.to_le_bytes());
        }
        let trace = Trace::parse(&bytes).unwrap();
        let first = Event {
            order: 0,
            kind: Kind::Write,
            cpu: 3,
            what: 0x102,
            count: 7,
            a: 0x1000,
            b: 0x55,
        };
        assert_eq!(trace.events, [first, Event { order: 1, a: 0x1001, ..first }]);
        assert!(Trace::parse(&bytes[1..]).is_err());
        bytes[8] = 99;
        assert!(Trace::parse(&bytes).is_err());
    }
}
