//! What comes in registers: hypercalls, syndromes, ID registers.

use crate::Input;
use sluice::addr::PAGE_SIZE;
use sluice::exit::id_registers::{CARRIED, guest_view, is_id_register};
use sluice::exit::syndrome::{Exit, injected};
use sluice::service::{self, Call};
use sluice::{psci, service::owns};

/// Functions that exist, and their neighbours.
const FUNCTIONS: [u64; 8] = [
    0x8400_0000,
    0xc400_0000,
    0x8000_0000,
    0x8600_0000,
    0xc600_0000,
    0x8600_ff00,
    0x8400_0010,
    0xc400_0010,
];

/// Decodes calls and syndromes, and reads ID registers as a guest does.
pub fn run(input: &[u8]) {
    let mut input = Input::new(input);
    while !input.is_empty() {
        match input.byte() % 4 {
            0 | 1 => call(&mut input),
            2 => syndrome(input.double(), input.double()),
            _ => {
                let register = input.one_of(&CARRIED);
                let value = input.double();
                let seen = guest_view(register, value);
                assert!(is_id_register(register));
                assert_eq!(guest_view(register, seen), seen, "what is hidden is hidden once");
            }
        }
    }
}

fn call(input: &mut Input<'_>) {
    let function = match input.byte() {
        0xff => input.double(),
        near => FUNCTIONS[usize::from(near) % FUNCTIONS.len()] + u64::from(near) / 8,
    };
    let x = [function, input.number() << 12, input.number() << 12, input.number()];
    // A bit in the middle, so that not all is of whole pages.
    let low = u64::from(input.byte() & 7 == 7);
    let x = [x[0], x[1] | low, x[2], x[3]];
    let of_service = service::decode([x[0], x[1], x[2]]);
    assert!(of_service.is_none() || owns(x[0]), "a call of another's");
    if let Some(Ok(Call::Request(range) | Call::Accept(range) | Call::Release(range))) = of_service
    {
        assert!(range.start < range.end);
        assert!(range.start.is_aligned(PAGE_SIZE) && range.end.is_aligned(PAGE_SIZE));
    }
    let of_firmware = psci::decode(x);
    if owns(x[0]) {
        assert_eq!(of_firmware, psci::Call::Answer(psci::result::NOT_SUPPORTED));
    }
    if let psci::Call::CpuOn { target, entry, context } = of_firmware
        && x[0] & 1 << 30 == 0
    {
        assert!(
            target | entry | context <= u64::from(u32::MAX),
            "a narrow call with wide arguments"
        );
    }
}

fn syndrome(syndrome: u64, value: u64) {
    match Exit::decode(syndrome) {
        Exit::DataAbort(abort) => {
            let Some(access) = abort.access else { return };
            assert!(matches!(access.size, 1 | 2 | 4 | 8) && access.register <= 31);
            let seen = access.extend(value);
            assert!(access.wide || access.size == 8 || seen <= u64::from(u32::MAX));
            let mask = if access.size == 8 { u64::MAX } else { (1 << (8 * access.size)) - 1 };
            assert_eq!(seen & mask, value & mask, "the bytes that were loaded");
        }
        Exit::SystemRegister(access) => assert!(access.transfer <= 31),
        _ => {}
    }
    let seen = injected::external_abort(value, syndrome & 1 != 0, syndrome & 2 != 0);
    assert!(matches!(seen >> 26, 0x20 | 0x21 | 0x24 | 0x25) && seen >> 32 == 0);
}
