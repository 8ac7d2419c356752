//! Help, `info`, `verify`, `bench`, `doctor`, completions.

use crate::host::{host, model};
use insta::assert_snapshot;

#[test]
fn help_names_every_command_and_an_example() {
    assert_snapshot!(host(&["--help"]).answer(), @r"
    Runs, verifies and measures PyTorch models without Python

    Usage: rust-host <COMMAND>

    Commands:
      info         Say what a model takes and gives, without loading it
      run          Run a model on inputs from files, from the command line or from stdin [alias: predict]
      verify       Replay a model's golden examples on this machine
      bench        Measure how long a call takes: median, 99th percentile, throughput
      tune         Find the fastest way to run a model on this machine, and keep it in `host.toml` beside the model
      build        Make one program of a compiled model, or a library for C, C++ and Rust
      doctor       Say what this machine has: libtorch, processor, limits, CUDA
      completions  Print the completion script of a shell

    Options:
      -h, --help     Print help
      -V, --version  Print version

    Example:
      rust-host run model.pt --input image=7.png
    ");
}

#[test]
fn the_help_of_every_command_has_an_example() {
    for command in ["info", "run", "predict", "verify", "bench", "tune", "build", "doctor", "completions"] {
        let ran = host(&[command, "--help"]);
        let name = command.replace("predict", "run");
        assert!(ran.answer().contains("Example") && ran.stdout.contains(&format!("  rust-host {name}")), "{command}");
    }
}

#[test]
fn completions_are_written_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(host(&["completions", shell]).answer().contains("rust-host"), "{shell}");
    }
}

#[test]
fn misuse_is_told_in_our_own_words() {
    host(&[]).refuses(2, &["a command is missing", "`rust-host --help`"]);
    host(&["verfy"]).refuses(2, &["unrecognized subcommand `verfy`", "`verify`"]);
    host(&["info"]).refuses(2, &["<FILE>", "`rust-host info --help`"]);
    host(&["run", "x", "--inputs", "y"]).refuses(2, &["`--inputs`", "`--input`"]);
    host(&["run", "x", "--device", "gpu"]).refuses(2, &["unknown device `gpu`, expected auto, cpu, cuda or cuda:N"]);
    host(&["bench", "x", "--batch", "0"]).refuses(2, &["`0`", "--batch"]);
    host(&["bench", "x", "--seconds", "-1"]).refuses(2, &["--seconds"]);
    host(&["run", "x", "--threads", "0"]).refuses(2, &["--threads"]);
}

#[test]
fn errors_are_json_where_json_is_asked_for() {
    let ran = host(&["info", "/nowhere/x.pt", "--json"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(2), ""));
    assert_snapshot!(ran.stdout, @r#"{"error":{"kind":"not_found","message":"`/nowhere/x.pt`: cannot open: no such file or folder","hint":null}}"#);
    let ran = host(&["run", "--json", "--wrong"]);
    assert_eq!((ran.code, ran.json()["error"]["kind"].as_str()), (Some(2), Some("invalid_input")));
}

#[test]
fn info_says_what_a_model_takes_and_gives() {
    assert_snapshot!(host(&["info", "classifier.torchscript"]).answer(), @r"
    classifier
      file         classifier.torchscript, 6.1 kB
      class        __torch__.Classifier
      parameters   51 in 2 tensors, 204 bytes
      description  Which half of a picture is bright
      license      Apache-2.0
      made by      make.py 1, torch 2.13.0, 2026-01-02T03:04:05Z
      accuracy     0.975 on halves test, 1,200 samples
      golden       2 examples
    inputs
      image  FP32  [batch, 1, 4, 4]  picture (L, NCHW, 4 x 4)
    outputs
      scores  FP32  [batch, 3]  log_softmax, 3 labels: left right dark, rtol 1e-5 atol 1e-5
    free sizes
      batch  0 to 64
    methods
      forward(image: Tensor) -> Tensor
    operators (3)
      aten::flatten aten::linear aten::log_softmax
    extra files
      golden.safetensors  608 bytes
      contract.json       1.2 kB
    ");
}

#[test]
fn info_of_a_file_without_a_contract_says_what_the_code_says() {
    assert_snapshot!(host(&["info", "plain.torchscript"]).answer(), @r"
    no contract
      file        plain.torchscript, 3.9 kB
      class       __torch__.Plain
      parameters  3 in 2 tensors, 12 bytes
    methods
      forward(x: Tensor, scale: float = 2.) -> Tensor
    operators (4)
      aten::linear aten::lt aten::mul prim::RaiseException
    ");
    let json = host(&["info", "plain.torchscript", "--json"]).json();
    assert_eq!(json["methods"][0]["arguments"][1]["type"], "float");
    assert_eq!((&json["contract"], &json["parameters"]["count"]), (&serde_json::Value::Null, &3.into()));
}

#[test]
fn info_shows_what_others_say_as_provisional() {
    assert_snapshot!(host(&["info", "colours.torchscript"]).answer(), @r"
    no contract
      file        colours.torchscript, 2.5 kB
      class       __torch__.Colours
      parameters  0 in 0 tensors, 0 bytes
    provisional, by config.txt (Ultralytics), not verified
      description  Ultralytics YOLO11n-cls model trained on colours
      task         classify
      input        images FP32 [batch, 3, height, width] 0 to 1 (`x`)
      output       probabilities FP32 [batch, 3] 0 to 1 (`output_0`)
      picture      `x` (RGB, NCHW, 8 x 8), divided by 255
      labels       3 labels: red green blue
    methods
      forward(x: Tensor) -> Tensor
    operators (3)
      aten::mean aten::mul aten::softmax
    extra files
      config.txt  294 bytes
    ");
    let json = host(&["info", "colours.torchscript", "--json"]).json();
    let provisional = &json["provisional"];
    assert_eq!((&provisional["from"], &provisional["labels"][1]), (&"config.txt".into(), &"green".into()));
    assert_eq!((&json["contract"], &json["stateful"]), (&serde_json::Value::Null, &serde_json::Value::Null));
    let misread = host(&["info", "misread.torchscript"]);
    assert_eq!(misread.code, Some(0));
    assert!(misread.stdout.contains("config.txt") && misread.stdout.contains("notes.md"), "{}", misread.stdout);
    let why = "`config.txt` beside the model is not used: `names` is not numbered from 0 to 1";
    assert_eq!(misread.stderr, format!("note: {why}\n"));
    assert_eq!(host(&["info", "misread.torchscript", "--json"]).json()["notes"][0], why);
    assert_eq!(host(&["info", "classifier.torchscript", "--json"]).json()["provisional"], serde_json::Value::Null);
}

#[test]
fn info_says_that_a_model_keeps_state_and_lists_its_methods() {
    assert_snapshot!(host(&["info", "counter.torchscript"]).answer(), @r"
    no contract
      file        counter.torchscript, 2.1 kB
      class       __torch__.Counter
      parameters  0 in 0 tensors, 0 bytes
      state       kept between calls, by its code: calls
    methods
      forward(x: Tensor) -> Tensor
      half_of(x: Tensor, offset: float = 0.) -> Tensor
    operators (3)
      aten::add aten::div aten::mul
    ");
    let json = host(&["info", "counter.torchscript", "--json"]).json();
    assert_eq!((&json["stateful"], &json["state"][0]), (&true.into(), &"calls".into()));
}

#[test]
fn info_works_where_there_is_no_backend_at_all() {
    let ran = crate::broken_house::alone(&["info", &model("classifier")]);
    assert!(ran.answer().starts_with("classifier\n"), "{}", ran.stderr);
}

#[test]
fn verify_says_yes_and_no_by_its_exit_code() {
    let ran = host(&["verify", "cell.torchscript"]);
    assert_snapshot!(ran.answer(), @r"
    cell on cpu (libtorch 2.13.0): reproduces all of 2 golden examples
      output  max |diff|  max relative  rtol  atol
      total   0           0             0     0     ok
      count   0           0             0     0     ok
    ");
    let ran = host(&["verify", "drifted.torchscript", "--json"]);
    assert_eq!(ran.code, Some(1));
    let json = ran.json();
    assert_eq!((&json["ok"], &json["examples"]), (&false.into(), &2.into()));
    assert!((json["outputs"][0]["max_abs"].as_f64().unwrap() - 0.5).abs() < 1e-3);
    host(&["verify", "plain.torchscript"]).refuses(2, &["has no contract, so there is nothing to verify"]);
}

#[test]
fn bench_measures_each_batch_size() {
    let words = ["bench", "classifier.torchscript", "--batch", "1,5", "--seconds", "0.02", "--threads", "1", "--json"];
    let json = host(&words).json();
    assert_eq!((&json["threads"], &json["device"]), (&1.into(), &"cpu".into()));
    let results = json["results"].as_array().unwrap();
    assert_eq!(results.iter().map(|r| r["batch"].as_i64().unwrap()).collect::<Vec<_>>(), [1, 5]);
    for result in results {
        let time = |key: &str| result[key].as_f64().unwrap();
        assert!(0.0 < time("min_us") && time("min_us") <= time("median_us") && time("median_us") <= time("p99_us"));
    }
    let text = host(&["bench", "cell.torchscript", "--seconds", "0.01"]);
    let sizes: Vec<_> = text.answer().lines().skip(2).map(|l| l.split_whitespace().next().unwrap()).collect();
    assert_eq!(sizes, ["1", "8", "32"]);
}

#[test]
fn bench_without_a_contract_needs_an_input() {
    host(&["bench", "plain.torchscript"]).refuses(2, &["no golden examples", "--input"]);
    let words =
        ["bench", "plain.torchscript", "--input", "x=[[1.5, 2]]", "--batch", "3", "--seconds", "0.01", "--json"];
    assert_eq!(host(&words).json()["results"][0]["batch"], 3);
    host(&["bench", "classifier.torchscript", "--batch", "65"]).refuses(2, &["`batch` is 65", "0 to 64"]);
    host(&["bench", "mixed.torchscript", "--input", "n=2", "--batch", "3"]).refuses(2, &["cannot be changed"]);
}

#[test]
fn doctor_names_libtorch_and_why_there_is_no_cuda() {
    let ran = host(&["doctor", "--json"]);
    let json = ran.json();
    assert_eq!(ran.code, Some(0), "{}", ran.stdout);
    assert!(json["libtorch"]["version"].as_str().unwrap().starts_with("2.13.0"));
    assert!(json["libtorch"]["path"].as_str().unwrap().ends_with("libtorch_cpu.so"));
    assert!(json["threads"].as_u64().unwrap() > 0 && json["threads_why"].as_str().unwrap().contains("processor"));
    assert!(json["allocator"].as_str().unwrap().starts_with("glibc"));
    assert_ne!(json["cuda"]["available"].as_bool().unwrap(), json["cuda"]["why_not"].is_string());
    let text = host(&["doctor"]);
    assert!(text.answer().contains("libtorch       2.13.0") && text.stdout.contains("CUDA"));
}
