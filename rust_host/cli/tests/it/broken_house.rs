//! What is said where the backend or libtorch is missing, of another version, or no library.

use crate::host::{BACKEND, Ran, backend, binary, link, start};
use std::{fs, path::Path, process::Command};

/// Runs a binary that lies alone in a folder.
pub fn alone(words: &[&str]) -> Ran {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    link(binary(), &folder.path().join("rust-host"));
    let mut command = Command::new(folder.path().join("rust-host"));
    command.args(words);
    start(command, &[])
}

/// Runs the binary with LD_LIBRARY_PATH set to a folder.
fn with_library_path(folder: &Path, words: &[&str]) -> Ran {
    // `start` clears the environment, so that `env` sets it again.
    let mut command = Command::new("/usr/bin/env");
    command.arg(format!("LD_LIBRARY_PATH={}", folder.display())).arg(binary()).args(words);
    start(command, &[])
}

const RUN: [&str; 4] = ["run", "plain.torchscript", "--input", "x=[[1.5, 2]]"];

#[test]
fn a_missing_backend_is_a_sentence_and_doctor_still_speaks() {
    alone(&RUN).refuses(1, &[BACKEND, "is missing", "../lib"]);
    let doctor = alone(&["doctor"]);
    assert_eq!(doctor.code, Some(1));
    assert!(doctor.stdout.contains("cannot be used") && doctor.stdout.contains("processor"), "{}", doctor.stdout);
    assert_eq!(alone(&["--help"]).code, Some(0));
}

#[test]
fn a_libtorch_of_another_version_is_refused_with_both_versions_and_its_path() {
    let root = tempfile::tempdir().unwrap();
    let lib = root.path().join("torch/lib");
    fs::create_dir_all(&lib).unwrap();
    fs::write(lib.join("libtorch_cpu.so"), "").unwrap();
    fs::write(root.path().join("torch/version.py"), "__version__ = '2.11.0+cpu'\n").unwrap();
    let path = lib.display().to_string();
    with_library_path(&lib, &RUN).refuses(1, &["2.11.0+cpu", "2.13.0", &path, "pip install"]);
    let doctor = with_library_path(&lib, &["doctor", "--json"]);
    assert_eq!((doctor.code, doctor.json()["libtorch"]["version"].as_str()), (Some(1), Some("2.11.0+cpu")));
}

#[test]
fn a_libtorch_that_is_no_library_is_a_sentence() {
    let lib = tempfile::tempdir().unwrap();
    fs::write(lib.path().join("libtorch_cpu.so"), "not a library").unwrap();
    with_library_path(lib.path(), &RUN).refuses(1, &["cannot be loaded", "libtorch_cpu.so", "rust-host doctor"]);
}

#[test]
fn a_backend_without_its_libtorch_lists_where_it_looked() {
    // A library without a RUNPATH: nothing to search.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    link(binary(), &folder.path().join("rust-host"));
    fs::write(folder.path().join(BACKEND), "no library").unwrap();
    let mut command = Command::new("/usr/bin/env");
    command.arg("LD_LIBRARY_PATH=/nowhere").arg(folder.path().join("rust-host")).args(RUN);
    start(command, &[]).refuses(1, &["libtorch 2.13.0 was not found", "`/nowhere`", "pip install torch==2.13.0"]);
}

#[test]
fn the_backend_is_found_in_lib_beside_bin() {
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for folder in ["bin", "lib"] {
        fs::create_dir(root.path().join(folder)).unwrap();
    }
    link(binary(), &root.path().join("bin/rust-host"));
    link(&backend(), &root.path().join("lib").join(BACKEND));
    let mut command = Command::new(root.path().join("bin/rust-host"));
    command.args(RUN);
    assert!(start(command, &[]).answer().starts_with("plain on cpu"));
}
