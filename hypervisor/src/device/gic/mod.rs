//! A guest's GICv3 (Arm IHI 0069): distributor, redistributors and what feeds the list registers; or its GICv2
//! (Arm IHI 0048) on a machine that has none better, see `v2.rs`.
//!
//! It is the GIC of QEMU's `virt` as programs at EL1 know it: affinity routing always on, a single
//! security state (GICD_CTLR.DS is 1), no LPIs, 16 SGIs and 16 PPIs a vCPU, and SPIs. The CPU
//! interface is the hardware's own, which works on the list registers; the model decides what they
//! hold. It is all plain data: the caller copies [`ListRegisters`] from and to ICH_*.
//!
//! # How an interrupt travels
//!
//! [`Gic::inject_spi`], [`Gic::inject_ppi`], [`Gic::send_sgi`] and [`Gic::write`] change the state
//! of interrupts, mark the vCPUs concerned as dirty and return them as a [`Kick`]. A dirty vCPU
//! calls [`Gic::sync`] before it enters its guest: the list registers are taken back (*folded*)
//! into the model, which thus learns how far the guest got, and filled anew with what matters most
//! now. A vCPU that is not dirty enters with the list registers as they are, at the cost of one
//! load. Nothing else needs to be done at an exit.
//!
//! | when | what to call |
//! |---|---|
//! | before each guest entry | `if is_dirty { sync }`, with the `live` list registers copied |
//! | maintenance interrupt | [`Gic::sync`] at once: it stays asserted while its cause is in the list registers |
//! | WFI, or the CPU takes another vCPU | [`Gic::fold`], then [`Gic::pending_for`] |
//! | trapped read, [`Place::shows_live_state`] | [`Gic::fold`], kick [`Gic::refresh`], then `read` |
//! | trapped write of ICC_DIR_EL1 | [`Gic::deactivate`] |
//! | physical interrupt of a backed PPI | drop its priority, [`Gic::inject_ppi`] |
//!
//! # Locks and what is read without them
//!
//! Each vCPU has a lock, for its SGIs and PPIs and for what its list registers hold; the
//! distributor has one, for the SPIs. **Order: a vCPU's lock, then the distributor's; never two
//! vCPUs' locks.** Folding and filling take both where SPIs are concerned, everything else takes
//! one at a time. All belong to one guest: nobody outside it ever waits for them. State words are
//! atomic, changed under their lock and read freely, so a trapped read takes no lock.
//!
//! Two shapes need more than that. *A fill must not miss a change*: see `Redistributor::dirty`. *A
//! vCPU must not fall asleep over an interrupt*: who injects stores the state, then looks whether
//! the vCPU sleeps; who goes to sleep says so, then looks at the state. Both put a full fence in
//! between, here in [`Gic::pending_for`] and in everything that returns a [`Kick`] (store
//! buffering: without either fence both may see the old value).

mod bank;
mod choice;
mod delivery;
mod distributor;
mod inject;
pub mod intid;
mod kick;
mod list;
mod place;
mod read;
mod redistributor;
mod sgi;
#[cfg(test)]
mod tests;
mod v2;
mod write;

pub use delivery::Synced;
pub use inject::SgiRegister;
pub use kick::Kick;
pub use list::{ListRegister, ListRegisters, MAX_LIST_REGISTERS, State, hcr, vmcr};
pub use place::Place;

use alloc::boxed::Box;
use bank::Bank;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering, fence};
use distributor::Distributor;
use redistributor::Redistributor;

/// The largest number of vCPUs: one vCPU's affinity is its number in Aff0.
pub const MAX_VCPUS: usize = 16;
/// The largest number of vCPUs with a GICv2.
pub const MAX_VCPUS_V2: usize = 8;
/// The largest number of SPIs.
pub const MAX_SPIS: usize = 256;
/// How many SPIs a guest has if nobody says otherwise.
pub const DEFAULT_SPIS: usize = 96;

/// The bytes that the distributor takes in the guest's address space.
pub const DISTRIBUTOR_BYTES: u64 = 0x1_0000;
/// The bytes that the distributor of a GICv2 takes.
pub const DISTRIBUTOR_BYTES_V2: u64 = 0x1000;
/// The bytes that each vCPU's redistributor takes; they follow one another.
pub const REDISTRIBUTOR_BYTES: u64 = 0x2_0000;

/// Which GIC a guest has: that of the machine, whose CPU interface it uses.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Version {
    /// GICv2: up to 8 vCPUs.
    V2,
    /// GICv3.
    V3,
}

impl Version {
    /// Returns the largest number of vCPUs.
    pub const fn max_vcpus(self) -> usize {
        match self {
            Self::V2 => MAX_VCPUS_V2,
            Self::V3 => MAX_VCPUS,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V2 => "GICv2",
            Self::V3 => "GICv3",
        })
    }
}

/// A GIC that cannot be made.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// So many vCPUs: not 1 to [`Version::max_vcpus`].
    Vcpus(Version, usize),
    /// So many SPIs: not a multiple of 32 up to [`MAX_SPIS`].
    Spis(usize),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vcpus(version, count) => {
                write!(
                    f,
                    "{count} vCPUs: this machine's {version} serves 1 to {}",
                    version.max_vcpus()
                )
            }
            Self::Spis(count) => {
                write!(f, "{count} SPIs: not a multiple of 32 from 32 to {MAX_SPIS}")
            }
        }
    }
}

/// A guest's GIC.
#[derive(Debug)]
pub struct Gic {
    guest: u8,
    version: Version,
    redistributors: Box<[Redistributor]>,
    distributor: Distributor,
    /// Accesses that were ignored, for the log.
    ignored: AtomicU32,
}

impl Gic {
    /// Makes the GIC of `guest` (a number, for the log), at reset: vCPU 0 is powered on.
    ///
    /// # Errors
    ///
    /// The count that a GIC cannot have.
    pub fn new(
        version: Version,
        guest: u8,
        vcpus: usize,
        spis: usize,
    ) -> Result<Self, ConfigError> {
        if vcpus == 0 || vcpus > version.max_vcpus() {
            return Err(ConfigError::Vcpus(version, vcpus));
        }
        if spis == 0 || spis > MAX_SPIS || !spis.is_multiple_of(32) {
            return Err(ConfigError::Spis(spis));
        }
        let new = Self {
            guest,
            version,
            redistributors: (0..vcpus).map(|vcpu| Redistributor::new(vcpu == 0)).collect(),
            distributor: Distributor::new(spis / 32, vcpus),
            ignored: AtomicU32::new(0),
        };
        new.redistributors.iter().for_each(|own| new.enable_sgis(own));
        new.reset_targets();
        Ok(new)
    }

    /// Returns which GIC it is.
    #[inline(always)]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Returns the number of vCPUs.
    #[inline(always)]
    pub fn vcpus(&self) -> usize {
        self.redistributors.len()
    }

    /// Says whether `vcpu` must [`sync`](Self::sync) before it enters its guest.
    #[inline(always)]
    pub fn is_dirty(&self, vcpu: usize) -> bool {
        self.redistributors.get(vcpu).is_some_and(Redistributor::is_dirty)
    }

    /// Has `vcpu` sync at its next guest entry: for a maintenance interrupt.
    pub fn mark_dirty(&self, vcpu: usize) {
        if let Some(own) = self.own(vcpu) {
            own.set_dirty();
        }
    }

    /// Says whether an interrupt waits for `vcpu`, so that WFI must not wait: enabled, its group
    /// enabled by the distributor, and not active.
    ///
    /// The vCPU's list registers must have been folded; until they are, the answer is yes. Whether
    /// the guest has masked the interrupt in its CPU interface is not looked at.
    pub fn pending_for(&self, vcpu: usize) -> bool {
        let Some(own) = self.own(vcpu) else { return false };
        // Pairs with the fence in `Gic::marked`.
        fence(Ordering::SeqCst);
        own.live() != 0
            || own.bank.deliverable(self.distributor.groups()) != 0
            || self.distributor.is_pending_for(vcpu)
    }

    /// Puts physical PPI `physical` (16 to 31) behind PPI `intid` of `vcpu`, or nothing.
    ///
    /// From then on the PPI is injected when the physical interrupt was acknowledged, whose
    /// priority is dropped but which stays active; it is deactivated by the guest's deactivation,
    /// or is named in [`Synced::deactivate`]. A number out of range changes nothing.
    pub fn back_ppi(&self, vcpu: usize, intid: u32, physical: Option<u32>) {
        let valid = |intid: u32| (intid::FIRST_PPI..intid::PRIVATE).contains(&intid);
        let Some(own) = self.own(vcpu) else { return };
        if valid(intid) && physical.is_none_or(valid) {
            let _lock = own.lock();
            own.set_physical(intid, physical);
        }
    }

    /// Returns the physical PPIs, as bits by INTID, that must be active on the CPU that runs
    /// `vcpu` because the guest has yet to deactivate what they back: to be made so on a CPU that
    /// the vCPU is moved to.
    pub fn physical_held(&self, vcpu: usize) -> u32 {
        self.own(vcpu).map_or(0, Redistributor::physical_held)
    }

    /// Resets the GIC with its guest, all of whose vCPUs have stopped. vCPU 0 is powered on.
    pub fn reset(&self) {
        for (vcpu, own) in self.redistributors.iter().enumerate() {
            let _ = self.take_all_back(vcpu);
            let _listing = own.lock();
            own.reset();
            self.enable_sgis(own);
            own.set_powered(vcpu == 0);
            own.set_dirty();
        }
        let _lock = self.distributor.lock();
        self.distributor.reset();
        self.reset_targets();
    }

    /// Resets the redistributor of `vcpu` and powers it on, for PSCI CPU_ON: before it runs, with
    /// list registers that are empty. SPIs that were active on it no longer are.
    pub fn reset_vcpu(&self, vcpu: usize) -> Kick {
        let Some(own) = self.own(vcpu) else { return Kick::NONE };
        let mut concerned = self.take_all_back(vcpu);
        {
            let _listing = own.lock();
            own.reset();
            self.enable_sgis(own);
            own.set_powered(true);
            own.set_dirty();
        }
        concerned |= self.reroute();
        self.marked(concerned).without(vcpu)
    }

    /// Powers `vcpu` off, for PSCI CPU_OFF: after its list registers were folded. SPIs that any
    /// vCPU may get go to another.
    pub fn power_off(&self, vcpu: usize) -> Kick {
        let Some(own) = self.own(vcpu) else { return Kick::NONE };
        let mut concerned = self.take_all_back(vcpu);
        own.set_powered(false);
        concerned |= self.reroute();
        self.marked(concerned).without(vcpu)
    }

    /// A vCPU's side, if there is such a vCPU.
    #[inline(always)]
    fn own(&self, vcpu: usize) -> Option<&Redistributor> {
        self.redistributors.get(vcpu)
    }

    /// The bank and bit of an interrupt as `vcpu` sees it; which word of SPIs it is in, if in one.
    fn interrupt(&self, vcpu: usize, intid: u32) -> Option<(Option<usize>, &Bank, u32)> {
        if intid::is_private(intid) {
            Some((None, &self.own(vcpu)?.bank, 1 << intid))
        } else {
            self.distributor.spi(intid).map(|(word, bank, mask)| (Some(word), bank, mask))
        }
    }

    /// Marks `vcpus` as dirty and returns them as those to be kicked.
    #[inline]
    fn marked(&self, vcpus: u32) -> Kick {
        let kick = Kick::from_bits(vcpus);
        if vcpus != 0 {
            for vcpu in kick {
                self.mark_dirty(vcpu);
            }
            // Pairs with the fence in `Gic::pending_for`.
            fence(Ordering::SeqCst);
        }
        kick
    }

    /// The vCPU that gets SPIs which any vCPU may get: the first that is powered on.
    fn any_vcpu(&self) -> usize {
        let mut all = self.redistributors.iter();
        all.position(Redistributor::is_powered).unwrap_or(0)
    }

    /// Routes SPIs that any vCPU may get anew. Returns the vCPUs concerned.
    fn reroute(&self) -> u32 {
        let distributor = &self.distributor;
        let any = self.any_vcpu();
        let mut concerned = 0;
        let _lock = distributor.lock();
        for word in 0..distributor.banks().len() {
            for bit in 0..32 {
                let router = distributor.router(word, bit);
                if distributor.is_for_any(word, bit)
                    && distributor.set_router(word, bit, router, self.vcpus(), any)
                {
                    concerned |= distributor.concerned(word, 1 << bit);
                }
            }
        }
        concerned
    }

    /// Takes everything back from the list registers of a vCPU that will not run with them again:
    /// what was pending in them is so still, what was active on the vCPU is so no longer. Returns
    /// the vCPUs concerned.
    fn take_all_back(&self, vcpu: usize) -> u32 {
        let Some(own) = self.own(vcpu) else { return 0 };
        let distributor = &self.distributor;
        let mut listing = own.lock();
        let _lock = distributor.lock();
        for held in listing.held() {
            if let Some((_, bank, mask)) = self.interrupt(vcpu, u32::from(held.intid)) {
                let state = State { pending: true, active: false };
                if intid::is_private(u32::from(held.intid)) {
                    own.sgi_comes_back(u32::from(held.intid), state);
                }
                bank.take_back(mask, state);
            }
        }
        own.set_live(&mut listing, 0);
        distributor.settle(vcpu);
        let mut concerned = 0;
        for (word, bank) in distributor.banks().iter().enumerate() {
            let active = bank.active.get() & !bank.listed.get();
            for bit in bank::Bits(active) {
                if distributor.holder(word, bit) == Some(vcpu) {
                    bank.deactivate(1 << bit);
                }
            }
            concerned |= distributor.concerned(word, u32::MAX);
        }
        concerned
    }

    /// Logs an access that is ignored, though not every one: a guest may make any number.
    #[cold]
    fn ignore(&self, what: &str, place: Place) {
        let count = self.ignored.fetch_add(1, Ordering::Relaxed);
        if count < 8 || count.is_power_of_two() {
            log::debug!("guest {}: {what} {place} ignored (number {count})", self.guest);
        }
    }
}
