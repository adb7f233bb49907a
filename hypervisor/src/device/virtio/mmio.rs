//! The virtio-mmio transport, version 2 (virtio 1.2 §4.2).
//!
//! The life of a device, as its status says it (§2.1, §3.1.1):
//!
//! ```text
//!  reset --> ACKNOWLEDGE, DRIVER --> FEATURES_OK --> DRIVER_OK: live, queues are served
//!    ^            (features)          (queues)            |
//!    |                                                    v
//!    +------------- status 0 ------------------ DEVICE_NEEDS_RESET, FAILED: nothing is served
//! ```

use core::fmt;

pub use super::registers::Status;
use super::registers::{Cause, half, register, set_high, set_low};
use super::{Context, Device, Progress, Queue, QueueFault, feature};
use crate::device::sparse::Sparse;
use crate::device::{GuestMemory, Width};

/// The most queues a device can have.
pub const QUEUES: usize = 4;
/// The size in bytes of a slot's registers, configuration space included.
pub const SLOT_BYTES: u64 = 0x200;

/// "virt".
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// "SLUI".
const VENDOR: u32 = 0x4955_4c53;

/// Names a slot in the log.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// The guest's number.
    pub guest: u8,
    /// The slot's number in the guest's machine.
    pub slot: u8,
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "guest {}: virtio slot {}", self.guest, self.slot)
    }
}

/// Reads a register of a slot without a device: a device of type 0, which drivers pass over
/// (§4.2.2, DeviceID). Writes to it do nothing.
pub fn read_empty_slot(offset: u64, width: Width) -> u64 {
    match (width, offset) {
        (Width::Word, register::MAGIC) => MAGIC.into(),
        (Width::Word, register::VERSION) => VERSION.into(),
        (Width::Word, register::VENDOR_ID) => VENDOR.into(),
        _ => 0,
    }
}

/// A device behind virtio-mmio registers.
#[derive(Debug)]
pub struct Transport<D> {
    label: Label,
    device: D,
    status: Status,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    /// The driver accepted a feature of a number above 63: none of those is offered.
    unknown_features: bool,
    queue_sel: u32,
    queues: [Queue; QUEUES],
    interrupt: Cause,
    generation: u32,
    /// Queues to be served, one bit each.
    pending: u32,
    /// The queue that was served last: the next in turn is looked at first.
    last_served: u32,
    /// A reset is not finished outside of the device.
    resetting: bool,
    fault: Option<QueueFault>,
    /// A guest can repeat each of these for ever; the log is for others too.
    breakdowns: Sparse,
    refusals: Sparse,
    odd_accesses: Sparse,
}

impl<D: Device> Transport<D> {
    /// Puts `device` into a slot, reset.
    pub fn new(label: Label, device: D) -> Self {
        Self {
            label,
            device,
            status: Status::empty(),
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            unknown_features: false,
            queue_sel: 0,
            queues: Default::default(),
            interrupt: Cause::empty(),
            generation: 0,
            pending: 0,
            last_served: 0,
            resetting: false,
            fault: None,
            breakdowns: Sparse::new(),
            refusals: Sparse::new(),
            odd_accesses: Sparse::new(),
        }
    }

    /// Returns the device, for looking at.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Changes the device from the host's side. Call [`Transport::process`] afterwards, and look
    /// at the [interrupt line](Transport::line).
    pub fn update<R>(&mut self, change: impl FnOnce(&mut D) -> R) -> R {
        let result = change(&mut self.device);
        self.take_signals();
        result
    }

    /// Says whether [`Transport::process`] has something to do.
    pub fn outstanding(&self) -> Progress {
        if self.resetting || (self.is_live() && self.pending != 0) {
            Progress::MoreWork
        } else {
            Progress::Done
        }
    }

    /// Returns the level of the interrupt line: high while a cause is unacknowledged. To be copied
    /// to the interrupt controller after every call that takes `&mut self`.
    pub fn line(&self) -> bool {
        !self.interrupt.is_empty()
    }

    /// Returns the device status.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Returns what broke the device, until its driver resets it.
    pub fn fault(&self) -> Option<QueueFault> {
        self.fault
    }

    /// Says whether the driver has set the device up and nothing is broken.
    pub fn is_live(&self) -> bool {
        self.status.contains(Status::FEATURES_OK | Status::DRIVER_OK)
            && !self.status.intersects(Status::NEEDS_RESET | Status::FAILED)
    }

    /// Puts the device back to power-on, with its machine: the memory is made anew as well, so
    /// nothing is left to be given back.
    pub fn power_on(&mut self) {
        let _ = self.reset();
        self.resetting = false;
    }

    /// Reads a register, or the configuration space in any width; what cannot be read is 0.
    pub fn read(&mut self, offset: u64, width: Width) -> u64 {
        if let Some(place) = offset.checked_sub(register::CONFIG) {
            let mut bytes = [0; 8];
            if let Some(part) = bytes.get_mut(..width.bytes()) {
                self.device.read_config(place, part);
            }
            return u64::from_le_bytes(bytes);
        }
        if width != Width::Word {
            self.odd_access("read", offset, width);
            return 0;
        }
        self.read_register(offset).into()
    }

    fn read_register(&mut self, offset: u64) -> u32 {
        match offset {
            register::MAGIC => MAGIC,
            register::VERSION => VERSION,
            register::DEVICE_ID => self.device.id(),
            register::VENDOR_ID => VENDOR,
            register::DEVICE_FEATURES => half(self.offered(), self.device_features_sel),
            register::QUEUE_NUM_MAX if self.selected().is_some() => Queue::MAX_SIZE.into(),
            register::QUEUE_READY => self.selected().is_some_and(|q| q.is_ready()).into(),
            register::INTERRUPT_STATUS => self.interrupt.bits().into(),
            register::STATUS => self.status.bits().into(),
            // No shared memory regions: a length and a base of all ones.
            register::SHM_LEN_LOW..=register::SHM_BASE_HIGH => u32::MAX,
            register::CONFIG_GENERATION => self.generation,
            _ => 0,
        }
    }

    /// Writes a register. `MoreWork`: call [`Transport::process`] until it is done, before the
    /// guest's CPU goes on; look at the [interrupt line](Transport::line) afterwards.
    pub fn write(&mut self, offset: u64, width: Width, value: u64) -> Progress {
        if let Some(place) = offset.checked_sub(register::CONFIG) {
            let bytes = value.to_le_bytes();
            self.device.write_config(place, bytes.get(..width.bytes()).unwrap_or(&[]));
            self.take_signals();
        } else if width != Width::Word {
            self.odd_access("write", offset, width);
        } else {
            self.write_register(offset, value as u32);
        }
        self.outstanding()
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        match offset {
            register::DEVICE_FEATURES_SEL => self.device_features_sel = value,
            register::DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            register::DRIVER_FEATURES => self.set_driver_features(value),
            register::QUEUE_SEL => self.queue_sel = value,
            register::QUEUE_NUM => self.set_layout(|layout| layout.size = value),
            register::QUEUE_READY => self.set_ready(value & 1 != 0),
            register::QUEUE_NOTIFY => self.notify(value),
            register::INTERRUPT_ACK => {
                self.interrupt.remove(Cause::from_bits_truncate(value as u8));
            }
            register::STATUS => self.set_status(Status::from_bits_truncate(value as u8)),
            register::QUEUE_DESC_LOW => self.set_layout(|l| set_low(&mut l.descriptors, value)),
            register::QUEUE_DESC_HIGH => self.set_layout(|l| set_high(&mut l.descriptors, value)),
            register::QUEUE_DRIVER_LOW => self.set_layout(|l| set_low(&mut l.available, value)),
            register::QUEUE_DRIVER_HIGH => self.set_layout(|l| set_high(&mut l.available, value)),
            register::QUEUE_DEVICE_LOW => self.set_layout(|l| set_low(&mut l.used, value)),
            register::QUEUE_DEVICE_HIGH => self.set_layout(|l| set_high(&mut l.used, value)),
            _ => {}
        }
    }

    /// Does a bounded piece of what is to be done: at most one slice of one queue. Call until it
    /// says `Done`, letting interrupts in between, and look at the [interrupt
    /// line](Transport::line) after each call.
    pub fn process<M: GuestMemory + ?Sized>(
        &mut self,
        context: &mut Context<'_, M, D::Backend>,
    ) -> Progress {
        if self.resetting {
            self.resetting = self.device.finish_reset(context.backend).is_more();
        } else if self.is_live()
            && let Some(index) = self.next_pending()
        {
            self.last_served = index;
            match self.serve(index, context) {
                Ok(Progress::MoreWork) => {}
                Ok(Progress::Done) => self.pending &= !(1 << index),
                Err(fault) => self.break_down(index, fault),
            }
            self.take_signals();
        }
        self.outstanding()
    }

    fn serve<M: GuestMemory + ?Sized>(
        &mut self,
        index: u32,
        context: &mut Context<'_, M, D::Backend>,
    ) -> Result<Progress, QueueFault> {
        let Some(queue) = self.queues.get_mut(index as usize) else {
            return Ok(Progress::Done);
        };
        if !queue.is_ready() {
            return Ok(Progress::Done);
        }
        let progress = self.device.serve(index, queue, context)?;
        if queue.tell(context.memory)? {
            self.interrupt |= Cause::USED_BUFFER;
        }
        Ok(progress)
    }

    /// Returns the next queue to be served, each in its turn.
    fn next_pending(&self) -> Option<u32> {
        let behind = !0_u32 << (self.last_served + 1);
        [self.pending & behind, self.pending]
            .into_iter()
            .find(|bits| *bits != 0)
            .map(u32::trailing_zeros)
    }

    fn offered(&self) -> u64 {
        self.device.features() | feature::COMMON
    }

    fn set_driver_features(&mut self, value: u32) {
        if self.status.contains(Status::FEATURES_OK) {
            return;
        }
        match self.driver_features_sel {
            0 => set_low(&mut self.driver_features, value),
            1 => set_high(&mut self.driver_features, value),
            _ => self.unknown_features |= value != 0,
        }
    }

    fn set_status(&mut self, value: Status) {
        if value.is_empty() {
            self.resetting |= self.reset().is_more();
            return;
        }
        // The driver adds bits only (§2.1.1); `NEEDS_RESET` is the device's.
        let mut added = value - self.status - Status::NEEDS_RESET;
        if added.contains(Status::FEATURES_OK) && !self.agree() {
            added -= Status::FEATURES_OK;
        }
        if added.contains(Status::DRIVER_OK) && !(self.status | added).contains(Status::FEATURES_OK)
        {
            self.refuse(format_args!("DRIVER_OK before FEATURES_OK"));
            added -= Status::DRIVER_OK;
        }
        self.status |= added;
        if added.contains(Status::DRIVER_OK) {
            // What was notified before, or should have been, is looked at now: Linux queues its
            // statistics buffer before it sets DRIVER_OK.
            self.pending = (1 << QUEUES) - 1;
        }
    }

    /// Takes on the driver's features, where all of them were offered and `VERSION_1` is one.
    fn agree(&mut self) -> bool {
        let (asked, offered) = (self.driver_features, self.offered());
        if asked & !offered != 0 || asked & feature::VERSION_1 == 0 || self.unknown_features {
            self.refuse(format_args!("features {asked:#x}, offered are {offered:#x}"));
            return false;
        }
        self.device.negotiated(asked);
        true
    }

    fn selected(&mut self) -> Option<&mut Queue> {
        if self.queue_sel >= self.device.queue_count() {
            return None;
        }
        self.queues.get_mut(self.queue_sel as usize)
    }

    fn set_layout(&mut self, set: impl FnOnce(&mut super::queue::Layout)) {
        if let Some(queue) = self.selected().filter(|queue| !queue.is_ready()) {
            set(&mut queue.layout);
        }
    }

    fn set_ready(&mut self, ready: bool) {
        let (index, features) = (self.queue_sel, self.driver_features);
        // Which queues there are is known only once the features are.
        let agreed = self.status.contains(Status::FEATURES_OK);
        let Some(queue) = self.selected().filter(|queue| agreed && queue.is_ready() != ready)
        else {
            return;
        };
        if !ready {
            queue.stop();
            self.pending &= !(1 << index);
            self.device.queue_stopped(index);
        } else if let Err(fault) = queue.start(features) {
            self.break_down(index, fault);
        } else {
            // A queue that comes late may have something in it already.
            self.pending |= 1 << index;
        }
    }

    fn notify(&mut self, index: u32) {
        if index < self.device.queue_count() && (index as usize) < QUEUES {
            self.pending |= 1 << index;
        } else {
            self.odd_access("notify", index.into(), Width::Word);
        }
    }

    /// Back to the state before a driver. `MoreWork` where the device has to be helped with it.
    fn reset(&mut self) -> Progress {
        self.status = Status::empty();
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.driver_features = 0;
        self.unknown_features = false;
        self.queue_sel = 0;
        self.queues = Default::default();
        self.interrupt = Cause::empty();
        self.pending = 0;
        self.fault = None;
        self.device.reset()
    }

    /// Gives the device up until its driver resets it (§2.1.2).
    fn break_down(&mut self, queue: u32, fault: QueueFault) {
        self.pending = 0;
        if self.fault.is_some() {
            return;
        }
        self.fault = Some(fault);
        self.status |= Status::NEEDS_RESET;
        if self.status.contains(Status::DRIVER_OK) {
            self.interrupt |= Cause::CONFIG_CHANGE;
        }
        if let Some(count) = self.breakdowns.add(1) {
            log::warn!("{}: queue {queue}: {fault}; needs reset ({count})", self.label);
        }
    }

    fn take_signals(&mut self) {
        let signals = self.device.take_signals();
        if signals.config_changed {
            self.generation = self.generation.wrapping_add(1);
            if self.is_live() {
                self.interrupt |= Cause::CONFIG_CHANGE;
            }
        }
        if self.is_live() {
            self.pending |= signals.queues & ((1 << QUEUES) - 1);
        }
    }

    fn refuse(&mut self, what: fmt::Arguments<'_>) {
        if let Some(count) = self.refusals.add(1) {
            log::warn!("{}: refused {what} ({count})", self.label);
        }
    }

    fn odd_access(&mut self, what: &str, offset: u64, width: Width) {
        if let Some(count) = self.odd_accesses.add(1) {
            let bytes = width.bytes();
            log::warn!("{}: {what} of {bytes} bytes at {offset:#x}, ignored ({count})", self.label);
        }
    }
}
