//! The machine's memory: ranges, and a supply of memory that nobody has touched since the machine started.

use crate::arch::boot;
use crate::machine::Machine;
use spin::mutex::SpinMutex;

pub const PAGE: u64 = 4 << 10;
pub const BLOCK: u64 = 2 << 20;

/// A half-open range of addresses.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    pub start: u64,
    pub end: u64,
}

impl Range {
    /// Makes the range of `size` bytes from `start`.
    pub const fn sized(start: u64, size: u64) -> Self {
        Self { start, end: start.saturating_add(size) }
    }

    /// Returns the bytes in this range.
    pub const fn size(self) -> u64 {
        self.end - self.start
    }

    /// Returns whether an address is in this range.
    pub const fn contains(self, address: u64) -> bool {
        self.start <= address && address < self.end
    }

    /// Returns whether two ranges share an address.
    pub const fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// Returns the addresses of the pages in this range.
    pub fn pages(self) -> impl Iterator<Item = u64> {
        (self.start..self.end).step_by(PAGE as usize)
    }
}

/// The most pieces that memory is in, after the image and the device tree have been left out.
const PIECES: usize = 8;

static FRESH: SpinMutex<[Range; PIECES]> = SpinMutex::new([Range { start: 0, end: 0 }; PIECES]);

/// Returns what the stub itself lives in: its image, the device tree, and what the loader left in between.
pub fn occupied(machine: &Machine) -> [Range; 3] {
    let (start, end) = boot::image();
    let below = machine.ram().find(|ram| ram.contains(start)).map_or(start, |ram| ram.start);
    [Range { start: below, end: start }, Range { start, end }, machine.device_tree].map(|range| {
        Range { start: range.start & !(PAGE - 1), end: (range.end + PAGE - 1) & !(PAGE - 1) }
    })
}

/// Takes stock of the memory that is free.
pub fn init(machine: &Machine) {
    let mut pieces = [Range::default(); PIECES];
    let mut used = 0;
    let mut add = |piece: Range| {
        if piece.start < piece.end && used < PIECES {
            pieces[used] = piece;
            used += 1;
        }
    };
    for ram in machine.ram() {
        let mut start = ram.start;
        let mut taken = occupied(machine);
        taken.sort_unstable_by_key(|range| range.start);
        for range in taken {
            if range.overlaps(ram) {
                add(Range { start, end: range.start });
                start = start.max(range.end);
            }
        }
        add(Range { start, end: ram.end });
    }
    *FRESH.lock() = pieces;
}

/// Takes memory that nobody has touched since the machine started, for good. `align` is a power of two.
pub fn take(bytes: u64, align: u64) -> Option<Range> {
    let mut pieces = FRESH.lock();
    for piece in pieces.iter_mut() {
        let start = piece.start.next_multiple_of(align);
        let end = start.checked_add(bytes)?;
        if end <= piece.end {
            // What alignment skips over is lost; there is plenty.
            piece.start = end;
            return Some(Range { start, end });
        }
    }
    None
}

/// Takes all that is left, piece by piece.
pub fn take_rest() -> [Range; PIECES] {
    core::mem::take(&mut *FRESH.lock())
}
