//! A guest that wants to be left alone: it sleeps, wakes, looks through its memory and at its devices, and counts.

use crate::arch::cpu;
use crate::arch::time::{self, Timer};
use crate::gic;
use crate::hostile::still_works;
use crate::memory::{self, BLOCK, PAGE, Range};
use crate::outcome::Outcome;
use crate::run::Stub;
use crate::tests::balloon::{Seen, expect, fill};

/// How long it sleeps between two beats, in microseconds.
const SLEEP: u64 = 10_000;
/// It tells of every beat of so many.
const TOLD: u64 = 10;

/// Beats until the machine ends: `note beats: <number>`. Memory keeps what was written, the balloon answers.
pub fn beats(stub: &Stub) -> Outcome {
    let Some(own) = memory::take(4 * BLOCK, BLOCK) else { skip!("no untouched memory left") };
    fill(own);
    let interrupt = stub.machine.virtual_timer;
    gic::enable(interrupt, |_| Timer::Virtual.control(0));
    for beat in 1u64.. {
        let before = cpu::this().count(interrupt);
        Timer::Virtual.fire_at(time::now() + time::ticks(SLEEP));
        cpu::sleep_until(|| cpu::this().count(interrupt) != before);
        cpu::unmask();
        let page = own.start + (beat * 7919 * PAGE) % own.size();
        expect(Range::sized(page, PAGE), "left alone", |seen| seen == Seen::Marked)?;
        if beat.is_multiple_of(TOLD) {
            still_works(stub, "while another guest attacks")?;
            say!("note beats: {beat}");
        }
    }
    Ok(())
}
