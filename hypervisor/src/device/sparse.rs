//! Counting what a guest does wrong, and saying so ever more rarely.

/// A count of events of which the 1st, 2nd, 4th, 8th, ... are worth a line in the log.
///
/// A guest can repeat a mistake without end; its lines grow with the logarithm only (at most 65 in
/// all), need no clock, and still say how often it has happened.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Sparse(u64);

impl Sparse {
    /// Makes a counter that has seen nothing.
    pub const fn new() -> Self {
        Self(0)
    }

    /// Returns how many events there were.
    pub const fn count(self) -> u64 {
        self.0
    }

    /// Counts `events` more, and returns the total where a line is due: where the total has
    /// reached or passed a power of two.
    pub fn add(&mut self, events: u64) -> Option<u64> {
        let before = self.0;
        self.0 = before.saturating_add(events);
        (self.0.checked_ilog2() != before.checked_ilog2()).then_some(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speaks_at_powers_of_two_only() {
        let mut sparse = Sparse::new();
        let spoken: Vec<u64> = (0..20).filter_map(|_| sparse.add(1)).collect();
        assert_eq!(spoken, [1, 2, 4, 8, 16]);
        assert_eq!(sparse.count(), 20);
    }

    #[test]
    fn speaks_once_for_a_batch_that_passes_several_powers() {
        let mut sparse = Sparse::new();
        assert_eq!(sparse.add(0), None);
        assert_eq!(sparse.add(100), Some(100));
        assert_eq!(sparse.add(20), None);
        assert_eq!(sparse.add(u64::MAX), Some(u64::MAX));
        assert_eq!(sparse.add(1), None);
    }
}
