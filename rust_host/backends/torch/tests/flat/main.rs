//! A caller that is wrong for ever costs nothing. In a process of its own, because it looks at the memory of the whole
//! process. `CALLS=100000 cargo test -p rust-host-torch --test flat -- --nocapture` by hand; otherwise fewer.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use rust_host_engine::{Device, DeviceRequest, Model, Tensor, Value};
use std::path::{Path, PathBuf};

fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn calls_that_fail_leave_memory_flat() {
    let calls = std::env::var("CALLS").map_or(5_000, |n| n.parse().unwrap());
    let data = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let backend = rust_host_torch::backend().unwrap();
    let open = |path: &Path| Model::open(path, backend.as_ref(), DeviceRequest::Only(Device::Cpu));
    let path = data.join("raises.torchscript");
    let model = open(&path).unwrap();
    let large = || Value::from(Tensor::from_elements(vec![64, 65], vec![1.0f32; 64 * 65]).unwrap());

    let whole = std::fs::read(&path).unwrap();
    let folder = std::env::temp_dir().join(format!("rust-host-flat-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let damaged = folder.join("damaged.pt");
    std::fs::write(&damaged, &whole[..whole.len() / 2]).unwrap();

    let fail = |i: usize| match i % 40 {
        0 => open(&damaged).map(|_| ()),
        1 => open(&folder.join("none.pt")).map(|_| ()),
        n if n % 4 == 0 => model.call(&[Some(large())]).map(|_| ()), // raised by the author
        n if n % 4 == 1 => model.call(&[Some(Value::Str("a".repeat(4096)))]).map(|_| ()), // of another type
        n if n % 4 == 2 => model.call(&[Some(large()), Some(large())]).map(|_| ()), // too many
        _ => model.run(vec![("y".into(), large())]).map(|_| ()),     // of another name
    };
    let run = |times: usize| (0..times).for_each(|i| assert!(fail(i).is_err(), "call {i} did not fail"));
    run(2_000.max(calls / 10));
    let before = resident();
    run(calls);
    let grown = resident().saturating_sub(before);
    println!("{calls} failing calls: {} MiB and {} KiB more", before >> 20, grown >> 10);
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(grown < 8 << 20, "{grown} bytes more");
}
