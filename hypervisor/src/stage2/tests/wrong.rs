//! The audit's negative controls: each thing that it looks for, made wrong on purpose.

use super::super::descriptor::Mark;
use super::*;
use crate::addr::PAGE_SIZE;
use crate::audit::{Finding, Report};
use crate::mem::{Order, Owner};
use crate::sync::Ordering;

const MIB: u64 = 1 << 20;

/// Makes a space with a block at 0, a block of pages at 2 MiB, and nothing wrong.
fn sound_space() -> (&'static Memory, Space<'static>) {
    let (memory, space) = space(64 * MIB, 16 * MIB);
    space.populate(at(0), Order::BLOCK_2M).unwrap();
    for page in 512..520 {
        space.populate(at(page * PAGE_SIZE), Order::PAGE).unwrap();
    }
    assert_sound(memory, &[&space]);
    (memory, space)
}

/// Overwrites the descriptor for `ipa` behind everybody's back.
fn overwrite(space: &Space<'_>, ipa: Ipa, bits: u64) -> u64 {
    space.root_for_edit().find(ipa).slot.swap(bits, Ordering::Relaxed)
}

fn bits_of(space: &Space<'_>, ipa: Ipa) -> u64 {
    space.root_for_edit().find(ipa).bits
}

fn findings(report: &Report) -> Vec<Finding> {
    report.first.iter().flatten().copied().collect()
}

#[test]
fn a_frame_mapped_twice_is_found() {
    let (memory, space) = sound_space();
    let (one, other) = (at(512 * PAGE_SIZE), at(600 * PAGE_SIZE));
    overwrite(&space, other, bits_of(&space, one));
    let report = audit(memory, &[&space]);
    let found = findings(&report);
    assert!(found.iter().any(|f| matches!(f, Finding::NotRecorded { ipa, .. } if *ipa == other)));
    assert!(found.iter().any(|f| matches!(f, Finding::Counts { .. })));
    overwrite(&space, other, 0);
    assert_sound(memory, &[&space]);
}

#[test]
fn a_frame_that_no_table_leads_to_is_found() {
    for mark in [Mark::Empty, Mark::Ballooned] {
        let (memory, space) = sound_space();
        for ipa in [at(0), at(514 * PAGE_SIZE)] {
            let bits = overwrite(&space, ipa, mark.bits());
            let found = findings(&audit(memory, &[&space]));
            assert!(found.iter().any(
                |finding| matches!(finding, Finding::NotMapped { ipa: at, .. } if *at == Some(ipa))
            ));
            overwrite(&space, ipa, bits);
        }
        assert_sound(memory, &[&space]);
    }
}

#[test]
fn a_frame_of_another_owner_is_found() {
    let (memory, space) = sound_space();
    let ipa = at(515 * PAGE_SIZE);
    let bits = bits_of(&space, ipa);
    let flags = bits & 0xffff_0000_0000_0fff;
    let other_guest = space_in(memory, 1, 16 * MIB);
    other_guest.populate(at(0), Order::PAGE).unwrap();
    let free = memory.allocate(Order::PAGE).unwrap();
    let free_pa = free.first().pa();
    memory.give_back(free);
    for (pa, expected) in [
        (space.root_for_edit().pa(), Owner::Table(guest(0))),
        (free_pa, Owner::Free),
        (Pa::new(bits_of(&other_guest, at(0)) & 0xffff_ffff_f000), Owner::Guest(guest(1))),
        (Pa::new(0), Owner::Offline),
    ] {
        overwrite(&space, ipa, pa.as_u64() | flags);
        let found = findings(&audit(memory, &[&space, &other_guest]));
        let expected = |finding: &Finding| {
            matches!(*finding, Finding::NotRecorded { ipa: at, owner, .. }
                if at == ipa && owner == expected)
        };
        assert!(found.iter().any(expected), "{found:?}");
    }
    overwrite(&space, ipa, bits);
    assert_sound(memory, &[&space, &other_guest]);
}

#[test]
fn a_page_in_place_of_its_block_is_found() {
    let (memory, space) = sound_space();
    let ipa = at(516 * PAGE_SIZE);
    // The first page of the block at 0: the guest's frame, but its record tells of a block
    // elsewhere.
    let block = bits_of(&space, at(0));
    let bits = overwrite(&space, ipa, block | 2);
    let found = findings(&audit(memory, &[&space]));
    assert!(found.iter().any(|f| matches!(f, Finding::NotRecorded { ipa: at, .. } if *at == ipa)));
    overwrite(&space, ipa, bits);
    assert_sound(memory, &[&space]);
}

#[test]
fn a_frame_used_as_a_table_is_found() {
    let (memory, space) = sound_space();
    // The page at 2 MiB as a table of level 3, at 4 MiB.
    let page = bits_of(&space, at(512 * PAGE_SIZE)) & 0xffff_ffff_f000;
    overwrite(&space, at(4 * MIB), page | 3);
    let found = findings(&audit(memory, &[&space]));
    let expected = Owner::Guest(guest(0));
    assert!(
        found.iter().any(|f| matches!(f, Finding::NotATable { owner, .. } if *owner == expected))
    );
    overwrite_level_two(&space, at(4 * MIB));
    assert_sound(memory, &[&space]);
}

fn overwrite_level_two(space: &Space<'_>, ipa: Ipa) {
    let level = super::super::Level::Two;
    space.root_for_edit().find_at(ipa, level).slot.store(0, Ordering::Relaxed);
}

#[test]
fn a_table_that_leads_nowhere_is_missed() {
    let (memory, space) = sound_space();
    let lost = memory.table_frame(guest(0)).unwrap();
    let found = findings(&audit(memory, &[&space]));
    assert!(matches!(found[..], [Finding::Counts { tables: (3, 4), .. }]), "{found:?}");
    memory.give_back_table(lost);
    assert_sound(memory, &[&space]);
}

#[test]
fn a_guest_that_does_not_exist_owns_nothing() {
    let (memory, space) = sound_space();
    let found = findings(&audit(memory, &[]));
    assert!(found.iter().all(|f| matches!(f, Finding::NoSuchGuest { .. })));
    assert_eq!(found.len(), crate::audit::KEPT);
    assert_sound(memory, &[&space]);
}
