//! Whether the device tree is one, and how it compares with that of QEMU's `virt`.

use super::*;
use crate::addr::Ipa;
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};
use std::io::Write as _;
use std::process::{Command, Stdio};

fn description() -> Description<'static> {
    Description {
        gic: Version::V3,
        vcpus: 2,
        memory: 1 << 30,
        command_line: "console=ttyAMA0 quiet",
        initrd: Some(Ipa::new(0x4440_0000)..Ipa::new(0x4480_0001)),
        random: true,
    }
}

fn write(machine: &Description<'_>) -> Vec<u8> {
    MachineTree::new(machine).bytes().to_vec()
}

fn value(node: &FdtNode<'_>, property: &str) -> Vec<u8> {
    node.property(property).unwrap_or_else(|| panic!("{property} is missing")).value().to_vec()
}

#[test]
fn dtc_has_nothing_to_complain_of() {
    for (gic, vcpus) in [(Version::V3, 1), (Version::V3, 16), (Version::V2, 8)] {
        let blob = write(&Description { gic, vcpus, ..description() });
        let mut dtc = Command::new("dtc")
            .args(["-I", "dtb", "-O", "dts"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("dtc is installed");
        dtc.stdin.take().expect("it is piped").write_all(&blob).expect("dtc reads all of it");
        let output = dtc.wait_with_output().expect("dtc ends");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert!(output.status.success());
    }
}

/// Every node that both trees have is the same, but for what is meant to differ.
#[test]
fn it_is_that_of_virt() {
    let ours = write(&description());
    let ours = Fdt::new(&ours).expect("it is valid");
    let virt = include_bytes!("virt.dtb");
    let virt = Fdt::new(virt).expect("QEMU's is valid");
    let mut compared = 0;
    for path in ["/", "/memory@40000000", "/cpus", "/cpus/cpu@0", "/cpus/cpu@1", "/timer"]
        .into_iter()
        .chain(["/apb-pclk", "/intc@8000000", "/pl011@9000000", "/chosen"])
        .chain(["/virtio_mmio@a000000", "/virtio_mmio@a000200", "/virtio_mmio@a000e00"])
    {
        let one = ours.find_node(path).unwrap_or_else(|| panic!("{path} is missing"));
        let other = virt.find_node(path).expect("virt has it");
        for property in other.properties() {
            let name = property.name();
            // Only the CPU map, which is not there, leads to CPUs.
            if path.starts_with("/cpus") && name == "phandle" {
                continue;
            }
            let differs = match (path, name) {
                (_, "phandle" | "interrupt-parent" | "clocks" | "rng-seed" | "kaslr-seed") => true,
                ("/cpus/cpu@0" | "/cpus/cpu@1", "compatible") => true,
                // Room for as many as there are vCPUs.
                ("/intc@8000000", "reg") => true,
                ("/chosen", "bootargs" | "linux,initrd-start" | "linux,initrd-end") => true,
                (path, "interrupts") => path.starts_with("/virtio"),
                _ => false,
            };
            assert!(one.property(name).is_some(), "{path}: {name} is missing");
            if !differs {
                assert_eq!(value(&one, name), property.value(), "{path}: {name}");
                compared += 1;
            }
        }
    }
    assert!(compared > 30, "only {compared} properties were compared");
}

#[test]
fn cells_lead_where_they_should() {
    let blob = write(&description());
    let tree = Fdt::new(&blob).expect("it is valid");
    let gic = tree.find_node("/intc@8000000").expect("there is a GIC");
    assert_eq!(value(&gic, "phandle"), value(&tree.root(), "interrupt-parent"));
    let registers: Vec<u8> = [0u64, 0x800_0000, 0, 0x1_0000, 0, 0x80a_0000, 0, 0x4_0000]
        .iter()
        .flat_map(|cell| (*cell as u32).to_be_bytes())
        .collect();
    assert_eq!(value(&gic, "reg"), registers);
    let clock = tree.find_node("/apb-pclk").expect("there is a clock");
    let uart = tree.find_node(UART_PATH).expect("there is a UART");
    assert_eq!(value(&uart, "clocks"), value(&clock, "phandle").repeat(2));
    let slot = tree.find_node("/virtio_mmio@a000200").expect("there is a second slot");
    assert_eq!(value(&slot, "interrupts"), [0, 0, 0, 0, 0, 0, 0, 17, 0, 0, 0, 4]);
    let psci = tree.find_node("/psci").expect("there is PSCI");
    assert_eq!(value(&psci, "method"), b"hvc\0");
    let chosen = tree.find_node("/chosen").expect("there is a chosen node");
    assert_eq!(value(&chosen, "bootargs"), b"console=ttyAMA0 quiet\0");
    assert_eq!(value(&chosen, "linux,initrd-start"), 0x4440_0000u64.to_be_bytes());
    assert_eq!(value(&chosen, "linux,initrd-end"), 0x4480_0001u64.to_be_bytes());
}

#[test]
fn what_there_is_not_is_not_mentioned() {
    let blob =
        write(&Description { command_line: "", initrd: None, random: false, ..description() });
    let tree = Fdt::new(&blob).expect("it is valid");
    let chosen = tree.find_node("/chosen").expect("there is a chosen node");
    let names: Vec<String> = chosen.properties().map(|property| property.name().into()).collect();
    assert_eq!(names, ["stdout-path", "kaslr-seed"]);
}

#[test]
fn every_vcpu_has_a_node_and_a_redistributor() {
    for vcpus in 1..=layout::MAX_VCPUS {
        let blob = write(&Description { vcpus, ..description() });
        let tree = Fdt::new(&blob).expect("it is valid");
        let cpus = tree.find_node("/cpus").expect("there are CPUs");
        let affinities: Vec<Vec<u8>> = cpus.children().map(|cpu| value(&cpu, "reg")).collect();
        assert_eq!(affinities.len(), vcpus);
        for (index, affinity) in affinities.iter().enumerate() {
            assert_eq!(affinity, &(index as u32).to_be_bytes());
        }
        let gic = tree.find_node("/intc@8000000").expect("there is a GIC");
        let size = &value(&gic, "reg")[28..];
        assert_eq!(size, (vcpus as u32 * 0x2_0000).to_be_bytes());
    }
}

#[test]
fn the_longest_description_stays_small() {
    let command_line = "x".repeat(crate::guest::manifest::MAX_COMMAND_LINE);
    let blob = write(&Description { vcpus: 16, command_line: &command_line, ..description() });
    assert!(blob.len() < 16 << 10, "{} bytes", blob.len());
}

#[test]
fn each_start_has_its_own_seeds() {
    let tree = MachineTree::new(&description());
    let started = |seed: &Seed| {
        let mut blob = vec![0xff; tree.bytes().len()];
        let done = tree.parts(seed, |at, bytes| {
            blob[at..at + bytes.len()].copy_from_slice(bytes);
            Ok::<(), ()>(())
        });
        assert_eq!(done, Ok(()));
        let seeds = {
            let tree = Fdt::new(&blob).expect("it is valid");
            let chosen = tree.find_node("/chosen").expect("there is a chosen node");
            (value(&chosen, "kaslr-seed"), value(&chosen, "rng-seed"))
        };
        (blob.len(), seeds)
    };
    let seed = Seed { kaslr: 0x1122_3344_5566_7788, rng: Some([9; 32]) };
    let length = tree.bytes().len();
    let seeds = (0x1122_3344_5566_7788u64.to_be_bytes().to_vec(), vec![9; 32]);
    assert_eq!(started(&seed), (length, seeds));
    let seeds = (7u64.to_be_bytes().to_vec(), vec![0; 32]);
    assert_eq!(started(&Seed { kaslr: 7, rng: None }), (length, seeds));
}
