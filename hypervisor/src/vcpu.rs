//! A virtual CPU: what it has in registers while it does not run, and whether it is to run.

use crate::arch::context::Context;
use crate::arch::cpu::CpuId;
use crate::arch::entry::GuestRegisters;
use crate::arch::gic::VirtualInterface;
use crate::device::gic::{Gic, ListRegisters};
use crate::exit::fast::Whose;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use spin::Mutex;

/// Whether a vCPU is to run (PSCI 1.1, section 5.7, and the scheduler's own distinctions).
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Off; its context means nothing.
    Off,
    /// Turned on, to be started by the CPU that it belongs to.
    Starting,
    /// On.
    Ready,
    /// On, in WFI: nothing to do until an interrupt comes.
    Waiting,
    /// On, at an access for which there is no memory: it goes on when some is free.
    Paused,
}

impl State {
    const fn from_u8(value: u8) -> Self {
        match value {
            1 => Self::Starting,
            2 => Self::Ready,
            3 => Self::Waiting,
            4 => Self::Paused,
            _ => Self::Off,
        }
    }

    /// Returns the word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Starting => "starting",
            Self::Ready => "running",
            Self::Waiting => "waiting",
            Self::Paused => "paused",
        }
    }
}

/// What only the CPU that runs the vCPU touches.
pub struct Own {
    /// x0 to x30.
    pub registers: GuestRegisters,
    /// The other registers, while the vCPU is not loaded.
    pub context: Context,
    /// The list registers, as they are on the CPU while the vCPU is loaded.
    pub list: ListRegisters,
    /// The rest of the virtual CPU interface, while the vCPU is not loaded.
    pub interface: VirtualInterface,
}

/// Where a vCPU that is being turned on starts.
#[derive(Copy, Clone, Debug, Default)]
pub struct Entry {
    /// The IPA of the first instruction.
    pub pc: u64,
    /// What it finds in x0.
    pub argument: u64,
}

/// A virtual CPU.
pub struct Vcpu {
    /// Its number in its guest, which is also its affinity.
    pub index: usize,
    /// The CPU that runs it.
    pub home: CpuId,
    state: AtomicU8,
    entry: Mutex<Entry>,
    /// Taken out by the CPU that runs it, for as long as it has it loaded.
    own: Mutex<Option<Box<Own>>>,
    /// How often it came out.
    pub exits: Arc<AtomicU64>,
    /// How long it has run, in ticks, with what was done for it at EL2.
    pub ran: AtomicU64,
    /// When its next timer fires, in ticks, while it is not loaded; `u64::MAX` for never.
    pub deadline: AtomicU64,
    /// Something happened that it may wait for.
    woken: AtomicBool,
    /// It was [paused](State::Paused), and has not got over what it was paused at.
    starved: AtomicBool,
}

impl Vcpu {
    /// Makes a vCPU that is off, of a guest of `vcpus` vCPUs whose interrupt controller is `gic`.
    pub fn new(index: usize, home: CpuId, gic: &Arc<Gic>, vcpus: usize) -> Self {
        let exits = Arc::new(AtomicU64::new(0));
        let (gic, counted) = (Arc::clone(gic), Arc::clone(&exits));
        let whose = Arc::new(Whose { gic, vcpu: index, vcpus, exits: counted });
        Self {
            index,
            home,
            state: AtomicU8::new(State::Off as u8),
            entry: Mutex::new(Entry::default()),
            own: Mutex::new(Some(Box::new(Own {
                registers: GuestRegisters { x: [0; 31], whose: Some(whose) },
                context: Context::default(),
                list: ListRegisters::default(),
                interface: VirtualInterface::default(),
            }))),
            exits,
            ran: AtomicU64::new(0),
            deadline: AtomicU64::new(u64::MAX),
            woken: AtomicBool::new(false),
            starved: AtomicBool::new(false),
        }
    }

    /// Returns its affinity, as MPIDR_EL1 shows it: 16 vCPUs have Aff0 alone, as on QEMU's `virt`.
    pub fn affinity(&self) -> u64 {
        self.index as u64
    }

    /// Returns whether it is to run.
    pub fn state(&self) -> State {
        State::from_u8(self.state.load(Ordering::Acquire))
    }

    /// Sets whether it is to run.
    pub fn set_state(&self, state: State) {
        self.state.store(state as u8, Ordering::Release);
    }

    /// Has it start at `entry`, if it is off; says whether it was. Its CPU must be kicked then.
    pub fn turn_on(&self, entry: Entry) -> Result<(), State> {
        let mut place = self.entry.lock();
        match self.state() {
            State::Off => {
                *place = entry;
                self.set_state(State::Starting);
                Ok(())
            }
            other => Err(other),
        }
    }

    /// Makes the context that a start at its entry has.
    pub fn reset_context(&self, own: &mut Own) {
        let entry = *self.entry.lock();
        own.registers.x = [0; 31];
        own.registers.x[0] = entry.argument;
        // Bit 31 is RES1; no U bit: there may be more than one.
        own.context = Context::reset(1 << 31 | self.affinity(), entry.pc);
        own.interface = VirtualInterface::default();
        self.deadline.store(u64::MAX, Ordering::Relaxed);
    }

    /// Takes what the CPU that loads it needs; `None` while a CPU has it loaded.
    pub fn take_own(&self) -> Option<Box<Own>> {
        self.own.lock().take()
    }

    /// Puts back what [`Vcpu::take_own`] gave.
    pub fn put_own(&self, own: Box<Own>) {
        *self.own.lock() = Some(own);
    }

    /// Notes whether there is no memory for what it is at. Says whether that is news.
    pub fn set_starved(&self, starved: bool) -> bool {
        self.starved.swap(starved, Ordering::Relaxed) != starved
    }

    /// Says whether there was no memory for what it is at.
    #[inline]
    pub fn is_starved(&self) -> bool {
        self.starved.load(Ordering::Relaxed)
    }

    /// Ends a wait.
    pub fn wake(&self) {
        self.woken.store(true, Ordering::Release);
    }

    /// Says whether it was woken since this was asked last.
    pub fn take_wake(&self) -> bool {
        self.woken.load(Ordering::Relaxed) && self.woken.swap(false, Ordering::AcqRel)
    }
}
