//! An archive of guests.

use sluice::guest::bundle::Bundle;

/// Reads the input as an archive: what it lists lies in it, in order, and there is an end.
pub fn run(input: &[u8]) {
    let bundle = Bundle::new(input);
    let bounds = input.as_ptr_range();
    let mut last = bounds.start;
    let mut files = 0;
    for file in bundle.files() {
        files += 1;
        assert!(files <= input.len() / 110 + 1, "more files than headers fit");
        let Ok(file) = file else { continue };
        let name = file.name.as_ptr_range();
        assert!(bounds.start <= name.start && name.end <= bounds.end, "a name from elsewhere");
        if !file.bytes.is_empty() {
            let bytes = file.bytes.as_ptr_range();
            assert!(last <= bytes.start && bytes.end <= bounds.end, "bytes from elsewhere");
            last = bytes.end;
        }
    }
    let found = bundle.find("manifest.dtb");
    assert_eq!(found.is_err(), bundle.files().any(|file| file.is_err()));
}
