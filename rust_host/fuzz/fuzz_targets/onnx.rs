//! Foreign bytes → what the graph says, or a sentence; never more memory than a multiple of the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rust_host_engine::onnx::{self, Onnx};

fuzz_target!(|data: &[u8]| {
    if cfg!(feature = "planted") {
        assert!(!data.windows(6).any(|w| w == b"MatMul") || data.len() % 7 != 3, "the planted bug");
    }
    let Ok(onnx) = Onnx::read(data) else { return };
    assert!(onnx.inputs.len() + onnx.outputs.len() + onnx.tensors.len() <= data.len());
    for (name, size) in &onnx.notes {
        // The last of a name counts, and a name that was made printable is another one.
        let Ok(Some(text)) = onnx::note(data, name) else { continue };
        assert!(onnx.notes.iter().any(|(n, s)| n == name && *s == text.len() as u64) || *size == 0);
    }
    let _shown = (onnx.method().to_string(), onnx.signature());
});
