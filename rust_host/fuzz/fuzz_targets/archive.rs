//! Bytes → archive → gate → description: the way of every file, without libtorch.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rust_host_engine::{Archive, Description, operators::Policy, scan};
use std::path::Path;

fuzz_target!(|data: &[u8]| {
    let Ok(archive) = Archive::from_bytes(Path::new("m.pt"), data.to_vec().into()) else { return };
    let scanned = scan::scan(&archive, &Policy::default());
    let described = Description::read(&archive);
    // Whatever the gate lets through can be described, and every member can be read again.
    if scanned.is_ok() {
        assert!(described.is_ok() || archive.contract().is_err(), "{:?}", described.err());
    }
    for (name, size) in archive.members() {
        assert_eq!(archive.member(name).unwrap().unwrap().len() as u64, size);
    }
    // A time of day: no checksum covers it, so a mutation reaches it without writing a valid archive.
    if cfg!(feature = "planted") {
        assert!(data.get(10) == Some(&0), "the planted bug");
    }
});
