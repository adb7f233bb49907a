//! Software writes to a guest's memory while that memory moves to other frames; nothing that it wrote is lost.

use super::*;
use crate::mem::Order;

pub(super) fn scene() {
    let memory = fresh(6 << 20);
    let space = Arc::new(space_of(memory, 0, BLOCK_2M));
    space.populate(at(0), Order::PAGE).expect("there is memory");
    let (written, moved) = (space.clone(), space.clone());
    let writer = on(0, move || {
        for value in 1..8u64 {
            written.write(at(0), &value.to_le_bytes()).expect("software can write to RAM");
            let mut bytes = [0; 8];
            written.read(at(0), &mut bytes).expect("software can read RAM");
            assert_eq!(u64::from_le_bytes(bytes), value, "what software wrote was lost");
        }
    });
    let mover = on(1, move || (0..4).for_each(|_| moves::move_some(memory, &moved)));
    join(vec![writer, mover]);
    let _ = tlb::take_log(space.vttbr());
    settle(memory);
    assert_sound(memory, &[&space]);
}
