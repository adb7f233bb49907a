//! A console as a stream of text: everything is kept and logged, and one reader at a time
//! waits for what it expects.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use regex::Regex;

use crate::failure::{Failure, Outcome};

/// How many lines of the console a failure shows.
const SHOWN: usize = 30;

#[derive(Default)]
struct Text {
    bytes: Vec<u8>,
    ended: bool,
}

struct Shared {
    text: Mutex<Text>,
    grown: Condvar,
}

/// What a console has said, and how far we have read.
pub struct Console {
    shared: Arc<Shared>,
    cursor: usize,
}

impl Console {
    /// Follows `source` on a thread of its own, and copies it to `log`.
    pub fn follow(mut source: impl Read + Send + 'static, mut log: File, echo: bool) -> Self {
        let shared = Arc::new(Shared { text: Mutex::new(Text::default()), grown: Condvar::new() });
        let writer = Arc::clone(&shared);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let read = source.read(&mut buffer).unwrap_or(0);
                let bytes = &buffer[..read];
                // A log that cannot be written must not stop the machine.
                let _ = log.write_all(bytes);
                if echo {
                    let _ = std::io::stdout().write_all(bytes);
                    let _ = std::io::stdout().flush();
                }
                let mut text = writer.text.lock().unwrap_or_else(PoisonError::into_inner);
                text.bytes.extend_from_slice(bytes);
                text.ended = read == 0;
                drop(text);
                writer.grown.notify_all();
                if read == 0 {
                    return;
                }
            }
        });
        Self { shared, cursor: 0 }
    }

    /// Waits until `pattern` matches what was said since the last match, and gives its groups:
    /// the whole match first.
    ///
    /// # Errors
    /// It did not match within `patience`, or the console ended before.
    pub fn expect(&mut self, pattern: &str, patience: Duration) -> Outcome<Vec<String>> {
        self.look_for(pattern, patience)?
            .ok_or_else(|| self.missed(pattern, "it was not said in time"))
    }

    /// Does the same, and gives nothing if it did not match within `patience`.
    ///
    /// # Errors
    /// The console ended before.
    pub fn look_for(&mut self, pattern: &str, patience: Duration) -> Outcome<Option<Vec<String>>> {
        let expected = Regex::new(pattern).map_err(|error| Failure::new(error.to_string()))?;
        let deadline = Instant::now() + patience;
        let mut text = self.shared.text.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let unread = String::from_utf8_lossy(&text.bytes[self.cursor..]);
            if let Some(found) = expected.captures(&unread) {
                let groups = found
                    .iter()
                    .map(|group| group.map_or(String::new(), |group| group.as_str().into()))
                    .collect();
                // Where bytes were replaced, the match ends earlier in them than in the text.
                let end = found.get(0).map_or(0, |whole| whole.end());
                let said = unread[..end].replace('\u{fffd}', "?");
                self.cursor += said.len().min(text.bytes.len() - self.cursor);
                return Ok(Some(groups));
            }
            if text.ended {
                drop(text);
                return Err(self.missed(pattern, "the machine ended"));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let (guard, _) =
                self.shared.grown.wait_timeout(text, left).unwrap_or_else(PoisonError::into_inner);
            text = guard;
        }
    }

    fn missed(&self, pattern: &str, why: &str) -> Failure {
        Failure::new(format!("expected /{pattern}/ but {why}; last:\n{}", self.tail()))
    }

    /// Gives all that was said so far.
    pub fn all(&self) -> String {
        let text = self.shared.text.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&text.bytes).into_owned()
    }

    /// Gives the last lines that were said.
    pub fn tail(&self) -> String {
        tail(&self.shared.text.lock().unwrap_or_else(PoisonError::into_inner).bytes)
    }
}

fn tail(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.lines().collect();
    let shown = &lines[lines.len().saturating_sub(SHOWN)..];
    shown.iter().map(|line| format!("  | {}\n", line.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::Console;
    use std::fs::File;
    use std::time::Duration;

    fn console(text: &'static [u8]) -> Console {
        Console::follow(text, File::create("/dev/null").unwrap(), false)
    }

    const SOON: Duration = Duration::from_secs(5);

    #[test]
    fn a_match_is_read_once() {
        let mut console = console(b"one two \xff one 3\n");
        assert_eq!(console.expect("one", SOON).unwrap(), ["one"]);
        assert_eq!(console.expect(r"one (\d)", SOON).unwrap(), ["one 3", "3"]);
        assert!(console.expect("one", SOON).is_err());
    }

    #[test]
    fn an_end_is_told_with_the_last_lines() {
        let error = console(b"alpha\nbeta\n").expect("gamma", SOON).unwrap_err();
        assert!(error.to_string().contains("ended"));
        assert!(error.to_string().contains("| beta"));
    }
}
