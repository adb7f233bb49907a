//! The console that people see: the guests' and the monitor's, one at a time. Ctrl-] goes to the next.
//!
//! What a guest sends while another is shown is kept, the newest of it, and shown when its turn comes.

use crate::arch::uart;
use crate::guest::Guest;
use crate::monitor::job::{self, Port};
use crate::monitor::line::{Editor, Key, Line};
use crate::monitor::{self, report::Format};
use crate::system::System;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use log::Level;
use spin::Mutex;

/// Ctrl-], as telnet and virsh have it.
const ESCAPE: u8 = 0x1d;
/// How much is kept of what a guest sends while it is not shown, in bytes.
const KEPT: usize = 4096;
/// The most guests whose consoles can be shown.
const GUESTS: usize = crate::guest::manifest::MAX_GUESTS;
const PROMPT: &[u8] = b"sluice> ";

/// Nothing has been shown yet but the log.
const NOBODY: u8 = 0xff;
/// The monitor is shown.
const MONITOR: u8 = 0xfe;

/// Which console is shown: a guest's number, [`MONITOR`] or [`NOBODY`].
static SHOWN: AtomicU8 = AtomicU8::new(NOBODY);
static EDITOR: Mutex<Editor> = Mutex::new(Editor::new());
/// What jobs said while a guest was shown.
static KEPT_OF_JOBS: Mutex<Kept> = Mutex::new(Kept::EMPTY);
static KEPT_OUTPUT: [Mutex<Kept>; GUESTS] = [const { Mutex::new(Kept::EMPTY) }; GUESTS];

/// The newest bytes that a guest sent unseen.
struct Kept {
    bytes: [u8; KEPT],
    /// How many were ever put.
    put: usize,
}

impl Kept {
    const EMPTY: Self = Self { bytes: [0; KEPT], put: 0 };

    fn push(&mut self, byte: u8) {
        self.bytes[self.put % KEPT] = byte;
        self.put = self.put.wrapping_add(1);
    }

    fn show(&mut self) {
        if self.put > KEPT {
            say(format_args!("[{} bytes more]\r\n", self.put - KEPT));
        }
        for index in self.put.saturating_sub(KEPT)..self.put {
            uart::put(self.bytes[index % KEPT]);
        }
        self.put = 0;
    }
}

/// Writes to the physical UART.
pub struct Output;

impl Write for Output {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        uart::put_all(text.as_bytes());
        Ok(())
    }
}

fn say(text: fmt::Arguments<'_>) {
    // Writing to the UART does not fail.
    let _ = Output.write_fmt(text);
}

/// Shows a line of the log, if it is to be seen now.
pub fn log_line(level: Level, text: &str) {
    match SHOWN.load(Ordering::Relaxed) {
        NOBODY => say(format_args!("sluice: {text}\r\n")),
        MONITOR => {
            say(format_args!("\r\x1b[K[{level}] {text}\r\n"));
            if !job::has_console() {
                prompt();
            }
        }
        _ if level == Level::Error => say(format_args!("\r\nsluice: {text}\r\n")),
        _ => {}
    }
}

fn prompt() {
    uart::put_all(PROMPT);
    if let Some(editor) = EDITOR.try_lock() {
        uart::put_all(editor.text().as_bytes());
    }
}

/// Shows a guest's console.
pub fn show_guest(guest: &Guest) {
    let number = guest.id.index();
    SHOWN.store(number as u8, Ordering::Relaxed);
    say(format_args!("-- console of guest {}; Ctrl-] for the next --\r\n", guest.name()));
    if let Some(kept) = KEPT_OUTPUT.get(number) {
        kept.lock().show();
    }
}

fn show_monitor() {
    SHOWN.store(MONITOR, Ordering::Relaxed);
    say(format_args!("\r\n-- monitor; Ctrl-] for the guest's console, 'help' for help --\r\n"));
    KEPT_OF_JOBS.lock().show();
    if !job::has_console() {
        prompt();
    }
}

/// Shows the monitor in place of a guest that is no more, and forgets what it said.
pub fn guest_is_gone(guest: &Guest) {
    let number = guest.id.index();
    if let Some(kept) = KEPT_OUTPUT.get(number) {
        *kept.lock() = Kept::EMPTY;
    }
    if SHOWN.load(Ordering::Relaxed) == number as u8 {
        show_monitor();
        // What was typed for it is the monitor's.
        room_again();
    }
}

/// Goes to the next console: each guest's in turn, then the monitor.
fn switch(system: &'static System) {
    let shown = SHOWN.load(Ordering::Relaxed);
    let next = match shown {
        MONITOR | NOBODY => system.guests().next(),
        number => system.guests().find(|guest| guest.id.index() > usize::from(number)),
    };
    match next {
        Some(guest) => show_guest(&guest),
        None => show_monitor(),
    }
}

/// Takes a byte that a guest sent.
pub fn guest_output(guest: &Guest, byte: u8) {
    let number = guest.id.index();
    if SHOWN.load(Ordering::Relaxed) == number as u8 {
        uart::put(byte);
    } else if let Some(kept) = KEPT_OUTPUT.get(number) {
        kept.lock().push(byte);
    }
}

/// The guest that is shown has no room for what is typed, which waits in the UART.
static FULL: AtomicBool = AtomicBool::new(false);

/// Takes what has been typed, for as long as whom it is for has room.
pub fn interrupt(system: &'static System) {
    loop {
        let shown = SHOWN.load(Ordering::Relaxed);
        let guest = system.guest(usize::from(shown));
        if guest.is_some_and(|guest| guest.room() == 0) {
            uart::set_receive_interrupt(false);
            FULL.store(true, Ordering::Release);
            return;
        }
        match uart::get() {
            Some(byte) => input(system, byte),
            None => return,
        }
    }
}

/// Notes that a guest took what was typed: there may be room for more.
#[inline]
pub fn room_again() {
    if FULL.load(Ordering::Relaxed) && FULL.swap(false, Ordering::AcqRel) {
        uart::set_receive_interrupt(true);
    }
}

/// Takes a byte that was typed.
fn input(system: &'static System, byte: u8) {
    if byte == ESCAPE {
        room_again();
        return switch(system);
    }
    match SHOWN.load(Ordering::Relaxed) {
        MONITOR => type_to_monitor(system, byte),
        NOBODY => {}
        number => {
            if let Some(guest) = system.guest(usize::from(number)) {
                // There is room: it was looked for.
                let _ = guest.receive(system, byte);
            }
        }
    }
}

fn type_to_monitor(system: &'static System, byte: u8) {
    if job::has_console() {
        return job::key(system, byte);
    }
    let key = EDITOR.lock().key(byte);
    match key {
        Key::Nothing => {}
        Key::Echo(byte) => uart::put(byte),
        Key::Rub => uart::put_all(b"\x08 \x08"),
        Key::Redraw(_) => {
            uart::put_all(b"\r\x1b[K");
            prompt();
        }
        Key::Cancel => {
            uart::put_all(b"^C\r\n");
            prompt();
        }
        Key::Complete(line) => run(system, &line),
    }
}

fn run(system: &'static System, line: &Line) {
    uart::put_all(b"\r\n");
    let text = line.text().trim();
    let (text, format) = match text.strip_suffix("--json") {
        Some(text) => (text, Format::Json),
        None => (text, Format::Text),
    };
    if !text.is_empty() {
        monitor::execute(system, text, Port::Console, format, &mut Output);
        if format == Format::Json {
            uart::put_all(b"\r");
        }
    }
    if SHOWN.load(Ordering::Relaxed) == MONITOR && !job::has_console() {
        prompt();
    }
}

/// Where a job of the console speaks: what it says while a guest is shown is kept.
pub struct JobOutput;

impl Write for JobOutput {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if SHOWN.load(Ordering::Relaxed) == MONITOR {
            return Output.write_str(text);
        }
        let mut kept = KEPT_OF_JOBS.lock();
        text.bytes().for_each(|byte| kept.push(byte));
        Ok(())
    }
}

/// Asks for the next command, the job of the console having ended.
pub fn job_is_done() {
    if SHOWN.load(Ordering::Relaxed) == MONITOR {
        prompt();
    }
}
