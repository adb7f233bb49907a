//! Accesses to device registers, each by an instruction whose syndrome a hypervisor can decode: compiled code is free to
//! use post-indexed and paired forms even for volatile accesses.
#![expect(unsafe_code, reason = "accesses devices by address")]

use core::arch::asm;

macro_rules! accessors {
    ($($read:ident $write:ident $type:ty, $load:literal, $store:literal;)*) => { $(
        /// Reads a device register of this width.
        #[inline(always)]
        pub fn $read(address: u64) -> $type {
            let value: $type;
            // SAFETY: the callers pass registers of devices that the device tree names; devices are no memory of Rust's.
            unsafe { asm!($load, out(reg) value, in(reg) address, options(nostack, preserves_flags)) }
            value
        }

        /// Writes a device register of this width.
        #[inline(always)]
        pub fn $write(address: u64, value: $type) {
            // SAFETY: as for reads.
            unsafe { asm!($store, in(reg) value, in(reg) address, options(nostack, preserves_flags)) }
        }
    )* };
}

accessors! {
    read_8 write_8 u8, "ldrb {:w}, [{}]", "strb {:w}, [{}]";
    read_32 write_32 u32, "ldr {:w}, [{}]", "str {:w}, [{}]";
    read_64 write_64 u64, "ldr {}, [{}]", "str {}, [{}]";
}
