//! Inputs made of others, without a fuzzer: the same ones of the same seed.

/// The longest input that is made, in bytes.
pub const LONGEST: usize = 8192;

/// Numbers at which code often goes wrong.
const EDGES: [u64; 12] =
    [0, 1, 7, 8, 0x7f, 0x80, 0xff, 0xfff, 0x1000, 0xffff_ffff, 1 << 63, u64::MAX];

/// Numbers that look random (xorshift64*).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Begins with `seed`.
    pub const fn new(seed: u64) -> Self {
        // Zero would stay zero.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Returns the next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Returns a number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        ((self.number() >> 32) as usize) % end.max(1)
    }
}

/// Makes an input of one of `corpus`, with a few changes, or of nothing.
pub fn input(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = match random.below(16) {
        0 => Vec::new(),
        _ if corpus.is_empty() => Vec::new(),
        _ => corpus[random.below(corpus.len())].clone(),
    };
    if bytes.is_empty() {
        let length = random.below(256);
        bytes.extend((0..length).map(|_| random.number() as u8));
    }
    for _ in 0..1 << random.below(5) {
        change(random, &mut bytes, corpus);
    }
    bytes.truncate(LONGEST);
    bytes
}

fn change(random: &mut Random, bytes: &mut Vec<u8>, corpus: &[Vec<u8>]) {
    let at = random.below(bytes.len() + 1);
    let length = 1 + random.below(16);
    let end = (at + length).min(bytes.len());
    match random.below(8) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        1 if at < bytes.len() => bytes[at] = random.number() as u8,
        2 => {
            // A number, in either order of bytes.
            let number = EDGES[random.below(EDGES.len())];
            let width = 1 << random.below(4);
            let mut edge = number.to_le_bytes()[..width].to_vec();
            if random.below(2) == 0 {
                edge.reverse();
            }
            for (byte, edge) in bytes.iter_mut().skip(at).zip(edge) {
                *byte = edge;
            }
        }
        3 => drop(bytes.drain(at..end)),
        4 => {
            let piece: Vec<u8> = bytes[at..end].to_vec();
            drop(bytes.splice(at..at, piece));
        }
        5 => {
            let noise: Vec<u8> = (0..length).map(|_| random.number() as u8).collect();
            drop(bytes.splice(at..at, noise));
        }
        6 if !corpus.is_empty() => {
            // The end of another.
            let other = &corpus[random.below(corpus.len())];
            let from = random.below(other.len() + 1);
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        _ => {
            // A piece somewhere else.
            let piece: Vec<u8> = bytes.drain(at..end).collect();
            let to = random.below(bytes.len() + 1);
            drop(bytes.splice(to..to, piece));
        }
    }
}
