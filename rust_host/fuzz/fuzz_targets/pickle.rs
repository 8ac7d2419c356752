//! Bytes → pickle; every value in it can be looked at.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rust_host_engine::pickle::{Node, Pickle};

fuzz_target!(|data: &[u8]| {
    let Ok(pickle) = Pickle::read(data) else { return };
    let _ = pickle.text(pickle.root());
    for (function, arguments) in pickle.calls() {
        let _ = (pickle.text(function), pickle.items(arguments));
    }
    if cfg!(feature = "planted") {
        assert!(!matches!(pickle.node(pickle.root()), Node::Int(n) if *n > 70_000), "the planted bug");
    }
});
