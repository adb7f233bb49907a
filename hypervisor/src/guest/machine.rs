//! A guest: its memory, its vCPUs, its devices.

use super::balloon::Hands;
use super::holder::Holder;
use super::layout;
use super::life::Life;
use super::loader;
use super::machine_tree::MachineTree;
use super::manifest::GuestConfig;
use super::plug::PlugHands;
use super::service::Service;
use crate::addr::{IpaRange, PAGE_SIZE, ipa_range};
use crate::arch::cpu::{self, CpuId};
use crate::device::Width;
use crate::device::gic::{self, Gic, Kick, Version, intid};
use crate::device::pl011::Pl011;
use crate::device::virtio::balloon::Balloon;
use crate::device::virtio::mem::MemoryDevice;
use crate::device::virtio::{Transport, mmio};
use crate::mem::{GuestId, Memory};
use crate::stage2::{Devices, Space};
use crate::system::{Identity, System};
use crate::vcpu::{State, Vcpu};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use spin::Mutex;

/// The balloon behind its registers.
pub type BalloonSlot = Transport<Balloon<Hands<Arc<Guest>>>>;

/// The memory device behind its registers.
pub type MemorySlot = Transport<MemoryDevice<PlugHands<Arc<Guest>>>>;

/// A guest.
pub struct Guest {
    /// Its number.
    pub id: GuestId,
    /// What the manifest says of it.
    pub config: GuestConfig<'static>,
    /// What tells it of its machine.
    pub(super) tree: MachineTree,
    /// What its physical addresses lead to.
    pub space: Space<'static>,
    /// Its interrupt controller.
    pub gic: Arc<Gic>,
    /// What it asks of Sluice itself.
    pub service: Service,
    /// Its console.
    pub uart: Mutex<Pl011>,
    /// Its balloon.
    pub balloon: Mutex<BalloonSlot>,
    /// Its memory device, where it can have more memory than it starts with.
    pub memory_device: Option<Mutex<MemorySlot>>,
    /// Its vCPUs.
    pub vcpus: Vec<Arc<Vcpu>>,
    /// Where it is in its life.
    pub(super) life: Life,
    /// Which of its devices' queues hold work, a bit for each slot.
    pub(super) device_work: AtomicU8,
    /// Where the release of all that is in the balloon goes on.
    pub(super) release_from: AtomicU64,
    /// Accesses to what is not there, for the log.
    pub faults: AtomicU64,
    /// What is nobody else's while it lives. Dropped after its tables.
    _identity: Identity,
}

/// Why a guest cannot be made.
#[derive(Clone, Debug)]
pub struct MakeError(pub String);

/// What guests get of the machine's interrupt controller.
pub struct Interrupts {
    /// Which it is.
    pub version: Version,
    /// The CPU interface of a GICv2.
    pub interface: Option<Devices>,
}

/// Makes the interrupt controller, on the heap at once: it is too large to stand on the stack
/// twice.
#[inline(never)]
fn make_gic(version: Version, guest: u8, vcpus: usize) -> Result<Arc<Gic>, MakeError> {
    let gic = Gic::new(version, guest, vcpus, gic::DEFAULT_SPIS);
    gic.map(Arc::new).map_err(|error| MakeError(alloc::format!("{error}")))
}

impl Holder for Arc<Guest> {
    fn name(&self) -> &str {
        &self.config.name
    }

    fn space(&self) -> &Space<'static> {
        &self.space
    }

    fn release_from(&self) -> &AtomicU64 {
        &self.release_from
    }

    fn faults(&self) -> &AtomicU64 {
        &self.faults
    }
}

impl Guest {
    /// Makes a guest of `config`, on the heap, off, whose vCPUs run on `homes`, one each. `random`: it will be
    /// started with seeds for its generator.
    #[inline(never)]
    pub fn new(
        identity: Identity,
        config: GuestConfig<'static>,
        memory: &'static Memory,
        homes: &[CpuId],
        interrupts: &Interrupts,
        random: bool,
    ) -> Result<Arc<Self>, MakeError> {
        let id = identity.id();
        let number = id.index() as u8;
        let ram = ipa_range(layout::RAM_START, config.memory)
            .ok_or_else(|| MakeError(String::from("its memory does not fit an address space")))?;
        let hotplug = layout::hotplug(&ram, config.maximum_memory.saturating_sub(config.memory))
            .ok_or_else(|| {
                MakeError(String::from("its maximum memory does not fit an address space"))
            })?;
        let space = Space::with_hotplug(memory, id, identity.vmid(), ram, hotplug)
            .map_err(|error| MakeError(alloc::format!("it cannot be made: {error}")))?;
        let space = match &interrupts.interface {
            Some(interface) => space.with_devices(interface),
            None => space,
        };
        let gic = make_gic(interrupts.version, number, config.vcpus)?;
        let label = mmio::Label { guest: number, slot: layout::BALLOON_SLOT as u8 };
        let plug = mmio::Label { guest: number, slot: layout::MEMORY_SLOT as u8 };
        let memory_device = Some(space.hotplug())
            .filter(|region| !region.is_empty())
            .map(|region| Mutex::new(Transport::new(plug, MemoryDevice::new(plug, region))));
        let vcpus = homes.iter().enumerate().map(|(index, &home)| {
            for timer in [intid::VIRTUAL_TIMER, intid::PHYSICAL_TIMER] {
                gic.back_ppi(index, timer, Some(timer));
            }
            Arc::new(Vcpu::new(index, home, &gic, homes.len()))
        });
        Ok(Arc::new(Self {
            id,
            space,
            vcpus: vcpus.collect(),
            gic,
            service: Service::default(),
            uart: Mutex::new(Pl011::new()),
            balloon: Mutex::new(Transport::new(label, Balloon::new(label))),
            memory_device,
            life: Life::new(),
            device_work: AtomicU8::new(0),
            release_from: AtomicU64::new(0),
            faults: AtomicU64::new(0),
            tree: loader::describe(&config, interrupts.version, random),
            config,
            _identity: identity,
        }))
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Returns its memory.
    pub fn ram(&self) -> IpaRange {
        self.space.ram()
    }

    /// Puts the devices back to how they were made.
    pub(super) fn power_on(&self) {
        self.gic.reset();
        self.uart.lock().power_on();
        self.balloon.lock().power_on();
        self.memory_device_power_on();
        self.service.power_on();
        self.device_work.store(0, Ordering::Release);
        self.release_from.store(0, Ordering::Relaxed);
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

    /// Returns what it is entitled to, in bytes: what it has or may take without asking again. Nothing while it is
    /// off.
    pub fn entitlement(&self) -> u64 {
        if matches!(self.state(), super::State::Off | super::State::Ending) {
            return 0;
        }
        let (actual, target) = {
            let slot = self.balloon.lock();
            (slot.device().actual(), slot.device().target())
        };
        let ballooned = u64::from(actual.min(target)) * PAGE_SIZE;
        let added = self.space.present(self.space.hotplug());
        let plugged = self.plugged().max(self.plug_target()).max(added);
        self.config.memory.saturating_sub(ballooned) + plugged
    }

    /// Sets how much memory it is to have, in bytes. Says whether it has a driver that is told.
    pub fn set_memory_target(&self, system: &System, bytes: u64) -> bool {
        let pages = self.config.memory.saturating_sub(bytes) / PAGE_SIZE;
        self.with_device(system, layout::BALLOON_SLOT, &self.balloon, |slot| {
            slot.update(|balloon| balloon.set_target(pages.min(u64::from(u32::MAX)) as u32));
            slot.is_live()
        })
    }

    /// Asks its driver for new statistics. Says whether there is one that could be asked.
    pub fn request_stats(&self, system: &System) -> bool {
        let ask = |slot: &mut BalloonSlot| slot.update(|balloon| balloon.request_stats()).is_ok();
        let asked = self.with_device(system, layout::BALLOON_SLOT, &self.balloon, ask);
        if asked && let Some(first) = self.vcpus.first() {
            // One of its CPUs takes the buffer back.
            first.wake();
            system.kick(first.home);
        }
        asked
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
