//! A guest's shell: commands with their output and status.

use std::time::Duration;

use crate::ensure;
use crate::failure::{Failure, Outcome};
use crate::machine::{BOOT, COMMAND, Machine};
use crate::monitor::wait_until;

/// A guest's memory as its own /proc/meminfo has it, in KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemInfo {
    /// All that the guest manages.
    pub total: u64,
    /// What nobody uses.
    pub free: u64,
    /// What programs could have.
    pub available: u64,
}

impl Machine {
    /// Shows the console of this guest: what is typed goes there from now on.
    ///
    /// # Errors
    /// There is no such guest.
    pub fn show(&mut self, guest: &str) -> Outcome {
        for _ in 0..16 {
            self.type_text("\x1d")?;
            let said =
                self.expect(r"-- (?:console of guest (\S+)|monitor); [^\n]*--\s*\n", COMMAND)?;
            if said[1] == guest {
                return Ok(());
            }
        }
        Err(Failure::new(format!("no console of guest {guest}")))
    }

    /// Waits until Linux has booted on the console, and takes its shell over: no echo, no
    /// prompt. Gives what its first process says: version, CPUs, KiB of memory.
    ///
    /// # Errors
    /// It does not boot.
    pub fn shell(&mut self) -> Outcome<(String, u32, u64)> {
        let said = self.expect(r"guest: init: Linux (\S+), (\d+) CPUs, (\d+) kB", BOOT)?;
        self.expect(r"guest# ", COMMAND)?;
        // From here on the shell reads lines as a program would and repeats nothing, and the
        // kernel does not speak between them.
        self.type_text("dmesg -n 1; stty -echo; exec sh /dev/stdin\n")?;
        self.expect(r"exec sh /dev/stdin\s*\n", COMMAND)?;
        self.type_text("echo shell is\\ ours\n")?;
        self.expect(r"shell is ours\s*\n", COMMAND)?;
        let number = |index: usize| said[index].parse().map_err(|_| Failure::new("no number"));
        let memory = said[3].parse().map_err(|_| Failure::new("no number"))?;
        Ok((said[1].clone(), number(2)?, memory))
    }

    /// Runs a command in the shell that [`Machine::shell`] took over, and gives its output.
    ///
    /// # Errors
    /// It fails, or does not end within `patience`.
    pub fn command(&mut self, command: &str, patience: Duration) -> Outcome<String> {
        let (output, status) = self.command_with_status(command, patience)?;
        if status == 0 {
            Ok(output)
        } else {
            Err(Failure::new(format!("guest: `{command}` ended with {status}: {output}")))
        }
    }

    /// Runs a command and gives its output and status.
    ///
    /// # Errors
    /// It does not end within `patience`.
    pub fn command_with_status(
        &mut self,
        command: &str,
        patience: Duration,
    ) -> Outcome<(String, i32)> {
        self.type_text(&format!("{command}; echo \"[status $?]\"\n"))?;
        let said = self
            .expect(r"(?s)(.*)\[status (\d+)\]\s*\n", patience)
            .map_err(|error| error.during(&format!("`{command}` in the guest")))?;
        let status = said[2].parse().map_err(|_| Failure::new("no status"))?;
        Ok((said[1].replace('\r', "").trim().into(), status))
    }

    /// Runs a command as [`Machine::command`] does, and does something else until it ends.
    ///
    /// # Errors
    /// The command fails, or does not end within `patience`; or the other thing fails.
    pub fn command_while(
        &mut self,
        command: &str,
        patience: Duration,
        mut meanwhile: impl FnMut(&mut Self) -> Outcome,
    ) -> Outcome<String> {
        self.type_text(&format!("{command}; echo \"[status $?]\"\n"))?;
        let said = wait_until(&format!("`{command}` in the guest"), patience, || {
            meanwhile(self)?;
            self.console.look_for(r"(?s)(.*)\[status (\d+)\]\s*\n", Duration::from_millis(50))
        })?;
        let output = said[1].replace('\r', "").trim().to_owned();
        ensure!(&said[2] == "0", "guest: `{command}` ended with {}: {output}", said[2]);
        Ok(output)
    }

    /// Reads the guest's /proc/meminfo.
    ///
    /// # Errors
    /// It cannot be had.
    pub fn meminfo(&mut self) -> Outcome<MemInfo> {
        let said = self.command("meminfo", COMMAND)?;
        let field = |name: &str| {
            said.split_whitespace()
                .find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
                .ok_or_else(|| Failure::new(format!("no {name} in {said}")))
        };
        Ok(MemInfo {
            total: field("MemTotal")?,
            free: field("MemFree")?,
            available: field("MemAvailable")?,
        })
    }

    /// Powers the guest off from its shell.
    ///
    /// # Errors
    /// The machine has ended.
    pub fn power_off_guest(&mut self) -> Outcome {
        self.type_text("poweroff\n")
    }
}
