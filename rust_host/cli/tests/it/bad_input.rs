//! Inputs and outputs that cannot be: one sentence, the right exit code, nothing written.

use crate::host::{Ran, binary, floats, host, host_with, npy, start};
use std::{fs, process::Command};

fn classify(file: &[u8]) -> Ran {
    host_with(&["run", "classifier.torchscript", "-i", "image=-"], file)
}

fn cell(x: &str) -> Ran {
    host(&["run", "cell.torchscript", "-i", x, "-i", "h=[[0, 0]]"])
}

#[test]
fn a_wrong_datatype_names_both() {
    let file = npy("{'descr': '<i8', 'fortran_order': False, 'shape': (1, 1, 4, 4), }", &[0; 128]);
    classify(&file).refuses(2, &["input `image` is INT64 (int64)", "`classifier` expects FP32 (float32)"]);
}

#[test]
fn a_wrong_datatype_without_a_contract_is_named_too() {
    host(&["run", "plain.torchscript", "-i", "x=[[1, 2]]"]).refuses(1, &["INT64 (int64)"]);
}

#[test]
fn a_wrong_rank_and_a_wrong_shape_name_what_was_expected() {
    classify(&floats("(4, 4)", &[0.0; 16])).refuses(2, &["has shape [4, 4]", "[batch, 1, 4, 4]"]);
    classify(&floats("(1, 1, 2, 8)", &[0.0; 16])).refuses(2, &["has shape [1, 1, 2, 8]", "[batch, 1, 4, 4]"]);
    let ran = host(&["run", "cell.torchscript", "-i", "x=[[1, 2]]", "-i", "h=[[0, 0], [0, 0]]"]);
    ran.refuses(2, &["`batch` is 2 in input `h` and 1 in input `x`"]);
}

#[test]
fn a_batch_beyond_its_bounds_names_them() {
    classify(&floats("(65, 1, 4, 4)", &[0.0; 65 * 16])).refuses(2, &["`batch` is 65", "0 to 64"]);
}

#[test]
fn a_wrong_input_name_is_told_beside_the_right_ones() {
    host(&["run", "cell.torchscript", "-i", "y=[[1, 2]]"]).refuses(2, &["unknown input `y`", "`x`, `h`"]);
}

#[test]
fn a_missing_and_an_extra_input_are_named() {
    host(&["run", "cell.torchscript", "-i", "x=[[1, 2]]"]).refuses(2, &["missing input `h`"]);
    host(&["run", "cell.torchscript"]).refuses(2, &["missing inputs `x`, `h`"]);
    host(&["run", "cell.torchscript", "-i", "x=[[1, 2]]", "-i", "h=[[1, 2]]", "-i", "z=1"])
        .refuses(2, &["unknown input `z`"]);
    host(&["run", "cell.torchscript", "-i", "x=[[1, 2]]", "-i", "x=[[1, 2]]", "-i", "h=[[1, 2]]"])
        .refuses(2, &["`x` was given twice"]);
}

#[test]
fn a_file_that_is_missing_empty_or_a_folder_is_named() {
    cell("x=nowhere.npy").refuses(2, &["input `x`", "`nowhere.npy`", "no such file"]);
    cell("x=/tmp").refuses(2, &["`/tmp` is a folder"]);
    cell("x=/dev/zero").refuses(2, &["`/dev/zero` is a device, expected a file"]);
    host(&["info", "/dev/zero"]).refuses(2, &["`/dev/zero` is a device, expected a file"]);
    let empty = tempfile::NamedTempFile::new().unwrap();
    let shown = empty.path().display().to_string();
    cell(&format!("x={shown}")).refuses(2, &[&shown, "is empty"]);
    host_with(&["run", "classifier.torchscript", "-i", "-"], b"").refuses(2, &["stdin is empty"]);
}

#[test]
fn a_shape_product_that_overflows_is_a_sentence() {
    let file = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 8), }", &[]);
    classify(&file).refuses(2, &["overflows"]);
    let file = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 4611686018427387904, 8, 1), }", &[]);
    classify(&file).refuses(2, &["overflows"]);
}

#[test]
fn an_npy_with_a_bad_header_or_too_few_bytes_is_named() {
    classify(b"\x93NUMPY\x01\x00\xff\xff{").refuses(2, &["`stdin`", "header is cut off"]);
    classify(&npy("{'descr': '<f4'}", &[])).refuses(2, &["header cannot be read"]);
    classify(&floats("(1, 1, 4, 4)", &[0.0; 3])).refuses(2, &["needs 64 bytes, the file has 12"]);
    classify(&floats("(-1, 1)", &[])).refuses(2, &["negative size"]);
}

#[test]
fn an_npy_of_python_objects_is_refused_by_name() {
    let file = npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"\x80\x04.");
    classify(&file).refuses(2, &["Python objects"]);
}

#[test]
fn ragged_deep_and_broken_json_say_where() {
    cell("x=[[1, 2], [3]]").refuses(2, &["input `x`", "ragged"]);
    cell(&format!("x={}{}", "[".repeat(100), "]".repeat(100))).refuses(2, &["input `x`", "nested more than 64 deep"]);
    cell(&format!("x={}{}", "[".repeat(30_000), "]".repeat(30_000))).refuses(2, &["nested"]);
    cell("x=[[1, 2").refuses(2, &["input `x`", "not JSON"]);
    cell("x=[[1, \"two\"]]").refuses(2, &["`\"two\"` is no FP32"]);
    host(&["run", "mixed.torchscript", "-i", "n=1.5"]).refuses(2, &["`1.5` does not fit the type int"]);
}

#[test]
fn a_file_of_no_known_kind_is_told() {
    classify(b"\xff\xfe\x00\x01").refuses(2, &["`stdin`", "no .npy, .npz, PNG, JPEG or JSON"]);
    classify(b"PK\x03\x04 cut off").refuses(2, &["`stdin`", "damaged"]);
    classify(b"\x89PNG\r\n\x1a\nbroken").refuses(2, &["`stdin`", "cannot be decoded"]);
    let picture = host(&["run", "plain.torchscript", "-i", "x=left.png"]);
    picture.refuses(2, &["no contract says how a picture becomes the input `x`"]);
}

#[test]
fn the_models_own_error_is_its_own_sentence() {
    host(&["run", "plain.torchscript", "-i", "x=[[1.5, 2]]", "-i", "scale=-1"]).refuses(1, &["scale is negative"]);
}

#[test]
fn cuda_never_falls_back_in_silence() {
    let words = ["run", "plain.torchscript", "-i", "x=[[1.5, 2]]", "--device", "cuda:77"];
    host(&words).refuses(if cuda() { 2 } else { 1 }, &["--device cpu"][usize::from(cuda())..]);
}

fn cuda() -> bool {
    host(&["doctor", "--json"]).json()["cuda"]["available"] == true
}

const RUN: [&str; 6] = ["run", "cell.torchscript", "-i", "x=[[1, 2]]", "-i", "h=[[0, 0]]"];

#[test]
fn an_output_folder_that_cannot_be_is_a_sentence_and_nothing_is_written() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    fs::write(&file, "").unwrap();
    let shown = file.display().to_string();
    host(&[&RUN[..], &["-o", &shown]].concat()).refuses(1, &[&shown, "is no folder"]);
    let below = format!("{shown}/below");
    host(&[&RUN[..], &["-o", &below]].concat()).refuses(1, &["cannot make this folder"]);
    // Not even root may make a folder there.
    host(&[&RUN[..], &["-o", "/sys/rust-host"]].concat()).refuses(1, &["`/sys/rust-host`", "cannot make this folder"]);
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
}

#[test]
fn a_failed_run_makes_no_folder() {
    let root = tempfile::tempdir().unwrap();
    let shown = root.path().join("new").display().to_string();
    host(&["run", "cell.torchscript", "-i", "x=[[1, 2]]", "-o", &shown]).refuses(2, &["missing input"]);
    host(&["run", "plain.torchscript", "-i", "x=[[1, 2]]", "-o", &shown]).refuses(1, &["INT64"]);
    host(&["run", "cell.torchscript", "-i", "x=[[1, 2]]", "-f", "table", "-o", &shown]).refuses(2, &["a table"]);
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn a_full_disk_is_a_sentence_and_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("new/results");
    let mut command = Command::new("/bin/sh");
    // 512 bytes a file; 1,000 rows need more.
    let script = "ulimit -f 1; exec \"$0\" \"$@\"";
    let x = format!("x=[{}]", vec!["[1, 2]"; 1000].join(", "));
    let h = x.replace("x=", "h=");
    command.args(["-c", script]).arg(binary());
    command.args(["run", "cell.torchscript", "-i", &x, "-i", &h, "-o"]).arg(&folder);
    start(command, &[]).refuses(1, &["total.npy", "cannot write", "larger than this process may write"]);
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn a_full_stdout_is_a_sentence() {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "exec \"$0\" info classifier.torchscript > /dev/full"]).arg(binary());
    start(command, &[]).refuses(1, &["`stdout`", "no space left"]);
}
