//! `tune`, and what the other commands make of the `host.toml` that it writes.

use crate::host::{host, model, names};
use std::{fs, path::Path};

/// A version's folder with that model in it.
fn version(of: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(model(of), folder.path().join("model.pt")).unwrap();
    let shown = folder.path().display().to_string();
    (folder, shown)
}

/// Changes a line of its `host.toml`, the first that begins so.
fn change(folder: &Path, line: &str, into: &str) {
    let path = folder.join("host.toml");
    let text = fs::read_to_string(&path).unwrap();
    let old = text.lines().find(|l| l.starts_with(line)).unwrap().to_owned();
    fs::write(&path, text.replacen(&old, into, 1)).unwrap();
}

#[test]
fn what_tune_keeps_is_what_the_others_use() {
    let (folder, shown) = version("classifier");
    let json = host(&["tune", &shown, "--for", "throughput", "--seconds", "0.2", "--json"]).json();
    let settings = &json["settings"];
    assert_eq!((settings["file"].as_str(), settings["goal"].as_str()), (Some("model.pt"), Some("throughput")));
    let measured = settings["measured"].as_array().unwrap();
    assert!(measured.iter().all(|m| m["batch"] == 8 && m["rows_per_second"].as_f64().unwrap() > 0.0), "{json}");
    assert_eq!(names(folder.path()), ["host.toml", "model.pt"]);
    change(folder.path(), "threads = ", "threads = 3");
    let bench = |more: &[&str]| {
        host(&[&["bench", &shown, "--batch", "1", "--seconds", "0.01", "--json"], more].concat()).json()
    };
    assert_eq!(bench(&[])["threads"], 3);
    assert_eq!(bench(&["--threads", "1"])["threads"], 1);
    let text = host(&["tune", &format!("{shown}/model.pt"), "--seconds", "0.05"]);
    assert!(text.answer().starts_with("classifier for latency, batch 1, on ") && text.stdout.contains("  kept\n"));
    assert_ne!(bench(&[])["threads"], 3);
}

#[test]
fn bench_makes_as_many_calls_at_once_as_tune_kept_for_throughput() {
    let (folder, shown) = version("classifier");
    host(&["tune", &shown, "--for", "throughput", "--seconds", "0.1"]).answer();
    change(folder.path(), "threads = ", "threads = 1");
    change(folder.path(), "instances = ", "instances = 3");
    let bench = |more: &[&str]| {
        host(&[&["bench", &shown, "--batch", "2", "--seconds", "0.02", "--json"], more].concat()).json()
    };
    let json = bench(&[]);
    assert_eq!((&json["calls_at_once"], &json["threads"]), (&3.into(), &1.into()));
    let result = &json["results"][0];
    assert!(result["calls"].as_u64().unwrap() >= 3 && result["items_per_second"].as_f64().unwrap() > 0.0, "{json}");
    assert_eq!(bench(&["--at-once", "2"])["calls_at_once"], 2);
    // Other threads than those that it was measured with.
    assert_eq!(bench(&["--threads", "1"])["calls_at_once"], 1);
    let text = host(&["bench", &shown, "--batch", "1", "--seconds", "0.01"]);
    assert!(text.answer().lines().next().unwrap().contains("1 thread, 3 calls at once"), "{}", text.stdout);
    host(&["bench", &shown, "--at-once", "0"]).refuses(2, &["`0`", "--at-once"]);
    change(folder.path(), "goal = ", "goal = \"latency\"");
    change(folder.path(), "instances = ", "instances = 1");
    assert_eq!(bench(&[])["calls_at_once"], 1);
}

#[test]
fn callers_of_a_model_that_keeps_state_have_one_each() {
    let words = ["bench", "counter.torchscript", "-i", "[1.5]", "--seconds", "0.02", "--at-once", "3", "--json"];
    assert_eq!(host(&words).json()["calls_at_once"], 3);
}

#[test]
fn another_machines_settings_are_left_alone_with_a_note() {
    let (folder, shown) = version("classifier");
    host(&["tune", &shown, "--seconds", "0.05"]).answer();
    change(folder.path(), "threads = ", "threads = 3");
    change(folder.path(), "processor = ", "processor = \"Pentium\"");
    let ran = host(&["bench", &shown, "--batch", "1", "--seconds", "0.01", "--json"]);
    assert!(ran.stderr.starts_with("note: ") && ran.stderr.contains("measured on Pentium"), "{}", ran.stderr);
    assert_ne!(ran.json()["threads"], 3);
    for words in [vec!["verify", &shown], vec!["verify", &shown, "--json"]] {
        let ran = host(&words);
        assert!(ran.answer().contains("classifier") && ran.stderr.contains("measured on Pentium"), "{}", ran.stderr);
    }
}

#[test]
fn a_table_says_that_another_machines_settings_are_left_alone() {
    let (folder, shown) = version("cell");
    host(&["tune", &shown, "--seconds", "0.05"]).answer();
    change(folder.path(), "processor = ", "processor = \"Pentium\"");
    let (rows, out) = (folder.path().join("rows.csv"), folder.path().join("out.csv"));
    fs::write(&rows, "x.0,x.1,h.0,h.1\n1,2,3,4\n").unwrap();
    let words = ["run", &shown, "--input", rows.to_str().unwrap(), "--output", out.to_str().unwrap()];
    let ran = host(&words);
    assert!(ran.answer().contains("out.csv") && ran.stderr.contains("measured on Pentium"), "{}", ran.stderr);
    let json = host(&[&words[..], &["--json"]].concat()).json();
    assert!(json["notes"][0].as_str().unwrap().contains("measured on Pentium"), "{json}");
}

#[test]
fn a_bad_host_toml_is_a_sentence_and_tune_writes_it_anew() {
    let (folder, shown) = version("classifier");
    fs::write(folder.path().join("host.toml"), "threads = \n").unwrap();
    let file = format!("{shown}/model.pt");
    for words in
        [vec!["bench", &shown], vec!["bench", &file], vec!["run", &file, "-i", "image=left.png"], vec!["verify", &file]]
    {
        host(&words).refuses(2, &["host.toml`: line 1", "hint: `rust-host tune` writes it anew"]);
    }
    host(&["tune", &shown, "--seconds", "0.05"]).answer();
    host(&["verify", &shown]).answer();
}

#[test]
fn only_what_computes_right_here_is_tuned() {
    let (folder, shown) = version("drifted");
    host(&["tune", &shown]).refuses(1, &["model.pt` does not reproduce its golden examples here", "rust-host verify"]);
    assert_eq!(names(folder.path()), ["model.pt"]);
    host(&["tune", "plain.torchscript"]).refuses(2, &["has no golden examples", "rust-host bench"]);
    host(&["tune", "classifier.torchscript", "--batch", "65"]).refuses(2, &["cannot take a batch of 65"]);
    host(&["tune", "x", "--for", "speed"]).refuses(2, &["`speed`", "latency", "throughput"]);
    let (folder, shown) = version("classifier");
    fs::write(folder.path().join("model.onnx"), "no model").unwrap();
    let ran = host(&["tune", &shown, "--seconds", "0.05"]);
    assert!(ran.answer().contains("model.pt") && !ran.stdout.contains("model.onnx"));
    assert!(ran.stderr.contains("model.onnx` was left out: "), "{}", ran.stderr);
}
