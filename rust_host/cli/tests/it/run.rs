//! `run`: inputs of every kind, outputs of every form.

use crate::host::{Ran, floats, host, host_with, npy};
use insta::assert_snapshot;
use std::{fs, path::Path};

fn written(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[track_caller]
fn total(ran: &Ran) -> serde_json::Value {
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
    ran.json()["outputs"][0]["data"].clone()
}

#[test]
fn outputs_are_a_table() {
    assert_snapshot!(host(&["run", "cell.torchscript", "-i", "x=[[1, 2], [3, 4]]", "-i", "h=[[0.5, 0], [0, 0.25]]"]).answer(), @r"
    cell on cpu

    total  FP32 [2, 2]
      [0]  2.5  4
      [1]  6    8.25

    count  INT64 [2]
      3  7
    ");
}

#[test]
fn outputs_are_json_on_request_and_predict_is_run() {
    let ran = host(&["predict", "cell.torchscript", "-i", "x=[[1, 2]]", "-i", "h=[[0.1, 0]]", "--format", "json"]);
    assert_snapshot!(ran.answer(), @r#"{"model_name":"cell","device":"cpu","outputs":[{"name":"total","datatype":"FP32","shape":[1,2],"data":[[2.1,4.0]]},{"name":"count","datatype":"INT64","shape":[1],"data":[3]}]}"#);
}

#[test]
fn a_picture_is_drawn_beside_its_labels() {
    assert_snapshot!(host(&["run", "classifier.torchscript", "-i", "image=left.png", "--draw"]).answer(), @r"
    classifier on cpu

      ██     left    99.8 %
      ██     right    0.2 %

    scores  FP32 [1, 3]
      [0]  left  99.8 %  right  0.2 %  dark  0.0 %
    ");
    let plain = host(&["run", "classifier.torchscript", "-i", "left.png"]);
    assert!(!plain.answer().contains('█'), "stdout is no terminal");
}

#[test]
fn predictions_are_in_the_json() {
    let json = host(&["run", "classifier.torchscript", "-i", "image=left.png", "--json", "--top-k", "2"]).json();
    let rows = json["predictions"][0]["rows"].as_array().unwrap();
    assert_eq!((rows.len(), rows[0].as_array().unwrap().len()), (1, 2));
    assert_eq!(rows[0][0]["label"], "left");
    assert!((rows[0][0]["probability"].as_f64().unwrap() - 0.998).abs() < 1e-3);
}

#[test]
fn arrays_come_from_npy_npz_json_files_and_stdin() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    fs::write(at("x.npy"), floats("(1, 2)", &[1.0, 2.0])).unwrap();
    fs::write(at("h.json"), "[[0.5, 0]]").unwrap();
    let expected = serde_json::json!([[2.5, 4.0]]);
    let run =
        |words: &[&str], stdin: &[u8]| host_with(&[&["run", "cell.torchscript", "--json"], words].concat(), stdin);
    assert_eq!(
        total(&run(&["-i", &format!("x={}", at("x.npy")), "-i", &format!("h={}", at("h.json"))], b"")),
        expected
    );
    assert_eq!(total(&run(&["-i", "x=-", "-i", "h=[[0.5, 0]]"], &floats("(1, 2)", &[1.0, 2.0]))), expected);
    assert_eq!(total(&run(&["-i", "-"], br#"{"x": [[1, 2]], "h": [[0.5, 0]]}"#)), expected);
    // What `run` writes it also reads: outputs `total` and `count` of one cell are no inputs of it, but one is by name.
    let npz = host(&["run", "cell.torchscript", "-i", "x=[[0.5, 1]]", "-i", "h=[[0, 0]]", "-o", "-"]).bytes;
    fs::write(at("out.npz"), npz).unwrap();
    let refused = run(&["-i", &format!("x={}", at("out.npz")), "-i", "h=[[0, 0]]"], b"");
    assert!(refused.json()["error"]["message"].as_str().unwrap().contains("holds `total`, `count`"));
    run(&["-i", "x=-", "-i", "h=-"], b"[[1, 2]]").json()["error"]["message"].as_str().unwrap().contains("only one");
}

#[test]
fn foreign_byte_order_and_fortran_order_are_read_right() {
    let big: Vec<u8> = [1f32, 3.0, 2.0, 4.0].iter().flat_map(|v| v.to_be_bytes()).collect();
    let file = npy("{'descr': '>f4', 'fortran_order': True, 'shape': (2, 2), }", &big);
    let ran = host_with(&["run", "cell.torchscript", "--json", "-i", "x=-", "-i", "h=[[0, 0], [0, 0]]"], &file);
    assert_eq!(total(&ran), serde_json::json!([[2.0, 4.0], [6.0, 8.0]]));
}

#[test]
fn a_float_of_another_width_is_converted_and_said() {
    let data: Vec<u8> = [1f64, 2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let file = npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1, 2), }", &data);
    let ran = host_with(&["run", "cell.torchscript", "--json", "-i", "x=-", "-i", "h=[[0, 0]]"], &file);
    assert_eq!(total(&ran), serde_json::json!([[2.0, 4.0]]));
    assert_eq!(ran.stderr, "note: input `x` was float64, converted to float32 as the contract asks\n");
}

#[test]
fn not_a_number_is_allowed_and_passed_on() {
    let ran = host_with(
        &["run", "cell.torchscript", "--json", "-i", "x=[[1, 2]]", "-i", "h=-"],
        &floats("(1, 2)", &[f32::NAN, f32::INFINITY]),
    );
    assert_eq!(total(&ran), serde_json::json!([["NaN", "Infinity"]]));
    let ran = host(&["run", "cell.torchscript", "--json", "-i", "x=[[1, 2]]", "-i", r#"h=[["NaN", 0]]"#]);
    assert_eq!(total(&ran), serde_json::json!([["NaN", 4.0]]));
}

#[test]
fn a_batch_of_none_gives_outputs_of_none() {
    let ran = host_with(&["run", "classifier.torchscript", "-i", "-"], &floats("(0, 1, 4, 4)", &[]));
    assert_snapshot!(ran.answer(), @r"
    classifier on cpu

    scores  FP32 [0, 3]
      no rows
    ");
}

#[test]
fn a_folder_gets_one_file_for_each_output() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("new/results");
    let shown = folder.display().to_string();
    let ran = host(&["run", "cell.torchscript", "-i", "x=[[1, 2]]", "-i", "h=[[0, 0]]", "--output", &shown]);
    assert_eq!(ran.answer(), format!("{shown}/total.npy\n{shown}/count.npy\n"));
    assert_eq!(written(&folder), ["count.npy", "total.npy"]);
    let back =
        host_with(&["run", "plain.torchscript", "--json", "-i", "-"], &fs::read(folder.join("total.npy")).unwrap());
    assert_eq!(total(&back), serde_json::json!([[0.5]]));
    let ran = host(&["run", "cell.torchscript", "-i", "x=[[1, 2]]", "-i", "h=[[0, 0]]", "-o", &shown, "-f", "npz"]);
    assert_eq!(ran.answer(), format!("{shown}/outputs.npz\n"));
}

#[test]
fn difficult_output_names_stay_in_the_folder_and_apart() {
    let folder = tempfile::tempdir().unwrap();
    let shown = folder.path().display().to_string();
    let words = ["run", "nested.torchscript", "-i", "text=../../up", "-i", "numbers=[1, 2]", "--output", &shown];
    assert_eq!(host(&words).code, Some(0));
    assert_eq!(
        written(folder.path()),
        ["%2E.%2F..%2Fup.npy", "%2Ehidden.npy", "%73%61%6D%65.npy", "Same.npy", "a%2Fb.npy"]
    );
}

#[test]
fn what_is_no_tensor_becomes_json() {
    let folder = tempfile::tempdir().unwrap();
    let shown = folder.path().display().to_string();
    assert_eq!(host(&["run", "mixed.torchscript", "-i", "2", "--output", &shown]).code, Some(0));
    assert_eq!(fs::read_to_string(folder.path().join("output_3.json")).unwrap(), "\"n is 2\"\n");
    assert!(folder.path().join("output_4.0.npy").exists());
    host(&["run", "mixed.torchscript", "-i", "2", "--output", "-"]).refuses(2, &["`output_3` is str", "--format json"]);
}

#[test]
fn one_output_flows_through_a_pipe_into_the_next_model() {
    let first =
        host_with(&["run", "plain.torchscript", "-i", "-", "-o", "-"], &floats("(2, 2)", &[1.0, 0.0, 0.0, 2.0]));
    assert!(first.bytes.starts_with(b"\x93NUMPY"));
    let joined = host_with(&["run", "classifier.torchscript", "-i", "-"], &first.bytes);
    joined.refuses(2, &["input `image` has shape [2, 1]", "[batch, 1, 4, 4]"]);
    let several = host(&["run", "cell.torchscript", "-i", "x=[[1, 2]]", "-i", "h=[[0, 0]]", "-o", "-", "-f", "npy"]);
    several.refuses(2, &["`total` (Tensor), `count` (Tensor)", "--format npz"]);
}

#[test]
fn arguments_with_a_default_may_be_left_out_or_given() {
    assert_eq!(total(&host(&["run", "plain.torchscript", "--json", "-i", "x=[[1.0, 0]]"])), serde_json::json!([[2.5]]));
    let ran = host(&["run", "plain.torchscript", "--json", "-i", "x=[[1.0, 0]]", "-i", "scale=4"]);
    assert_eq!(total(&ran), serde_json::json!([[5.0]]));
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let mut command = std::process::Command::new("/bin/sh");
    let script = "\"$0\" run nested.torchscript -i text=a -i 'numbers=[1]' | true; \"$0\" completions bash | head -1";
    command.args(["-c", script]).arg(crate::host::binary());
    let ran = crate::host::start(command, &[]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{}", ran.stdout);
}

#[test]
fn another_method_is_called_by_its_name() {
    let words = |method| ["run", "counter.torchscript", "-i", "[3, 5]", "--method", method, "--json"];
    assert_eq!(total(&host(&words("half_of"))), serde_json::json!([1.5, 2.5]));
    assert_eq!(total(&host(&words("forward"))), serde_json::json!([3, 5]));
    let missing = host(&["run", "counter.torchscript", "-i", "[3, 5]", "--method", "half"]);
    missing
        .refuses(2, &["has no method `half`, did you mean `half_of`? It has `forward`, `half_of`", "rust-host info"]);
    let missing = host(&["bench", "counter.torchscript", "-i", "[3, 5]", "--method", "zzz"]);
    missing.refuses(2, &["has no method `zzz`, it has `forward`, `half_of`"]);
    host(&["run", "cell.torchscript", "--method", "reset", "-i", "rows.csv", "-o", "out.csv"])
        .refuses(2, &["rows.csv"]);
}

#[test]
fn a_model_that_keeps_state_is_as_it_was_saved_in_every_run() {
    for _ in 0..2 {
        assert_eq!(total(&host(&["run", "counter.torchscript", "-i", "[3.5]", "--json"])), serde_json::json!([3.5]));
    }
    let bench = host(&["bench", "counter.torchscript", "-i", "[1.5]", "--seconds", "0.01"]);
    assert!(bench.stderr.contains("keeps state between calls"), "{}", bench.stderr);
    let bench = host(&["bench", "plain.torchscript", "-i", "[[1.5, 2]]", "--seconds", "0.01"]);
    assert_eq!(bench.stderr, "");
}

#[test]
fn labels_and_pictures_of_others_are_used_and_said_not_to_be_verified() {
    let ran = host(&["run", "colours.torchscript", "-i", "green.png"]);
    assert_snapshot!(ran.answer(), @r"
    colours on cpu

    output_0  FP32 [1, 3]
      [0]  green  99.8 %  blue  0.2 %  red  0.0 %
    ");
    assert_snapshot!(ran.stderr, @r"
    note: input `x` is the picture as 8 x 8, RGB, 0 to 1, by `config.txt`, not verified
    note: the labels of `output_0` are by `config.txt`, not verified
    ");
    let wide = host(&["run", "colours.torchscript", "-i", "wide.png"]);
    wide.refuses(
        2,
        &["the picture is 16 x 8, `config.txt` says 8 x 8 and not how one becomes the other", "Ultralytics"],
    );
    // A file that cannot be read is no error, and says nothing of pictures.
    let misread = host(&["run", "misread.torchscript", "-i", "green.png"]);
    misread.refuses(2, &["no contract says how a picture becomes the input `x`"]);
}
