//! Two guests of which each gets what the other loses, whoever walks their tables meanwhile.
#![expect(unsafe_code, reason = "a guest's loads and stores")]

use super::*;
use crate::addr::PAGE_SIZE;
use crate::audit::Asked;
use crate::audit::continuous::Continuous;
use crate::mem::Order;

/// Memory for one guest of [`RAM_BYTES`] and a little more.
const MEMORY: u64 = 6 << 20;
const RAM_BYTES: u64 = 4 << 20;
/// The pages that are used: some of each block.
const PAGES: [u64; 4] = [0, 1, 511, 512];

fn page() -> Ipa {
    at(PAGES[below(PAGES.len() as u64) as usize] * PAGE_SIZE)
}

fn tag(space: &Space<'_>, ipa: Ipa) -> u64 {
    ipa.as_u64() | (space.guest().index() as u64 + 1)
}

/// The guest: loads its tag, or zero where memory is new, and stores it.
fn touch(space: &Space<'_>) {
    let ipa = page();
    let mine = tag(space, ipa);
    let touched = tlb::access_with(space.vttbr(), ipa, |pa| {
        let word = arch::memory::pointer(pa).cast::<Word>();
        // SAFETY: the frame is in the arena, which is never freed; the scene is about whose it is.
        let word = unsafe { word.as_ref() };
        let found = word.load(Ordering::SeqCst);
        assert!(found == 0 || found == mine, "a guest read what is not its own");
        word.store(mine, Ordering::SeqCst);
    });
    assert_eq!(tlb::check_break_before_make(space.vttbr(), ipa), Ok(()));
    if touched.is_none() {
        let largest = if below(4) == 0 { Order::BLOCK_2M } else { Order::PAGE };
        match space.populate(ipa, largest) {
            Ok(_) | Err(PopulateError::Ballooned | PopulateError::OutOfMemory) => {}
            Err(error) => panic!("a page of RAM cannot be populated: {error:?}"),
        }
    }
}

/// The balloon: takes, returns, splits and joins.
fn change(space: &Space<'_>) {
    let ipa = page();
    let block = ipa.align_down(BLOCK_2M);
    match below(6) {
        0 => {
            let range = block..Ipa::new(block.as_u64() + BLOCK_2M);
            if let Ok(taken) = space.take_range(range, super::super::super::Mark::Empty) {
                taken.flushed.retire();
            }
        }
        1 | 2 => {
            if let Ok((_, flushed)) = space.take_pages(&[ipa]) {
                flushed.retire();
            }
        }
        3 => {
            if let Ok((_, flushed)) = space.return_pages(&[ipa, at(0)]) {
                flushed.retire();
            }
        }
        4 => _ = space.split_block(ipa),
        _ => {
            if let Some(flushed) = space.coalesce(ipa) {
                flushed.retire();
            }
        }
    }
}

/// Software that reads the guest's memory, and looks up whose a frame is.
fn look(memory: &Memory, space: &Space<'_>) {
    let ipa = page();
    let mut bytes = [0; 8];
    if space.read(ipa, &mut bytes).is_ok() {
        let found = u64::from_le_bytes(bytes);
        assert!(found == 0 || found == tag(space, ipa), "a walk read what is not the guest's");
    }
    let pin = memory.pin();
    if let Ok(leaf) = space.translate(&pin, ipa) {
        let frame = leaf.frame().expect("in the arena");
        let head = memory.frames().owner_of(frame).head;
        assert!(head <= frame, "a lookup found a block that does not reach the frame");
    }
}

pub(super) fn scene() {
    let memory = fresh(MEMORY);
    let spaces = [0, 1].map(|number| Arc::new(space_of(memory, number, RAM_BYTES)));
    let mut threads = Vec::new();
    for (index, space) in spaces.iter().enumerate() {
        let (runs, gives) = (space.clone(), space.clone());
        threads.push(on(index, move || (0..6).for_each(|_| touch(&runs))));
        threads.push(on(index + 2, move || (0..4).for_each(|_| change(&gives))));
    }
    let seen = spaces[0].clone();
    threads.push(on(4, move || (0..4).for_each(|_| look(memory, &seen))));
    let audited = spaces.clone();
    threads.push(on(5, move || {
        let mut audit = Continuous::new();
        for _ in 0..40 {
            let mut found = audit.step(memory, &|guest, look| {
                match audited.iter().find(|space| space.guest() == guest) {
                    Some(space) => look(space),
                    None => return Asked::Nobody,
                }
                Asked::Looked
            });
            assert_eq!(found.next(), None, "the audit found something");
        }
    }));
    threads.push(on(6, move || (0..12).for_each(|_| _ = memory.idle_step())));
    join(threads);
    for space in &spaces {
        assert_eq!(tlb::check(space.vttbr()), Ok(()));
        let _ = tlb::take_log(space.vttbr());
        space.clear().expect("there is room for tables");
    }
    settle(memory);
    assert_sound(memory, &[&spaces[0], &spaces[1]]);
    let counts = memory.counts();
    assert_eq!(
        counts.free() + counts.pool + counts.tables(),
        MEMORY / PAGE_SIZE,
        "frames are lost"
    );
}
