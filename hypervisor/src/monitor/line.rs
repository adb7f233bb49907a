//! The line that is being typed.

/// The longest line in bytes.
pub const MAX_LINE: usize = 120;
const HISTORY: usize = 8;

/// A line that was typed.
#[derive(Copy, Clone)]
pub struct Line {
    bytes: [u8; MAX_LINE],
    length: usize,
}

impl Line {
    const EMPTY: Self = Self { bytes: [0; MAX_LINE], length: 0 };

    /// Returns the text; only printable ASCII is taken, so it is text.
    pub fn text(&self) -> &str {
        let bytes = self.bytes.get(..self.length).unwrap_or(&[]);
        core::str::from_utf8(bytes).unwrap_or("")
    }

    fn push(&mut self, byte: u8) -> bool {
        match self.bytes.get_mut(self.length) {
            Some(place) => {
                *place = byte;
                self.length += 1;
                true
            }
            None => false,
        }
    }
}

/// What a key did.
pub enum Key {
    /// Nothing to be seen.
    Nothing,
    /// This is to be echoed.
    Echo(u8),
    /// The last character is to be taken from the screen.
    Rub,
    /// The line is to be shown anew: what was on it is longer than this many characters no more.
    Redraw(usize),
    /// A line is complete.
    Complete(Line),
    /// The line was given up.
    Cancel,
}

/// The editor: backspace, Ctrl-U, Ctrl-C, and the lines before by the arrow keys.
pub struct Editor {
    line: Line,
    history: [Line; HISTORY],
    /// How many lines there are in the history.
    remembered: usize,
    /// How far back the line shown is; 0 is the one being typed.
    back: usize,
    /// How much of an escape sequence has come: 0 nothing, 1 ESC, 2 ESC [.
    escape: u8,
    after_return: bool,
}

impl Editor {
    /// Makes an editor with an empty line.
    pub const fn new() -> Self {
        Self {
            line: Line::EMPTY,
            history: [Line::EMPTY; HISTORY],
            remembered: 0,
            back: 0,
            escape: 0,
            after_return: false,
        }
    }

    /// Returns what has been typed so far.
    pub fn text(&self) -> &str {
        self.line.text()
    }

    /// Takes a key.
    pub fn key(&mut self, byte: u8) -> Key {
        let after_return = core::mem::replace(&mut self.after_return, byte == b'\r');
        match (self.escape, byte) {
            (0, 0x1b) => {
                self.escape = 1;
                Key::Nothing
            }
            (1, b'[' | b'O') => {
                self.escape = 2;
                Key::Nothing
            }
            (2, b'A') => self.recall(self.back + 1),
            (2, b'B') => self.recall(self.back.wrapping_sub(1)),
            (1 | 2, _) => {
                self.escape = 0;
                Key::Nothing
            }
            (_, b'\n') if after_return => Key::Nothing,
            (_, b'\r' | b'\n') => self.complete(),
            (_, 0x08 | 0x7f) if self.line.length > 0 => {
                self.line.length -= 1;
                Key::Rub
            }
            (_, 0x03) => {
                self.line = Line::EMPTY;
                self.back = 0;
                Key::Cancel
            }
            (_, 0x15) => {
                let before = self.line.length;
                self.line = Line::EMPTY;
                Key::Redraw(before)
            }
            (_, 0x20..=0x7e) if self.line.push(byte) => Key::Echo(byte),
            _ => Key::Nothing,
        }
    }

    fn recall(&mut self, back: usize) -> Key {
        self.escape = 0;
        if back > self.remembered {
            return Key::Nothing;
        }
        let before = self.line.length;
        self.back = back;
        self.line = match back.checked_sub(1) {
            Some(index) => self.history.get(index).copied().unwrap_or(Line::EMPTY),
            None => Line::EMPTY,
        };
        Key::Redraw(before)
    }

    fn complete(&mut self) -> Key {
        let line = core::mem::replace(&mut self.line, Line::EMPTY);
        self.back = 0;
        if line.length > 0 {
            self.history.rotate_right(1);
            self.history[0] = line;
            self.remembered = (self.remembered + 1).min(HISTORY);
        }
        Key::Complete(line)
    }
}

impl Default for Editor {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(keys: &[u8]) -> Vec<String> {
        let mut editor = Editor::new();
        let mut lines = Vec::new();
        for &key in keys {
            if let Key::Complete(line) = editor.key(key) {
                lines.push(line.text().to_string());
            }
        }
        lines
    }

    #[test]
    fn a_line_ends_once_however_it_ends() {
        assert_eq!(lines(b"one\r\ntwo\nthree\r"), ["one", "two", "three"]);
    }

    #[test]
    fn what_is_rubbed_out_is_gone() {
        assert_eq!(lines(b"mex\x7fmory\r"), ["memory"]);
        assert_eq!(lines(b"junk\x15guests\r"), ["guests"]);
        assert_eq!(lines(b"junk\x03guests\r"), ["guests"]);
        assert_eq!(lines(b"\x7f\x7fa\r"), ["a"]);
    }

    #[test]
    fn the_arrow_keys_bring_lines_back() {
        assert_eq!(lines(b"one\rtwo\r\x1b[A\r"), ["one", "two", "two"]);
        assert_eq!(lines(b"one\rtwo\r\x1b[A\x1b[A\r"), ["one", "two", "one"]);
        assert_eq!(lines(b"one\rtwo\r\x1b[A\x1b[A\x1b[A\x1b[B\r"), ["one", "two", "two"]);
    }

    #[test]
    fn a_line_too_long_is_cut() {
        let long = [b'x'; 300];
        let mut keys = long.to_vec();
        keys.push(b'\r');
        assert_eq!(lines(&keys)[0].len(), MAX_LINE);
    }
}
