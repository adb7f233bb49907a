//! Which blocks of the region are plugged: a bit each.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

/// A set of block numbers below its size.
#[derive(Debug)]
pub(super) struct Blocks {
    words: Vec<u64>,
    count: u32,
    plugged: u32,
}

impl Blocks {
    /// Makes the set of none of `count` blocks.
    pub(super) fn new(count: u32) -> Self {
        Self { words: vec![0; count.div_ceil(64) as usize], count, plugged: 0 }
    }

    /// Says of all blocks that they are not plugged.
    pub(super) fn clear(&mut self) {
        self.words.fill(0);
        self.plugged = 0;
    }

    /// Returns how many blocks there are.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Returns how many are plugged.
    pub(super) fn plugged(&self) -> u32 {
        self.plugged
    }

    /// Returns how many of `blocks` are plugged.
    pub(super) fn plugged_in(&self, blocks: Range<u32>) -> u32 {
        pieces(blocks).map(|(word, mask)| (self.word(word) & mask).count_ones()).sum()
    }

    /// Says of all of `blocks` whether they are plugged.
    pub(super) fn set(&mut self, blocks: Range<u32>, plugged: bool) {
        for (word, mask) in pieces(blocks.start..blocks.end.min(self.count)) {
            let Some(word) = self.words.get_mut(word) else { return };
            let before = word.count_ones();
            *word = if plugged { *word | mask } else { *word & !mask };
            self.plugged = self.plugged + word.count_ones() - before;
        }
    }

    /// Returns the first run of plugged blocks at or behind `from`, of `most` at most.
    pub(super) fn run(&self, from: u32, most: u32) -> Option<Range<u32>> {
        let mut index = from as usize / 64;
        let mut word = self.word(index) & (u64::MAX << (from % 64));
        while word == 0 {
            index += 1;
            word = *self.words.get(index)?;
        }
        let start = index as u32 * 64 + word.trailing_zeros();
        let end = (start..self.count.min(start.saturating_add(most)))
            .find(|block| self.word(*block as usize / 64) & 1 << (block % 64) == 0);
        Some(start..end.unwrap_or(self.count.min(start.saturating_add(most))))
    }

    fn word(&self, index: usize) -> u64 {
        self.words.get(index).copied().unwrap_or(0)
    }
}

/// Cuts a range of blocks into words and the bits in them.
fn pieces(blocks: Range<u32>) -> impl Iterator<Item = (usize, u64)> {
    let mut at = blocks.start;
    core::iter::from_fn(move || {
        if at >= blocks.end {
            return None;
        }
        let (word, bit) = (at / 64, at % 64);
        let bits = (64 - bit).min(blocks.end - at);
        at += bits;
        Some((word as usize, (u64::MAX >> (64 - bits)) << bit))
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_set_of_blocks_is_a_set(
            count in 1..300_u32,
            changes in prop::collection::vec((0..300_u32, 0..300_u32, any::<bool>()), 0..20),
            from in 0..300_u32,
        ) {
            let mut blocks = Blocks::new(count);
            let mut model = vec![false; count as usize];
            for (a, b, plugged) in changes {
                let range = a.min(b).min(count)..a.max(b).min(count);
                blocks.set(range.clone(), plugged);
                model[range.start as usize..range.end as usize].fill(plugged);
                let expected = model[range.start as usize..range.end as usize].iter();
                let expected = expected.filter(|plugged| **plugged).count() as u32;
                prop_assert_eq!(blocks.plugged_in(range), expected);
            }
            prop_assert_eq!(blocks.plugged() as usize, model.iter().filter(|p| **p).count());
            let start = (from..count).find(|block| model[*block as usize]);
            let expected = start.map(|start| {
                start..(start..count).find(|block| !model[*block as usize]).unwrap_or(count)
            });
            prop_assert_eq!(blocks.run(from, u32::MAX), expected);
        }
    }
}
