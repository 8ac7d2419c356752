//! `build` on what no program can be made of. What it makes is tested in tests/host/test_program.py, where there are packages.

use crate::host::{host, model, names};
use std::{fs, path::Path};

/// Asserts that it is refused and writes nothing.
#[track_caller]
fn refuses(file: &str, more: &[&str], code: i32, said: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("program");
    host(&[&["build", file, "-o", output.to_str().unwrap()], more].concat()).refuses(code, said);
    assert_eq!(names(folder.path()), [""; 0]);
}

#[test]
fn a_file_of_another_kind_is_named_with_what_is_expected() {
    let says = ["is a TorchScript archive, expected a compiled package", "--method compiled"];
    refuses(&model("classifier"), &[], 2, &says);
    refuses("/nowhere/model.pt2", &[], 2, &["`/nowhere/model.pt2`"]);
}

#[test]
fn a_folder_without_a_compiled_package_says_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("1")).unwrap();
    fs::copy(model("classifier"), folder.path().join("1/model.pt")).unwrap();
    refuses(folder.path().to_str().unwrap(), &[], 2, &["holds no compiled package, it has", "model.pt`"]);
    refuses(Path::new("/proc/self").to_str().unwrap(), &[], 2, &["is a folder without a model"]);
}

#[test]
fn words_that_are_missing_or_wrong_are_told() {
    host(&["build", "model.pt2"]).refuses(2, &["--output <FILE>", "`rust-host build --help`"]);
    refuses("model.pt2", &["--trust", "abc"], 2, &["64 hexadecimal digits"]);
}
