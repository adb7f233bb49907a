//! Which memory there is, and what of it boot takes for good: the frame table, EL2's tables, and the
//! first frames for guests' tables.

use crate::addr::{PAGE_SIZE, Pa, PaRange};
use crate::arch;
use crate::arch::boot::image;
use crate::arch::cpu::CpuId;
use crate::logger::microseconds;
use crate::mem::{FrameTable, LayoutError, Memory, RangeError, Record, Stalled};
use crate::monitor::parse;
use crate::system;
use core::fmt;
use heapless::Vec;
use sluice_platform::{MAX_MEMORY_RANGES, Machine};

/// Tables that EL2 may need beyond one a GiB.
const SPARE_TABLES: u64 = 16;
/// The first frames for guests' tables and for the hypervisor's own use, in bytes.
const POOL: u64 = 512 << 10;
/// The least that must be left for guests, in bytes.
const LEAST: u64 = 16 << 20;

/// The most ranges that are offline from the start.
const MAX_OFFLINE: usize = MAX_MEMORY_RANGES + 16;

/// Why there is no plan.
#[derive(Clone, Debug)]
pub enum PlanError {
    /// Not enough memory in one piece.
    TooLittle { wanted: u64, have: u64 },
    /// Ranges that overlap, or above 16 TiB.
    BadRange(PaRange),
    /// What is to be offline from the start cannot be: `offline=` says no range, or one that is not all memory in one
    /// piece, or in which Sluice or its bundle was loaded.
    CannotBeOffline(Option<PaRange>),
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLittle { wanted, have } => write!(
                f,
                "{} KiB of memory beside the image and the bundle are too little; Sluice itself needs {} KiB and its guests {} MiB",
                have >> 10,
                wanted >> 10,
                LEAST >> 20
            ),
            Self::CannotBeOffline(None) => f.write_str(
                "offline= is followed by ranges of physical memory with commas between them, as 0x80000000+256M",
            ),
            Self::CannotBeOffline(Some(range)) => write!(
                f,
                "{}..{} cannot be offline: not all of it is memory, or Sluice or its guests were loaded there",
                range.start, range.end
            ),
            Self::BadRange(range) => write!(
                f,
                "the device tree's memory at {}..{} overlaps another or ends above 16 TiB",
                range.start, range.end
            ),
        }
    }
}

type Ranges = Vec<PaRange, MAX_MEMORY_RANGES>;

/// What boot does with memory.
pub struct Plan {
    /// All memory, ascending, neighbours merged.
    pub memory: Ranges,
    /// What the loader left beside the image: the guests' bundle.
    pub bundle: Option<PaRange>,
    /// What boot takes: the frame table, then EL2's tables, then the pool.
    pub taken: PaRange,
    /// The part of it for EL2's tables.
    pub tables: PaRange,
    /// The part of it for guests' tables.
    pool: PaRange,
    /// What must not be given away: image, device tree.
    own: Vec<PaRange, 4>,
    /// What the device tree reserves.
    reserved: Vec<PaRange, 32>,
    /// What is offline from the start.
    offline: Vec<PaRange, MAX_OFFLINE>,
}

fn sorted(machine: &Machine) -> Result<Ranges, PlanError> {
    let mut memory = Ranges::new();
    for range in machine.memory.iter().chain(&machine.offline) {
        let start = Pa::new(range.start).align_up(PAGE_SIZE);
        let end = Pa::new(range.end).align_down(PAGE_SIZE);
        // There are as many places as the device tree can name ranges.
        if let Some(start) = start.filter(|start| *start < end) {
            let _ = memory.push(start..end);
        }
    }
    memory.sort_unstable_by_key(|range| range.start);
    let mut merged = Ranges::new();
    for range in memory {
        match merged.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            Some(last) if last.end > range.start => return Err(PlanError::BadRange(range)),
            _ => {
                let _ = merged.push(range);
            }
        }
    }
    Ok(merged)
}

/// Collects what is to be offline from the start, by the device tree and by the command line.
fn offline(machine: &Machine) -> Result<Vec<PaRange, MAX_OFFLINE>, PlanError> {
    let mut offline = Vec::new();
    let mut add = |range| offline.push(range).map_err(|_| PlanError::CannotBeOffline(None));
    for range in &machine.offline {
        let start = Pa::new(range.start).align_up(PAGE_SIZE);
        let end = Pa::new(range.end).align_down(PAGE_SIZE);
        if let Some(start) = start.filter(|start| *start < end) {
            add(start..end)?;
        }
    }
    let words = system::argument(&machine.arguments, "offline");
    for word in words.iter().flat_map(|words| words.split(',')) {
        add(parse::pa_range(word).ok_or(PlanError::CannotBeOffline(None))?)?;
    }
    Ok(offline)
}

fn size(range: &PaRange) -> u64 {
    range.end.as_u64() - range.start.as_u64()
}

impl Plan {
    /// Looks at the machine's memory and finds room for what Sluice needs.
    pub fn make(machine: &Machine, tree: &PaRange) -> Result<Self, PlanError> {
        let memory = sorted(machine)?;
        let image = image();
        let mut own = Vec::new();
        let image_end = Pa::new(image.end as u64).align_up(PAGE_SIZE);
        // The image and the device tree: two of four places.
        let _ = own.push(Pa::new(image.start as u64)..image_end.unwrap_or(Pa::new(u64::MAX)));
        let _ = own.push(tree.clone());
        let whole = |range: &core::ops::Range<u64>| {
            let start = Pa::new(range.start).align_down(PAGE_SIZE);
            Pa::new(range.end).align_up(PAGE_SIZE).map(|end| start..end)
        };
        let bundle = machine.initrd.as_ref().and_then(whole);
        let mut reserved = Vec::new();
        for range in machine.reserved.iter().filter_map(whole) {
            let _ = reserved.push(range);
        }

        let offline = offline(machine)?;
        for range in &offline {
            let whole = memory.iter().any(|one| one.start <= range.start && range.end <= one.end);
            let mut used = own.iter().chain(&bundle);
            if !whole || used.any(|one: &PaRange| one.start < range.end && range.start < one.end) {
                return Err(PlanError::CannotBeOffline(Some(range.clone())));
            }
        }

        let records = FrameTable::records_for(&memory) as u64;
        let frames = (records * size_of::<Record>() as u64).next_multiple_of(PAGE_SIZE);
        let gibibytes: u64 = memory.iter().map(|range| (size(range) >> 30) + 2).sum();
        let tables = (gibibytes + SPARE_TABLES) * PAGE_SIZE;
        let wanted = frames + tables + POOL;
        let mut plan = Self {
            memory,
            bundle,
            taken: Pa::new(0)..Pa::new(0),
            tables: Pa::new(0)..Pa::new(0),
            pool: Pa::new(0)..Pa::new(0),
            own,
            reserved,
            offline,
        };
        let start = plan.room(wanted)?;
        let at = |offset: u64| Pa::new(start.as_u64() + offset);
        plan.taken = start..at(wanted);
        plan.tables = at(frames)..at(frames + tables);
        plan.pool = at(frames + tables)..at(wanted);
        Ok(plan)
    }

    fn occupied(&self) -> impl Iterator<Item = &PaRange> {
        self.own.iter().chain(&self.bundle).chain(&self.reserved).chain(&self.offline)
    }

    /// Finds the lowest `wanted` bytes in one piece that nothing occupies.
    fn room(&self, wanted: u64) -> Result<Pa, PlanError> {
        let mut have = 0;
        for range in &self.memory {
            let mut start = range.start;
            while start < range.end {
                if let Some(inside) = self.occupied().find(|one| one.contains(&start)) {
                    start = inside.end;
                    continue;
                }
                let next = self.occupied().map(|one| one.start).filter(|one| *one > start).min();
                let end = next.unwrap_or(range.end).min(range.end);
                let room = end.as_u64() - start.as_u64();
                if room >= wanted + LEAST {
                    return Ok(start);
                }
                have = have.max(room);
                start = end;
            }
        }
        Err(PlanError::TooLittle { wanted, have })
    }

    /// Makes the memory manager: the frame table where the plan has it, everything taken claimed, the rest free.
    pub fn frames(&self) -> Memory {
        let records = FrameTable::records_for(&self.memory);
        let storage = arch::memory::pointer(self.taken.start).cast::<Record>();
        for index in 0..records {
            // SAFETY: the plan took this memory for the records, and it is mapped.
            unsafe { storage.add(index).write(Record::new()) };
        }
        // SAFETY: the records were written just now, and stay there.
        let storage = unsafe { core::slice::from_raw_parts(storage.as_ptr(), records) };
        let table = match FrameTable::new(&self.memory, storage) {
            Ok(table) => table,
            Err(LayoutError::BadRange) => panic!("memory above 16 TiB cannot be used"),
            Err(error) => panic!("the frame table cannot be made: {error:?}"),
        };
        let mut memory = Memory::new(table);
        memory.set_clock(arch::time::now);
        memory.set_rouse(rouse);
        memory.set_patience(arch::time::frequency(), say_stalled);
        self.claim(&memory).unwrap_or_else(|error| panic!("memory cannot be claimed: {error:?}"));
        memory
    }

    fn claim(&self, memory: &Memory) -> Result<(), RangeError> {
        memory.claim_named(self.taken.clone(), "frame table, EL2's tables, root tables")?;
        memory.claim_table_chunk(self.pool.clone())?;
        memory.set_roots_aside();
        let names = ["image, heap and stacks", "device tree"];
        for (range, name) in self.own.iter().zip(names) {
            self.claim_inside(memory, range, &|part| memory.claim_named(part, name))?;
        }
        if let Some(range) = &self.bundle {
            self.claim_inside(memory, range, &|part| memory.claim_named(part, "bundle"))?;
        }
        for range in &self.reserved {
            self.claim_inside(memory, range, &|part| memory.claim_bad(part))?;
        }
        for range in &self.offline {
            memory.claim_offline(range.clone())?;
        }
        for range in &self.memory {
            memory.add_free(range.clone())?;
        }
        Ok(())
    }

    /// Claims the parts of `range` that are memory and not claimed; the device tree may lie in ROM, or overlap what it
    /// reserves.
    fn claim_inside(
        &self,
        memory: &Memory,
        range: &PaRange,
        claim: &dyn Fn(PaRange) -> Result<(), RangeError>,
    ) -> Result<(), RangeError> {
        for one in &self.memory {
            let part = range.start.max(one.start)..range.end.min(one.end);
            if part.start < part.end {
                memory.each_unclaimed(&part, claim)?;
            }
        }
        Ok(())
    }
}

/// Has `cpu`, which waits for an interrupt, look for something to do.
fn rouse(cpu: CpuId) {
    if let Some(system) = system::try_get() {
        system.kick(cpu);
    }
}

/// Logs that a CPU has held a pin for longer than a second.
fn say_stalled(stalled: &Stalled) {
    let Stalled { cpu, pins, announced, time, frames } = *stalled;
    log::warn!(
        "CPU {cpu} has held up reuse for {} ms: pinned {pins} deep since epoch {}; {frames} frames wait",
        microseconds(time) / 1000,
        announced.get(),
    );
}
