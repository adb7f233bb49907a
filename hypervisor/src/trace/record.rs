//! One event of a trace, as it is written to the file: 32 bytes, little endian, in no order but by [`Record::order`].
//!
//! Shared by the hypervisor, which writes records, and the host's tools (`tests/src/trace/`), which include this file.

/// The size of a record in bytes.
pub const BYTES: usize = 32;

/// Whose a table is that is EL2's own.
pub const EL2: u16 = 0xff;

/// What happened. The fields of a [`Record`] that are not named are 0.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Recording began.
    Begin = 1,
    /// Recording ended on purpose: nothing is missing.
    End,
    /// A root table was made: `what` whose, `a` the table, `b` the VMID.
    Root,
    /// A root table is given up; nothing is mapped in it, and no TLB knows of it: `what` whose, `a` the table.
    RootEnd,
    /// The lock on the tables below the root `a` was taken.
    Lock,
    /// The lock on the tables below the root `a` is about to be released.
    Unlock,
    /// A descriptor was stored: `a` where, `b` what.
    Write,
    /// `count` descriptors were stored from `a` on: the first is `b`, each further one 2^`what` more, or the same where
    /// `what` is [`SAME`].
    Run,
    /// The table `b` was copied to `a`.
    Copy,
    /// A barrier: `what` is a [`Barrier`].
    Barrier,
    /// A TLBI: `what` is a [`Tlbi`], `a` its operand; where it is `Vae2`, `count` pages from there on, one TLBI each.
    Tlbi,
    /// A system register was written: `what` is a [`Register`], `a` the value.
    Register,
    /// A zeroed frame became a table: `what` whose, `a` the frame.
    Table,
    /// A table's frame was not used, and is zeroed still: `a` the frame.
    TableBack,
    /// A block became a guest's: `what` whose, `count` its order, `a` its first frame, `b` its IPA.
    Assign,
    /// As `Assign`, of a block to which the guest's bytes were copied.
    AssignCopy,
    /// A zeroed frame became the hypervisor's own: `a` the frame.
    Own,
    /// A frame of the hypervisor's own was given back, with whatever is in it: `a` the frame.
    OwnBack,
    /// A block is retired: `count` its order, `a` its first frame.
    Retire,
    /// The blocks that this CPU retired since the last of these were retired in epoch `a`.
    RetiredIn,
    /// The epoch was advanced: `a` the new one.
    Grace,
    /// A retired block's grace period is over, it is about to become free: `count` its order, `a` its first frame, `b`
    /// the epoch now.
    Free,
    /// A block was filled with zeroes: `count` its order, `a` its first frame.
    Zero,
    /// This CPU pinned the epoch and may load descriptors.
    Pin,
    /// This CPU is about to unpin.
    Unpin,
    /// The access flag of a descriptor was changed, without the lock: `a` where, `b` the descriptor then. Another CPU may
    /// have written over it by the time that this is recorded.
    Flag,
}

/// Of a [`Kind::Run`]: all are the same.
pub const SAME: u16 = 0xffff;

/// Barriers.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Barrier {
    /// DSB ISH.
    DsbIsh = 1,
    /// DSB ISHST.
    DsbIshst,
    /// DSB NSH.
    DsbNsh,
    /// DSB NSHST.
    DsbNshst,
    /// ISB.
    Isb,
}

/// TLB invalidations.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Tlbi {
    /// IPAS2E1IS.
    Ipas2e1is = 1,
    /// RIPAS2E1IS.
    Ripas2e1is,
    /// VMALLE1IS.
    Vmalle1is,
    /// VMALLS12E1IS.
    Vmalls12e1is,
    /// ALLE1IS.
    Alle1is,
    /// VAE2, of this CPU alone.
    Vae2,
}

/// System registers that say what is translated, and how.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Register {
    /// VTTBR_EL2.
    Vttbr = 1,
    /// TTBR0_EL2.
    Ttbr0,
    /// VTCR_EL2.
    Vtcr,
    /// TCR_EL2.
    Tcr,
    /// MAIR_EL2.
    Mair,
    /// HCR_EL2.
    Hcr,
    /// SCTLR_EL2.
    Sctlr,
}

/// One event.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Record {
    /// The event's place among those of all CPUs, counted from 0 without a gap. An event that comes before another,
    /// be it on another CPU, has a lower number.
    pub order: u64,
    /// What happened: a [`Kind`].
    pub kind: u8,
    /// On which CPU.
    pub cpu: u8,
    /// See [`Kind`].
    pub what: u16,
    /// See [`Kind`].
    pub count: u32,
    /// See [`Kind`].
    pub a: u64,
    /// See [`Kind`].
    pub b: u64,
}

const _: () = assert!(size_of::<Record>() == BYTES);
