//! A guest while it lives: its memory, its vCPUs, its devices, and how it starts, stops and starts
//! again.

use super::balloon::Hands;
use super::layout;
use super::loader;
use super::machine_tree::MachineTree;
use super::manifest::{GuestConfig, Population};
use super::plug::PlugHands;
use super::seed::Seed;
use super::service::Service;
use crate::addr::{Ipa, IpaRange, PAGE_SIZE, ipa_range};
use crate::arch::cpu::{self, CpuId};
use crate::device::Width;
use crate::device::gic::{self, Gic, Kick, intid};
use crate::device::pl011::Pl011;
use crate::device::virtio::balloon::Balloon;
use crate::device::virtio::mem::MemoryDevice;
use crate::device::virtio::{Transport, mmio};
use crate::exit::fast::Whose;
use crate::mem::{GuestId, Memory, Order};
use crate::stage2::{AccessError, PopulateError, Space};
use crate::system::System;
use crate::vcpu::{Entry, State, Vcpu};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use spin::Mutex;

/// Why a guest's vCPUs must leave it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stop {
    /// It is to be off.
    Off = 1,
    /// It is to start anew.
    Reset = 2,
}

/// Why a guest cannot start.
#[derive(Clone, Debug)]
pub enum StartError {
    /// Its images could not be written to its memory.
    Load(loader::LoadError<AccessError>),
    /// There is no memory for all of it, and it is to have all of it at once.
    Populate(Ipa, PopulateError),
    /// It is on.
    AlreadyOn,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load(error) => write!(f, "its images cannot be loaded: {error}"),
            Self::Populate(ipa, PopulateError::OutOfMemory) => {
                write!(f, "memory ran out at {ipa}; make it smaller, or populate it lazily")
            }
            Self::Populate(ipa, error) => write!(f, "{ipa} cannot be populated: {error:?}"),
            Self::AlreadyOn => f.write_str("it is on already"),
        }
    }
}

/// The balloon behind its registers.
pub type BalloonSlot = Transport<Balloon<Hands>>;

/// The memory device behind its registers.
pub type MemorySlot = Transport<MemoryDevice<PlugHands>>;

/// In [`Guest::note_work`]: the balloon's queues hold work.
pub(super) const WORK_OF_BALLOON: u8 = 1 << 0;
/// In [`Guest::note_work`]: the memory device's queue holds work.
pub(super) const WORK_OF_MEMORY_DEVICE: u8 = 1 << 1;

/// A guest.
pub struct Guest {
    /// Its number.
    pub id: GuestId,
    /// What the manifest says of it.
    pub config: GuestConfig<'static>,
    /// What tells it of its machine.
    tree: MachineTree,
    /// What its physical addresses lead to.
    pub space: Space<'static>,
    /// Its interrupt controller.
    pub gic: Box<Gic>,
    /// What it asks of Sluice itself.
    pub service: Service,
    /// Its console.
    pub uart: Mutex<Pl011>,
    /// Its balloon.
    pub balloon: Mutex<BalloonSlot>,
    /// Its memory device, where it can have more memory than it starts with.
    pub memory_device: Option<Mutex<MemorySlot>>,
    /// Its vCPUs.
    pub vcpus: Vec<Vcpu>,
    /// How many of them are not off.
    online: AtomicUsize,
    stop: AtomicU8,
    /// When it was started, in ticks; 0 while it is off.
    started: AtomicU64,
    /// Which of its devices' queues hold work, a bit each.
    device_work: AtomicU8,
    /// Where the release of all that is in the balloon goes on.
    pub(super) release_from: AtomicU64,
    /// Accesses to what is not there, for the log.
    pub faults: AtomicU64,
}

/// Why a guest cannot be made.
#[derive(Clone, Debug)]
pub struct MakeError(pub String);

/// Makes the interrupt controller, on the heap at once: it is too large to stand on the stack
/// twice.
#[inline(never)]
fn make_gic(guest: u8, vcpus: usize) -> Result<Box<Gic>, MakeError> {
    let gic = Gic::new(guest, vcpus, gic::DEFAULT_SPIS);
    gic.map(Box::new).map_err(|error| MakeError(alloc::format!("{error}")))
}

impl Guest {
    /// Makes a guest of `config`, on the heap, off, whose vCPUs run on the first `cpus` CPUs in
    /// turn. `random`: it will be started with seeds for its generator.
    #[inline(never)]
    pub fn new(
        id: GuestId,
        config: GuestConfig<'static>,
        memory: &'static Memory,
        vmid: crate::stage2::Vmid,
        cpus: usize,
        random: bool,
    ) -> Result<Box<Self>, MakeError> {
        let number = id.index() as u8;
        let ram = ipa_range(layout::RAM_START, config.memory)
            .ok_or_else(|| MakeError(String::from("its memory does not fit an address space")))?;
        let hotplug = layout::hotplug(&ram, config.maximum_memory.saturating_sub(config.memory))
            .ok_or_else(|| {
                MakeError(String::from("its maximum memory does not fit an address space"))
            })?;
        let space = Space::with_hotplug(memory, id, vmid, ram, hotplug)
            .map_err(|error| MakeError(alloc::format!("no address space: {error:?}")))?;
        let gic = make_gic(number, config.vcpus)?;
        let label = mmio::Label { guest: number, slot: layout::BALLOON_SLOT as u8 };
        let plug = mmio::Label { guest: number, slot: layout::MEMORY_SLOT as u8 };
        let memory_device = Some(space.hotplug())
            .filter(|region| !region.is_empty())
            .map(|region| Mutex::new(Transport::new(plug, MemoryDevice::new(plug, region))));
        let home = |index: usize| CpuId::new((index + id.index()) % cpus.max(1));
        let vcpus = (0..config.vcpus).filter_map(|index| Some(Vcpu::new(index, home(index)?)));
        Ok(Box::new(Self {
            id,
            space,
            gic,
            service: Service::default(),
            uart: Mutex::new(Pl011::new()),
            balloon: Mutex::new(Transport::new(label, Balloon::new(label))),
            memory_device,
            vcpus: vcpus.collect(),
            online: AtomicUsize::new(0),
            stop: AtomicU8::new(0),
            started: AtomicU64::new(0),
            device_work: AtomicU8::new(0),
            release_from: AtomicU64::new(0),
            faults: AtomicU64::new(0),
            tree: loader::describe(&config, random),
            config,
        }))
    }

    /// Says on the registers of its vCPUs whose they are.
    pub fn name_registers(&'static self) {
        for vcpu in &self.vcpus {
            let whose = Whose { gic: &self.gic, vcpus: self.vcpus.len(), exits: &vcpu.exits };
            vcpu.own.lock().registers.whose = Some(Box::leak(Box::new(whose)));
        }
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Returns its memory.
    pub fn ram(&self) -> IpaRange {
        self.space.ram()
    }

    /// Says whether and why its vCPUs must leave it.
    #[inline(always)]
    pub fn stop(&self) -> Option<Stop> {
        match self.stop.load(Ordering::Relaxed) {
            1 => Some(Stop::Off),
            2 => Some(Stop::Reset),
            _ => None,
        }
    }

    /// Says whether any of its vCPUs is on.
    pub fn is_on(&self) -> bool {
        self.online.load(Ordering::Acquire) != 0
    }

    /// Returns when it was started, in ticks.
    pub fn started(&self) -> Option<u64> {
        Some(self.started.load(Ordering::Relaxed)).filter(|&ticks| ticks != 0)
    }

    /// Has its vCPUs leave it; the last one to do so ends it, or starts it anew.
    pub fn request_stop(&self, system: &System, stop: Stop) {
        self.stop.store(stop as u8, Ordering::Release);
        for vcpu in &self.vcpus {
            vcpu.wake();
            system.kick(vcpu.home);
        }
    }

    /// Loads its images and turns its first vCPU on.
    ///
    /// # Errors
    ///
    /// [`StartError`]; it then is off and has no memory.
    pub fn start(&self, system: &System, seed: &Seed) -> Result<(), StartError> {
        if self.is_on() {
            return Err(StartError::AlreadyOn);
        }
        let entry = match self.load(seed) {
            Ok(entry) => entry,
            Err(error) => {
                self.take_memory_back();
                return Err(error);
            }
        };
        self.stop.store(0, Ordering::Release);
        self.started.store(crate::arch::time::now().max(1), Ordering::Relaxed);
        let Some(first) = self.vcpus.first() else { return Ok(()) };
        if first.turn_on(entry).is_ok() {
            self.online.fetch_add(1, Ordering::AcqRel);
            system.kick(first.home);
        }
        Ok(())
    }

    fn load(&self, seed: &Seed) -> Result<Entry, StartError> {
        if self.config.population == Population::Eager {
            let mut at = self.ram().start;
            while at < self.ram().end {
                let populate = self.space.populate(at, Order::BLOCK_1G);
                let populated = populate.map_err(|error| StartError::Populate(at, error))?;
                let size = match populated {
                    crate::stage2::Populated::Mapped(order) => order.bytes(),
                    _ => PAGE_SIZE,
                };
                at = Ipa::new(at.align_down(size).as_u64() + size);
            }
        }
        let write = |ipa, bytes: &[u8]| self.space.load(ipa, bytes);
        let loaded =
            loader::load(&self.config, &self.tree, seed, write).map_err(StartError::Load)?;
        Ok(Entry { pc: loaded.pc.as_u64(), argument: loaded.device_tree.as_u64() })
    }

    /// Turns a vCPU on, for PSCI CPU_ON.
    pub fn turn_on(
        &self,
        system: &System,
        vcpu: &Vcpu,
        entry: Entry,
    ) -> Result<(), crate::vcpu::State> {
        self.online.fetch_add(1, Ordering::AcqRel);
        match vcpu.turn_on(entry) {
            Ok(()) => {
                system.kick(vcpu.home);
                Ok(())
            }
            Err(state) => {
                self.online.fetch_sub(1, Ordering::AcqRel);
                Err(state)
            }
        }
    }

    /// Notes that a vCPU is off. The last one ends what was asked for by [`Guest::request_stop`],
    /// or by turning itself off: a guest all of whose vCPUs are off can never go on.
    pub fn vcpu_has_left(&self, system: &System) {
        if self.online.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let stop = self.stop().unwrap_or(Stop::Off);
        self.end();
        match stop {
            Stop::Off => {
                log::info!("guest {} is off", self.name());
                crate::control::event("off", "guest", self.name());
                system.guest_is_off();
            }
            Stop::Reset => {
                log::info!("guest {} starts anew", self.name());
                crate::control::event("reset", "guest", self.name());
                if let Err(error) = self.start(system, &system.seeds().draw()) {
                    log::error!("guest {} stays off: {error}", self.name());
                    system.guest_is_off();
                }
            }
        }
    }

    /// Puts the machine back to how it was made.
    fn end(&self) {
        self.take_memory_back();
        self.gic.reset();
        self.uart.lock().power_on();
        self.balloon.lock().power_on();
        self.memory_device_power_on();
        self.service.power_on();
        self.device_work.store(0, Ordering::Release);
        self.started.store(0, Ordering::Relaxed);
        self.stop.store(0, Ordering::Release);
    }

    fn take_memory_back(&self) {
        let mut from = self.ram().start;
        loop {
            match self.space.take_back(from) {
                Ok(taken) => {
                    let next = taken.next;
                    taken.flushed.retire();
                    match next {
                        Some(next) => from = next,
                        None => return,
                    }
                }
                Err(error) => {
                    // The whole of memory needs no table to say what is left of it.
                    log::error!("guest {}: its memory cannot be taken: {error:?}", self.name());
                    return;
                }
            }
        }
    }

    /// Returns how much memory it has, by its own account: what is not in the balloon, and what is plugged.
    pub fn memory_now(&self) -> u64 {
        let actual = u64::from(self.balloon.lock().device().actual()) * PAGE_SIZE;
        self.config.memory.saturating_sub(actual) + self.plugged()
    }

    /// Returns how much memory it is to have.
    pub fn memory_target(&self) -> u64 {
        let target = u64::from(self.balloon.lock().device().target()) * PAGE_SIZE;
        self.config.memory.saturating_sub(target)
    }

    /// Sets how much memory it is to have, in bytes. Says whether it has a driver that is told.
    pub fn set_memory_target(&self, system: &System, bytes: u64) -> bool {
        let pages = self.config.memory.saturating_sub(bytes) / PAGE_SIZE;
        let mut slot = self.balloon.lock();
        slot.update(|balloon| balloon.set_target(pages.min(u64::from(u32::MAX)) as u32));
        self.after_balloon(system, &slot);
        slot.is_live()
    }

    /// Asks its driver for new statistics. Says whether there is one that could be asked.
    pub fn request_stats(&self, system: &System) -> bool {
        let mut slot = self.balloon.lock();
        let asked = slot.update(|balloon| balloon.request_stats()).is_ok();
        self.after_balloon(system, &slot);
        if asked && let Some(first) = self.vcpus.first() {
            // One of its CPUs takes the buffer back.
            first.wake();
            system.kick(first.home);
        }
        asked
    }

    /// Notes whether the queues of the device that `which` stands for hold work.
    pub(super) fn note_work(&self, which: u8, is_more: bool) {
        // Released: who sees it finds the queues as they were noted.
        if is_more {
            self.device_work.fetch_or(which, Ordering::Release);
        } else if self.device_work.load(Ordering::Relaxed) & which != 0 {
            self.device_work.fetch_and(!which, Ordering::Release);
        }
    }

    /// Says whether its devices' queues hold work.
    #[inline(always)]
    pub fn has_device_work(&self) -> bool {
        self.device_work.load(Ordering::Relaxed) != 0
    }

    /// Says whether its devices' queues hold work that no CPU is about.
    pub fn wants_device_step(&self) -> bool {
        let work = self.device_work.load(Ordering::Relaxed);
        work & WORK_OF_BALLOON != 0 && !self.balloon.is_locked()
            || work & WORK_OF_MEMORY_DEVICE != 0
                && self.memory_device.as_ref().is_some_and(|device| !device.is_locked())
    }

    /// Does a bounded piece of what its devices' queues hold; says whether, for other CPUs may be about it.
    pub fn device_step(&'static self, system: &System) -> bool {
        let work = self.device_work.load(Ordering::Acquire);
        let balloon = work & WORK_OF_BALLOON != 0 && self.balloon_step(system);
        let memory = work & WORK_OF_MEMORY_DEVICE != 0 && self.memory_device_step(system);
        balloon || memory
    }

    /// Returns how many bytes its console has room for.
    pub fn room(&self) -> usize {
        self.uart.lock().room()
    }

    /// Takes a byte for its console. Says whether there was room.
    pub fn receive(&self, system: &System, byte: u8) -> bool {
        let mut uart = self.uart.lock();
        let taken = uart.receive(byte);
        self.kick(system, self.gic.inject_spi(intid::UART, uart.line()));
        taken
    }

    /// Reads a register of its console.
    pub fn read_uart(&self, system: &System, register: u64, width: Width) -> u64 {
        let mut uart = self.uart.lock();
        let value = uart.read(register, width);
        self.kick(system, self.gic.inject_spi(intid::UART, uart.line()));
        value
    }

    /// Writes a register of its console. Returns the byte that goes out, where one does.
    pub fn write_uart(
        &self,
        system: &System,
        register: u64,
        width: Width,
        value: u64,
    ) -> Option<u8> {
        let mut uart = self.uart.lock();
        let byte = uart.write(register, width, value);
        self.kick(system, self.gic.inject_spi(intid::UART, uart.line()));
        byte
    }

    /// Tells the vCPUs in `kick` that their interrupts changed.
    pub fn kick(&self, system: &System, kick: Kick) {
        for vcpu in &self.vcpus {
            if kick.contains(vcpu.index) {
                vcpu.wake();
                // One of this CPU's that is not waiting is the one that runs, or has its turn when the slice ends.
                if vcpu.home != cpu::current() || vcpu.state() != State::Ready {
                    system.kick(vcpu.home);
                }
            }
        }
    }
}
