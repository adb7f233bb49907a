//! What a soak run does: operations at random from a seed, the same for the same seed whatever comes of them.
//!
//! This file knows of no machine. The soak test does the operations on one (`tests/tests/soak.rs`); the hypervisor's own
//! tests include this file and do what concerns the core on the host (`hypervisor/src/stage2/tests/soak.rs`).

/// One guest of a soak run. Sizes are in MiB.
#[derive(Clone, Copy, Debug)]
pub struct Who {
    /// Its name.
    pub name: &'static str,
    /// The CPUs of its vCPUs, one each.
    pub cpus: &'static [u32],
    /// What it starts with.
    pub memory: u64,
    /// What it can have beside.
    pub more: u64,
    /// What it keeps.
    pub floor: u64,
    /// What it is told to do.
    pub orders: &'static str,
}

/// The guests: Linux, whose load checks its own data; a balloon's driver; a memory device's; and one whose CPUs request
/// and release memory all the time.
pub const GUESTS: [Who; 4] = [
    Who {
        name: "linux",
        cpus: &[0, 1],
        memory: 512,
        more: 256,
        floor: 320,
        orders: "console=ttyAMA0 quiet panic=1 memhp_default_state=online_movable sluice.run=load",
    },
    Who {
        name: "balloon",
        cpus: &[2],
        memory: 64,
        more: 64,
        floor: 8,
        orders: "test=balloon-follow seconds=1000000 touch=1",
    },
    Who {
        name: "plug",
        cpus: &[3],
        memory: 64,
        more: 128,
        floor: 16,
        orders: "test=plug-follow seconds=1000000 patient=1",
    },
    Who {
        name: "churn",
        cpus: &[2, 3],
        memory: 64,
        more: 256,
        floor: 16,
        orders: "test=churn cycles=4000000000",
    },
];

/// Which of [`GUESTS`] is Linux.
pub const LINUX: usize = 0;
/// Which has memory added and removed by the operator.
pub const BALLOON: usize = 1;
/// Which has a memory device, beside Linux.
pub const PLUG: usize = 2;

/// The machine's memory that is emptied and comes back, in MiB from its start.
pub const EMPTIED: (u64, u64) = (64, 1536);

/// One thing that is done. Guests are indices of [`GUESTS`]; sizes and places are in MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Makes it, where it is no more, and starts it.
    Start(usize),
    /// Turns it off.
    Stop(usize),
    /// Starts it anew.
    Reset(usize),
    /// Ends it for good.
    Destroy(usize),
    /// Has it come to grief: by its own doing, or as memory that it needs is taken from it.
    Crash(usize),
    /// It is to have so much.
    Balloon(usize, u64),
    /// It is to have so much more plugged.
    Plug(usize, u64),
    /// It is to have so much less plugged.
    Unplug(usize, u64),
    /// It gets so much where there is room.
    Add(usize, u64),
    /// It loses what it has there: so far into the region for more memory, and so much.
    Remove(usize, u64, u64),
    /// So much moves from one to another.
    Move(u64, usize, usize),
    /// Guests give so much back.
    Reclaim(u64),
    /// Memory moves to where it is needed by itself, or no longer.
    Balance(bool),
    /// So much of the machine's memory is emptied, from there on.
    Offline(u64, u64),
    /// What is offline comes back.
    Online,
    /// A walker goes over its tables.
    Walk(usize),
    /// What is retired is waited for.
    Quiesce,
    /// What takes its time is ended early.
    Cancel,
    /// Of the next allocations so many succeed, and one fails.
    FailAfter(u64),
    /// One allocation in so many fails, by this seed.
    FailOneIn(u64, u64),
    /// None fails any more.
    FailNever,
}

/// Numbers that look random, the same for the same seed (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// Returns a number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % bound
    }

    /// Returns a multiple of 2 from `least` to `most`, both even.
    fn even(&mut self, least: u64, most: u64) -> u64 {
        least + 2 * self.below((most - least) / 2 + 1)
    }
}

/// Operations without an end.
#[derive(Clone, Debug)]
pub struct Operations(Random);

impl Operations {
    /// Begins those of `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(Random(seed))
    }

    /// Chooses a guest; Linux, which takes its time to boot, less often than the others.
    fn victim(&mut self) -> usize {
        match self.0.below(16) {
            0 => LINUX,
            other => 1 + other as usize % (GUESTS.len() - 1),
        }
    }

    fn any(&mut self) -> usize {
        self.0.below(GUESTS.len() as u64) as usize
    }

    fn pluggable(&mut self) -> usize {
        [LINUX, PLUG][self.0.below(2) as usize]
    }
}

impl Iterator for Operations {
    type Item = Operation;

    fn next(&mut self) -> Option<Operation> {
        use Operation as Op;
        let weight = self.0.below(100);
        Some(match weight {
            0..14 => Op::Start(self.any()),
            14..17 => Op::Stop(self.victim()),
            17..20 => Op::Reset(self.victim()),
            20..23 => Op::Destroy(self.victim()),
            23..26 => Op::Crash(self.victim()),
            26..40 => {
                let who = [LINUX, BALLOON][self.0.below(2) as usize];
                Op::Balloon(who, self.0.even(GUESTS[who].floor, GUESTS[who].memory))
            }
            40..47 => {
                let who = self.pluggable();
                Op::Plug(who, self.0.even(2, GUESTS[who].more / 2))
            }
            47..53 => {
                let who = self.pluggable();
                Op::Unplug(who, self.0.even(2, GUESTS[who].more / 2))
            }
            53..58 => Op::Add(BALLOON, self.0.even(2, 32)),
            58..62 => Op::Remove(BALLOON, self.0.even(0, 62), self.0.even(2, 32)),
            62..67 => {
                let (from, to) = (self.any(), self.any());
                Op::Move(self.0.even(2, 64), from, to)
            }
            67..69 => Op::Reclaim(self.0.even(2, 64)),
            69..71 => Op::Balance(self.0.below(2) == 0),
            71..79 => {
                let size = self.0.even(2, 64);
                Op::Offline(self.0.even(EMPTIED.0, EMPTIED.1 - size), size)
            }
            79..83 => Op::Online,
            83..87 => Op::Walk(self.any()),
            87..89 => Op::Quiesce,
            89..91 => Op::Cancel,
            91..95 => Op::FailAfter(self.0.below(12)),
            95..97 => Op::FailOneIn(4 << self.0.below(5), self.0.below(1 << 32)),
            _ => Op::FailNever,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_again_and_another_seed_something_else() {
        let first: Vec<_> = Operations::new(7).take(1000).collect();
        assert!(Operations::new(7).take(1000).eq(first.iter().copied()));
        assert!(!Operations::new(8).take(1000).eq(first.iter().copied()));
    }

    #[test]
    fn every_kind_comes_and_what_is_asked_can_be() {
        let mut kinds = std::collections::BTreeSet::new();
        for operation in Operations::new(1).take(5000) {
            let text = format!("{operation:?}");
            kinds.insert(text.split('(').next().unwrap_or_default().to_owned());
            if let Operation::Balloon(who, size) = operation {
                assert!((GUESTS[who].floor..=GUESTS[who].memory).contains(&size));
            }
            if let Operation::Offline(at, size) = operation {
                assert!(EMPTIED.0 <= at && at + size <= EMPTIED.1);
            }
        }
        assert_eq!(kinds.len(), 21, "{kinds:?}");
    }
}
