//! Out of the machine: semihosting, by which a program has its emulator or debugger write to a file of the host.
//!
//! Of the ways out this one loses nothing and needs no driver: a buffer that is full is written by the CPU that
//! filled it, at once, in one call that returns when the host has the bytes. No device has a queue that could be full,
//! no other CPU has to run, no interrupt has to come. (Arm, "Semihosting for AArch32 and AArch64", SYS_OPEN, SYS_WRITE,
//! SYS_GET_CMDLINE; QEMU: `-semihosting-config enable=on,target=native,arg=sluice,arg=<file>`.)
#![expect(
    unsafe_code,
    reason = "calls the semihosting host, and keeps buffers that each CPU has for itself"
)]

use super::record::{Kind, Record};
use crate::arch::cpu::{self, MAX_CPUS};
use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use spin::Mutex;

/// How many records a CPU keeps before it writes them out: 32 KiB.
const KEPT: usize = 1024;

const NOTHING: Record = Record { order: 0, kind: 0, cpu: 0, what: 0, count: 0, a: 0, b: 0 };

/// What one CPU has recorded and not written out.
struct Buffer {
    /// Its CPU is about to add a record.
    busy: AtomicBool,
    count: AtomicUsize,
    records: UnsafeCell<[Record; KEPT]>,
}

// SAFETY: the records are its CPU's while `busy`, and whoever has set ENDED waits until none is.
unsafe impl Sync for Buffer {}

static BUFFERS: [Buffer; MAX_CPUS] = [const {
    Buffer {
        busy: AtomicBool::new(false),
        count: AtomicUsize::new(0),
        records: UnsafeCell::new([NOTHING; KEPT]),
    }
}; MAX_CPUS];

static BEGUN: AtomicBool = AtomicBool::new(false);
static ENDED: AtomicBool = AtomicBool::new(false);
/// The number of the next event.
static NEXT: AtomicU64 = AtomicU64::new(0);
/// The host's handle of the file.
static FILE: Mutex<Option<usize>> = Mutex::new(None);

/// Begins to record.
pub fn begin() {
    BEGUN.store(true, Ordering::Release);
    emit(Kind::Begin, 0, 0, 0, 0);
}

/// Records an event.
pub fn emit(kind: Kind, what: u16, count: u32, a: u64, b: u64) {
    if !BEGUN.load(Ordering::Relaxed) {
        return;
    }
    let cpu = cpu::current();
    let Some(buffer) = BUFFERS.get(cpu.index()) else { return };
    // Either `end` sees that this CPU is busy and waits, or this CPU sees that recording has ended.
    buffer.busy.store(true, Ordering::SeqCst);
    if ENDED.load(Ordering::SeqCst) {
        buffer.busy.store(false, Ordering::Release);
        cpu::halt();
    }
    // Orders it with the events of other CPUs that this one knows of.
    let order = NEXT.fetch_add(1, Ordering::SeqCst);
    let kept = buffer.count.load(Ordering::Relaxed);
    // SAFETY: they are this CPU's.
    let records = unsafe { &mut *buffer.records.get() };
    if let Some(place) = records.get_mut(kept) {
        *place = Record { order, kind: kind as u8, cpu: cpu.index() as u8, what, count, a, b };
        buffer.count.store(kept + 1, Ordering::Relaxed);
    }
    if kept + 1 >= KEPT {
        write_out(records);
        buffer.count.store(0, Ordering::Relaxed);
    }
    buffer.busy.store(false, Ordering::Release);
}

/// Writes out what was recorded. A CPU that has more to record from now on stops for good, before it does what it
/// would record.
pub fn end() {
    if !BEGUN.load(Ordering::Relaxed) {
        return;
    }
    emit(Kind::End, 0, 0, 0, 0);
    if ENDED.swap(true, Ordering::SeqCst) {
        cpu::halt();
    }
    let own = cpu::current().index();
    for (index, buffer) in BUFFERS.iter().enumerate() {
        // A CPU that panicked while it recorded is busy for ever, and is this one.
        while index != own && buffer.busy.load(Ordering::SeqCst) {
            cpu::relax();
        }
        // SAFETY: its CPU adds nothing any more.
        let records = unsafe { &*buffer.records.get() };
        let kept = buffer.count.load(Ordering::Relaxed);
        if let Some(records) = records.get(..kept) {
            write_out(records);
        }
    }
}

/// Asks the host for an operation.
fn semihost(operation: usize, arguments: &[usize]) -> isize {
    let result: isize;
    // SAFETY: the host reads what the arguments name and writes what the operation says that it does.
    unsafe {
        asm!("hlt #0xf000", inout("x0") operation => result, in("x1") arguments.as_ptr(), options(nostack));
    }
    result
}

const SYS_OPEN: usize = 0x01;
const SYS_WRITE: usize = 0x05;
const SYS_GET_CMDLINE: usize = 0x15;
/// Of SYS_OPEN: as `wb` of the C library.
const WRITE_BINARY: usize = 5;

/// Opens the file that the command line for semihosting names behind the program's name.
fn open() -> Result<usize, &'static str> {
    let mut line = [0u8; 512];
    let mut answer = [line.as_mut_ptr().addr(), line.len()];
    let arguments = answer.as_mut_ptr();
    let failed: isize;
    // SAFETY: the host writes the line into the buffer, and its length into the arguments.
    unsafe {
        asm!("hlt #0xf000", inout("x0") SYS_GET_CMDLINE => failed, in("x1") arguments, options(nostack));
    }
    let line = line.split(|&byte| byte == 0).next().unwrap_or_default();
    let name = line.splitn(2, |&byte| byte == b' ').nth(1);
    let name = name.filter(|_| failed == 0).ok_or(
        "the trace has nowhere to go: -semihosting-config enable=on,target=native,arg=sluice,arg=<file>",
    )?;
    // The name ends with the zero byte that ended the line.
    let handle = semihost(SYS_OPEN, &[name.as_ptr().addr(), WRITE_BINARY, name.len()]);
    usize::try_from(handle).map_err(|_| "the host does not open the trace's file")
}

/// Has the host write `records` to the file, and returns when it has.
fn write_out(records: &[Record]) {
    if let Err(why) = try_write_out(records) {
        // A trace with a hole is worth nothing. What comes now is not to be recorded.
        BEGUN.store(false, Ordering::SeqCst);
        panic!("{why}");
    }
}

fn try_write_out(records: &[Record]) -> Result<(), &'static str> {
    let mut file = FILE.lock();
    let handle = match *file {
        Some(handle) => handle,
        None => *file.insert(open()?),
    };
    match semihost(SYS_WRITE, &[handle, records.as_ptr().addr(), size_of_val(records)]) {
        0 => Ok(()),
        _ => Err("the host did not write all of the trace"),
    }
}
