//! The audit that goes on for ever, step by step.

use super::super::descriptor::Mark;
use super::*;
use crate::audit::continuous::Continuous;
use crate::audit::{Asked, Finding};
use crate::mem::Order;
use crate::sync::Ordering;

const MIB: u64 = 1 << 20;

/// Goes on until `rounds` more are complete, with `spaces` as the guests that there are; returns what was found.
fn go_round(
    audit: &mut Continuous,
    memory: &Memory,
    rounds: u64,
    spaces: &[&Space<'_>],
    others: Asked,
) -> Vec<Finding> {
    let end = audit.rounds() + rounds;
    let mut found = Vec::new();
    while audit.rounds() < end {
        found.extend(audit.step(memory, &|guest, look| {
            let Some(space) = spaces.iter().find(|space| space.guest() == guest) else {
                return others;
            };
            look(space);
            Asked::Looked
        }));
    }
    found
}

fn sound_space() -> (&'static Memory, Space<'static>) {
    let (memory, space) = space(64 * MIB, 16 * MIB);
    space.populate(at(0), Order::BLOCK_2M).unwrap();
    for page in 512..520 {
        space.populate(at(page << 12), Order::PAGE).unwrap();
    }
    (memory, space)
}

#[test]
fn what_is_wrong_is_told_once_however_many_rounds_meet_it() {
    let (memory, space) = sound_space();
    let mut audit = Continuous::new();
    assert_eq!(go_round(&mut audit, memory, 2, &[&space], Asked::Nobody), []);
    let (frames, counted) = (audit.frames(), audit.report().counted);
    // All memory is in the frame table, and 520 frames are in the tables.
    assert_eq!(frames, 2 * (64 * MIB / 4096 + 520));
    assert_eq!(counted, 2);
    let slot = space.root_for_edit().find(at(513 << 12)).slot;
    let bits = slot.swap(Mark::Ballooned.bits(), Ordering::Relaxed);
    let found = go_round(&mut audit, memory, 3, &[&space], Asked::Nobody);
    let lost = |finding: &&Finding| matches!(finding, Finding::NotMapped { ipa, .. } if *ipa == Some(at(513 << 12)));
    assert_eq!(found.iter().filter(lost).count(), 1, "{found:?}");
    assert_eq!(found.len(), 2, "and the counters differ: {found:?}");
    slot.store(bits, Ordering::Relaxed);
    assert_sound(memory, &[&space]);
}

#[test]
fn an_edit_that_goes_on_holds_it_up_nowhere() {
    let (memory, space) = sound_space();
    let slot = space.root_for_edit().find(at(513 << 12)).slot;
    let bits = slot.swap(Mark::Ballooned.bits(), Ordering::Relaxed);
    let edit = space.edit();
    let mut audit = Continuous::new();
    // What differs while tables are being edited may be in order.
    assert_eq!(go_round(&mut audit, memory, 1, &[&space], Asked::Nobody), []);
    assert_eq!((audit.report().unsettled, audit.report().counted), (1, 0));
    slot.store(bits, Ordering::Relaxed);
    let _ = edit.finish().retire();
    assert_eq!(go_round(&mut audit, memory, 1, &[&space], Asked::Nobody), []);
    assert_eq!((audit.report().unsettled, audit.report().counted), (1, 1));
}

#[test]
fn guests_come_and_go_between_its_steps() {
    let (memory, space) = sound_space();
    let mut audit = Continuous::new();
    // It is being taken apart: its frames have an owner that cannot be looked at.
    assert_eq!(go_round(&mut audit, memory, 1, &[], Asked::Changing), []);
    assert_eq!(audit.report().unsettled, 9);
    // It is gone, and what it had is not free.
    let found = go_round(&mut audit, memory, 1, &[], Asked::Nobody);
    assert_eq!(found.len(), 8, "those that are kept: {found:?}");
    assert_eq!(audit.report().findings, 9);
    drop(space);
    settle(memory);
    let mut audit = Continuous::new();
    assert_eq!(go_round(&mut audit, memory, 1, &[], Asked::Nobody), []);
    let other = space_in(memory, 1, 16 * MIB);
    assert_eq!(go_round(&mut audit, memory, 1, &[&other], Asked::Nobody), []);
}
