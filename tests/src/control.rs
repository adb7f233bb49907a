//! The control port: Sluice's monitor for programs. A request is one line, a command as a
//! person types it; the answer is one JSON object on a line. Events come unasked, as objects
//! with a member `event`.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::failure::{Failure, Outcome};

/// How long an answer may take: most of it is the emulator's own time.
const ANSWER: Duration = Duration::from_secs(60);

/// A connection to the control port.
pub struct Control {
    stream: UnixStream,
    lines: Receiver<Value>,
    events: VecDeque<Value>,
    /// What jobs said while something else was waited for.
    said: VecDeque<Value>,
}

/// Returns the number of the job that said this.
fn job_of(value: &Value) -> Option<u64> {
    value.get("job").filter(|_| value.get("started").is_none())?.as_u64()
}

impl Control {
    /// Connects to the port, which QEMU may be about to open.
    ///
    /// # Errors
    /// Nobody opens it.
    pub fn connect(path: &Path, patience: Duration) -> Outcome<Self> {
        let deadline = Instant::now() + patience;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
                Err(error) => {
                    return Err(Failure::new(format!("control port {}: {error}", path.display())));
                }
            }
        };
        let (sender, lines) = channel();
        let reader = BufReader::new(stream.try_clone()?);
        thread::spawn(move || {
            for line in reader.lines() {
                let Ok(line) = line else { return };
                if line.trim().is_empty() {
                    continue;
                }
                let value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if sender.send(value).is_err() {
                    return;
                }
            }
        });
        Ok(Self { stream, lines, events: VecDeque::new(), said: VecDeque::new() })
    }

    /// Gives a command and returns its answer.
    ///
    /// # Errors
    /// The answer is no object, says that the command failed, or does not come.
    pub fn ask(&mut self, command: &str) -> Outcome<Value> {
        let answer = self.ask_any(command)?;
        match answer.get("error") {
            None | Some(Value::Null) => Ok(answer),
            Some(error) => Err(Failure::new(format!("{command}: {error}"))),
        }
    }

    /// Gives a command and returns its answer, even one that says that it failed.
    ///
    /// # Errors
    /// The answer is no object, or does not come.
    pub fn ask_any(&mut self, command: &str) -> Outcome<Value> {
        self.ask_within(command, ANSWER)
    }

    /// Gives a command that may take so long and returns its answer, even one that says that it failed.
    ///
    /// # Errors
    /// The answer is no object, or does not come.
    pub fn ask_within(&mut self, command: &str, patience: Duration) -> Outcome<Value> {
        self.send(command)?;
        let deadline = Instant::now() + patience;
        loop {
            let value = self.next(deadline).map_err(|error| error.during(command))?;
            if value.get("event").is_some() {
                self.events.push_back(value);
            } else if job_of(&value).is_some() {
                self.said.push_back(value);
            } else if value.is_object() {
                return Ok(value);
            } else {
                return Err(Failure::new(format!("{command}: no JSON object: {value}")));
            }
        }
    }

    /// Gives a command whose answer nobody waits for, as the machine may end by it.
    ///
    /// # Errors
    /// The port is closed.
    pub fn send(&mut self, command: &str) -> Outcome {
        self.stream.write_all(format!("{command}\n").as_bytes())?;
        Ok(())
    }

    /// Waits for an event of this name, past or to come, and takes it.
    ///
    /// # Errors
    /// It does not come in time.
    pub fn event(&mut self, name: &str, patience: Duration) -> Outcome<Value> {
        let is_it = |value: &Value| value.get("event").and_then(Value::as_str) == Some(name);
        if let Some(index) = self.events.iter().position(is_it) {
            return self.events.remove(index).ok_or_else(|| Failure::new("event went away"));
        }
        let deadline = Instant::now() + patience;
        loop {
            let value = self.next(deadline).map_err(|error| error.during("event"))?;
            if is_it(&value) {
                return Ok(value);
            }
            self.put_by(value);
        }
    }

    /// Takes the events that have come so far.
    pub fn events(&mut self) -> Vec<Value> {
        let lines: Vec<Value> = self.lines.try_iter().collect();
        lines.into_iter().for_each(|value| self.put_by(value));
        self.events.drain(..).collect()
    }

    fn put_by(&mut self, value: Value) {
        match job_of(&value) {
            Some(_) => self.said.push_back(value),
            None => self.events.push_back(value),
        }
    }

    /// Gives a command that takes its time, and returns the number of the job that it has become.
    ///
    /// # Errors
    /// It was refused, or done at once.
    pub fn begin(&mut self, command: &str) -> Outcome<u64> {
        let answer = self.ask(command)?;
        let number = answer.get("job").and_then(Value::as_u64);
        number.ok_or_else(|| Failure::new(format!("{command}: it is no job: {answer}")))
    }

    /// Returns the next thing that a job says.
    ///
    /// # Errors
    /// It says nothing in time.
    pub fn heard(&mut self, job: u64, patience: Duration) -> Outcome<Value> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(index) = self.said.iter().position(|value| job_of(value) == Some(job))
                && let Some(value) = self.said.remove(index)
            {
                return Ok(value);
            }
            let value = self.next(deadline).map_err(|error| error.during("a job"))?;
            self.put_by(value);
        }
    }

    /// Waits for a job to end, and returns the last thing that it said, even if that it failed.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn end_of(&mut self, job: u64, patience: Duration) -> Outcome<Value> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let said = self.heard(job, left)?;
            if said.get("done").is_some() {
                return Ok(said);
            }
        }
    }

    /// Gives a command that takes its time, waits for its end, and returns the last thing that it said.
    ///
    /// # Errors
    /// It was refused, says that it failed, or does not end in time.
    pub fn do_whole(&mut self, command: &str, patience: Duration) -> Outcome<Value> {
        let job = self.begin(command)?;
        let end = self.end_of(job, patience).map_err(|error| error.during(command))?;
        match end.get("error") {
            None => Ok(end),
            Some(error) => Err(Failure::new(format!("{command}: {error}"))),
        }
    }

    fn next(&mut self, deadline: Instant) -> Outcome<Value> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.lines.recv_timeout(left).map_err(|error| match error {
            RecvTimeoutError::Timeout => Failure::new("nothing came in time on the control port"),
            RecvTimeoutError::Disconnected => Failure::new("the control port was closed"),
        })
    }
}
