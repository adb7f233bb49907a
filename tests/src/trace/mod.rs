//! Traces of what Sluice does to tables, TLBs and frames: read, shown in two ways, and checked.
//!
//! A build of Sluice with the feature `trace` writes them (`hypervisor/src/trace/`), see `docs/trace.md`.

pub mod casemate;
pub mod check;
pub mod read;
pub mod run;
pub mod text;

#[allow(dead_code, reason = "the hypervisor uses all of it")]
#[path = "../../../hypervisor/src/trace/record.rs"]
pub mod record;

pub use read::{Event, Trace};

/// The bits of a descriptor that hold an address (4 KiB granule, 48 bits).
pub(crate) const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
const ACCESS_FLAG: u64 = 1 << 10;
/// `SWFLAG_1`: a pending table, see `hypervisor/src/stage2/descriptor.rs`.
const PENDING: u64 = 1 << 56;
/// The size of a page, and of a table.
pub(crate) const PAGE: u64 = 4096;

/// Says whether the hardware takes `bits` for anything.
pub(crate) const fn is_valid(bits: u64) -> bool {
    bits & 1 != 0
}

/// Says whether the hardware takes `bits`, of a table of `level`, for a table.
pub(crate) const fn is_table(bits: u64, level: u8) -> bool {
    level < 3 && bits & 3 == 3
}

/// Returns the table that only software goes to by `bits`, which are not valid.
pub(crate) fn pending(bits: u64) -> Option<u64> {
    (!is_valid(bits) && bits & PENDING != 0).then_some(bits & ADDRESS)
}

/// Says whether two descriptors differ in the access flag and nothing else. The hardware may change it too.
pub(crate) const fn only_flag(before: u64, after: u64) -> bool {
    is_valid(before) && before ^ after == ACCESS_FLAG
}

/// Returns what one entry of a table of `level` covers, in bytes.
pub(crate) const fn covers(level: u8) -> u64 {
    1 << (12 + 9 * (3 - level as u32))
}

/// The descriptors that an event stores, as addresses and values. A copy is not among them.
pub(crate) fn stores(event: &Event) -> impl Iterator<Item = (u64, u64)> + use<> {
    let (a, b, what) = (event.a, event.b, event.what);
    let step = if what == record::SAME { 0 } else { 1u64 << (what % 64) };
    let count = match event.kind {
        record::Kind::Write => 1,
        record::Kind::Run => u64::from(event.count),
        _ => 0,
    };
    (0..count).map(move |index| (a + index * 8, b.wrapping_add(index.wrapping_mul(step))))
}
