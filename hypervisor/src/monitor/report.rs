//! What a command answers: one description of the data, rendered as text for people or as one line of JSON.

use core::fmt::{self, Write};

/// How an answer is rendered.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// Aligned text.
    Text,
    /// One JSON object on one line.
    Json,
}

/// A value.
#[derive(Copy, Clone, Debug)]
pub enum Value<'a> {
    /// A count.
    Number(u64),
    /// A size in bytes; people see it in KiB, MiB or GiB.
    Size(u64),
    /// An address; people see it in hexadecimal.
    Address(u64),
    /// Yes or no.
    Flag(bool),
    /// Words.
    Text(&'a str),
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Size(bytes) => Size(bytes).fmt(f),
            Self::Address(address) => write!(f, "{address:#x}"),
            Self::Flag(flag) => f.write_str(if flag { "yes" } else { "no" }),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// A size in bytes, in the largest unit in which it has at most one digit behind the point.
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 >> shift != 0 {
                let tenths = (u128::from(self.0) * 10) >> shift;
                return if tenths % 10 == 0 {
                    write!(f, "{} {unit}", tenths / 10)
                } else {
                    write!(f, "{}.{} {unit}", tenths / 10, tenths % 10)
                };
            }
        }
        write!(f, "{} B", self.0)
    }
}

/// Text as a JSON string (RFC 8259, section 7).
pub struct JsonString<'a>(pub &'a str);

impl fmt::Display for JsonString<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for character in self.0.chars() {
            match character {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                control if u32::from(control) < 0x20 => {
                    write!(f, "\\u{:04x}", u32::from(control))?;
                }
                other => f.write_char(other)?,
            }
        }
        f.write_char('"')
    }
}

fn json(out: &mut dyn Write, value: Value<'_>) -> fmt::Result {
    match value {
        Value::Number(number) | Value::Size(number) | Value::Address(number) => {
            write!(out, "{number}")
        }
        Value::Flag(flag) => write!(out, "{flag}"),
        Value::Text(text) => write!(out, "{}", JsonString(text)),
    }
}

/// A column of a table: its name and its width for people, in characters.
pub type Column = (&'static str, usize);

/// An answer under construction. Writing to the output that it was made for does not fail, so its methods do not either.
pub struct Report<'a> {
    out: &'a mut dyn Write,
    format: Format,
    /// How many members the object that is open has.
    members: usize,
    table: Option<(&'static [Column], usize)>,
    /// The job that speaks, in whose object nothing has been said yet.
    silent_job: Option<u64>,
}

impl<'a> Report<'a> {
    /// Begins an answer.
    pub fn new(out: &'a mut dyn Write, format: Format) -> Self {
        let mut report = Self { out, format, members: 0, table: None, silent_job: None };
        if format == Format::Json {
            report.put(format_args!("{{"));
        }
        report
    }

    /// Begins what job `number` says in one step; nothing is written before it says something.
    pub fn of_job(out: &'a mut dyn Write, format: Format, number: u64) -> Self {
        Self { out, format, members: 0, table: None, silent_job: Some(number) }
    }

    /// Says whether a program reads it: what is only for people need not be worked out then.
    pub fn is_for_programs(&self) -> bool {
        self.format == Format::Json
    }

    /// Opens the object of a job that speaks for the first time.
    fn break_silence(&mut self) {
        if let Some(number) = self.silent_job.take()
            && self.format == Format::Json
        {
            self.put(format_args!("{{\"job\":{number}"));
            self.members = 1;
        }
    }

    fn put(&mut self, text: fmt::Arguments<'_>) {
        let _ = self.out.write_fmt(text);
    }

    fn separate(&mut self) {
        self.break_silence();
        if self.members > 0 {
            self.put(format_args!(","));
        }
        self.members += 1;
    }

    fn json(&mut self, value: Value<'_>) {
        let _ = json(self.out, value);
    }

    /// Gives one value a name.
    pub fn value(&mut self, name: &'static str, value: Value<'_>) {
        self.end_table();
        match self.format {
            Format::Text => self.put(format_args!("{name:<22} {value}\r\n")),
            Format::Json => {
                self.separate();
                self.put(format_args!("{}:", JsonString(name)));
                self.json(value);
            }
        }
    }

    /// Says something to people alone.
    pub fn remark(&mut self, text: fmt::Arguments<'_>) {
        if self.format == Format::Text {
            self.end_table();
            self.put(format_args!("{text}\r\n"));
        }
    }

    /// Begins a table; the rows follow.
    pub fn table(&mut self, name: &'static str, columns: &'static [Column]) {
        self.end_table();
        match self.format {
            Format::Text => {
                for (name, width) in columns {
                    self.put(format_args!("{name:<width$} "));
                }
                self.put(format_args!("\r\n"));
            }
            Format::Json => {
                self.separate();
                self.put(format_args!("{}:[", JsonString(name)));
            }
        }
        self.table = Some((columns, 0));
    }

    /// Adds a row to the table that was begun last; a value for each column.
    pub fn row(&mut self, values: &[Value<'_>]) {
        let Some((columns, rows)) = self.table else { return };
        self.table = Some((columns, rows + 1));
        if self.format == Format::Json {
            self.put(format_args!("{}", if rows > 0 { ",{" } else { "{" }));
        }
        for (index, ((name, width), value)) in columns.iter().zip(values).enumerate() {
            match self.format {
                Format::Text => {
                    // A value's own formatting does not pad.
                    let mut cell = Cell::new();
                    let _ = write!(cell, "{value}");
                    self.put(format_args!("{:<width$} ", cell.text()));
                }
                Format::Json => {
                    let comma = if index > 0 { "," } else { "" };
                    self.put(format_args!("{comma}{}:", JsonString(name)));
                    self.json(*value);
                }
            }
        }
        self.put(format_args!("{}", if self.format == Format::Json { "}" } else { "\r\n" }));
    }

    fn end_table(&mut self) {
        if self.table.take().is_some() && self.format == Format::Json {
            self.put(format_args!("]"));
        }
    }

    /// Says why there is no answer, and how the command is used.
    pub fn error(&mut self, why: fmt::Arguments<'_>, usage: Option<(&str, &str)>) {
        self.end_table();
        match self.format {
            Format::Text => {
                self.put(format_args!("{why}\r\n"));
                if let Some((name, arguments)) = usage {
                    self.put(format_args!("usage: {name} {arguments}\r\n"));
                }
            }
            Format::Json => {
                self.separate();
                let mut text = Cell::new();
                let _ = text.write_fmt(why);
                self.put(format_args!("\"error\":{}", JsonString(text.text())));
                if let Some((name, arguments)) = usage {
                    let mut text = Cell::new();
                    let _ = write!(text, "{name} {arguments}");
                    self.put(format_args!(",\"usage\":{}", JsonString(text.text())));
                }
            }
        }
    }
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        self.end_table();
        if self.format == Format::Json && self.silent_job.is_none() {
            self.put(format_args!("}}\n"));
        }
    }
}

/// A short text, cut where it is too long.
struct Cell {
    bytes: [u8; 240],
    length: usize,
}

impl Cell {
    const fn new() -> Self {
        Self { bytes: [0; 240], length: 0 }
    }

    fn text(&self) -> &str {
        let bytes = self.bytes.get(..self.length).unwrap_or(&[]);
        core::str::from_utf8(bytes).unwrap_or("?")
    }
}

impl Write for Cell {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            let mut bytes = [0; 4];
            let bytes = character.encode_utf8(&mut bytes).as_bytes();
            if let Some(room) = self.bytes.get_mut(self.length..self.length + bytes.len()) {
                room.copy_from_slice(bytes);
                self.length += bytes.len();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(format: Format) -> String {
        let mut out = String::new();
        let mut report = Report::new(&mut out, format);
        report.value("total", Value::Size(3 << 29));
        report.table("owners", &[("owner", 8), ("size", 10)]);
        report.row(&[Value::Text("free"), Value::Size(1 << 20)]);
        report.row(&[Value::Text("a\"b"), Value::Size(4096)]);
        report.value("clean", Value::Flag(true));
        drop(report);
        out
    }

    #[test]
    fn people_get_aligned_text() {
        let text = render(Format::Text);
        assert!(text.contains("total                  1.5 GiB\r\n"), "{text}");
        assert!(text.contains("free     1 MiB      \r\n"), "{text}");
        assert!(text.contains("clean                  yes\r\n"), "{text}");
    }

    #[test]
    fn programs_get_one_line_of_json() {
        assert_eq!(
            render(Format::Json),
            "{\"total\":1610612736,\"owners\":[{\"owner\":\"free\",\"size\":1048576},\
             {\"owner\":\"a\\\"b\",\"size\":4096}],\"clean\":true}\n"
        );
    }

    #[test]
    fn a_job_that_says_nothing_writes_nothing() {
        let mut out = String::new();
        drop(Report::of_job(&mut out, Format::Json, 7));
        assert_eq!(out, "");
        Report::of_job(&mut out, Format::Json, 7).value("moved", Value::Size(4096));
        assert_eq!(out, "{\"job\":7,\"moved\":4096}\n");
    }

    #[test]
    fn an_error_is_an_object_too() {
        let mut out = String::new();
        Report::new(&mut out, Format::Json)
            .error(format_args!("no \u{1}"), Some(("balloon", "<guest>")));
        assert_eq!(out, "{\"error\":\"no \\u0001\",\"usage\":\"balloon <guest>\"}\n");
    }

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (4096, "4 KiB"),
            (1536, "1.5 KiB"),
            (1 << 30, "1 GiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }
}
