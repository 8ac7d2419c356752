//! ONNX files from outside: what is known without ONNX Runtime, and with it where this machine has one.

use crate::host::{Ran, binary, host, start};
use std::{fs, process::Command};

fn onnx(name: &str) -> String {
    format!("{}/../backends/onnx/tests/data/{name}.onnx", env!("CARGO_MANIFEST_DIR"))
}

/// The binary where it may find the ONNX Runtime of this environment; `None`, said, where there is none.
#[expect(clippy::print_stdout, reason = "says why a test does nothing")]
fn with_library(words: &[&str]) -> Option<Ran> {
    let mut command = Command::new("/usr/bin/env");
    for variable in ["VIRTUAL_ENV", "ORT_DYLIB_PATH"] {
        command.args(std::env::var(variable).ok().map(|value| format!("{variable}={value}")));
    }
    command.arg(binary()).args(words);
    let ran = start(command, &[]);
    // With `--json` an error is an answer.
    let missing = [&ran.stderr, &ran.stdout].iter().any(|text| text.contains("ONNX Runtime is not here"));
    if missing {
        println!("skipped: {}", ran.stderr);
    }
    (!missing).then_some(ran)
}

#[test]
fn a_graph_is_described_without_onnx_runtime() {
    let shown = host(&["info", &onnx("contract")]);
    let text = shown.answer();
    for line in ["difference", "by make.py 1", "a  FP32  [batch, 4]", "ai.onnx::Mul ai.onnx::Sub", "rust_host.golden"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let shown = host(&["info", &onnx("product")]);
    let text = shown.answer();
    for line in [
        "no contract",
        "parameters  12 in 1 tensor, 48 bytes",
        "inputs and outputs, by its graph",
        "input   x FP32 [batch, 4]",
        "output  y FP32 [batch, 3]",
        "forward(x: Tensor) -> Tensor",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let json = host(&["info", &onnx("product"), "--json"]).json();
    assert_eq!(json["provisional"]["inputs"][0]["dims"], serde_json::json!(["batch", 4]));
    assert_eq!((&json["format"], &json["operators"][0]), (&8.into(), &"ai.onnx::MatMul".into()));
}

#[test]
fn files_that_are_damaged_or_not_whole_are_refused_before_onnx_runtime_sees_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.onnx");
    let name = path.display().to_string();
    let refused = |bytes: &[u8], words: &[&str]| {
        fs::write(&path, bytes).unwrap();
        host(&["info", &name]).refuses(2, words);
        host(&["run", &name, "-i", "x=[[1, 2, 3, 4]]"]).refuses(2, words);
    };
    let whole = fs::read(onnx("product")).unwrap();
    refused(&whole[..whole.len() - 3], &[&name, "damaged", "ends in the middle"]);
    refused(&whole[..1], &[&name, "damaged"]);
    refused(b"<!DOCTYPE html>", &[&name, "HTML", "expected an ONNX file"]);
    refused(b"\0\0\0\0ORTM\0\0", &[&name, "ONNX Runtime's own format"]);
    refused(b"", &[&name, "is empty"]);
}

#[test]
fn without_onnx_runtime_the_places_are_named() {
    let ran = host(&["run", &onnx("product"), "-i", "x=[[1, 2, 3, 4]]"]);
    if ran.code == Some(0) {
        return println!("skipped: the system's loader finds an ONNX Runtime");
    }
    let own = binary().parent().unwrap().display().to_string();
    ran.refuses(1, &["ONNX Runtime is not here", &own, "pip install onnxruntime"]);
}

#[test]
fn a_graph_runs_with_json_in_its_own_datatypes() {
    let Some(ran) = with_library(&["run", &onnx("product"), "-i", "x=[[1, 2, 3, 4]]"]) else { return };
    assert_eq!(ran.answer(), "product on cpu\n\ny  FP32 [1, 3]\n  60  70  80\n");
    // Nobody vouches for it, so it ran in the sandbox, or the reason why not was said.
    assert!(ran.stderr.is_empty() || ran.stderr.contains("without a sandbox"), "{}", ran.stderr);
    for (name, words, code, said) in [
        ("product", ["-i", "x=[[1, 2, 3]]"], 2, "input `x` has shape [1, 3], the model expects [batch, 4]"),
        ("product", ["-i", "x=[[\"a\", 2, 3, 4]]"], 2, "is no FP32"),
        ("product", ["--top-k", "1"], 2, "missing input `x`"),
        ("foreign", ["-i", "x=[[1, 2, 3, 4]]"], 2, "com.acme:Foo"),
        ("newer", ["-i", "x=[[1, 2, 3, 4]]"], 2, "opset 999"),
    ] {
        with_library(&[&["run", &onnx(name)][..], &words].concat()).unwrap().refuses(code, &[said]);
    }
    let device = ["run", &onnx("product"), "-i", "x=[[1, 2, 3, 4]]", "--device", "cuda"];
    with_library(&device).unwrap().refuses(1, &["run on the processor here, not on cuda:0"]);
    let endless = ["run", &onnx("endless"), "-i", &format!("x={:?}", vec![[0.0; 64]; 64]), "--timeout", "0.2"];
    with_library(&endless).unwrap().refuses(1, &["did not answer within 0.2 s"]);
}

#[test]
fn golden_examples_of_a_graph_are_replayed_and_measured() {
    let Some(ran) = with_library(&["verify", &onnx("contract"), "--json"]) else { return };
    let json = ran.json();
    assert_eq!((&json["ok"], &json["examples"], ran.code), (&true.into(), &2.into(), Some(0)));
    assert!(json["library"].as_str().unwrap().starts_with("ONNX Runtime 1."));
    let ran = with_library(&["verify", &onnx("drifted")]).unwrap();
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stdout.contains("does not reproduce all") && ran.stdout.contains("too far"), "{}", ran.stdout);
    with_library(&["verify", &onnx("product")]).unwrap().refuses(2, &["has no contract"]);
    let json = with_library(&["bench", &onnx("contract"), "--seconds", "0.05", "--json"]).unwrap().json();
    assert_eq!(json["results"].as_array().unwrap().len(), 3, "{json}");
}
