//! From the loader's jump to the first guest.
//!
//! Until stage 1 is on, no lock is taken (exclusive accesses need cacheable memory) and nothing is
//! allocated; what goes wrong then is told straight to the UART that the device tree names.
#![expect(
    unsafe_code,
    reason = "takes over the device tree, the memory and the devices that it names"
)]

mod memory;

use crate::addr::{PAGE_SIZE, Pa, PaRange};
use crate::arch::boot::Entry;
use crate::arch::cpu::{self, CpuId};
use crate::arch::stage1::{self, Builder};
use crate::arch::{self, context, gic, time, uart};
use crate::system::{self, System};
use crate::{heap, logger, sched};
use core::fmt::Write;
use memory::Plan;
use sluice_platform::{Cpu, Machine, Start, Uart};

const DEVICE_TREE_MAGIC: u32 = 0xd00d_feed;
/// The largest device tree: what the boot protocol allows.
const DEVICE_TREE_MAX: usize = 2 << 20;

/// Writes to a UART that nothing has been set up for.
struct EarlyUart<'a>(&'a Uart);

impl Write for EarlyUart<'_> {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        // SAFETY: the device tree says that there is such a UART.
        unsafe { uart::put_early(self.0, text.as_bytes()) };
        Ok(())
    }
}

/// Returns the device tree at `address`, if there is one.
fn device_tree(address: u64) -> Option<&'static [u8]> {
    let start = core::ptr::with_exposed_provenance::<u8>(address as usize);
    if address == 0 || !address.is_multiple_of(8) {
        return None;
    }
    // SAFETY: the boot protocol has x0 point to a device tree; its header is 40 bytes.
    let header = unsafe { core::slice::from_raw_parts(start, 40) };
    let word = |index: usize| {
        let bytes = header.get(index * 4..index * 4 + 4)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    };
    let size = word(1)? as usize;
    if word(0)? != DEVICE_TREE_MAGIC || !(40..=DEVICE_TREE_MAX).contains(&size) {
        return None;
    }
    // SAFETY: the header says that it is that long.
    Some(unsafe { core::slice::from_raw_parts(start, size) })
}

fn conduit(conduit: sluice_platform::Conduit) -> cpu::Conduit {
    match conduit {
        sluice_platform::Conduit::Smc => cpu::Conduit::Smc,
        sluice_platform::Conduit::Hvc => cpu::Conduit::Hvc,
    }
}

/// Returns how `cpu` is started; `None` where nobody says.
fn way(machine: &Machine, cpu: &Cpu) -> Option<cpu::Way> {
    match cpu.start {
        Start::Psci => machine.conduit.map(conduit).map(cpu::Way::Psci),
        Start::SpinTable(release) => Some(cpu::Way::SpinTable(release)),
    }
}

/// Says why Sluice cannot run here, by whatever means there is, and ends the machine.
fn refuse(blob: Option<&[u8]>, level: u8, why: &dyn core::fmt::Display) -> ! {
    let (console, way) = blob.map_or((None, None), Machine::last_resort);
    if let Some(console) = console {
        let mut console = EarlyUart(&console);
        // Nothing is left to do where even that fails.
        let _ = write!(console, "sluice: {why}\r\n");
    }
    let way = way.map_or(if level == 2 { cpu::Conduit::Smc } else { cpu::Conduit::Hvc }, conduit);
    cpu::power_off(Some(way))
}

/// The first CPU, with stage 1 off, on its own stack.
pub fn primary(entry: Entry) -> ! {
    let level = entry.exception_level;
    let Some(blob) = device_tree(entry.device_tree) else {
        refuse(None, level, &"x0 does not point to a device tree")
    };
    if level != 2 {
        let why = "this is EL1; Sluice needs EL2 (QEMU: -machine virt,virtualization=on)";
        let above = "this is EL3; Sluice needs a loader that enters it at EL2";
        refuse(Some(blob), level, if level == 3 { &above } else { &why });
    }
    let mut machine = match Machine::from_device_tree(blob) {
        Ok(machine) => machine,
        Err(error) => refuse(Some(blob), level, &error),
    };
    machine.put_first(cpu::affinity());
    let tree = bytes(entry.device_tree, blob.len() as u64);
    let plan = match Plan::make(&machine, &tree) {
        Ok(plan) => plan,
        Err(error) => refuse(Some(blob), level, &error),
    };
    map(&machine, &plan, &tree);
    // SAFETY: the device tree says so, and nobody else drives it.
    unsafe { uart::init(&machine.uart) };
    heap::init();
    logger::init(system::argument(&machine.arguments, "loglevel"));
    let features = match arch::detect_features(&machine.gic) {
        Ok(features) => features,
        Err(missing) => {
            let mut console = EarlyUart(&machine.uart);
            // Nothing is left to do where even that fails.
            let _ = write!(console, "sluice: this CPU lacks {missing}\r\n");
            cpu::power_off(machine.conduit.map(conduit))
        }
    };
    // SAFETY: the device tree says that it is there, it is mapped, and nobody else drives it.
    unsafe { gic::init_distributor(&machine.gic) };
    let system = System::init(machine, plan.frames());
    keep_zeroed(system);
    system::log_machine(system, features);
    start_cpus(system);
    init_cpu(system);
    system.open_ports();
    system.make_guests();
    system.answer();
    sched::run(system)
}

/// Has as much memory kept zeroed as the command line says by `zeroed=<size>`.
fn keep_zeroed(system: &System) {
    let Some(text) = system::argument(&system.machine().arguments, "zeroed") else { return };
    match crate::monitor::parse::size(text) {
        Some(bytes) => system.memory().set_clean_watermark(bytes / PAGE_SIZE),
        None => log::error!("zeroed={text}: this is no size; write it as 512M or 4G"),
    }
}

/// Returns the whole pages around `size` bytes at `start`.
fn bytes(start: u64, size: u64) -> PaRange {
    let first = Pa::new(start).align_down(PAGE_SIZE);
    let end = Pa::new(start.saturating_add(size));
    first..end.align_up(PAGE_SIZE).unwrap_or(end.align_down(PAGE_SIZE))
}

fn map(machine: &Machine, plan: &Plan, tree: &PaRange) {
    let mut builder = Builder::new();
    builder.data(plan.taken.clone());
    builder.read_only(tree.clone());
    if let Some(bundle) = plan.bundle.clone() {
        builder.read_only(bundle);
    }
    let device = |range: &core::ops::Range<u64>| bytes(range.start, range.end - range.start);
    builder.device(device(&machine.uart.registers));
    gic::registers(&machine.gic, |range| builder.device(range));
    // Several may share a page.
    let mut last = None;
    for cpu in &machine.cpus {
        if let Start::SpinTable(release) = cpu.start {
            let page = bytes(release, 8);
            if last.replace(page.start) != Some(page.start) {
                builder.device(page);
            }
        }
    }
    for slot in &machine.virtio {
        builder.device(device(&slot.registers));
    }
    // SAFETY: the image, the memory that the plan took, the device tree, the bundle and the devices are mapped.
    unsafe { builder.activate() };
    stage1::set_spare(plan.tables.clone());
    // SAFETY: the plan took it for this.
    unsafe {
        let size = plan.tables.end.as_u64() - plan.tables.start.as_u64();
        arch::memory::zero(arch::memory::pointer(plan.tables.start), size as usize);
    }
    stage1::cover(&plan.memory);
}

/// Sets up what each CPU has for itself.
fn init_cpu(system: &'static System) {
    context::init_traps();
    let machine = system.machine();
    let timer = machine.timer;
    let ppis = [gic::KICK, gic::MAINTENANCE, timer.virtual_, timer.physical, timer.hypervisor];
    match gic::init_cpu(&machine.gic, &ppis) {
        Ok(private) => system.set_private_interrupts(cpu::current(), private),
        Err(gic::NoInterface) => {
            panic!("the GIC has nothing for CPU {}", cpu::current().index())
        }
    }
    time::disarm();
}

/// Turns the other CPUs on and waits until each has come.
fn start_cpus(system: &'static System) {
    let machine = system.machine();
    for (index, other) in machine.cpus.iter().enumerate().skip(1) {
        let Some(id) = CpuId::new(index) else { break };
        let Some(way) = way(machine, other) else { continue };
        match cpu::start(id, other.affinity, way) {
            Ok(()) if system.wait_for_cpu(id) => {}
            // It may yet come, and would take what the next is to find.
            Ok(()) if matches!(way, cpu::Way::SpinTable(_)) => break,
            Ok(()) => {}
            Err(error) => log::error!("CPU {index} was not turned on: PSCI says {error}"),
        }
    }
}

/// Another CPU, with stage 1 on, on its own stack.
pub fn secondary(_cpu: CpuId) -> ! {
    let system = system::get();
    init_cpu(system);
    system.cpu_has_come();
    sched::run(system)
}
