//! Bytes → array → bytes → the same array; also the zip of arrays.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rust_host_engine::npy;

fuzz_target!(|data: &[u8]| {
    let arrays = if data.starts_with(b"PK") {
        npy::read_npz(data.to_vec().into(), "x").unwrap_or_default()
    } else {
        npy::read(data, "x").map(|t| vec![("x".to_owned(), t)]).unwrap_or_default()
    };
    for (_, tensor) in arrays {
        let again = npy::read(&npy::write(&tensor), "y").expect("what was written is read");
        assert_eq!(again.shape(), tensor.shape());
        assert_eq!(again.to_contiguous().contiguous_bytes(), tensor.to_contiguous().contiguous_bytes());
        if cfg!(feature = "planted") {
            assert_ne!(tensor.datatype(), rust_host_engine::Datatype::Int8, "the planted bug");
        }
    }
});
