//! What a guest came out for, and what is done about it: an exit is a value, decoded once and matched once. The few
//! that are over at once never come so far: see `fast`.

#[cfg(target_os = "none")]
mod abort;
#[cfg(target_os = "none")]
mod call;
#[cfg(target_os = "none")]
pub mod fast;
pub mod id_registers;
#[cfg(target_os = "none")]
pub mod interrupts;
#[cfg(target_os = "none")]
mod mmio;
pub mod syndrome;
#[cfg(target_os = "none")]
mod sysreg;

#[cfg(target_os = "none")]
pub use dispatch::{Next, run};

#[cfg(target_os = "none")]
mod dispatch {
    //! The one match.
    #![expect(unsafe_code, reason = "enters guests")]

    use super::syndrome::{Exit, injected};
    use super::{abort, call, interrupts, sysreg};
    use crate::arch::context;
    use crate::arch::entry::{self, Vector};
    use crate::sched::Loaded;
    use crate::spec;
    use crate::system::System;
    use core::sync::atomic::Ordering;

    /// What the scheduler is to do next.
    #[derive(Copy, Clone, Debug, PartialEq, Eq)]
    pub enum Next {
        /// Enter the guest again.
        Resume,
        /// The vCPU waits for an interrupt.
        Wait,
        /// Look whether another vCPU, or other work, is due.
        Yield,
        /// There is no memory for what the vCPU is at: it waits for some.
        Pause,
        /// The vCPU has turned itself off.
        Off,
    }

    /// Runs the loaded vCPU until it comes out, and handles what it came out for.
    #[inline]
    pub fn run(system: &'static System, loaded: &mut Loaded) -> Next {
        if loaded.guest.gic.is_dirty(loaded.vcpu.index) {
            interrupts::sync(system, loaded);
        }
        // SAFETY: `Loaded` says that the vCPU's context is in this CPU's registers, and its stage 2 in VTTBR_EL2.
        let vector = unsafe { entry::run(&mut loaded.own.registers) };
        let exits = &loaded.vcpu.exits;
        exits.store(exits.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        match vector {
            Vector::Synchronous => handle(system, loaded, Exit::decode(entry::syndrome())),
            Vector::Irq | Vector::Fiq => {
                if interrupts::take(system, Some(loaded)) {
                    Next::Yield
                } else {
                    Next::Resume
                }
            }
            Vector::SError => {
                // Not of this vCPU necessarily; nobody can say whose data is lost.
                panic!("SError taken from guest {}: {:#x}", loaded.guest.name(), entry::syndrome())
            }
        }
    }

    fn handle(system: &'static System, loaded: &mut Loaded, exit: Exit) -> Next {
        let next = match exit {
            Exit::Hypercall => call::handle(system, loaded),
            Exit::DataAbort(abort) => abort::data(system, loaded, abort),
            Exit::SystemRegister(access) => sysreg::handle(system, loaded, access),
            Exit::Wait { event } => wait(system, loaded, event),
            Exit::InstructionAbort(fault) => abort::instruction(system, loaded, fault),
            Exit::SecureCall => {
                skip_instruction();
                call::handle(system, loaded)
            }
            Exit::Undefined => {
                context::inject(injected::UNDEFINED, None);
                Next::Resume
            }
            Exit::Unexpected { class } => {
                log::warn!(
                    "guest {}: vCPU {}: an exit of class {class:#x} at {:#x}; it gets an undefined instruction",
                    loaded.guest.name(),
                    loaded.vcpu.index,
                    entry::guest_pc()
                );
                context::inject(injected::UNDEFINED, None);
                Next::Resume
            }
        };
        spec::after_request(&loaded.guest.space);
        next
    }

    /// Moves the guest past an instruction that was carried out for it. All of AArch64's are 4 bytes long.
    #[inline(always)]
    pub fn skip_instruction() {
        entry::set_guest_pc(entry::guest_pc().wrapping_add(4));
        // PSTATE.SS and BTYPE end with the instruction.
        entry::set_guest_pstate(entry::guest_pstate() & !(1 << 21 | 0b11 << 10));
    }

    fn wait(system: &System, loaded: &mut Loaded, event: bool) -> Next {
        skip_instruction();
        if event {
            return Next::Yield;
        }
        interrupts::fold(system, loaded);
        if loaded.guest.gic.pending_for(loaded.vcpu.index) { Next::Resume } else { Next::Wait }
    }
}

#[cfg(target_os = "none")]
use dispatch::skip_instruction;
