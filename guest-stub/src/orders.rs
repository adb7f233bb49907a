//! What the stub is told to do, in `/chosen/bootargs`, words with spaces between:
//!
//! - `test=<name>`, `bench=<name>`: the test or benchmark of that name, all whose name begins with `<name>-`, or `all`;
//!   `test` and `bench` alone mean `all`. What is only to be done by its full name says so in the registry.
//! - `<key>=<number>`: a parameter, decimal or `0x...`, that tests ask for by name (`rounds`, `iterations`, `seed`, ...).
//! - `plain`: the machine is no hypervisor's, so what a hypervisor would have to hide is noted and not judged.
//! - `list`: print the names of all there is.
//!
//! Other words are left alone, so that a command line for a kernel does no harm.

use core::str::SplitAsciiWhitespace;

/// What the stub is told to do.
#[derive(Copy, Clone)]
pub struct Orders<'a>(&'a str);

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

impl<'a> Orders<'a> {
    /// Reads orders as they stand in `/chosen/bootargs`.
    pub const fn new(text: &'a str) -> Self {
        Self(text)
    }

    fn words(self) -> SplitAsciiWhitespace<'a> {
        self.0.split_ascii_whitespace()
    }

    /// Returns whether the word stands alone somewhere.
    pub fn has(self, word: &str) -> bool {
        self.words().any(|other| other == word)
    }

    /// Returns whether `what` (`test` or `bench`) called `name` is wanted. What is not `open` only counts by its full name.
    pub fn wants(self, what: &str, name: &str, open: bool) -> bool {
        self.words().any(|word| {
            let Some(rest) = word.strip_prefix(what) else { return false };
            let Some(wanted) = rest.strip_prefix('=') else { return open && rest.is_empty() };
            let of_group = name.strip_prefix(wanted).is_some_and(|tail| tail.starts_with('-'));
            wanted == name || open && (wanted == "all" || of_group)
        })
    }

    /// Returns whether `what` is asked for by a name that `known` does not know.
    pub fn unknown(self, what: &str, known: impl Fn(&str) -> bool) -> Option<&'a str> {
        self.words()
            .filter_map(|word| word.strip_prefix(what)?.strip_prefix('='))
            .find(|wanted| *wanted != "all" && !known(wanted))
    }

    /// Returns the number given as `<key>=<number>`, or `default`.
    pub fn number(self, key: &str, default: u64) -> u64 {
        self.words()
            .filter_map(|word| number(word.strip_prefix(key)?.strip_prefix('=')?))
            .next_back()
            .unwrap_or(default)
    }

    /// Returns whether the machine is no hypervisor's.
    pub fn plain(self) -> bool {
        self.has("plain")
    }
}
