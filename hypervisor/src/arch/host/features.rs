//! What the pretended CPU can do.

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
    /// FEAT_S2FWB: stage 2 can force a guest's accesses to write-back.
    pub s2fwb: bool,
}

/// Returns what this CPU can do.
pub fn features() -> &'static Features {
    static FEATURES: Features =
        Features { pa_bits: 44, vmid_bits: 8, tlb_range: false, bbm_level: 0, s2fwb: false };
    &FEATURES
}
