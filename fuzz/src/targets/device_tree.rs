//! A machine's device tree, from its firmware.

use sluice_platform::Machine;

/// Makes out a machine: what it says is in bounds, and why it is not one can be said.
pub fn run(input: &[u8]) {
    let _ = Machine::last_resort(input);
    match Machine::from_device_tree(input) {
        Ok(machine) => {
            let ranges = machine.memory.iter().chain(&machine.offline).chain(&machine.reserved);
            assert!(
                ranges.clone().all(|range| range.start <= range.end),
                "a range that is turned round"
            );
            assert!(!machine.memory.is_empty() && !machine.cpus.is_empty());
            assert!(!machine.gic.distributor().is_empty() && !machine.uart.registers.is_empty());
            assert!(machine.initrd.is_none_or(|range| !range.is_empty()));
        }
        Err(error) => drop(error.to_string()),
    }
}
