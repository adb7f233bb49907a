//! The end: says where and why, with the registers and the last events, stops the other CPUs, and ends the machine.
//!
//! The console's last line is `sluice: exit status 1`, and the control port gets an event "panic": by them a
//! program that runs the machine knows.

use crate::addr::Pa;
use crate::arch::entry::OwnRegisters;
use crate::arch::{cpu, gic, time, uart};
use crate::{control, logger, system};
use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

static PANICKED: AtomicBool = AtomicBool::new(false);
static STOPPED: AtomicUsize = AtomicUsize::new(0);

/// Stops this CPU for good if another one has panicked.
#[inline(always)]
pub fn stop_if_panicked() {
    if PANICKED.load(Ordering::Relaxed) {
        STOPPED.fetch_add(1, Ordering::Relaxed);
        cpu::halt();
    }
}

/// Writes to the UART, whoever holds it.
struct LastWords;

impl Write for LastWords {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        uart::put_in_panic(text.as_bytes());
        Ok(())
    }
}

fn say(text: fmt::Arguments<'_>) {
    // Writing to the UART does not fail.
    let _ = LastWords.write_fmt(text);
}

/// Has the other CPUs stop, and waits a while until they have.
fn stop_others() {
    let Some(system) = system::try_get() else { return };
    let own = cpu::affinity();
    for other in system.machine().cpus.iter().filter(|other| other.affinity != own) {
        gic::kick(other.affinity);
    }
    let deadline = time::now() + time::frequency() / 10;
    while STOPPED.load(Ordering::Relaxed) + 1 < system.cpus() && time::now() < deadline {
        cpu::relax();
    }
}

fn end(message: fmt::Arguments<'_>, registers: Option<&OwnRegisters>) -> ! {
    if PANICKED.swap(true, Ordering::AcqRel) {
        // Of two that panic the first one speaks; one that panics while it speaks is silent.
        cpu::halt();
    }
    stop_others();
    say(format_args!("\r\n\r\nsluice: panic on CPU {}: {message}\r\n", cpu::current().index()));
    if let Some(registers) = registers {
        show(registers);
    }
    say(format_args!("the last events:\r\n"));
    logger::last_in_panic(16, |line| {
        say(format_args!(
            "  {:>10} us CPU {} {:5} {}\r\n",
            line.microseconds, line.cpu, line.level, line.text
        ));
    });
    let mut text = heapless::String::<300>::new();
    // What is too long is cut.
    let _ = text.write_fmt(message);
    control::event_in_panic("panic", "message", &text);
    say(format_args!("sluice: exit status 1\r\n"));
    match system::try_get() {
        Some(system) => system.power_off(),
        None => cpu::power_off(Some(cpu::Conduit::Smc)),
    }
}

fn show(registers: &OwnRegisters) {
    for (index, value) in registers.x.iter().enumerate() {
        let end = if index % 4 == 3 { "\r\n" } else { "" };
        say(format_args!("x{index:<2} {value:#018x}  {end}"));
    }
    say(format_args!(
        "\r\nsp  {:#018x}  pc  {:#018x}  pstate {:#x}\r\nesr {:#x}  far {:#x}\r\n",
        registers.sp, registers.pc, registers.pstate, registers.syndrome, registers.fault_address
    ));
    say(format_args!(
        "the image is at {}; the program counter is {:#x} in it\r\n",
        Pa::new(crate::arch::boot::image().start as u64),
        registers.pc.wrapping_sub(crate::arch::boot::image().start as u64)
    ));
}

/// An exception at EL2, which has none but by a mistake of its own, or of the hardware.
pub fn own_fault(kind: u64, registers: &OwnRegisters) -> ! {
    let what = match (kind, registers.syndrome >> 26) {
        (3, _) => "SError",
        (1 | 2, _) => "interrupt taken at EL2",
        (_, 0x25) => "data abort",
        (_, 0x21) => "instruction abort",
        (_, 0x22 | 0x26) => "misaligned pc or sp",
        _ => "exception",
    };
    end(
        format_args!("{what} at {:#x}, address {:#x}", registers.pc, registers.fault_address),
        Some(registers),
    )
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    match info.location() {
        Some(place) => end(format_args!("{} ({place})", info.message()), None),
        None => end(format_args!("{}", info.message()), None),
    }
}
