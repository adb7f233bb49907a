//! The second port: the monitor for programs. A line in is a command, a line out is one JSON object; what happens
//! unasked comes as an object with the member "event".
//!
//! It is a virtio-console on one of the machine's virtio-mmio slots.
#![expect(unsafe_code, reason = "shares memory with the device")]

use crate::addr::Pa;
use crate::arch::gic;
use crate::monitor::{self, job::Port as CommandPort, report::Format, report::JsonString};
use crate::system::System;
use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use core::fmt::{self, Write};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use sluice_platform::Machine;
use spin::Mutex;
use virtio_drivers::device::console::VirtIOConsole;
use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};
use virtio_drivers::transport::{DeviceType, Transport};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

/// The longest command in bytes.
const MAX_LINE: usize = 200;

/// Memory for the device: the heap's, which EL2 reaches at its physical address.
struct DeviceMemory;

fn layout(pages: usize) -> Layout {
    Layout::from_size_align(pages * PAGE_SIZE, PAGE_SIZE).expect("a driver asks for a few pages")
}

// SAFETY: the heap gives zeroed, aligned memory that nobody else has, at its physical address; no IOMMU is between.
unsafe impl Hal for DeviceMemory {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        // SAFETY: the layout is not empty.
        let memory = NonNull::new(unsafe { alloc_zeroed(layout(pages)) });
        let memory = memory.expect("boot has the heap for the control port's queues");
        (memory.as_ptr().expose_provenance() as PhysAddr, memory)
    }

    unsafe fn dma_dealloc(_pa: PhysAddr, memory: NonNull<u8>, pages: usize) -> i32 {
        // SAFETY: the caller's promise: it is from `dma_alloc`.
        unsafe { dealloc(memory.as_ptr(), layout(pages)) };
        0
    }

    unsafe fn mmio_phys_to_virt(pa: PhysAddr, _size: usize) -> NonNull<u8> {
        crate::arch::memory::pointer(Pa::new(pa))
    }

    unsafe fn share(buffer: NonNull<[u8]>, _direction: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr().expose_provenance() as PhysAddr
    }

    unsafe fn unshare(_pa: PhysAddr, _buffer: NonNull<[u8]>, _direction: BufferDirection) {}
}

/// The port and the line that is coming in.
struct Port {
    console: VirtIOConsole<DeviceMemory, MmioTransport<'static>>,
    line: heapless::Vec<u8, MAX_LINE>,
    too_long: bool,
}

static PORT: Mutex<Option<Port>> = Mutex::new(None);
static INTERRUPT: AtomicU32 = AtomicU32::new(u32::MAX);

/// Finds the port and takes it over, on the CPU that is to serve it. Says whether there is one.
pub fn init(machine: &Machine) -> bool {
    for slot in &machine.virtio {
        let Some(header) = NonNull::new(core::ptr::with_exposed_provenance_mut::<VirtIOHeader>(
            slot.registers.start as usize,
        )) else {
            continue;
        };
        let size = (slot.registers.end - slot.registers.start) as usize;
        // SAFETY: the device tree says that there is a virtio-mmio slot; boot mapped it, and nobody else drives it.
        let Ok(transport) = (unsafe { MmioTransport::new(header, size) }) else { continue };
        if transport.device_type() != DeviceType::Console {
            // Not ours: left as it is, not reset.
            core::mem::forget(transport);
            continue;
        }
        return match VirtIOConsole::new(transport) {
            Ok(console) => {
                let line = heapless::Vec::new();
                *PORT.lock() = Some(Port { console, line, too_long: false });
                INTERRUPT.store(slot.interrupt, Ordering::Release);
                // The line is high until the cause is acknowledged (virtio 1.2, section 4.2.2, InterruptStatus),
                // whatever the device tree says of its trigger: taken for an edge, what comes while it is high
                // from something before would make none.
                gic::enable_shared(slot.interrupt);
                true
            }
            Err(error) => {
                log::error!("the control port's virtio-console does not start: {error}");
                false
            }
        };
    }
    false
}

/// Says whether `intid` is the port's.
pub fn is_interrupt(intid: u32) -> bool {
    INTERRUPT.load(Ordering::Relaxed) == intid
}

/// Writes to the port, whose lock the caller holds.
struct Output<'a>(&'a mut Port);

impl Write for Output<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.as_bytes().chunks(PAGE_SIZE) {
            self.0.console.send_bytes(part).map_err(|_| fmt::Error)?;
        }
        Ok(())
    }
}

/// Takes a line that is complete, if one has come.
fn next_line() -> Option<Result<heapless::Vec<u8, MAX_LINE>, ()>> {
    let mut port = PORT.lock();
    let port = port.as_mut()?;
    // What the device says of it does not matter: what has come is looked for.
    let _ = port.console.ack_interrupt();
    while let Ok(Some(byte)) = port.console.recv(true) {
        if matches!(byte, b'\n' | b'\r') {
            let line = core::mem::take(&mut port.line);
            let too_long = core::mem::take(&mut port.too_long);
            if too_long {
                return Some(Err(()));
            }
            if !line.is_empty() {
                return Some(Ok(line));
            }
        } else if port.line.push(byte).is_err() {
            port.too_long = true;
        }
    }
    None
}

/// Handles the port's interrupt: runs the commands that have come.
pub fn interrupt(system: &'static System) {
    while let Some(line) = next_line() {
        answer(|out| match &line {
            Ok(line) => match core::str::from_utf8(line) {
                Ok(line) => {
                    let line = line.trim_end_matches("--json");
                    monitor::execute(system, line, CommandPort::Control, Format::Json, out);
                }
                Err(_) => say(out, "{\"error\":\"the command is not text in UTF-8\"}\n"),
            },
            Err(()) => say(out, "{\"error\":\"the command is longer than 200 bytes\"}\n"),
        });
    }
}

fn say(out: &mut dyn Write, text: &str) {
    // Writing to it does not fail.
    let _ = out.write_str(text);
}

/// Has `speak` write whole lines to the port; events wait meanwhile. On the first CPU, and not from within itself: what
/// is written there is what `cancel` has a job say, which comes before the answer.
pub fn answer<R>(speak: impl FnOnce(&mut dyn Write) -> R) -> R {
    let nested = ANSWERING.swap(true, Ordering::SeqCst);
    let mut answer = Answer::default();
    let spoken = speak(&mut answer);
    drop(answer);
    ANSWERING.store(nested, Ordering::SeqCst);
    if !nested {
        tell_pending();
    }
    spoken
}

/// Writes pieces to the port, taking its lock for each: a command may itself cause an event.
#[derive(Default)]
struct Answer {
    bytes: heapless::Vec<u8, 1024>,
}

impl Answer {
    fn flush(&mut self) {
        if let Some(port) = PORT.lock().as_mut()
            && let Ok(text) = core::str::from_utf8(&self.bytes)
        {
            // A program that does not listen misses what is said.
            let _ = Output(port).write_str(text);
        }
        self.bytes.clear();
    }
}

impl Write for Answer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            let mut bytes = [0; 4];
            let bytes = character.encode_utf8(&mut bytes).as_bytes();
            if self.bytes.len() + bytes.len() > self.bytes.capacity() {
                self.flush();
            }
            // There is room after the flush.
            let _ = self.bytes.extend_from_slice(bytes);
        }
        Ok(())
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.flush();
    }
}

/// An answer is being written, in pieces: events wait.
static ANSWERING: AtomicBool = AtomicBool::new(false);
/// Events that are still to be told.
static PENDING: Mutex<heapless::String<1024>> = Mutex::new(heapless::String::new());

/// Tells of something that happened: `{"event":<event>,<name>:<value>}`, between answers.
pub fn event(event: &str, name: &str, value: &str) {
    if PORT.lock().is_none() {
        return;
    }
    if let Some(line) = event_line(event, name, value) {
        // What there is no room for is not told.
        let _ = PENDING.lock().push_str(&line);
    }
    // Who ends an answer looks for events after it has said so; who adds one looks for an answer after that: one of
    // them tells it.
    if !ANSWERING.load(Ordering::SeqCst) {
        tell_pending();
    }
}

fn tell_pending() {
    let events = core::mem::take(&mut *PENDING.lock());
    if !events.is_empty()
        && let Some(port) = PORT.lock().as_mut()
    {
        // A program that does not listen misses what is said.
        let _ = Output(port).write_str(&events);
    }
}

/// Tells of something as [`event`] does, if nobody holds the port: for a panic.
pub fn event_in_panic(event: &str, name: &str, value: &str) {
    if let Some(mut port) = PORT.try_lock()
        && let Some(port) = port.as_mut()
        && let Some(line) = event_line(event, name, value)
    {
        // A program that does not listen misses what is said.
        let _ = Output(port).write_str(&line);
    }
}

/// Makes the line of an event; `None` where it is too long to be told.
fn event_line(event: &str, name: &str, value: &str) -> Option<heapless::String<512>> {
    let mut line = heapless::String::new();
    let (event, name, value) = (JsonString(event), JsonString(name), JsonString(value));
    writeln!(line, "{{\"event\":{event},{name}:{value}}}").ok()?;
    Some(line)
}
