//! The whole: the machine, its memory, its guests, and what CPUs tell one another.

use crate::addr::{Ipa, PAGE_SIZE, Pa};
use crate::arch::cpu::{self, CpuId, MAX_CPUS};
use crate::arch::gic::{self, Private};
use crate::arch::{Features, memory, time, uart};
use crate::device::gic::Version;
use crate::guest::bundle::Bundle;
use crate::guest::commitment::{self, Commitment, Exceeds};
use crate::guest::manifest::{self, GuestConfig, MAX_GUESTS};
use crate::guest::seed::Seeds;
use crate::guest::{self, Guest, Interrupts, MakeError, layout};
use crate::mem::{GuestId, Memory};
use crate::sched::choice::homes;
use crate::stage2::{Devices, Vmid, VmidPool};
use crate::{console, control};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use sluice_platform::Machine;
use spin::{Mutex, Once};

/// All there is.
pub struct System {
    machine: Machine,
    memory: Memory,
    vmids: VmidPool,
    /// The guests that there are, each at the place of its number.
    guests: [Mutex<Option<Arc<Guest>>>; MAX_GUESTS],
    /// Which numbers of guests are in use, a bit each: until all that was made for a guest is given back.
    numbers: AtomicU32,
    /// How often guests have come or gone.
    edition: AtomicU64,
    /// A guest starts or ends, perhaps.
    life: AtomicBool,
    private_interrupts: [Once<Private>; MAX_CPUS],
    /// What guests get of the GIC.
    interrupts: Interrupts,
    cpus: AtomicUsize,
    list_registers: usize,
    /// Says that the machine is to go on when all guests are off.
    stay: bool,
    seeds: Seeds,
    all_off: AtomicBool,
}

/// A guest's number and the tag of its TLB entries, which are nobody else's until this is dropped.
pub struct Identity {
    system: &'static System,
    id: GuestId,
    vmid: Vmid,
}

impl Identity {
    /// Returns one that is free.
    fn new(system: &'static System) -> Option<Self> {
        let vmid = system.vmids.allocate()?;
        for index in 0..MAX_GUESTS {
            let taken = system.numbers.fetch_or(1 << index, Ordering::AcqRel) >> index & 1 != 0;
            if !taken && let Some(id) = GuestId::new(index) {
                return Some(Self { system, id, vmid });
            }
        }
        system.vmids.release(vmid);
        None
    }

    /// Returns the number.
    pub const fn id(&self) -> GuestId {
        self.id
    }

    /// Returns the tag.
    pub const fn vmid(&self) -> Vmid {
        self.vmid
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        self.system.vmids.release(self.vmid);
        self.system.numbers.fetch_and(!(1 << self.id.index()), Ordering::AcqRel);
    }
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
        let interrupts = interrupts(&machine, &memory);
        SYSTEM.call_once(|| Self {
            machine,
            memory,
            vmids: VmidPool::new(crate::arch::features().vmid_bits),
            guests: [const { Mutex::new(None) }; MAX_GUESTS],
            numbers: AtomicU32::new(0),
            edition: AtomicU64::new(1),
            life: AtomicBool::new(false),
            private_interrupts: [const { Once::new() }; MAX_CPUS],
            cpus: AtomicUsize::new(1),
            interrupts,
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
    pub fn guests(&self) -> impl Iterator<Item = Arc<Guest>> + '_ {
        self.guests.iter().filter_map(|place| place.lock().clone())
    }

    /// Returns the guest of this number.
    pub fn guest(&self, number: usize) -> Option<Arc<Guest>> {
        self.guests.get(number)?.lock().clone()
    }

    /// Says whether something of a guest of this number is there, which may not be among the guests yet, or any more.
    pub fn is_number_taken(&self, guest: GuestId) -> bool {
        self.numbers.load(Ordering::Acquire) >> guest.index() & 1 != 0
    }

    /// Returns how many list registers each CPU has.
    #[inline(always)]
    pub fn list_registers(&self) -> usize {
        self.list_registers
    }

    /// Notes where this CPU's private interrupts are.
    pub fn set_private_interrupts(&self, cpu: CpuId, private: Private) {
        if let Some(place) = self.private_interrupts.get(cpu.index()) {
            place.call_once(|| private);
        }
    }

    /// Returns the private interrupts of `cpu`, which is running.
    pub fn private_interrupts(&self, cpu: CpuId) -> Private {
        *self.private_interrupts[cpu.index()].wait()
    }

    /// Returns how many CPUs run.
    pub fn cpus(&self) -> usize {
        self.cpus.load(Ordering::Acquire)
    }

    /// Notes that a CPU runs.
    pub fn cpu_has_come(&self) {
        self.cpus.fetch_add(1, Ordering::AcqRel);
    }

    /// Waits until `cpu` runs, for a second at most. Says whether it does.
    pub fn wait_for_cpu(&self, cpu: CpuId) -> bool {
        let deadline = time::now() + time::frequency();
        while self.cpus() <= cpu.index() {
            if time::now() > deadline {
                log::error!("CPU {} was turned on and does not come", cpu.index());
                return false;
            }
            cpu::relax();
        }
        true
    }

    /// Has `cpu` look at what changed: this one as well, for it may be running another of its vCPUs without a slice.
    pub fn kick(&self, cpu: CpuId) {
        if let Some(cpu) = self.machine.cpus.get(cpu.index()) {
            gic::kick(cpu.affinity);
        }
    }

    /// Returns a number that differs after guests have come or gone.
    #[inline]
    pub fn edition(&self) -> u64 {
        self.edition.load(Ordering::Acquire)
    }

    fn guests_have_changed(&self) {
        self.edition.fetch_add(1, Ordering::AcqRel);
        for cpu in (0..self.cpus()).filter_map(CpuId::new) {
            self.kick(cpu);
        }
    }

    /// Returns the guests' bundle.
    fn bundle(&self) -> Option<Bundle<'static>> {
        let range = self.machine.initrd.clone()?;
        let size = (range.end - range.start) as usize;
        let start = memory::pointer(Pa::new(range.start));
        #[expect(unsafe_code, reason = "the bundle is memory that the loader filled")]
        // SAFETY: boot mapped the bundle for reading, for good, and claimed its frames.
        let bytes = unsafe { core::slice::from_raw_parts(start.as_ptr(), size) };
        Some(Bundle::new(bytes))
    }

    /// Makes the guests of the bundle and starts those that are not held.
    pub fn make_guests(&'static self) {
        let Some(bundle) = self.bundle() else {
            log::error!("there is no bundle: give one as the initrd (QEMU: -initrd)");
            return;
        };
        let configs = match manifest::read(&bundle) {
            Ok(configs) => configs,
            Err(error) => return log::error!("{error}"),
        };
        for (index, config) in configs.into_iter().enumerate() {
            let (name, held) = (config.name.clone(), config.held);
            match self.make(config) {
                Ok(guest) => {
                    if index == 0 {
                        console::show_guest(&guest);
                    }
                    if !held && let Err(error) = guest.start(self) {
                        log::error!("guest {name}: {error}");
                    }
                }
                Err(error) => log::error!("guest {name}: {}", error.0),
            }
        }
    }

    /// Makes the guest of the bundle's manifest that is called `name` there, to be called `alias`; it is off.
    ///
    /// # Errors
    ///
    /// [`MakeError`] says why there is no such guest, and there is nothing left of it.
    pub fn create(&'static self, name: &str, alias: &str) -> Result<Arc<Guest>, MakeError> {
        let bundle = self.bundle().ok_or_else(|| MakeError("there is no bundle".into()))?;
        let configs = manifest::read(&bundle).map_err(|error| MakeError(format!("{error}")))?;
        let config = configs.into_iter().find(|config| config.name == name);
        let config =
            config.ok_or_else(|| MakeError(format!("the bundle has no guest '{name}'")))?;
        if !manifest::is_name(alias) {
            return Err(MakeError(format!("'{alias}' is no name: {}", manifest::NAME_FORM)));
        }
        self.make(GuestConfig { name: alias.into(), ..config })
    }

    fn make(&'static self, config: GuestConfig<'static>) -> Result<Arc<Guest>, MakeError> {
        if self.guests().any(|guest| guest.name() == config.name) {
            return Err(MakeError("there is one of that name".into()));
        }
        let mut loads = [0; MAX_CPUS];
        for guest in self.guests() {
            for vcpu in &guest.vcpus {
                loads[vcpu.home.index()] += 1;
            }
        }
        let cpus = self.cpus();
        if let Some(cpu) = config.cpus.iter().find(|&&cpu| cpu >= cpus) {
            let last = cpus.saturating_sub(1);
            return Err(MakeError(format!("cpus: there is no CPU {cpu}; there are 0 to {last}")));
        }
        let allowed = |cpu: CpuId| {
            let pinned = config.cpus.is_empty() || config.cpus.contains(&cpu.index());
            pinned && cpu.index() < cpus
        };
        let homes: Vec<CpuId> = homes(&mut loads, allowed, config.vcpus).collect();
        let identity = Identity::new(self)
            .ok_or_else(|| MakeError(format!("there are {MAX_GUESTS} guests, the most")))?;
        let number = identity.id().index();
        let random = self.seeds.are_random();
        let guest = Guest::new(identity, config, &self.memory, &homes, &self.interrupts, random)?;
        if let Some(place) = self.guests.get(number) {
            *place.lock() = Some(Arc::clone(&guest));
        }
        self.guests_have_changed();
        Ok(guest)
    }

    /// Forgets a guest that is off and has no memory. What it was made of goes when nobody looks at it any more: each
    /// CPU looks away as soon as it sees that guests have changed.
    pub fn remove(&self, guest: &Guest) {
        if let Some(place) = self.guests.get(guest.id.index()) {
            let gone = place.lock().take();
            self.guests_have_changed();
            // Perhaps the last to do so, and not under the lock.
            drop(gone);
        }
    }

    /// Has the steps of guests that start or end be done.
    pub fn life_goes_on(&self) {
        self.life.store(true, Ordering::Release);
        self.kick(CpuId::FIRST);
    }

    /// Says whether guests may be starting or ending.
    #[inline]
    pub fn is_life_going_on(&self) -> bool {
        self.life.load(Ordering::Relaxed)
    }

    /// Does a bounded step for each guest that starts or ends, see [`Guest::live`]. Says whether there was any to do.
    pub fn live(&'static self, look: &mut dyn FnMut()) -> bool {
        if !self.is_life_going_on() {
            return false;
        }
        let mut done = false;
        for guest in self.guests() {
            done |= guest.live(self, look);
        }
        let is_left = |guest: Arc<Guest>| {
            let busy = matches!(guest.state(), guest::State::Loading | guest::State::Ending);
            busy || guest.state() == guest::State::Off && guest.stop().is_some()
        };
        // It stays said while anything is left: the first CPU, which may run a guest that never comes out, arms its
        // timer by it. Who changes a guest says so after that, and this looks once more.
        if !self.guests().any(is_left) {
            self.life.store(false, Ordering::SeqCst);
            if self.guests().any(is_left) {
                self.life_goes_on();
            }
        }
        done
    }

    /// Returns what guests were promised, and what there is.
    pub fn commitment(&self) -> Commitment {
        let promised = self.guests().map(|guest| guest.entitlement()).sum();
        Commitment { available: commitment::available(&self.memory.counts()), promised }
    }

    /// Says whether `guest` may be entitled to `bytes` in all.
    ///
    /// # Errors
    ///
    /// [`Exceeds`]: there is less, and its manifest does not allow it.
    pub fn admits(&self, guest: &Guest, bytes: u64) -> Result<(), Exceeds> {
        if guest.config.overcommit {
            return Ok(());
        }
        self.commitment().admit(guest.entitlement(), bytes)
    }

    /// Returns what gives out random numbers to guests.
    pub fn seeds(&self) -> &Seeds {
        &self.seeds
    }

    /// Notes that a guest went off. When none is on, the machine ends, unless it is to stay.
    pub fn guest_is_off(&self) {
        if self.guests().all(|guest| guest.state() == guest::State::Off) && !self.stay {
            self.request_power_off();
        }
    }

    /// Does a bounded piece of what `cpu` can do while no vCPU has need of it. Says whether there is more.
    pub fn background(&'static self, cpu: CpuId) -> bool {
        #[cfg(feature = "scheme")]
        crate::monitor::crowd::join(cpu);
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
        cpu::power_off(self.machine.conduit.map(|conduit| match conduit {
            sluice_platform::Conduit::Smc => cpu::Conduit::Smc,
            sluice_platform::Conduit::Hvc => cpu::Conduit::Hvc,
        }))
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

    /// Takes the console and the control port over, on this CPU. Commands are answered when there are guests to speak
    /// of: see [`System::answer`].
    pub fn open_ports(&'static self) {
        gic::enable_shared(self.machine.uart.interrupt);
        uart::set_receive_interrupt(true);
        let port = control::init(&self.machine);
        log::info!("control port: {}", if port { "virtio-console" } else { "none" });
    }

    /// Answers what has come on the control port so far. The device may have raised its interrupt before that was
    /// enabled; as an edge, it is lost.
    pub fn answer(&'static self) {
        control::interrupt(self);
    }
}

/// Makes out what guests get of the GIC.
fn interrupts(machine: &Machine, memory: &Memory) -> Interrupts {
    match gic::guest_interface(&machine.gic) {
        Some(first) => {
            let start = layout::CPU_INTERFACE.start;
            let pages = [0, PAGE_SIZE]
                .map(|at| (Ipa::new(start.as_u64() + at), Pa::new(first.as_u64() + at)));
            let interface = Devices::new(memory, &pages)
                .unwrap_or_else(|_| panic!("there is no memory for two tables"));
            Interrupts { version: Version::V2, interface: Some(interface) }
        }
        None => Interrupts { version: Version::V3, interface: None },
    }
}

/// Says what was found.
pub fn log_machine(system: &System, features: &Features) {
    let machine = system.machine();
    let bytes: u64 = machine.memory.iter().map(|range| range.end - range.start).sum();
    log::info!("Sluice {} on {}", env!("CARGO_PKG_VERSION"), machine.model);
    log::info!(
        "{} CPUs, {} MiB of memory, {} with {} list registers",
        machine.cpus.len(),
        bytes >> 20,
        system.interrupts.version,
        system.list_registers()
    );
    log::info!("CPU: {features}");
}
