//! The interrupt controller (GICv3, IHI 0069).

use crate::arch::cpu::{self, COUNTED_INTERRUPTS};
use crate::arch::{mmio, time};
use crate::gic::{self, register};
use crate::outcome::{Outcome, failure};
use crate::run::Stub;
use crate::smp;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Returns how many interrupts the distributor has, as far as handlers go. The last 32 are no device's of a `virt` machine.
fn lines() -> u32 {
    let typer = gic::read(gic::distributor() + register::TYPER);
    (32 * ((typer & 0x1f) + 1)).min(COUNTED_INTERRUPTS as u32)
}

/// Returns an SPI that no device uses.
fn spare() -> u32 {
    lines() - 1
}

/// Long enough for an interrupt that is on its way.
const SOON: u64 = 1_000_000;
/// Long enough to say that none comes.
const NEVER: u64 = 2_000;

/// What the distributor says of itself.
pub fn identity(_: &Stub) -> Outcome {
    ensure!(lines() >= 96, "{} interrupts", lines());
    let control = gic::read(gic::distributor() + register::CTLR);
    if gic::is_v2() {
        let version = gic::read(gic::distributor() + register::PIDR2_V2) >> 4 & 0xf;
        ensure!(version == 2, "GICD_PIDR2 says version {version}");
        let own = gic::read(gic::distributor() + register::ITARGETSR) & 0xff;
        let cpus = gic::read(gic::distributor() + register::TYPER) >> 5 & 7;
        ensure!(own == 1 || cpus == 0, "GICD_ITARGETSR0 says {own:#b}");
        ensure!(control & 1 != 0, "GICD_CTLR {control:#x}");
        return Ok(());
    }
    let version = gic::read(gic::distributor() + register::PIDR2) >> 4 & 0xf;
    ensure!(version == 3, "GICD_PIDR2 says version {version}");
    let version = gic::read(gic::redistributor() + register::PIDR2) >> 4 & 0xf;
    ensure!(version == 3, "GICR_PIDR2 says version {version}");
    ensure!(control & 0x10 != 0 && control & 2 != 0, "GICD_CTLR {control:#x}");
    Ok(())
}

/// Each SGI reaches this CPU.
pub fn sgi_to_self(_: &Stub) -> Outcome {
    for number in 0..16 {
        let before = cpu::this().count(number);
        gic::send(number, cpu::affinity());
        ensure!(
            time::poll(SOON, || cpu::this().count(number) == before + 1),
            "SGI {number} did not come"
        );
    }
    Ok(())
}

static READY: AtomicU32 = AtomicU32::new(0);
static TAKEN: AtomicU64 = AtomicU64::new(0);
const BROADCAST: u32 = 5;
const DIRECTED: u32 = 6;

fn take_two(index: usize) {
    let this = cpu::this();
    let before = (this.count(BROADCAST), this.count(DIRECTED));
    READY.fetch_add(1, Ordering::AcqRel);
    time::poll(10_000_000, || {
        (this.count(BROADCAST), this.count(DIRECTED)) == (before.0 + 1, before.1 + 1)
    });
    if (this.count(BROADCAST), this.count(DIRECTED)) == (before.0 + 1, before.1 + 1) {
        TAKEN.fetch_or(1 << index, Ordering::AcqRel);
    }
}

/// SGIs reach all other CPUs, and each one of them, and not this one.
pub fn sgi_to_others(stub: &Stub) -> Outcome {
    let others = stub.machine.cpus().len() as u32 - 1;
    if others == 0 {
        skip!("one CPU only");
    }
    READY.store(0, Ordering::Release);
    TAKEN.store(0, Ordering::Release);
    let own = cpu::this().count(BROADCAST);
    smp::with_others(stub.machine, take_two, || {
        time::poll(10_000_000, || READY.load(Ordering::Acquire) == others);
        gic::send_to_others(BROADCAST);
        for affinity in &stub.machine.cpus()[1..] {
            gic::send(DIRECTED, *affinity);
        }
    })
    .map_err(|(index, refused)| failure(format_args!("CPU {index}: {refused:?}")))?;
    let (taken, all) = (TAKEN.load(Ordering::Acquire), (2 << others) - 2);
    ensure!(taken == all, "taken by CPUs {taken:#b} instead of {all:#b}");
    ensure!(cpu::this().count(BROADCAST) == own, "the sender has got its own broadcast");
    Ok(())
}

/// An SPI is set pending, comes once, and only while it is enabled.
pub fn spi(_: &Stub) -> Outcome {
    let this = cpu::this();
    gic::set_bit(spare(), register::ICENABLER);
    gic::set_edge(spare(), true);
    gic::enable(spare(), gic::count_only);
    ensure!(gic::bit(spare(), register::ISENABLER), "an enabled SPI reads as disabled");
    let before = this.count(spare());
    gic::set_bit(spare(), register::ISPENDR);
    ensure!(time::poll(SOON, || this.count(spare()) == before + 1), "a pending SPI did not come");
    ensure!(!gic::bit(spare(), register::ISACTIVER), "it is still active");
    ensure!(!gic::bit(spare(), register::ISPENDR), "it is still pending");
    gic::set_bit(spare(), register::ICENABLER);
    gic::set_bit(spare(), register::ISPENDR);
    ensure!(!time::poll(NEVER, || this.count(spare()) != before + 1), "a disabled SPI came");
    ensure!(gic::bit(spare(), register::ISPENDR), "a disabled SPI does not stay pending");
    gic::set_bit(spare(), register::ISENABLER);
    ensure!(
        time::poll(SOON, || this.count(spare()) == before + 2),
        "an SPI did not come once it was enabled"
    );
    gic::disable(spare());
    Ok(())
}

/// What is written to the configuration of an SPI is read back.
pub fn spi_configuration(_: &Stub) -> Outcome {
    gic::disable(spare());
    let base = gic::distributor();
    for edge in [true, false, true] {
        gic::set_edge(spare(), edge);
        let read = gic::read(base + register::ICFGR + u64::from(spare() / 16 * 4))
            >> (spare() % 16 * 2)
            & 2;
        ensure!((read != 0) == edge, "ICFGR holds {read} for edge = {edge}");
    }
    for priority in [0u8, 0x40, 0xa0, 0xf8] {
        gic::set_priority(spare(), priority);
        // At least the five upper bits are there with group 1 in one security state.
        ensure!(
            gic::priority(spare()) & 0xf0 == priority & 0xf0,
            "priority {priority:#x} reads {:#x}",
            gic::priority(spare())
        );
    }
    gic::route(spare(), cpu::affinity());
    if !gic::is_v2() {
        let route = mmio::read_64(base + register::IROUTER + u64::from(spare()) * 8);
        ensure!(route == cpu::affinity(), "IROUTER reads {route:#x}");
    }
    ensure!(!gic::bit(spare(), register::ISENABLER), "a disabled SPI reads as enabled");
    Ok(())
}

/// An SPI goes to the CPU it is routed to: taken there, not here.
pub fn spi_routing(stub: &Stub) -> Outcome {
    if stub.machine.cpus().len() < 2 {
        skip!("one CPU only");
    }
    READY.store(0, Ordering::Release);
    TAKEN.store(0, Ordering::Release);
    gic::set_edge(spare(), true);
    gic::enable(spare(), gic::count_only);
    gic::route(spare(), stub.machine.cpus()[1]);
    let own = cpu::this().count(spare());
    fn take_spare(index: usize) {
        let before = cpu::this().count(spare());
        READY.fetch_add(1, Ordering::AcqRel);
        if time::poll(5_000_000, || cpu::this().count(spare()) == before + 1) {
            TAKEN.fetch_or(1 << index, Ordering::AcqRel);
        }
    }
    smp::start(stub.machine, 1, take_spare)
        .map_err(|refused| failure(format_args!("CPU 1: {refused:?}")))?;
    time::poll(5_000_000, || READY.load(Ordering::Acquire) == 1);
    gic::set_bit(spare(), register::ISPENDR);
    smp::join(stub.machine, 1).map_err(|refused| failure(format_args!("CPU 1: {refused:?}")))?;
    gic::disable(spare());
    ensure!(TAKEN.load(Ordering::Acquire) == 2, "CPU 1 did not get the SPI that is routed to it");
    ensure!(cpu::this().count(spare()) == own, "CPU 0 got an SPI that is routed to CPU 1");
    Ok(())
}

/// The priority mask holds back what is not urgent enough, and lets it through afterwards.
pub fn priority_mask(_: &Stub) -> Outcome {
    let this = cpu::this();
    let before = this.count(7);
    gic::set_priority(7, 0xc0);
    gic::set_mask(0x80);
    gic::send(7, cpu::affinity());
    let early = time::poll(NEVER, || this.count(7) != before);
    let pending = gic::bit(7, register::ISPENDR);
    gic::set_mask(0xff);
    let late = time::poll(SOON, || this.count(7) == before + 1);
    gic::set_priority(7, gic::PRIORITY);
    ensure!(!early, "an SGI of priority 0xc0 came through a mask of 0x80");
    ensure!(pending, "a masked SGI does not read as pending");
    ensure!(late, "an SGI did not come once the mask was open");
    Ok(())
}

static ORDER: AtomicU64 = AtomicU64::new(0);

fn note_order(interrupt: u32) {
    let _ = ORDER.fetch_update(Ordering::AcqRel, Ordering::Acquire, |order| {
        Some(order << 8 | u64::from(interrupt))
    });
}

/// Of several pending interrupts the most urgent comes first, whatever came in before.
pub fn priority_order(_: &Stub) -> Outcome {
    let levels = [(8, 0xc0), (9, 0x40), (10, 0x80), (11, 0x20)];
    cpu::mask();
    ORDER.store(0, Ordering::Release);
    for (number, priority) in levels {
        gic::enable(number, note_order);
        gic::set_priority(number, priority);
        gic::send(number, cpu::affinity());
    }
    let pending =
        time::poll(SOON, || levels.iter().all(|(number, _)| gic::bit(*number, register::ISPENDR)));
    cpu::unmask();
    time::poll(SOON, || ORDER.load(Ordering::Acquire) >> 24 != 0);
    for (number, _) in levels {
        gic::enable(number, gic::count_only);
        gic::set_priority(number, gic::PRIORITY);
    }
    let order = ORDER.load(Ordering::Acquire);
    ensure!(order == 0x0b09_0a08, "taken in the order {order:#x} instead of 0xb090a08");
    ensure!(pending, "pending SGIs do not read as pending");
    Ok(())
}

/// The SGI that is interrupted, and the one that interrupts it.
const SLOW: u32 = 12;
const URGENT: u32 = 13;

/// Lets itself be interrupted, and notes whether it was: bit 0 by the urgent SGI, bit 1 by itself.
fn be_interrupted(_: u32) {
    let this = cpu::this();
    let before = (this.count(URGENT), this.count(SLOW));
    gic::send(SLOW, cpu::affinity());
    gic::send(URGENT, cpu::affinity());
    cpu::unmask();
    time::poll(SOON, || this.count(URGENT) != before.0);
    time::poll(NEVER, || false);
    cpu::mask();
    let seen =
        u64::from(this.count(URGENT) != before.0) | u64::from(this.count(SLOW) != before.1) << 1;
    ORDER.store(0x100 | seen, Ordering::Release);
    // The second one of its kind finds nothing to do.
    gic::enable(SLOW, gic::count_only);
}

/// An interrupt of higher priority interrupts the handling of one of lower priority; one of the same priority waits.
pub fn preemption(_: &Stub) -> Outcome {
    let before = cpu::this().count(SLOW);
    ORDER.store(0, Ordering::Release);
    gic::enable(SLOW, be_interrupted);
    gic::enable(URGENT, gic::count_only);
    gic::set_priority(SLOW, 0xc0);
    gic::set_priority(URGENT, 0x40);
    gic::send(SLOW, cpu::affinity());
    let both = time::poll(2 * SOON, || cpu::this().count(SLOW) == before + 2);
    gic::set_priority(SLOW, gic::PRIORITY);
    gic::set_priority(URGENT, gic::PRIORITY);
    gic::enable(SLOW, gic::count_only);
    let seen = ORDER.load(Ordering::Acquire);
    ensure!(seen & 0x100 != 0, "the first SGI did not come");
    ensure!(seen & 1 != 0, "an urgent SGI does not interrupt the handling of a less urgent one");
    ensure!(seen & 2 == 0, "an SGI interrupts its own handling");
    ensure!(both, "an SGI that came while it was being handled is lost");
    Ok(())
}

/// More interrupts are pending at once than there are list registers, and each comes once.
pub fn flood(_: &Stub) -> Outcome {
    let interrupts = lines() - 32..lines();
    let this = cpu::this();
    cpu::mask();
    let mut before = [0; 32];
    for (place, interrupt) in before.iter_mut().zip(interrupts.clone()) {
        *place = this.count(interrupt);
        gic::set_bit(interrupt, register::ICENABLER);
        gic::set_edge(interrupt, true);
        gic::enable(interrupt, gic::count_only);
        gic::set_bit(interrupt, register::ISPENDR);
    }
    cpu::unmask();
    let all = || {
        before
            .iter()
            .zip(interrupts.clone())
            .all(|(before, interrupt)| this.count(interrupt) == before + 1)
    };
    let came = time::poll(SOON, all);
    time::poll(NEVER, || false);
    let once = all();
    let missing = before
        .iter()
        .zip(interrupts.clone())
        .filter(|(before, n)| this.count(*n) != **before + 1)
        .count();
    interrupts.for_each(gic::disable);
    ensure!(came, "{missing} of 32 SPIs did not come");
    ensure!(once, "{missing} of 32 SPIs came more than once");
    Ok(())
}
