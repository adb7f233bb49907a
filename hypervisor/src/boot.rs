//! From the loader's jump to the first guest.
use crate::arch::boot::Entry;
use crate::arch::cpu::CpuId;
/// x
pub fn primary(entry: Entry) -> ! {
    let base = crate::addr::Pa::new(0x900_0000);
    #[allow(unsafe_code)]
    unsafe {
        crate::arch::uart::put_early(base, b"hello\r\n");
    }
    let mut b = crate::arch::stage1::Builder::new();
    b.device(base..crate::addr::Pa::new(0x900_1000));
    #[allow(unsafe_code)]
    unsafe {
        b.activate();
        crate::arch::uart::init(base)
    };
    crate::arch::uart::put_all(b"mmu on\r\n");
    crate::heap::init();
    let f = crate::arch::detect_features();
    match f {
        Ok(f) => crate::arch::uart::put_all(alloc::format!("{f}\r\n").as_bytes()),
        Err(e) => crate::arch::uart::put_all(alloc::format!("{e}\r\n").as_bytes()),
    }
    let null = core::hint::black_box(0x10usize) as *const u64;
    #[allow(unsafe_code)]
    let v = unsafe { null.read_volatile() };
    core::hint::black_box(v);
    crate::arch::cpu::halt()
}
/// x
pub fn secondary(_cpu: CpuId) -> ! {
    crate::arch::cpu::halt()
}
