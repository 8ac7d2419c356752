//! Files that are no model, or a damaged or forbidden one: one sentence and the exit code, by `info` and by `run` alike.

use crate::host::{host, model};
use std::fs;

#[track_caller]
fn refused_by_info_and_run(path: &str, code: i32, words: &[&str]) {
    host(&["info", path]).refuses(code, words);
    host(&["run", path, "--input", "x=[[1.5, 2]]"]).refuses(code, words);
}

fn with(name: &str, bytes: &[u8], check: impl Fn(&str)) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    check(&path.display().to_string());
}

#[test]
fn a_missing_file_a_folder_and_an_empty_file_are_named() {
    refused_by_info_and_run("/nowhere/model.pt", 2, &["`/nowhere/model.pt`", "no such file"]);
    refused_by_info_and_run("/tmp", 2, &["`/tmp` is a folder"]);
    with("empty.pt", b"", |path| refused_by_info_and_run(path, 2, &[path, "is empty"]));
}

#[test]
fn what_is_no_torchscript_is_told_by_what_it_is() {
    with("page.pt", b"<!DOCTYPE html>", |path| refused_by_info_and_run(path, 2, &[path, "HTML"]));
    with("x.pt", b"anything", |path| refused_by_info_and_run(path, 2, &[path, "not a zip"]));
    let zip = crate::host::host(&["run", "cell.torchscript", "-i", "x=[[1, 2]]", "-i", "h=[[0, 0]]", "-o", "-"]).bytes;
    with("arrays.pt", &zip, |path| refused_by_info_and_run(path, 2, &[path, "holds something else"]));
}

#[test]
fn an_archive_that_is_cut_off_anywhere_is_refused() {
    let whole = fs::read(model("plain")).unwrap();
    for part in 0..20 {
        let cut = &whole[..whole.len() * part / 20];
        with("cut.pt", cut, |path| refused_by_info_and_run(path, 2, &[path]));
    }
}

#[test]
fn a_damaged_bit_in_the_weights_is_refused() {
    let whole = fs::read(model("plain")).unwrap();
    let weights: Vec<u8> = [1f32, -0.5].iter().flat_map(|w| w.to_le_bytes()).collect();
    let at = whole.windows(8).position(|w| w == weights).unwrap();
    let mut damaged = whole.clone();
    damaged[at] ^= 1;
    with("damaged.pt", &damaged, |path| refused_by_info_and_run(path, 2, &[path, "damaged"]));
}

#[test]
fn a_contract_of_the_future_of_wrong_types_or_with_duplicate_names_is_told() {
    for (name, words) in [
        ("future", ["contract.json", "`format_version` 99", "up to 1"]),
        ("wrong_types", ["contract.json", "inputs[0].shape", "expected a sequence"]),
        ("duplicate_names", ["contract.json", "duplicate name", "`scores`"]),
    ] {
        refused_by_info_and_run(&model(name), 2, &words);
        host(&["verify", &model(name)]).refuses(2, &words);
    }
}

#[test]
fn a_model_that_writes_files_is_refused_before_it_runs() {
    let target = std::path::Path::new("/tmp/rust-host-must-not-write-this");
    let _old = fs::remove_file(target);
    host(&["run", "writer.torchscript", "-i", "x=[1.0]"]).refuses(1, &["`aten::save`", "--allow-operator aten::save"]);
    assert!(!target.exists());
    // Another operator that is allowed does not open the door for this one.
    let words = ["run", "writer.torchscript", "-i", "x=[1.0]", "--allow-operator", "aten::load"];
    host(&words).refuses(1, &["`aten::save`"]);
    assert!(!target.exists());
}
