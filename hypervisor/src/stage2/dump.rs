//! Dumping a guest's tables, in the way of Linux's ptdump: runs of entries that belong together.

use super::descriptor::{Level, Mark, attributes};
use super::space::Space;
use super::walk::Place;
use crate::addr::{Ipa, IpaRange, Pa};
use aarch64_paging::descriptor::Stage2Attributes;

/// What a run of entries says.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Mapped to consecutive memory from `first` on.
    Mapped {
        /// The first byte.
        first: Pa,
        /// The attributes of every entry of the run.
        attributes: Stage2Attributes,
    },
    /// Being copied elsewhere, from consecutive memory from this byte on. The hardware does not see it.
    Moving(Pa),
    /// Not mapped.
    Absent(Mark),
}

/// Neighbouring entries of one level that say the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// What they cover, within what was asked for.
    pub range: IpaRange,
    /// Their level, 1 to 3.
    pub level: Level,
    /// What they say.
    pub what: What,
    /// How many they are.
    pub entries: u64,
}

/// How many entries are read under one pin.
const CHUNK: usize = 64;

impl Space<'_> {
    /// Gives the runs of `range` to `sink`, by ascending address, what is empty included.
    ///
    /// Takes no lock and stops nobody: what it says of each entry was true at some moment of the
    /// call. It unpins after every 64 entries, so that a dump of any length does not hold up a
    /// grace period; `sink` runs unpinned.
    pub fn dump(&self, range: IpaRange, mut sink: impl FnMut(&Run)) {
        let end = range.end.min(Ipa::new(1 << super::IPA_BITS));
        let mut at = range.start;
        let mut open: Option<Run> = None;
        while at < end {
            let mut finished: [Option<Run>; CHUNK] = [const { None }; CHUNK];
            let pin = self.memory.pin();
            for finished in &mut finished {
                if at >= end {
                    break;
                }
                let next = entry(&self.root(&pin).find(at), at, end);
                at = next.range.end;
                match open.as_mut().filter(|run| run.continues(&next)) {
                    Some(run) => run.join(next),
                    None => *finished = open.replace(next),
                }
            }
            drop(pin);
            finished.iter().flatten().for_each(&mut sink);
        }
        open.iter().for_each(sink);
    }
}

/// Describes the entry at `place`, of which `at` is the first address that is asked for.
fn entry(place: &Place<'_>, at: Ipa, end: Ipa) -> Run {
    let what = match place.leaf(at) {
        Ok(leaf) if leaf.is_moving() => What::Moving(leaf.pa()),
        Ok(leaf) => What::Mapped { first: leaf.pa(), attributes: attributes(place.bits) },
        Err(absent) => What::Absent(absent.mark),
    };
    Run { range: at..place.covers(at).end.min(end), level: place.level(), what, entries: 1 }
}

impl Run {
    fn continues(&self, next: &Self) -> bool {
        let same = match (self.what, next.what) {
            (
                What::Mapped { first, attributes },
                What::Mapped { first: next_first, attributes: next_attributes },
            ) => {
                let length = self.range.end.as_u64() - self.range.start.as_u64();
                attributes == next_attributes && first.checked_add(length) == Some(next_first)
            }
            (What::Moving(first), What::Moving(next_first)) => {
                first.checked_add(self.range.end.as_u64() - self.range.start.as_u64())
                    == Some(next_first)
            }
            (What::Absent(mark), What::Absent(next)) => mark == next,
            _ => false,
        };
        same && self.level == next.level && self.range.end == next.range.start
    }

    fn join(&mut self, next: Self) {
        self.range.end = next.range.end;
        self.entries += 1;
    }
}
