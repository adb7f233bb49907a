//! The vendor-specific hypervisor service: what guests can ask Sluice itself, by HVC or SMC (SMCCC 1.2, Arm DEN
//! 0028, section 6). The interface is specified in `docs/service.md`; this is its decoding.

use crate::addr::{Ipa, IpaRange, PAGE_SIZE, ipa_range};

/// The service's UID, `a3f0c9d2-71b4-4e5a-8c36-2d9be47f1068`, as CALL_UID returns it in w0 to w3: each 4 bytes of
/// it, the first in the lowest bits (SMCCC 1.2, section 6.2).
pub const UID: [u32; 4] = [0xd2c9_f0a3, 0x5a4e_b471, 0x9b2d_368c, 0x6810_7fe4];
/// The version: a new major number for what old callers cannot use.
pub const VERSION: (u64, u64) = (1, 0);

const CALL_UID: u32 = 0x8600_ff01;
const REVISION: u32 = 0x8600_ff03;
/// The first of the service's own functions: fast calls with 64-bit parameters.
const FIRST: u32 = 0xc600_0000;
/// All functions of the service but its first, a bit for each by its number.
pub const FEATURES: u64 = 0b1111_1110;

/// What functions return in x0. The first two are SMCCC's (section 7.1.1 and table 2-1).
pub mod result {
    /// It is done.
    pub const SUCCESS: i64 = 0;
    /// There is no such function.
    pub const NOT_SUPPORTED: i64 = -1;
    /// A parameter is wrong.
    pub const INVALID_PARAMETER: i64 = -3;
    /// It may not be done: another interface has the range, or nothing was offered there.
    pub const DENIED: i64 = -4;
    /// There is no memory for it now.
    pub const NO_MEMORY: i64 = -5;
    /// There is memory at that address already.
    pub const PRESENT: i64 = -6;
}

/// A call of the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// CALL_UID.
    Uid,
    /// REVISION.
    Revision,
    /// FEATURES.
    Features,
    /// MEMORY_QUERY of the range with this number.
    Query(u64),
    /// MEMORY_LISTEN: the guest will (or will not) ask for what is wished of it.
    Listen(bool),
    /// MEMORY_PENDING: what is wished of it.
    Pending,
    /// MEMORY_REQUEST: it wants memory there.
    Request(IpaRange),
    /// MEMORY_ACCEPT: it takes what was offered there.
    Accept(IpaRange),
    /// MEMORY_RELEASE: it has done with what is there.
    Release(IpaRange),
    /// MEMORY_DECLINE: it will not do what was wished of it.
    Decline,
}

/// Says whether the function in x0 is of the service's owning entity, whether it exists or not (bits 29 to 24 are 6).
#[inline]
pub const fn owns(function: u64) -> bool {
    function >> 24 & 0x3f == 6
}

/// Decodes a call with these values in x0 to x2. `None`: it is not for this service, or not known, which is the same
/// to a caller: NOT_SUPPORTED.
///
/// # Errors
///
/// [`result::INVALID_PARAMETER`] where a range is empty, not of whole pages, or not in the address space.
pub fn decode(x: [u64; 3]) -> Option<Result<Call, i64>> {
    let [function, a, b] = x;
    let range = || memory_range(a, b).ok_or(result::INVALID_PARAMETER);
    let call = match function as u32 {
        CALL_UID => Call::Uid,
        REVISION => Call::Revision,
        own if own & !0xffff == FIRST => match own & 0xffff {
            0 => Call::Features,
            1 => Call::Query(a),
            2 => match a {
                0 | 1 => Call::Listen(a == 1),
                _ => return Some(Err(result::INVALID_PARAMETER)),
            },
            3 => Call::Pending,
            4 => return Some(range().map(Call::Request)),
            5 => return Some(range().map(Call::Accept)),
            6 => return Some(range().map(Call::Release)),
            7 => Call::Decline,
            _ => return None,
        },
        _ => return None,
    };
    Some(Ok(call))
}

/// Returns the range of `bytes` at `start`, if it is of whole pages, at least one.
fn memory_range(start: u64, bytes: u64) -> Option<IpaRange> {
    let whole = start.is_multiple_of(PAGE_SIZE) && bytes.is_multiple_of(PAGE_SIZE) && bytes > 0;
    ipa_range(Ipa::new(start), bytes).filter(|_| whole)
}

/// What is wished of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// It can have memory here.
    Offer(IpaRange),
    /// It shall release what it has here.
    Release(IpaRange),
}

impl Wish {
    /// Returns the kind, as MEMORY_PENDING has it.
    pub const fn kind(&self) -> u64 {
        match self {
            Self::Offer(_) => 1,
            Self::Release(_) => 2,
        }
    }

    /// Returns what it is about.
    pub const fn range(&self) -> &IpaRange {
        match self {
            Self::Offer(range) | Self::Release(range) => range,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_uid_is_the_one_that_is_written_down() {
        let bytes: Vec<u8> = UID.iter().flat_map(|word| word.to_le_bytes()).collect();
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(text, "a3f0c9d271b44e5a8c362d9be47f1068");
    }

    #[test]
    fn every_feature_is_a_function() {
        for number in 0..64 {
            let known = decode([u64::from(FIRST) + number, 0, PAGE_SIZE]).is_some();
            assert_eq!(known, number == 0 || FEATURES & 1 << number != 0, "function {number}");
        }
    }

    #[test]
    fn what_is_decoded_is_owned() {
        for function in [CALL_UID, REVISION].into_iter().chain((0..8).map(|n| FIRST + n)) {
            assert!(owns(function.into()), "{function:#x}");
        }
        assert!(!owns(0x8400_0000) && !owns(0xc400_0003) && !owns(0x8000_0001));
    }

    #[test]
    fn ranges_are_of_whole_pages() {
        let request = |start, bytes| decode([u64::from(FIRST) + 4, start, bytes]);
        let whole = Ipa::new(0x8000_0000)..Ipa::new(0x8000_1000);
        assert_eq!(request(0x8000_0000, 0x1000), Some(Ok(Call::Request(whole))));
        for (start, bytes) in
            [(0x8000_0001, 0x1000), (0x8000_0000, 0), (0x8000_0000, 0x800), (!0xfff, 0x2000)]
        {
            assert_eq!(request(start, bytes), Some(Err(result::INVALID_PARAMETER)));
        }
    }

    #[test]
    fn others_functions_are_not_ours() {
        for function in [0x8400_0000_u64, 0x8000_0000, 0x8600_ff00, 0x8600_0000, 0xc600_0008] {
            assert_eq!(decode([function, 0, 0]), None, "{function:#x}");
        }
        // The upper half of x0 means nothing (SMCCC 1.2, section 2.5).
        assert_eq!(decode([0xffff_ffff_8600_ff01, 0, 0]), Some(Ok(Call::Uid)));
    }

    proptest! {
        #[test]
        fn no_call_panics(x in any::<[u64; 3]>(), number in 0..16_u64) {
            let _ = decode(x);
            let [_, a, b] = x;
            if let Some(Ok(Call::Request(range))) = decode([u64::from(FIRST) + number, a, b]) {
                prop_assert!(range.start < range.end);
            }
        }
    }
}
