//! Text → tokens: together they are the text, and none overlaps another.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rust_host_engine::tokens::tokens;

fuzz_target!(|code: &str| {
    let Ok(found) = tokens(code, "f") else { return };
    let mut rest = code;
    for token in &found {
        let at = rest.find(token.text).expect("a token that is not in the text");
        assert!(rest[..at].trim_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b').is_empty());
        assert_eq!(token.joined, at == 0 && !std::ptr::eq(token.text.as_ptr(), code.as_ptr()));
        rest = &rest[at + token.text.len()..];
    }
    if cfg!(feature = "planted") {
        assert!(!found.iter().any(|t| t.text == "0x7"), "the planted bug");
    }
});
