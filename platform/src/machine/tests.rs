//! Good device trees, each beside bad twins, and corrupt ones.

use crate::*;
use proptest::prelude::*;
use std::io::Write as _;
use std::process::{Command, Stdio};

const VIRT: &[u8] = include_bytes!("../../fixtures/virt-gicv3.dtb");

/// A board that is not QEMU's: buses, 32-bit addresses, several ranges of memory, interrupts of four cells.
const BOARD: &str = r#"
/dts-v1/;
/memreserve/ 0x80000000 0x10000;
/ {
    #address-cells = <1>;
    #size-cells = <1>;
    model = "A board";
    aliases { console = "/soc/bus@10000000/serial@10011000"; };
    chosen {
        stdout-path = "console:115200n8";
        bootargs = "log=debug";
        linux,initrd-start = <0x88000000>;
        linux,initrd-end = <0x88001000>;
        rng-seed = <1 2 3 4 5 6 7 8>;
    };
    memory@80000000 { device_type = "memory"; reg = <0x80000000 0x8000000>, <0x90000000 0x4000000>; };
    memory@a0000000 { device_type = "memory"; reg = <0xa0000000 0x1000000>; };
    memory@b0000000 { device_type = "memory"; reg = <0xb0000000 0x1000000>; status = "disabled"; };
    memory@c0000000 {
        device_type = "memory";
        reg = <0xc0000000 0x1000000>;
        status = "disabled";
        secure-status = "okay";
    };
    reserved-memory {
        #address-cells = <1>;
        #size-cells = <1>;
        ranges;
        firmware@a0800000 { reg = <0xa0800000 0x1000>; no-map; };
        pool { size = <0x100000>; reusable; };
    };
    cpus {
        #address-cells = <2>;
        #size-cells = <0>;
        cpu@0 { device_type = "cpu"; reg = <0 0>; enable-method = "psci"; };
        cpu@100 { device_type = "cpu"; reg = <0 0x100>; enable-method = "psci"; };
        cpu@100000001 { device_type = "cpu"; reg = <1 1>; enable-method = "psci"; };
        cpu@101 { device_type = "cpu"; reg = <0 0x101>; enable-method = "psci"; status = "disabled"; };
    };
    psci { compatible = "arm,psci-1.0"; method = "smc"; };
    timer {
        compatible = "arm,armv8-timer";
        interrupt-names = "phys", "virt", "hyp-phys";
        interrupts = <1 14 4 0>, <1 11 4 0>, <1 10 4 0>;
    };
    soc {
        compatible = "simple-bus";
        #address-cells = <1>;
        #size-cells = <1>;
        ranges;
        intc: interrupt-controller@8000000 {
            compatible = "arm,gic-v3";
            #interrupt-cells = <4>;
            #redistributor-regions = <2>;
            redistributor-stride = <0x40000>;
            interrupt-controller;
            reg = <0x8000000 0x10000>, <0x9000000 0x80000>, <0x9800000 0x80000>, <0xfff0000 0x2000>;
        };
        bus@10000000 {
            compatible = "simple-bus";
            #address-cells = <1>;
            #size-cells = <1>;
            ranges;
            serial@10010000 { compatible = "arm,pl011"; reg = <0x10010000 0x1000>; interrupts = <0 1 4 0>; };
            serial@10011000 { compatible = "arm,pl011"; reg = <0x10011000 0x1000>; interrupts = <0 2 4 0>; };
            virtio@10020000 { compatible = "virtio,mmio"; reg = <0x10020000 0x200>; interrupts = <0 9 1 0>; };
        };
    };
};
"#;

fn compile(source: &str) -> Vec<u8> {
    let mut dtc = Command::new("dtc")
        .args(["-q", "-I", "dts", "-O", "dtb"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("dtc is installed");
    dtc.stdin.take().expect("it is piped").write_all(source.as_bytes()).expect("dtc reads it");
    let output = dtc.wait_with_output().expect("dtc ends");
    assert!(output.status.success(), "dtc refuses the source");
    output.stdout
}

/// Makes out the board with `from` replaced by `to`.
fn changed(from: &str, to: &str) -> Result<Machine, PlatformError> {
    assert!(BOARD.contains(from), "{from} is not in the source");
    Machine::from_device_tree(&compile(&BOARD.replace(from, to)))
}

/// Returns what is said of the board with `from` replaced by `to`.
fn complaint(from: &str, to: &str) -> String {
    changed(from, to).expect_err("this must be refused").to_string()
}

#[test]
fn qemu_virt_is_made_out() {
    let machine = Machine::from_device_tree(VIRT).expect("QEMU's device tree is good");
    assert_eq!(machine.model, "linux,dummy-virt");
    assert_eq!(machine.memory.len(), 1);
    assert_eq!(machine.memory[0], 0x4000_0000..0x1_4000_0000);
    assert_eq!(machine.cpus.len(), 2);
    assert_eq!(machine.conduit, Some(Conduit::Smc));
    assert_eq!(machine.uart.registers.start, 0x900_0000);
    assert_eq!(machine.uart.interrupt, 33);
    let gic = gic_v3(&machine);
    assert_eq!(gic.distributor, 0x800_0000..0x801_0000);
    assert_eq!(gic.redistributors.len(), 1);
    assert_eq!(gic.redistributors[0], 0x80a_0000..0x900_0000);
    let timer = Timer { physical: 30, virtual_: 27, hypervisor: 26 };
    assert_eq!(machine.timer, timer);
    assert_eq!(machine.virtio.len(), 32);
    assert_eq!(machine.virtio.iter().map(|slot| slot.interrupt).min(), Some(48));
    assert!(machine.virtio.iter().all(|slot| slot.edge));
    assert!(machine.seed.is_some());
}

fn gic_v3(machine: &Machine) -> &GicV3 {
    match &machine.gic {
        Gic::V3(gic) => gic,
        Gic::V2(gic) => panic!("it has a GICv3, not {gic:?}"),
    }
}

#[test]
fn qemu_virt_with_a_gicv2_is_made_out() {
    let blob = include_bytes!("../../fixtures/virt-gicv2.dtb");
    let machine = Machine::from_device_tree(blob).expect("QEMU's device tree is good");
    let gic = GicV2 {
        distributor: 0x800_0000..0x801_0000,
        cpu_interface: 0x801_0000..0x802_0000,
        virtual_control: 0x803_0000..0x804_0000,
        virtual_interface: 0x804_0000..0x805_0000,
    };
    assert_eq!(machine.gic, Gic::V2(gic));
    let timer = Timer { physical: 30, virtual_: 27, hypervisor: 26 };
    assert_eq!(machine.timer, timer);
}

#[test]
fn a_gicv2_without_virtualization_is_refused() {
    let two = BOARD.replace(", <0x9800000 0x80000>, <0xfff0000 0x2000>", "");
    let blob = compile(&two.replace("\"arm,gic-v3\"", "\"arm,gic-400\""));
    let error = Machine::from_device_tree(&blob).expect_err("this must be refused");
    assert!(error.to_string().contains("GICD, GICC, GICH and GICV"), "{error}");
}

#[test]
fn another_board_is_made_out() {
    let machine = changed("A board", "A board").expect("it is good");
    assert_eq!(machine.model, "A board");
    let memory = [0x8000_0000..0x8800_0000, 0x9000_0000..0x9400_0000, 0xa000_0000..0xa100_0000];
    assert_eq!(machine.memory.as_slice(), &memory);
    assert_eq!(machine.offline.len(), 1);
    assert_eq!(machine.offline[0], 0xb000_0000..0xb100_0000);
    let reserved = [0x8000_0000..0x8001_0000, 0xa080_0000..0xa080_1000];
    assert_eq!(machine.reserved.as_slice(), &reserved);
    let affinities: Vec<u64> = machine.cpus.iter().map(|cpu| cpu.affinity).collect();
    assert_eq!(affinities, [0, 0x100, 0x1_0000_0001]);
    let registers = 0x1001_1000..0x1001_2000;
    assert_eq!(machine.uart, Uart { kind: UartKind::Pl011, registers, interrupt: 34 });
    let gic = gic_v3(&machine);
    assert_eq!(gic.distributor, 0x800_0000..0x801_0000);
    let redistributors = [0x900_0000..0x908_0000, 0x980_0000..0x988_0000];
    assert_eq!(gic.redistributors.as_slice(), &redistributors);
    assert_eq!(gic.stride, 0x4_0000);
    assert_eq!(machine.timer, Timer { physical: 30, virtual_: 27, hypervisor: 26 });
    let slot = VirtioSlot { registers: 0x1002_0000..0x1002_0200, interrupt: 41, edge: true };
    assert_eq!(machine.virtio.as_slice(), &[slot]);
    assert_eq!(machine.arguments, "log=debug");
    assert_eq!(machine.initrd, Some(0x8800_0000..0x8800_1000));
    let seed = machine.seed.expect("there is one");
    assert_eq!(seed[..8], [0, 0, 0, 1, 0, 0, 0, 2]);
}

#[test]
fn an_initrd_has_addresses_of_one_or_two_cells() {
    let machine = changed("start = <0x88000000>", "start = <0 0x88000000>").expect("it is good");
    assert_eq!(machine.initrd, Some(0x8800_0000..0x8800_1000));
    let machine = changed("end = <0x88001000>", "end = <0x88000000>").expect("it is empty");
    assert_eq!(machine.initrd, None);
    assert!(complaint("end = <0x88001000>", "end = <0x87ffffff>").contains("linux,initrd-end"));
    assert!(complaint("linux,initrd-end", "linux,initrd").contains("linux,initrd-end"));
    assert!(complaint("end = <0x88001000>", "end = <1 2 3>").contains("one or two cells"));
}

#[test]
fn without_stdout_path_the_first_pl011_is_the_console() {
    let machine = changed("stdout-path", "no-path").expect("it is good");
    assert_eq!(machine.uart.registers.start, 0x1001_0000);
}

/// As boards' trees have them, beyond what the specification allows.
#[test]
fn long_names_do_no_harm() {
    let long = "A board\"; a-property-whose-name-has-more-than-31-characters = \"x";
    let blob = compile(&BOARD.replace("A board", long));
    let machine = Machine::from_device_tree(&blob).expect("it is good");
    assert_eq!(machine.model, "A board");
    // Its structure is looked through nevertheless.
    for length in 0..blob.len() {
        assert_eq!(Machine::from_device_tree(&blob[..length]), Err(PlatformError::Malformed));
    }
    let mut harmless = 0;
    for at in 0..blob.len() {
        for byte in [0, 1, 0x80, 0xff] {
            let mut blob = blob.clone();
            blob[at] = byte;
            harmless += u32::from(Machine::from_device_tree(&blob).is_ok());
        }
    }
    assert!(harmless > 0);
}

#[test]
fn addresses_are_translated_from_bus_to_bus() {
    let source = BOARD.replacen(
        "ranges;\n        intc",
        "ranges = <0 0x40000000 0x20000000>;\n        intc",
        1,
    );
    let inner = "ranges = <0x10010000 0x1010000 0x2000 0x10020000 0x1f0000 0x1000>;";
    let source =
        source.replacen("ranges;\n            serial", &format!("{inner}\n            serial"), 1);
    let machine = Machine::from_device_tree(&compile(&source)).expect("it is good");
    assert_eq!(gic_v3(&machine).distributor, 0x4800_0000..0x4801_0000);
    assert_eq!(machine.uart.registers, 0x4101_1000..0x4101_2000);
    assert_eq!(machine.virtio[0].registers, 0x401f_0000..0x401f_0200);
    assert_eq!(machine.memory[0], 0x8000_0000..0x8800_0000, "no bus is above it");
}

#[test]
fn what_a_bus_does_not_lead_to_is_left_out() {
    let translated = "ranges = <0x20000000 0 0x100000>;";
    let source = BOARD.replacen(
        "ranges;\n            serial",
        &format!("{translated}\n            serial"),
        1,
    );
    assert_ne!(source, BOARD);
    let missing = PlatformError::MissingNode { what: "UART that is known here (PL011, Cadence)" };
    assert_eq!(Machine::from_device_tree(&compile(&source)), Err(missing));
    let source = BOARD.replacen("ranges;\n            serial", "serial", 1);
    assert_eq!(Machine::from_device_tree(&compile(&source)), Err(missing));
}

#[test]
fn cpus_may_spin_at_a_table() {
    let spin = "enable-method = \"spin-table\"; cpu-release-addr = <0 0xd8>";
    let source = BOARD.replace("enable-method = \"psci\"", spin).replace("arm,psci-1.0", "none");
    let machine = Machine::from_device_tree(&compile(&source)).expect("it is good");
    assert_eq!(machine.conduit, None);
    assert!(machine.cpus.iter().all(|cpu| cpu.start == Start::SpinTable(0xd8)));
    let said = complaint("enable-method = \"psci\"", &spin.replace("0xd8", "0xdc"));
    assert!(said.contains("cpu-release-addr"), "{said}");
}

#[test]
fn what_is_missing_is_named() {
    for (from, what) in [
        ("device_type = \"memory\"", "memory"),
        ("cpus {", "/cpus"),
        ("device_type = \"cpu\"", "cpu in /cpus"),
        ("\"arm,psci-1.0\"", "PSCI"),
        ("\"arm,pl011\"", "UART that is known here (PL011, Cadence)"),
        ("\"arm,gic-v3\"", "GICv2 or GICv3"),
        ("\"arm,armv8-timer\"", "Armv8 timer"),
    ] {
        let to = if from == "cpus {" { "processors {" } else { "other = \"\"" };
        let to = if from.starts_with('"') { "\"something,else\"" } else { to };
        assert_eq!(changed(from, to), Err(PlatformError::MissingNode { what }));
    }
}

#[test]
fn what_is_wrong_is_named_with_what_would_be_right() {
    for (from, to, node, property) in [
        ("method = \"smc\"", "method = \"abc\"", "psci", "method"),
        ("reg = <1 1>", "reg = <1>", "cpu", "reg"),
        ("reg = <0xa0000000 0x1000000>", "reg = <0xa0000000>", "memory", "reg"),
        ("reg = <0xa0000000 0x1000000>", "no-reg", "memory", "reg"),
        ("interrupts = <0 2 4 0>", "interrupts = <0 2 4>", "UART", "interrupts"),
        ("interrupts = <0 9 1 0>", "interrupts = <0 988 1 0>", "virtio-mmio slot", "interrupts"),
        (
            "interrupts = <0 9 1 0>",
            "interrupts = <0 0xffffffff 1 0>",
            "virtio-mmio slot",
            "interrupts",
        ),
        ("interrupts = <0 9 1 0>", "interrupts = <1 16 1 0>", "virtio-mmio slot", "interrupts"),
        ("reg = <0x10020000 0x200>", "reg = <0x10020000 0>", "virtio-mmio slot", "reg"),
        (", <1 10 4 0>", "", "timer", "interrupts"),
        ("\"hyp-phys\"", "\"hyp-virt\"", "timer", "interrupts"),
        (", <0x9000000 0x80000>, <0x9800000 0x80000>, <0xfff0000 0x2000>", "", "GIC", "reg"),
        ("bootargs = \"log=debug\"", "bootargs = [ff fe 00]", "chosen", "bootargs"),
        ("reg = <0xa0800000 0x1000>", "reg = <0xffffffff>", "reserved-memory", "reg"),
    ] {
        let said = complaint(from, to);
        let named = format!("the device tree's {node} needs a property '{property}': ");
        assert!(said.starts_with(&named), "{from} -> {to}: {said}");
        assert!(said.len() > named.len());
    }
}

#[test]
fn what_cannot_be_driven_is_named() {
    assert!(complaint("enable-method = \"psci\"", "enable-method = \"other\"").contains("PSCI"));
    assert!(complaint("arm,psci-1.0", "arm,psci").contains("PSCI 0.2"));
}

#[test]
fn more_than_there_is_room_for_is_named() {
    let long = format!("bootargs = \"{}\"", "x".repeat(MAX_ARGUMENTS + 1));
    assert!(complaint("bootargs = \"log=debug\"", &long).contains("at most 512 bytes"));
    let ranges = "<0xa0000000 0x1000> ".repeat(MAX_MEMORY_RANGES + 1);
    let many = format!("reg = {}", ranges.trim_end().replace("> <", ">, <"));
    let said = complaint("reg = <0xa0000000 0x1000000>", &many);
    assert_eq!(said, "the device tree lists more than 16 ranges of memory");
    let said = complaint("regions = <2>", "regions = <9>");
    assert_eq!(said, "the device tree lists more than 8 regions of redistributors");
}

#[test]
fn more_cpus_than_there_is_room_for_stay_off() {
    let more: String = (0..20)
        .map(|n| format!("cpu@2{n:02x} {{ device_type = \"cpu\"; reg = <0 {}>; }};", 0x200 + n))
        .collect();
    let machine = changed("cpu@0 {", &format!("{more} cpu@0 {{")).expect("it is good");
    assert_eq!(machine.cpus.len(), MAX_CPUS);
}

#[test]
fn any_cpu_may_boot() {
    let affinities =
        |machine: &Machine| machine.cpus.iter().map(|cpu| cpu.affinity).collect::<Vec<_>>();
    let mut machine = changed("", "").expect("it is good");
    machine.put_first(0x1_0000_0001);
    assert_eq!(affinities(&machine), [0x1_0000_0001, 0, 0x100]);
    machine.put_first(0x1_0000_0001);
    assert_eq!(affinities(&machine), [0x1_0000_0001, 0, 0x100], "it is the first already");
    machine.put_first(7);
    assert_eq!(affinities(&machine), [7, 0x1_0000_0001, 0, 0x100], "it is not listed");
    while machine.cpus.push(Cpu { affinity: 1, start: Start::Psci }).is_ok() {}
    machine.put_first(8);
    assert_eq!(
        (machine.cpus.len(), affinities(&machine)[..3].to_vec()),
        (MAX_CPUS, vec![8, 7, 0x1_0000_0001])
    );
}

#[test]
fn the_console_is_found_where_the_rest_is_wrong() {
    let blob = compile(&BOARD.replace("\"arm,gic-v3\"", "\"arm,gic-v5\""));
    let (uart, conduit) = Machine::last_resort(&blob);
    assert_eq!(conduit, Some(Conduit::Smc));
    // Interrupts of a GIC that is not known cannot be counted on.
    assert!(uart.is_some());
    assert_eq!(Machine::last_resort(&blob[1..]), (None, None));
}

#[test]
fn a_blob_may_be_at_any_address() {
    let expected = Machine::from_device_tree(VIRT).expect("QEMU's device tree is good");
    for offset in 0..8 {
        let mut moved = vec![0; offset];
        moved.extend_from_slice(VIRT);
        assert_eq!(Machine::from_device_tree(&moved[offset..]).as_ref(), Ok(&expected));
    }
}

#[test]
fn a_cut_blob_is_malformed() {
    for length in 0..VIRT.len() {
        assert_eq!(Machine::from_device_tree(&VIRT[..length]), Err(PlatformError::Malformed));
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn corrupt_blobs_do_no_harm(
        changes in proptest::collection::vec((0..VIRT.len(), any::<u8>()), 1..20),
        words in proptest::collection::vec((0..VIRT.len() / 4, 0u32..12), 0..4),
    ) {
        let mut blob = VIRT.to_vec();
        for (at, byte) in changes {
            blob[at] = byte;
        }
        // Small words are tags, lengths and offsets.
        for (at, word) in words {
            blob[at * 4..at * 4 + 4].copy_from_slice(&word.to_be_bytes());
        }
        let _ = Machine::from_device_tree(&blob);
        let _ = Machine::last_resort(&blob);
    }

    #[test]
    fn a_cut_blob_whose_header_lies_does_no_harm(length in 40..VIRT.len()) {
        let mut blob = VIRT[..length].to_vec();
        blob[4..8].copy_from_slice(&(length as u32).to_be_bytes());
        let _ = Machine::from_device_tree(&blob);
        let _ = Machine::last_resort(&blob);
    }
}
