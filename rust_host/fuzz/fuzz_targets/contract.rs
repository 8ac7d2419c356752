//! JSON → contract → JSON → the same contract.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rust_host_engine::contract;

fuzz_target!(|data: &[u8]| {
    if cfg!(feature = "planted") {
        assert!(!data.windows(4).any(|w| w == b"rtol") || !data.contains(&0), "the planted bug");
    }
    let Ok(contract) = contract::read(data) else { return };
    let text = contract_to_json(&contract);
    assert_eq!(contract::read(text.as_bytes()).expect("what was written is read"), contract);
});

fn contract_to_json(contract: &rust_host_engine::Contract) -> String {
    serde_json::to_string(contract).expect("a contract is JSON")
}
