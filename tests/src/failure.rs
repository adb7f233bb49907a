//! What went wrong in a run, in words that stand alone in a test's report.

use std::{fmt, io};

/// Why a run did not do what it should.
pub struct Failure(String);

/// What a step of a run gives.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// Makes a failure of text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Says in what the failure happened.
    #[must_use]
    pub fn during(self, what: &str) -> Self {
        Self(format!("{what}: {}", self.0))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The same, since test runners print a failure by its `Debug`.
impl fmt::Debug for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// Ends a run with a failure unless a condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err($crate::failure::Failure::new(format!($($why)+)));
        }
    };
}
