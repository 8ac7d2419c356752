//! Text → value of a type; the first byte chooses the type.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rust_host_engine::{Datatype, Type, json};

const TYPES: [&str; 8] = [
    "Tensor",
    "int",
    "float",
    "Optional[Tensor]",
    "List[int]",
    "Dict[int, List[float]]",
    "Tuple[int, Dict[str, Tensor]]",
    "List[List[List[str]]]",
];
const DATATYPES: [Option<Datatype>; 5] =
    [None, Some(Datatype::Uint8), Some(Datatype::Int64), Some(Datatype::Fp16), Some(Datatype::Bool)];

fuzz_target!(|input: (u8, u8, &str)| {
    let (kind, datatype, text) = input;
    let Ok(parsed) = json::parse(text, "x") else { return };
    let kind = Type::parse(TYPES[usize::from(kind) % TYPES.len()]);
    let datatype = DATATYPES[usize::from(datatype) % DATATYPES.len()];
    let Ok(value) = json::to_value(&parsed, &kind, datatype, "x") else { return };
    let written = json::from_value(&value).to_string();
    assert!(json::parse(&written, "y").is_ok(), "{written}");
    if cfg!(feature = "planted") {
        assert_ne!(written, "[[],[]]", "the planted bug");
    }
});
