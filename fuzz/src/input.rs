//! A fuzzer's bytes, taken for choices.

/// What is left of an input. When it is used up, all that is read is zero.
#[derive(Clone, Debug)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// Begins with all of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Says whether nothing is left.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let (part, rest) = self.0.split_at(self.0.len().min(N));
        bytes[..part.len()].copy_from_slice(part);
        self.0 = rest;
        bytes
    }

    /// Reads a number of 1 byte.
    pub fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.take())
    }

    /// Reads a number of 2 bytes.
    pub fn half(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    /// Reads a number of 4 bytes.
    pub fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    /// Reads a number of 8 bytes.
    pub fn double(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    /// Reads a number of 8 bytes of which most inputs should be small, or near to where a field ends.
    pub fn number(&mut self) -> u64 {
        match self.byte() {
            0xff => u64::MAX - u64::from(self.byte()),
            0xfe => (1 << 32) - u64::from(self.byte()),
            0xfd => self.double(),
            0xfc => self.word().into(),
            0xfb => self.half().into(),
            small => small.into(),
        }
    }

    /// Reads a number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end.max(1)
    }

    /// Reads a choice of `all`.
    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}
