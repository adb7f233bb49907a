//! What this CPU can do: read once, in one place.
#![expect(unsafe_code, reason = "reads ID registers by name")]

use aarch64_cpu::registers::{ID_AA64MMFR0_EL1, ID_AA64PFR0_EL1, Readable};
use core::fmt;
use sluice_platform::Gic;
use spin::Once;

/// What this CPU can do, as far as Sluice cares; read once from the ID registers on the machine.
#[derive(Clone, Debug, Default)]
pub struct Features {
    /// Physical address size in bits, 32 to 48.
    pub pa_bits: u8,
    /// VMID size in bits, 8 or 16.
    pub vmid_bits: u8,
    /// FEAT_TLBIRANGE: one TLBI for a range.
    pub tlb_range: bool,
    /// FEAT_BBM level, 0 to 2.
    pub bbm_level: u8,
    /// FEAT_HAFDBS: the CPU can set the access flag itself.
    pub access_flag: bool,
    /// FEAT_S2FWB: stage 2 can force a guest's accesses to write-back.
    pub s2fwb: bool,
    /// FEAT_HCX: there is an HCRX_EL2 to set.
    pub hcx: bool,
    /// FEAT_FGT: there are fine-grained traps to clear.
    pub fgt: bool,
    /// FEAT_SVE: CPTR_EL2.TZ traps it.
    pub sve: bool,
    /// FEAT_SME.
    pub sme: bool,
    /// FEAT_LOR: HCR_EL2.TLOR traps it.
    pub lor: bool,
    /// FEAT_RAS: HCR_EL2.TERR traps it.
    pub ras: bool,
    /// FEAT_VHE: EL2 could be used as EL1 is; Sluice does not.
    pub vhe: bool,
    /// FEAT_PAN, which is the guest's.
    pub pan: bool,
    /// FEAT_BTI, which is the guest's.
    pub bti: bool,
    /// FEAT_PAuth, which is the guest's.
    pub pauth: bool,
    /// The block that DC ZVA zeroes in bytes; 0 where it is prohibited.
    pub zva_bytes: u32,
    /// The smallest data cache line in bytes.
    pub cache_line: u32,
}

/// A feature that Sluice cannot do without, and this CPU has not.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct MissingFeature(&'static str);

impl fmt::Display for MissingFeature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

static FEATURES: Once<Features> = Once::new();

/// Returns what this CPU can do. Before [`detect_features`] nothing is known.
#[inline(always)]
pub fn features() -> &'static Features {
    static NONE: Features = Features {
        pa_bits: 0,
        vmid_bits: 8,
        tlb_range: false,
        bbm_level: 0,
        access_flag: false,
        s2fwb: false,
        hcx: false,
        fgt: false,
        sve: false,
        sme: false,
        lor: false,
        ras: false,
        vhe: false,
        pan: false,
        bti: false,
        pauth: false,
        zva_bytes: 0,
        cache_line: 16,
    };
    FEATURES.get().unwrap_or(&NONE)
}

fn field(register: u64, low: u32) -> u64 {
    (register >> low) & 0xf
}

/// Reads the ID registers of this CPU (Arm ARM, section D24.2), which is to be interrupted by `gic`.
///
/// # Errors
///
/// [`MissingFeature`] names what the CPU would need to have.
pub fn detect_features(gic: &Gic) -> Result<&'static Features, MissingFeature> {
    let mmfr0 = ID_AA64MMFR0_EL1.get();
    let mmfr1 = mrs!("ID_AA64MMFR1_EL1");
    let mmfr2 = mrs!("ID_AA64MMFR2_EL1");
    let pfr0 = ID_AA64PFR0_EL1.get();
    let pfr1 = mrs!("ID_AA64PFR1_EL1");
    let isar0 = mrs!("ID_AA64ISAR0_EL1");
    let isar1 = mrs!("ID_AA64ISAR1_EL1");
    // By their encodings, for compilers that do not know the names: ID_AA64ISAR2_EL1, ID_AA64MMFR4_EL1.
    let isar2 = mrs!("S3_0_C0_C6_2");
    let mmfr4 = mrs!("S3_0_C0_C7_4");
    let dczid = mrs!("DCZID_EL0");
    let ctr = mrs!("CTR_EL0");

    if matches!(gic, Gic::V3(_)) && field(pfr0, 24) == 0 {
        return Err(MissingFeature("a GICv3 CPU interface in system registers"));
    }
    // E2H0: a negative number where HCR_EL2.E2H is fixed to 1.
    if field(mmfr4, 24) >= 8 {
        return Err(MissingFeature("an HCR_EL2.E2H that can be 0 (FEAT_E2H0)"));
    }
    // Stage 1: 0 is supported, 0xf is not; stage 2: 0 says as stage 1, 1 not, 2 and up supported.
    if field(mmfr0, 28) == 0xf || field(mmfr0, 40) == 1 {
        return Err(MissingFeature("4 KiB translation granules at stage 1 and stage 2"));
    }
    let pa_bits = match field(mmfr0, 0) {
        0 => 32,
        1 => 36,
        2 => 40,
        3 => 42,
        4 => 44,
        _ => 48,
    };
    if pa_bits < 36 {
        return Err(MissingFeature("physical addresses of at least 36 bits"));
    }
    Ok(FEATURES.call_once(|| Features {
        pa_bits,
        vmid_bits: if field(mmfr1, 4) == 2 { 16 } else { 8 },
        tlb_range: field(isar0, 56) >= 2,
        bbm_level: field(mmfr2, 52) as u8,
        access_flag: field(mmfr1, 0) >= 1,
        s2fwb: field(mmfr2, 40) >= 1,
        hcx: field(mmfr1, 40) >= 1,
        fgt: field(mmfr0, 56) >= 1,
        sve: field(pfr0, 32) >= 1,
        sme: field(pfr1, 24) >= 1,
        lor: field(mmfr1, 16) >= 1,
        ras: field(pfr0, 28) >= 1,
        vhe: field(mmfr1, 8) >= 1,
        pan: field(mmfr1, 20) >= 1,
        bti: field(pfr1, 0) >= 1,
        pauth: field(isar1, 4) | field(isar1, 8) | field(isar2, 12) != 0,
        zva_bytes: if dczid & 0x10 != 0 { 0 } else { 4 << (dczid & 0xf) },
        cache_line: 4 << ((ctr >> 16) & 0xf),
    }))
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-bit PA, {}-bit VMID", self.pa_bits, self.vmid_bits)?;
        if self.bbm_level > 0 {
            write!(f, ", BBM level {}", self.bbm_level)?;
        }
        let named = [
            (self.tlb_range, "TLBI ranges"),
            (self.access_flag, "HAFDBS"),
            (self.s2fwb, "S2FWB"),
            (self.vhe, "VHE"),
            (self.pan, "PAN"),
            (self.bti, "BTI"),
            (self.pauth, "PAuth"),
            (self.sve, "SVE"),
            (self.ras, "RAS"),
        ];
        for (_, name) in named.iter().filter(|(has, _)| *has) {
            write!(f, ", {name}")?;
        }
        Ok(())
    }
}
