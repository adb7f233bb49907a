//! What is memory is claimed once, whoever claims it.

use super::*;
use crate::mem::Memory;

pub(super) fn scene() {
    const BYTES: u64 = 4 << 20;
    std::thread_local! {
        static RANGE: crate::addr::PaRange = arch::memory::take(BYTES, BLOCK_2M);
    }
    let range = RANGE.with(Clone::clone);
    let memory: &'static Memory =
        Box::leak(Box::new(Memory::new(host::frame_table(core::slice::from_ref(&range)))));
    let won = Arc::new(AtomicU64::new(0));
    let threads = (0..2).map(|cpu| {
        let (won, part) = (won.clone(), range.start..Pa::new(range.start.as_u64() + BLOCK_2M));
        on(cpu, move || {
            if memory.claim_hypervisor(part).is_ok() {
                won.fetch_add(1, Ordering::SeqCst);
            }
        })
    });
    join(threads.collect());
    assert_eq!(won.load(Ordering::SeqCst), 1, "claimed twice");
}
