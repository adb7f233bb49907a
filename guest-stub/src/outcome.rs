//! How a test ends.

use core::fmt::{self, Write};

/// A line of text without a heap; what does not fit is cut off.
#[derive(Clone)]
pub struct Text<const SIZE: usize> {
    bytes: [u8; SIZE],
    used: usize,
}

impl<const SIZE: usize> Text<SIZE> {
    /// Makes an empty text.
    pub const fn new() -> Self {
        Self { bytes: [0; SIZE], used: 0 }
    }

    /// Returns what was written.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.used]).unwrap_or("(not UTF-8)")
    }
}

impl<const SIZE: usize> Write for Text<SIZE> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            let mut buffer = [0; 4];
            let encoded = character.encode_utf8(&mut buffer).as_bytes();
            let Some(room) = self.bytes.get_mut(self.used..self.used + encoded.len()) else {
                break;
            };
            room.copy_from_slice(encoded);
            self.used += encoded.len();
        }
        Ok(())
    }
}

/// Why a test did not pass.
pub enum Verdict {
    /// What was seen is wrong.
    Fail(Text<200>),
    /// The machine or the orders do not allow the test.
    Skip(&'static str),
}

/// How a test ends.
pub type Outcome = Result<(), Verdict>;

/// Makes a failure of text.
pub fn failure(text: fmt::Arguments<'_>) -> Verdict {
    let mut why = Text::new();
    let _ = why.write_fmt(text);
    Verdict::Fail(why)
}

/// Ends a test with a failure and its reason.
macro_rules! fail {
    ($($why:tt)*) => { return Err($crate::outcome::failure(format_args!($($why)*))) };
}

/// Ends a test with a failure and its reason unless a condition holds.
macro_rules! ensure {
    ($condition:expr, $($why:tt)*) => {
        if !$condition { fail!($($why)*) }
    };
}

/// Ends a test that cannot be done here.
macro_rules! skip {
    ($why:expr) => {
        return Err($crate::outcome::Verdict::Skip($why))
    };
}
