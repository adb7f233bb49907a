//! What the commands do.

use super::job::{self, Job, Port};
use super::lifecycle;
use super::offline::{Offline, Online};
use super::parse::{self, Command, VERBS, Verb};
use super::plug::plug;
use super::quiesce::Quiesce;
use super::range;
use super::report::{Column, Format, Report, Value};
use super::top::Top;
use super::transfer::Reclaim;
use crate::addr::{BLOCK_1G, IpaRange, PAGE_SIZE};
use crate::arch::cpu::CpuId;
use crate::guest::{Guest, Stop};
use crate::logger::{self, microseconds};
use crate::mem::Use;
use crate::stage2::{Level, Mark, Run, What};
use crate::system::System;
use crate::{arch, console, heap};
use aarch64_paging::descriptor::Stage2Attributes;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt::{self, Write};
use core::sync::atomic::Ordering;

/// Runs one command line that came from `port` and writes the answer to `out`. A command that takes its time becomes a
/// [`job`], and goes on after this returns.
pub fn execute(
    system: &'static System,
    line: &str,
    port: Port,
    format: Format,
    out: &mut dyn Write,
) {
    let mut report = Report::new(out, format);
    #[cfg(feature = "fault-injection")]
    if super::faults::obey(system, line, &mut report) {
        return;
    }
    match parse::parse(line) {
        Ok(command) => {
            let Some(job) = run(system, command, &mut report) else { return };
            match job::start(job, port, format) {
                Some(number) if report.is_for_programs() => {
                    report.value("job", Value::Number(number));
                    report.value("started", Value::Flag(true));
                }
                Some(_) => {}
                None => report.error(
                    format_args!("too many commands are at work; wait for one, or 'cancel' it"),
                    None,
                ),
            }
        }
        Err(error) => {
            let usage = error.usage().map(|verb| (verb.name, verb.arguments));
            report.error(format_args!("{error}"), usage);
        }
    }
}

/// Does what is done at once, or returns the job that does it.
fn run(
    system: &'static System,
    command: Command<'_>,
    report: &mut Report<'_>,
) -> Option<Box<dyn Job>> {
    match command {
        Command::Help(verb) => help(verb, report),
        Command::Guests => guests(system, report),
        Command::Memory => memory(system, report),
        Command::Balloon(name, size) => with(system, name, report, |guest, report| {
            balloon(system, guest, size, report);
        }),
        Command::Add(name, bytes, at) => {
            let guest = find(system, name, report)?;
            return range::add(system, guest, bytes, at, report);
        }
        Command::Remove(name, range, now) => {
            let guest = find(system, name, report)?;
            return range::remove(guest, range, now, report);
        }
        Command::Plug(name, bytes) => {
            let guest = find(system, name, report)?;
            return plug(system, guest, bytes, false, report);
        }
        Command::Unplug(name, bytes) => {
            let guest = find(system, name, report)?;
            return plug(system, guest, bytes, true, report);
        }
        Command::Stats(name) => with(system, name, report, |guest, report| {
            stats(system, guest, report);
        }),
        Command::Tables(name, range) => with(system, name, report, |guest, report| {
            tables(guest, range, report);
        }),
        Command::Epoch => epoch(system, report),
        Command::Audit => super::audit::audit(system, report),
        Command::AuditContinuous(on) => super::audit::continuous(system, on, report),
        Command::Log(lines) => log(lines, report),
        Command::LogLevel(level) => {
            log::set_max_level(level);
            report.value("level", Value::Text(level.as_str()));
        }
        Command::Move(bytes, from, to) => {
            return super::transfer::begin_move(system, bytes, from, to, report);
        }
        Command::Reclaim(bytes) => return Some(Box::new(Reclaim::new(system, bytes))),
        Command::Balance(order) => super::balance::balance(system, order, report),
        Command::Top => return Some(Box::new(Top::new(system))),
        Command::Quiesce => return Some(Box::new(Quiesce::new(system))),
        Command::Offline(range) => return Some(Box::new(Offline::new(range, Use::Offline))),
        Command::Online(range) => return Some(Box::new(Online::new(range))),
        Command::Poison(page) => return Some(Box::new(Offline::new(page, Use::Never))),
        Command::Owner(pa) => super::offline::owner(system, pa, report),
        Command::Cancel(number) => match job::cancel(system, number) {
            0 => report.error(format_args!("there is no such job"), Some(("cancel", "[job]"))),
            jobs => report.value("cancelled", Value::Number(jobs as u64)),
        },
        Command::Counters => counters(system, report),
        Command::Bench(what) => super::bench::bench(system, what, report),
        Command::Create(name, alias) => {
            lifecycle::create(system, name, alias.unwrap_or(name), report);
        }
        Command::Start(name) => with(system, name, report, |guest, report| {
            lifecycle::start(system, guest, report);
        }),
        Command::Stop(name) => with(system, name, report, |guest, report| {
            lifecycle::stop(system, guest, Stop::Off, report);
        }),
        Command::Reset(name) => with(system, name, report, |guest, report| {
            lifecycle::stop(system, guest, Stop::Reset, report);
        }),
        Command::Destroy(name) => with(system, name, report, |guest, report| {
            lifecycle::stop(system, guest, Stop::Destroy, report);
        }),
        Command::Console(name) => with(system, name, report, |guest, _| {
            console::show_guest(guest);
        }),
        Command::Quit => {
            report.value("quit", Value::Flag(true));
            system.request_power_off();
        }
    }
    None
}

/// Finds a guest by name or number; says so where there is none.
fn find(system: &'static System, name: &str, report: &mut Report<'_>) -> Option<Arc<Guest>> {
    let number = name.parse::<usize>().ok();
    let found =
        system.guests().find(|guest| guest.name() == name || Some(guest.id.index()) == number);
    if found.is_none() {
        report.error(
            format_args!("there is no guest '{name}'; 'guests' lists those that there are"),
            None,
        );
    }
    found
}

/// Finds a guest and hands it on.
pub(super) fn with(
    system: &'static System,
    name: &str,
    report: &mut Report<'_>,
    act: impl FnOnce(&Arc<Guest>, &mut Report<'_>),
) {
    if let Some(guest) = find(system, name, report) {
        act(&guest, report);
    }
}

fn help(verb: Option<&Verb>, report: &mut Report<'_>) {
    const COLUMNS: &[Column] = &[("command", 9), ("arguments", 24), ("help", 0)];
    report.table("commands", COLUMNS);
    for one in VERBS.iter().filter(|one| verb.is_none_or(|verb| verb == *one)) {
        report.row(&[Value::Text(one.name), Value::Text(one.arguments), Value::Text(one.help)]);
    }
    report.remark(format_args!("--json behind a command answers in JSON"));
}

fn ticks_ago(ticks: u64) -> u64 {
    microseconds(arch::time::now().saturating_sub(ticks))
}

fn guests(system: &'static System, report: &mut Report<'_>) {
    const GUESTS: &[Column] = &[
        ("guest", 12),
        ("number", 6),
        ("state", 8),
        ("memory", 10),
        ("target", 10),
        ("plugged", 10),
        ("plug_target", 12),
        ("maximum", 10),
        ("resident", 10),
        ("up_ms", 10),
    ];
    let counts = system.memory().counts();
    report.table("guests", GUESTS);
    for guest in system.guests() {
        let resident = counts.guest(guest.id).frames * PAGE_SIZE;
        report.row(&[
            Value::Text(guest.name()),
            Value::Number(guest.id.index() as u64),
            Value::Text(guest.state().name()),
            Value::Size(guest.memory_now()),
            Value::Size(guest.memory_target()),
            Value::Size(guest.plugged()),
            Value::Size(guest.plug_target()),
            Value::Size(guest.config.memory + guest.plug_limit()),
            Value::Size(resident),
            Value::Number(guest.started().map_or(0, |ticks| ticks_ago(ticks) / 1000)),
        ]);
    }
    const VCPUS: &[Column] = &[("guest", 12), ("vcpu", 5), ("cpu", 4), ("state", 9), ("exits", 10)];
    report.table("vcpus", VCPUS);
    for guest in system.guests() {
        for vcpu in &guest.vcpus {
            report.row(&[
                Value::Text(guest.name()),
                Value::Number(vcpu.index as u64),
                Value::Number(vcpu.home.index() as u64),
                Value::Text(vcpu.state().name()),
                Value::Number(vcpu.exits.load(Ordering::Relaxed)),
            ]);
        }
    }
}

fn memory(system: &'static System, report: &mut Report<'_>) {
    const OWNERS: &[Column] = &[("owner", 22), ("frames", 10), ("bytes", 12)];
    let counts = system.memory().counts();
    report.table("owners", OWNERS);
    let mut row = |owner: &str, frames: u64| {
        report.row(&[Value::Text(owner), Value::Number(frames), Value::Size(frames * PAGE_SIZE)]);
    };
    row("free, zeroed", counts.clean);
    row("free, to be zeroed", counts.dirty);
    row("retired", counts.retired);
    let bundle = system.bundle_frames();
    row("hypervisor", counts.hypervisor - bundle.min(counts.hypervisor));
    row("hypervisor, pool", counts.pool);
    row("bundle", bundle);
    row("offline", counts.offline);
    row("bad", counts.bad);
    row("in hand", counts.in_hand());
    for guest in system.guests() {
        row(guest.name(), counts.guest(guest.id).frames);
    }
    const TABLES: &[Column] = &[("tables_of", 22), ("frames", 10), ("bytes", 12)];
    report.table("tables", TABLES);
    for guest in system.guests() {
        let frames = counts.guest(guest.id).tables;
        report.row(&[
            Value::Text(guest.name()),
            Value::Number(frames),
            Value::Size(frames * PAGE_SIZE),
        ]);
    }
    let account = system.commitment();
    report.value("promised", Value::Size(account.promised));
    report.value("promisable", Value::Size(account.available));
    report.value("free_frames", Value::Number(counts.free()));
    report.value("total_frames", Value::Number(counts.total));
    report.value("total", Value::Size(counts.total * PAGE_SIZE));
}

fn balloon(system: &'static System, guest: &Guest, size: u64, report: &mut Report<'_>) {
    let maximum = guest.config.memory;
    if size > maximum || size < PAGE_SIZE {
        return report.error(
            format_args!("guest {} can have 4K to {}", guest.name(), Value::Size(maximum)),
            Some(("balloon", "<guest> <size>")),
        );
    }
    let more = size.saturating_sub(guest.memory_target());
    if !lifecycle::may_have(system, guest, more, report) {
        return;
    }
    let driver = guest.set_memory_target(system, size);
    report.value("target", Value::Size(size.next_multiple_of(PAGE_SIZE)));
    report.value("memory", Value::Size(guest.memory_now()));
    report.value("driver", Value::Flag(driver));
    if !driver {
        report.remark(format_args!(
            "the guest has no balloon driver yet; it will see the target when it has"
        ));
    }
}

fn stats(system: &'static System, guest: &Guest, report: &mut Report<'_>) {
    const STATS: &[Column] = &[("statistic", 24), ("value", 16)];
    let slot = guest.balloon.lock();
    let device = slot.device();
    let (statistics, counters) = (*device.statistics(), *device.counters());
    report.value("actual_pages", Value::Number(device.actual().into()));
    report.value("target_pages", Value::Number(device.target().into()));
    report.value("features", Value::Address(device.negotiated_features()));
    drop(slot);
    report.value("inflated_pages", Value::Number(counters.inflated));
    report.value("deflated_pages", Value::Number(counters.deflated));
    report.value("reported_pages", Value::Number(counters.reported));
    report.value("updates", Value::Number(statistics.updates));
    if let Some(updated) = statistics.updated {
        report.value("age_ms", Value::Number(ticks_ago(updated) / 1000));
    }
    report.table("statistics", STATS);
    for (tag, value) in statistics.iter() {
        let value = if tag.is_bytes() { Value::Size(value) } else { Value::Number(value) };
        report.row(&[Value::Text(tag.name()), value]);
    }
    let asked = guest.request_stats(system);
    report.value("asked_anew", Value::Flag(asked));
}

fn attributes(attributes: Stage2Attributes, text: &mut dyn Write) -> fmt::Result {
    let access = match attributes.bits() >> 6 & 3 {
        0 => "--",
        1 => "r-",
        2 => "-w",
        _ => "rw",
    };
    let execute = if attributes.contains(Stage2Attributes::XN) { "-" } else { "x" };
    let kind = match attributes.bits() >> 2 & 0xf {
        0xf => "normal-wb",
        0..=3 => "device",
        _ => "normal",
    };
    let share = match attributes.bits() >> 8 & 3 {
        0 => "non-sh",
        2 => "outer-sh",
        _ => "inner-sh",
    };
    let accessed = if attributes.contains(Stage2Attributes::ACCESS_FLAG) { " AF" } else { "" };
    write!(text, "{access}{execute} {kind} {share}{accessed}")
}

fn tables(guest: &Guest, range: Option<IpaRange>, report: &mut Report<'_>) {
    const RUNS: &[Column] = &[
        ("from", 14),
        ("to", 14),
        ("size", 10),
        ("level", 6),
        ("entries", 8),
        ("pa", 14),
        ("attributes", 0),
    ];
    let extent = guest.space.extent();
    let all = extent.start.align_down(BLOCK_1G)..extent.end;
    report.table("runs", RUNS);
    guest.space.dump(range.unwrap_or(all), |run: &Run| {
        let mut text = heapless::String::<64>::new();
        let pa = match run.what {
            What::Mapped { first, attributes: bits } => {
                // There is room for the longest.
                let _ = attributes(bits, &mut text);
                Value::Address(first.as_u64())
            }
            What::Moving(first) => {
                let _ = text.push_str("moving");
                Value::Address(first.as_u64())
            }
            What::Absent(mark) => {
                let _ = text.push_str(match mark {
                    Mark::Empty => "empty",
                    Mark::Ballooned => "ballooned",
                    Mark::Unplugged => "unplugged",
                    Mark::Poisoned => "poisoned",
                });
                Value::Text("-")
            }
        };
        let level = match run.level {
            Level::One => 1,
            Level::Two => 2,
            Level::Three => 3,
        };
        report.row(&[
            Value::Address(run.range.start.as_u64()),
            Value::Address(run.range.end.as_u64()),
            Value::Size(run.range.end.as_u64() - run.range.start.as_u64()),
            Value::Number(level),
            Value::Number(run.entries),
            pa,
            Value::Text(&text),
        ]);
    });
}

fn epoch(system: &'static System, report: &mut Report<'_>) {
    const CPUS: &[Column] = &[("cpu", 4), ("state", 10), ("announced", 10), ("pins", 5)];
    const WAITING: &[Column] = &[("epoch", 10), ("frames", 10), ("tables", 8), ("age_us", 12)];
    let retired = system.memory().counts().retired_detail;
    let snapshot = system.memory().epoch().snapshot();
    let is_stalled = |cpu: usize, announced| {
        retired.stalled >> cpu & 1 != 0 && snapshot.epoch.since(announced) > 0
    };
    report.value("epoch", Value::Number(snapshot.epoch.get()));
    report.table("cpus", CPUS);
    for (cpu, state) in snapshot.cpus.iter().enumerate().take(system.cpus()) {
        report.row(&[
            Value::Number(cpu as u64),
            Value::Text(match state.pins {
                0 => "quiescent",
                _ if is_stalled(cpu, state.announced) => "stalled",
                _ => "active",
            }),
            Value::Number(state.announced.get()),
            Value::Number(state.pins.into()),
        ]);
    }
    report.table("retired", WAITING);
    for waiting in retired.waiting.iter().filter(|waiting| waiting.frames > 0) {
        report.row(&[
            Value::Number(waiting.epoch.get()),
            Value::Number(waiting.frames),
            Value::Number(waiting.tables),
            Value::Number(ticks_ago(waiting.since)),
        ]);
    }
    report.value("expired", Value::Number(retired.expired));
    report.value("retired_ever", Value::Number(retired.total));
    report.value("most_retired", Value::Number(retired.most));
    report.value("retired_bound", Value::Number(system.memory().retired_bound()));
    report.value("longest_grace_us", Value::Number(microseconds(retired.longest)));
    report.value("stalled_ever", Value::Number(retired.stalled_ever));
}

fn log(lines: usize, report: &mut Report<'_>) {
    const LINES: &[Column] = &[("number", 6), ("us", 12), ("cpu", 3), ("level", 5), ("text", 0)];
    report.table("lines", LINES);
    logger::last(lines, |line| {
        report.row(&[
            Value::Number(line.number),
            Value::Number(line.microseconds),
            Value::Number(line.cpu),
            Value::Text(line.level.as_str()),
            Value::Text(line.text),
        ]);
    });
}

fn counters(system: &'static System, report: &mut Report<'_>) {
    let of = |guest: Arc<Guest>| -> u64 {
        guest.vcpus.iter().map(|vcpu| vcpu.exits.load(Ordering::Relaxed)).sum()
    };
    let exits = system.guests().map(of).sum();
    let (used, free) = heap::usage();
    report.value("exits", Value::Number(exits));
    report.value("heap_used", Value::Size(used as u64));
    report.value("heap_free", Value::Size(free as u64));
    let unused = (0..system.cpus()).filter_map(CpuId::new).map(arch::cpu::stack_unused).min();
    report.value("stack_unused", Value::Size(unused.unwrap_or(0)));
    report.value("image", Value::Size(arch::boot::image_bytes() as u64));
    report.value("ticks", Value::Number(arch::time::now()));
    report.value("ticks_a_second", Value::Number(arch::time::frequency()));
}
