//! What guests' random numbers start from.
//!
//! The loader's seed, or where there is none the time, keys a generator (ChaCha20, RFC 8439) that
//! gives each start of each guest numbers of its own: from those that one guest got, nobody can
//! tell what another got.

use chacha20::ChaCha20Rng;
use chacha20::rand_core::{Rng, SeedableRng};
use spin::Mutex;

/// The random numbers for one start of a guest.
#[derive(Clone, PartialEq, Eq)]
pub struct Seed {
    /// What the kernel chooses its address layout by.
    pub kaslr: u64,
    /// What the kernel's own generator starts from; `None` where Sluice has nothing that is random.
    pub rng: Option<[u8; 32]>,
}

/// Gives out seeds.
pub struct Seeds {
    generator: Mutex<ChaCha20Rng>,
    random: bool,
}

impl Seeds {
    /// Starts from the loader's random bytes and from `time`, a number that is another at each
    /// boot.
    ///
    /// Without random bytes, seeds still differ from one another and mostly from boot to boot,
    /// which is worth something to an address layout and too little to a generator.
    pub fn new(loader: Option<[u8; 32]>, time: u64) -> Self {
        let mut key = loader.unwrap_or_default();
        for (byte, time) in key.iter_mut().zip(time.to_le_bytes()) {
            *byte ^= time;
        }
        let generator = Mutex::new(ChaCha20Rng::from_seed(key));
        Self { generator, random: loader.is_some() }
    }

    /// Says whether seeds have numbers for a kernel's generator.
    pub fn are_random(&self) -> bool {
        self.random
    }

    /// Returns numbers that were not given out before.
    pub fn draw(&self) -> Seed {
        let mut generator = self.generator.lock();
        let kaslr = generator.next_u64();
        let rng = self.random.then(|| {
            let mut bytes = [0; 32];
            generator.fill_bytes(&mut bytes);
            bytes
        });
        Seed { kaslr, rng }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_seeds_are_the_same() {
        for loader in [None, Some([1; 32])] {
            let seeds = Seeds::new(loader, 5);
            let (one, other) = (seeds.draw(), seeds.draw());
            assert_ne!(one.kaslr, other.kaslr);
            assert_eq!(one.rng.is_some(), loader.is_some());
            assert!(loader.is_none() || one.rng != other.rng);
            let next_boot = Seeds::new(loader, 6).draw();
            assert_ne!(one.kaslr, next_boot.kaslr);
        }
    }

    #[test]
    fn the_time_alone_is_not_called_random() {
        assert!(!Seeds::new(None, 1234).are_random());
        assert_eq!(Seeds::new(None, 1234).draw().rng, None);
        assert!(Seeds::new(Some([0; 32]), 1234).are_random());
    }
}
