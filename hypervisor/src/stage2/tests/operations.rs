//! The operations that `reference.rs` does, at random.

use super::super::{Fill, Mark};
use super::BLOCK_2M;
use crate::addr::PAGE_SIZE;
use crate::mem::Order;
use proptest::prelude::*;

/// Where the guest may have memory: two gigabytes, of which the model looks at [`REGIONS`].
pub(super) const EXTENT: u64 = 2 << 30;
/// What of it is RAM from the start; the rest is unplugged. It ends within a table.
pub(super) const RAM_BYTES: u64 = GIB - BLOCK_2M;
const GIB: u64 = 1 << 30;

/// The blocks of 2 MiB that operations are about, by their offsets: neighbours, and both sides of a
/// gigabyte's end.
pub(super) const REGIONS: [u64; 5] = [0, BLOCK_2M, 512 << 20, GIB - BLOCK_2M, GIB];

/// The pages of a region that operations are about: with all 512, too little would happen twice.
const PAGES: [u64; 8] = [0, 1, 2, 3, 100, 255, 510, 511];

#[derive(Clone, Debug)]
pub(super) enum Op {
    Populate(u64, Order),
    Write(u64, u8),
    TakePages(Vec<u64>),
    /// All pages of a region, in two batches, as a balloon does.
    TakeRegion(u64),
    TakeRange(u64, u64, Mark),
    Add(u64, u64, Fill),
    Report(u64, u64),
    ReturnPages(Vec<u64>),
    ReturnRegion(u64),
    ReturnRange(u64, u64),
    Coalesce(u64),
    /// The 2 MiB of memory that a page lies in are emptied, or as far as so many steps go.
    Evacuate(u64, usize),
    /// The memory of a page fails.
    Poison(u64),
    Clear,
    /// The guest uses an address, so that it is in the TLBs.
    Access(u64),
    Settle,
    /// A walker on another CPU finds an address, and holds on to it until the next `Watch` or
    /// `Unwatch`.
    Watch(u64),
    Unwatch,
}

fn page() -> impl Strategy<Value = u64> {
    (0..REGIONS.len(), 0..PAGES.len())
        .prop_map(|(region, page)| REGIONS[region] + PAGES[page] * PAGE_SIZE)
}

fn boundary() -> impl Strategy<Value = u64> {
    prop_oneof![
        page(),
        (0..REGIONS.len()).prop_map(|region| REGIONS[region]),
        Just(GIB),
        Just(0),
        Just(RAM_BYTES),
        Just(EXTENT),
    ]
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    let mark = || prop_oneof![Just(Mark::Empty), Just(Mark::Ballooned), Just(Mark::Unplugged)];
    let fill = prop_oneof![Just(Fill::Lazy), Just(Fill::Ready)];
    let order = prop_oneof![Just(Order::PAGE), Just(Order::BLOCK_2M), Just(Order::BLOCK_1G)];
    let pages = || prop::collection::vec(page(), 1..20);
    prop_oneof![
        4 => (page(), order).prop_map(|(page, order)| Op::Populate(page, order)),
        4 => (page(), any::<u8>()).prop_map(|(page, byte)| Op::Write(page, byte)),
        3 => pages().prop_map(Op::TakePages),
        2 => (0..REGIONS.len()).prop_map(|region| Op::TakeRegion(REGIONS[region])),
        3 => (boundary(), boundary(), mark())
            .prop_map(|(a, b, mark)| Op::TakeRange(a.min(b), a.max(b), mark)),
        4 => (boundary(), boundary(), fill)
            .prop_map(|(a, b, fill)| Op::Add(a.min(b), a.max(b), fill)),
        2 => (boundary(), boundary()).prop_map(|(a, b)| Op::Report(a.min(b), a.max(b))),
        3 => pages().prop_map(Op::ReturnPages),
        2 => (0..REGIONS.len()).prop_map(|region| Op::ReturnRegion(REGIONS[region])),
        2 => (boundary(), boundary()).prop_map(|(a, b)| Op::ReturnRange(a.min(b), a.max(b))),
        1 => page().prop_map(Op::Coalesce),
        3 => (page(), 0..4000_usize).prop_map(|(page, steps)| Op::Evacuate(page, steps)),
        1 => page().prop_map(Op::Poison),
        1 => Just(Op::Clear),
        4 => page().prop_map(Op::Access),
        1 => Just(Op::Settle),
        1 => page().prop_map(Op::Watch),
        1 => Just(Op::Unwatch),
    ]
}
