//! The whole: the machine, its memory, its guests, and what CPUs tell one another.

use crate::addr::{PAGE_SIZE, Pa};
use crate::arch::cpu::{self, CpuId, MAX_CPUS};
use crate::arch::gic::{self, Redistributor};
use crate::arch::{Features, memory, time, uart};
use crate::device::gic::intid;
use crate::guest::bundle::Bundle;
use crate::guest::seed::Seeds;
use crate::guest::{Guest, manifest};
use crate::mem::{GuestId, MAX_GUESTS, Memory};
use crate::stage2::VmidPool;
use crate::{console, control};
use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use sluice_platform::Machine;
use spin::Once;

/// All there is.
pub struct System {
    machine: Machine,
    memory: Memory,
    vmids: VmidPool,
    guests: [Once<&'static Guest>; MAX_GUESTS],
    guest_count: AtomicUsize,
    redistributors: [Once<Redistributor>; MAX_CPUS],
    cpus: AtomicUsize,
    list_registers: usize,
    /// Says that the machine is to go on when all guests are off.
    stay: bool,
    seeds: Seeds,
    all_off: AtomicBool,
}

static SYSTEM: Once<System> = Once::new();

/// Returns the system, which boot has made before any other CPU runs.
pub fn get() -> &'static System {
    SYSTEM.wait()
}

/// Returns the system, if boot has come that far.
pub fn try_get() -> Option<&'static System> {
    SYSTEM.get()
}

/// Returns the value of `key=value` in a command line.
pub fn argument<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split_ascii_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

impl System {
    /// Makes the system.
    pub fn init(machine: Machine, memory: Memory) -> &'static Self {
        let stay = argument(&machine.arguments, "when-off") == Some("stay");
        let seeds = Seeds::new(machine.seed, time::now());
        SYSTEM.call_once(|| Self {
            machine,
            memory,
            vmids: VmidPool::new(crate::arch::features().vmid_bits),
            guests: [const { Once::new() }; MAX_GUESTS],
            guest_count: AtomicUsize::new(0),
            redistributors: [const { Once::new() }; MAX_CPUS],
            cpus: AtomicUsize::new(1),
            list_registers: gic::list_registers(),
            stay,
            seeds,
            all_off: AtomicBool::new(false),
        })
    }

    /// Returns the machine.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Returns the memory manager.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Goes over the guests.
    pub fn guests(&self) -> impl Iterator<Item = &'static Guest> + Clone + '_ {
        let count = self.guest_count.load(Ordering::Acquire);
        self.guests.iter().take(count).filter_map(|guest| guest.get().copied())
    }

    /// Returns how many list registers each CPU has.
    #[inline(always)]
    pub fn list_registers(&self) -> usize {
        self.list_registers
    }

    /// Notes where this CPU's redistributor is.
    pub fn set_redistributor(&self, cpu: CpuId, redistributor: Redistributor) {
        if let Some(place) = self.redistributors.get(cpu.index()) {
            place.call_once(|| redistributor);
        }
    }

    /// Returns the redistributor of `cpu`, which is running.
    pub fn redistributor(&self, cpu: CpuId) -> Redistributor {
        *self.redistributors[cpu.index()].wait()
    }

    /// Returns how many CPUs run.
    pub fn cpus(&self) -> usize {
        self.cpus.load(Ordering::Acquire)
    }

    /// Notes that a CPU runs.
    pub fn cpu_has_come(&self) {
        self.cpus.fetch_add(1, Ordering::AcqRel);
    }

    /// Waits until `cpu` runs, for a second at most.
    pub fn wait_for_cpu(&self, cpu: CpuId) {
        let deadline = time::now() + time::frequency();
        while self.cpus() <= cpu.index() {
            if time::now() > deadline {
                log::error!("CPU {} was turned on and does not come", cpu.index());
                return;
            }
            cpu::relax();
        }
    }

    /// Has `cpu` look at what changed: this one as well, for it may be running another of its vCPUs without a slice.
    pub fn kick(&self, cpu: CpuId) {
        if let Some(cpu) = self.machine.cpus.get(cpu.index()) {
            gic::kick(cpu.affinity);
        }
    }

    /// Makes the guests of the bundle and starts those that are not held.
    pub fn make_guests(&'static self) {
        let Some(range) = self.machine.initrd.clone() else {
            log::error!("there is no bundle: give one as the initrd (QEMU: -initrd)");
            return;
        };
        let size = (range.end - range.start) as usize;
        let start = memory::pointer(Pa::new(range.start));
        #[expect(unsafe_code, reason = "the bundle is memory that the loader filled")]
        // SAFETY: boot mapped the bundle for reading, and claimed its frames.
        let bytes = unsafe { core::slice::from_raw_parts(start.as_ptr(), size) };
        let configs = match manifest::read(&Bundle::new(bytes)) {
            Ok(configs) => configs,
            Err(error) => return log::error!("{error}"),
        };
        for (index, config) in configs.into_iter().enumerate() {
            let name = config.name.clone();
            let (Some(id), Some(vmid)) = (GuestId::new(index), self.vmids.allocate()) else {
                return log::error!("guest {name}: there are too many guests");
            };
            let held = config.held;
            let random = self.seeds.are_random();
            match Guest::new(id, config, &self.memory, vmid, self.cpus(), random) {
                Ok(guest) => {
                    let guest: &'static Guest = Box::leak(guest);
                    for vcpu in 0..guest.vcpus.len() {
                        for timer in [intid::VIRTUAL_TIMER, intid::PHYSICAL_TIMER] {
                            guest.gic.back_ppi(vcpu, timer, Some(timer));
                        }
                    }
                    guest.name_registers();
                    self.guests[index].call_once(|| guest);
                    self.guest_count.fetch_add(1, Ordering::AcqRel);
                    if index == 0 {
                        console::show_guest(guest);
                    }
                    if !held && let Err(error) = guest.start(self, &self.seeds.draw()) {
                        log::error!("guest {name}: {error}");
                    }
                }
                Err(error) => log::error!("guest {name}: {}", error.0),
            }
        }
    }

    /// Returns what gives out random numbers to guests.
    pub fn seeds(&self) -> &Seeds {
        &self.seeds
    }

    /// Notes that a guest went off. When none is on, the machine ends, unless it is to stay.
    pub fn guest_is_off(&self) {
        if self.guests().all(|guest| !guest.is_on()) && !self.stay {
            self.request_power_off();
        }
    }

    /// Does a bounded piece of what `cpu` can do while no vCPU has need of it. Says whether there is more.
    pub fn background(&'static self, cpu: CpuId) -> bool {
        let _ = cpu;
        self.memory.idle_step()
    }

    /// Ends the machine, if that was asked for.
    pub fn end_if_asked(&self) {
        if self.all_off.load(Ordering::Acquire) && cpu::current() == CpuId::FIRST {
            control::event("end", "status", "0");
            self.power_off();
        }
    }

    /// Ends the machine.
    pub fn power_off(&self) -> ! {
        cpu::power_off(match self.machine.conduit {
            sluice_platform::Conduit::Smc => cpu::Conduit::Smc,
            sluice_platform::Conduit::Hvc => cpu::Conduit::Hvc,
        })
    }

    /// Has the machine end as soon as the first CPU comes to it.
    pub fn request_power_off(&self) {
        self.all_off.store(true, Ordering::Release);
        self.kick(CpuId::FIRST);
    }

    /// Handles a device's interrupt: the console's and the control port's, both on the first CPU.
    pub fn device_interrupt(&'static self, intid: u32) {
        if intid == self.machine.uart.interrupt {
            console::interrupt(self);
        } else if control::is_interrupt(intid) {
            control::interrupt(self);
        } else {
            log::debug!("interrupt {intid} is nobody's");
        }
    }

    /// Returns how many frames the guests' bundle takes.
    pub fn bundle_frames(&self) -> u64 {
        self.machine
            .initrd
            .as_ref()
            .map_or(0, |range| (range.end - range.start).div_ceil(PAGE_SIZE))
    }

    /// Takes the console and the control port over, on this CPU.
    pub fn open_ports(&'static self) {
        gic::enable_shared(self.machine.uart.interrupt, cpu::affinity());
        uart::set_receive_interrupt(true);
        let port = control::init(&self.machine);
        // The device may have raised its interrupt before it was enabled; as an edge, that is lost.
        control::interrupt(self);
        log::info!("control port: {}", if port { "virtio-console" } else { "none" });
    }
}

/// Says what was found.
pub fn log_machine(system: &System, features: &Features) {
    let machine = system.machine();
    let bytes: u64 = machine.memory.iter().map(|range| range.end - range.start).sum();
    log::info!("Sluice {} on {}", env!("CARGO_PKG_VERSION"), machine.model);
    log::info!(
        "{} CPUs, {} MiB of memory, GICv3 with {} list registers",
        machine.cpus.len(),
        bytes >> 20,
        system.list_registers()
    );
    log::info!("CPU: {features}");
}
