//! A good manifest, and its bad twins.

use super::*;
use crate::guest::bundle::tests::archive;
use proptest::prelude::*;
use std::io::Write as _;
use std::process::{Command, Stdio};

const GOOD: &str = r#"
/dts-v1/;
/ {
    compatible = "sluice,manifest-v1";
    guests {
        linux0 {
            vcpus = <2>;
            memory = /bits/ 64 <0x40000000>;
            maximum-memory = /bits/ 64 <0x80000000>;
            kernel = "Image";
            initrd = "initramfs.cpio";
            command-line = "console=ttyAMA0 quiet";
            population = "eager";
        };
        stub {
            memory = <0x400000>;
            kernel = "stub.bin";
            held;
            cpus = <1 3>;
            overcommit;
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

fn kernel() -> Vec<u8> {
    let mut kernel = vec![0; 4096];
    kernel[16..24].copy_from_slice(&0x200_0000u64.to_le_bytes());
    kernel[24..32].copy_from_slice(&0xau64.to_le_bytes());
    kernel[56..60].copy_from_slice(b"ARM\x64");
    kernel
}

/// Makes a bundle with the manifest in `blob`.
fn bundle(blob: &[u8]) -> Vec<u8> {
    let kernel = kernel();
    archive(&[
        (MANIFEST, blob),
        ("Image", &kernel),
        ("initramfs.cpio", b"070701"),
        ("stub.bin", b"\x00\x00\x00\x14"),
        ("Image.gz", b"\x1f\x8b\x08"),
        ("empty", b""),
    ])
}

/// Returns what is said of the good manifest with `from` replaced by `to`.
fn complaint(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from} is not in the source");
    let bytes = bundle(&compile(&GOOD.replacen(from, to, 1)));
    match read(&Bundle::new(&bytes)) {
        Ok(_) => panic!("{from} -> {to} is taken"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn guests_are_as_written() {
    let bytes = bundle(&compile(GOOD));
    let guests = read(&Bundle::new(&bytes)).expect("it is good");
    let [linux, stub] = guests.as_slice() else { panic!("{} guests", guests.len()) };
    assert_eq!(linux.name, "linux0");
    assert_eq!(linux.vcpus, 2);
    assert_eq!(linux.memory, 1 << 30);
    assert_eq!(linux.maximum_memory, 2 << 30);
    assert_eq!(linux.kernel, kernel());
    assert_eq!(linux.image, Image { offset: 0, size: 0x200_0000, flat: false });
    assert_eq!(linux.initrd, b"070701");
    assert_eq!(linux.command_line, "console=ttyAMA0 quiet");
    assert_eq!(linux.population, Population::Eager);
    assert!(!linux.held);
    assert_eq!((stub.vcpus, stub.memory, stub.maximum_memory), (1, 4 << 20, 4 << 20));
    assert_eq!((linux.minimum_memory, stub.minimum_memory), (linux.memory / 4, 1 << 20));
    assert_eq!(stub.image, Image { offset: 0x8_0000, size: 4, flat: true });
    assert_eq!((stub.initrd, stub.command_line.as_str()), (&[][..], ""));
    assert_eq!(stub.placement.initrd, None);
    assert_eq!(stub.population, Population::Lazy);
    assert!(stub.held);
    assert_eq!((linux.cpus.as_slice(), stub.cpus.as_slice()), (&[][..], &[1, 3][..]));
    assert!(!linux.overcommit && stub.overcommit);
}

#[test]
fn what_is_wrong_is_said_of_guest_and_property() {
    let sizes = "a multiple of 2 MiB in bytes, from 2 MiB to 63 GiB";
    for (from, to, said) in [
        ("vcpus = <2>", "vcpus = <0>", "vcpus: 0 is not possible; it must be 1 to 16"),
        ("vcpus = <2>", "vcpus = <17>", "vcpus: 17 is not possible; it must be 1 to 16"),
        ("vcpus = <2>", "vcpus = \"two\", \"2\"", "vcpus: must be one or two cells"),
        ("memory = /bits/ 64 <0x40000000>;", "", "memory: is missing"),
        (
            "memory = /bits/ 64 <0x40000000>",
            "memory = <100>",
            &format!("memory: 100 is not possible; it must be {sizes}"),
        ),
        (
            "memory = /bits/ 64 <0x40000000>",
            "memory = /bits/ 64 <0xffffffffffe00000>",
            &format!("memory: 18446744073707454464 is not possible; it must be {sizes}"),
        ),
        (
            "memory = /bits/ 64 <0x40000000>",
            "memory = <0x1e00000>",
            "memory: 30 MiB are too little; kernel, initrd and device tree take 33 MiB",
        ),
        (
            "maximum-memory = /bits/ 64 <0x80000000>",
            "maximum-memory = <0x200000>",
            "maximum-memory: 2097152 is not possible; it must be at least as much as 'memory'",
        ),
        ("kernel = \"Image\";", "", "kernel: is missing"),
        ("kernel = \"Image\"", "kernel = \"Imag\"", "kernel: the bundle has no file \"Imag\""),
        ("kernel = \"Image\"", "kernel", "kernel: must be one string"),
        ("kernel = \"Image\"", "kernel = \"Image\", \"more\"", "kernel: must be one string"),
        ("kernel = \"Image\"", "kernel = [ff 00]", "kernel: must be text in UTF-8"),
        (
            "kernel = \"Image\"",
            "kernel = \"Image.gz\"",
            "kernel: the file is compressed by gzip; give an uncompressed arm64 Image",
        ),
        ("\"initramfs.cpio\"", "\"empty\"", "initrd: the bundle's file \"empty\" is empty"),
        ("\"eager\"", "\"greedy\"", "population: must be \"eager\" or \"lazy\""),
        ("vcpus = <2>", "cores = <2>", "cores: no such property is known; these are: vcpus, "),
        ("vcpus = <2>", "cpus = <16>", "cpus: 16 is not possible; it must be a CPU's number"),
        ("vcpus = <2>", "cpus = <1 0 1>", "cpus: 1 is not possible; it must be a CPU's number"),
        ("vcpus = <2>", "cpus", "cpus: must be one cell for each CPU that may run it"),
        ("vcpus = <2>", "cpus = [00 01]", "cpus: must be one cell for each CPU that may run it"),
        ("vcpus = <2>;", "disk { };", "disk: no such property is known; these are: vcpus, "),
    ] {
        // dtc wants properties before nodes.
        let error = if to.starts_with("disk") {
            complaint("population = \"eager\";", "population = \"eager\"; disk { };")
        } else {
            complaint(from, to)
        };
        let expected = format!("guest linux0: {said}");
        assert!(error.starts_with(&expected), "{from} -> {to}: {error}");
    }
}

#[test]
fn names_are_words() {
    let right = "its name: must be a letter and up to 30 more";
    for name in ["0linux", "linux@0"] {
        let error = complaint("linux0 {", &format!("{name} {{"));
        assert!(error.starts_with(&format!("guest {name}: {right}")), "{error}");
    }
    let error = complaint("linux0 {", "a2345678901234567890123456789012 {");
    assert!(error.ends_with("; names have at most 31 characters"), "{error}");
    let last = GOOD.replacen("linux0 {", "a234567890123456789012345678901 {", 1);
    let bytes = bundle(&compile(&last));
    assert!(read(&Bundle::new(&bytes)).is_ok());
}

#[test]
fn a_command_line_that_linux_would_cut_is_refused() {
    let line = |length| format!("command-line = \"{}\"", "x".repeat(length));
    let error = complaint("command-line = \"console=ttyAMA0 quiet\"", &line(2048));
    let said = "guest linux0: command-line: 2048 is not possible; it must be at most 2047";
    assert!(error.starts_with(said), "{error}");
    let longest = GOOD.replacen("command-line = \"console=ttyAMA0 quiet\"", &line(2047), 1);
    assert!(read(&Bundle::new(&bundle(&compile(&longest)))).is_ok());
}

#[test]
fn a_bundle_without_a_manifest_is_told_so() {
    let said = |files: &[(&str, &[u8])]| match read(&Bundle::new(&archive(files))) {
        Ok(_) => panic!("it is taken"),
        Err(error) => error.to_string(),
    };
    assert_eq!(said(&[("Image", b"x")]), "bundle: there is no file manifest.dtb in it");
    let error = said(&[(MANIFEST, b"/dts-v1/; / { };")]);
    assert!(error.starts_with("manifest.dtb: not a device tree blob: Invalid FDT"), "{error}");
    assert!(error.ends_with("; compile the source with dtc"), "{error}");
    let other = compile("/dts-v1/; / { compatible = \"sluice,manifest-v2\"; guests { }; };");
    assert!(said(&[(MANIFEST, &other)]).contains("is not \"sluice,manifest-v1\""));
    for source in ["guests { };", "guest { a { }; };"] {
        let source = format!("/dts-v1/; / {{ compatible = \"sluice,manifest-v1\"; {source} }};");
        let error = said(&[(MANIFEST, &compile(&source))]);
        assert_eq!(error, "manifest.dtb: there is no guest in /guests");
    }
    assert!(
        matches!(read(&Bundle::new(b"")), Err(ManifestError::Bundle(error)) if error == BundleError::NotAnArchive { offset: 0 })
    );
}

#[test]
fn more_guests_than_there_can_be_are_refused() {
    let guest = |n| format!("g{n} {{ memory = <0x400000>; kernel = \"stub.bin\"; }};");
    let with = |count: usize| {
        let guests: String = (0..count).map(guest).collect();
        let source = format!(
            "/dts-v1/; / {{ compatible = \"sluice,manifest-v1\"; guests {{ {guests} }}; }};"
        );
        let bytes = bundle(&compile(&source));
        read(&Bundle::new(&bytes)).map(|guests| guests.len())
    };
    assert_eq!(with(MAX_GUESTS), Ok(MAX_GUESTS));
    assert_eq!(with(MAX_GUESTS + 1), Err(ManifestError::TooManyGuests));
}

#[test]
fn two_guests_have_two_names() {
    // dtc would make one node of both.
    let mut blob = compile(&GOOD.replace("stub {", "linux1 {"));
    let at = blob.windows(7).position(|name| name == b"linux1\0").expect("it is there");
    blob[at + 5] = b'0';
    let error = read(&Bundle::new(&bundle(&blob))).map(|_| ()).expect_err("both are linux0");
    assert_eq!(error.to_string(), "guest linux0: there are two of that name");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn corrupt_manifests_do_no_harm(
        changes in proptest::collection::vec((0usize..600, any::<u8>()), 1..10),
        words in proptest::collection::vec((0usize..150, 0u32..12), 0..4),
    ) {
        static BLOB: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let mut blob = BLOB.get_or_init(|| compile(GOOD)).clone();
        let length = blob.len();
        for (at, byte) in changes {
            blob[at % length] = byte;
        }
        for (at, word) in words {
            let at = at * 4 % (length / 4 * 4);
            blob[at..at + 4].copy_from_slice(&word.to_be_bytes());
        }
        if let Err(error) = read(&Bundle::new(&bundle(&blob))) {
            assert!(!error.to_string().is_empty());
        }
    }
}
