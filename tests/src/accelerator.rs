//! What executes a machine's code: QEMU's emulation, or KVM where the host's can.

use std::env;

/// What executes a machine's code.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// QEMU's emulation, on any host and with any CPU model.
    Tcg,
    /// The host's KVM, with the host's own CPU.
    Kvm,
}

impl Accelerator {
    /// Of machines with Sluice: `SLUICE_EL2`. `make ci` sets it to `kvm` where KVM gives its guests an EL2.
    pub fn of_hypervisors() -> Self {
        Self::said_by("SLUICE_EL2")
    }

    /// Of machines without: `SLUICE_EL1`. `make ci` sets it to `kvm` where there is a KVM for this code.
    pub fn of_bare_machines() -> Self {
        Self::said_by("SLUICE_EL1")
    }

    fn said_by(variable: &str) -> Self {
        match env::var(variable) {
            Ok(word) if word == "kvm" => Self::Kvm,
            _ => Self::Tcg,
        }
    }

    /// The options of QEMU that make it so, for a machine that is to have the CPU `model` if that can be chosen.
    pub fn options(self, model: &str) -> Vec<String> {
        let options = match self {
            Self::Tcg => vec!["-cpu", model],
            Self::Kvm => vec!["-accel", "kvm", "-cpu", "host"],
        };
        options.into_iter().map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Accelerator;

    #[test]
    fn the_emulator_has_the_model_that_is_asked_for() {
        assert_eq!(Accelerator::Tcg.options("cortex-a53"), ["-cpu", "cortex-a53"]);
    }

    #[test]
    fn kvm_has_the_hosts_own_cpu() {
        assert_eq!(Accelerator::Kvm.options("cortex-a53"), ["-accel", "kvm", "-cpu", "host"]);
    }
}
