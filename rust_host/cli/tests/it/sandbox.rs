//! `--sandbox` and `--max-memory`: what the model's process may not do, how it ends, and that honest models notice nothing.
//! The sandbox is the second wall: the gate, which refuses such files first, is opened for them here.

use crate::host::{Ran, binary, floats, host, host_with, names, start};
use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Beside `writer`, made by make.py: `forward(x, path)` saves, `forward(path)` reads.
const SAVES: [&str; 4] = ["run", "saver.torchscript", "--allow-operator", "aten::save"];
const READS: [&str; 4] = ["run", "reader.torchscript", "--allow-operator", "aten::from_file"];

fn run(words: &[&str], sandbox: Option<&str>, more: &[&str]) -> Ran {
    let mut all = words.to_vec();
    all.extend(sandbox.iter().flat_map(|s| ["--sandbox", s]));
    all.extend(more);
    host(&all)
}

#[test]
fn a_file_that_saves_writes_nothing_in_the_sandbox_and_would_outside() {
    let folder = tempfile::tempdir().unwrap();
    let hole = folder.path().join("hole");
    let path = format!("path={}", hole.display());
    let more = ["-i", "x=[1.0]", "-i", &path];
    for sandbox in [None, Some("on")] {
        run(&SAVES, sandbox, &more);
        assert!(!hole.exists(), "{sandbox:?}");
    }
    fs::write(&hole, "before").unwrap();
    run(&SAVES, None, &more);
    assert_eq!(fs::read_to_string(&hole).unwrap(), "before");
    // Beside its own outputs too.
    let output = folder.path().display().to_string();
    run(&SAVES, None, &[&more[..], &["--output", &output]].concat()).answer();
    assert_eq!(fs::read_to_string(&hole).unwrap(), "before");
    assert_eq!(names(folder.path()), ["hole", "output_0.npy"]);
    run(&SAVES, Some("off"), &more).answer();
    assert_ne!(fs::read(&hole).unwrap(), b"before");
}

#[test]
fn a_file_that_reads_gets_nothing_in_the_sandbox_and_would_outside() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    fs::write(&secret, "secret!!").unwrap();
    let path = format!("path={}", secret.display());
    let more = ["-i", &path, "--json"];
    let ran = run(&READS, None, &more);
    assert_eq!(ran.code, Some(1), "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stdout.contains("Permission denied") || ran.stdout.contains("unable to open file"), "{}", ran.stdout);
    let ran = run(&READS, Some("off"), &more).json();
    assert_eq!(ran["outputs"][0]["data"], serde_json::json!(b"secret!!"));
    run(&READS, None, &["-i", "path=/proc/self/environ"]).refuses(1, &[]);
}

/// Starts the binary with an open stdin, for which it will wait.
fn waiting(words: &[&str]) -> Child {
    let mut command = Command::new(binary());
    command.args(words).current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")).env_clear();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// The worker of that process, or `None` when the process itself waits for its input.
fn worker_of(process: u32) -> Option<String> {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let read = |path: String| fs::read_to_string(path).unwrap_or_default();
        let child = read(format!("/proc/{process}/task/{process}/children"));
        let child = child.trim();
        // Its own name comes with the program, a moment after the process.
        if !child.is_empty() && read(format!("/proc/{child}/cmdline")).starts_with("rust-host: worker") {
            return Some(child.to_owned());
        }
        if read(format!("/proc/{process}/wchan")).contains("pipe") {
            return None;
        }
        assert!(Instant::now() < end, "neither a worker nor waiting");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn the_sandbox_is_there_by_default_for_files_without_a_contract_alone() {
    let has_worker = |words: &[&str]| {
        let mut child = waiting(words);
        let worker = worker_of(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        worker.is_some()
    };
    assert!(has_worker(&["run", "plain.torchscript", "-i", "-"]));
    assert!(!has_worker(&["run", "plain.torchscript", "-i", "-", "--sandbox", "off"]));
    assert!(!has_worker(&["run", "classifier.torchscript", "-i", "-"]));
    assert!(has_worker(&["run", "classifier.torchscript", "-i", "-", "--sandbox", "on"]));
}

#[test]
fn an_honest_model_gives_the_same_in_the_sandbox_to_every_kind_of_output() {
    let folder = tempfile::tempdir().unwrap();
    for form in ["table", "json", "npz"] {
        let words =
            ["run", "cell.torchscript", "-i", "x=[[1, 2], [3, 4]]", "-i", "h=[[0.5, 0], [0, 0.25]]", "-f", form];
        let outside = host(&[&words[..], &["--sandbox", "off"]].concat());
        let inside = host(&[&words[..], &["--sandbox", "on"]].concat());
        assert_eq!((inside.code, &inside.bytes, &inside.stderr), (Some(0), &outside.bytes, &outside.stderr), "{form}");
    }
    let piped = host_with(
        &["run", "plain.torchscript", "--sandbox", "on", "-i", "-", "-o", "-"],
        &floats("(2, 2)", &[1.0, 0.0, 0.0, 2.0]),
    );
    assert!(piped.bytes.starts_with(b"\x93NUMPY"), "{}", piped.stderr);
    let picture = ["run", "classifier.torchscript", "-i", "image=left.png", "--sandbox"];
    assert_eq!(host(&[&picture[..], &["on"]].concat()).answer(), host(&[&picture[..], &["off"]].concat()).answer());
    let out = folder.path().join("new/results");
    let shown = out.display().to_string();
    let words = ["run", "nested.torchscript", "-i", "text=../../up", "-i", "numbers=[1, 2]", "--output", &shown];
    assert_eq!(host(&[&words[..], &["--sandbox", "on"]].concat()).code, Some(0));
    assert_eq!(names(&out), ["%2E.%2F..%2Fup.npy", "%2Ehidden.npy", "%73%61%6D%65.npy", "Same.npy", "a%2Fb.npy"]);
    host(&["verify", "cell.torchscript", "--sandbox", "on"]).answer();
    host(&["bench", "cell.torchscript", "--sandbox", "on", "--seconds", "0.01"]).answer();
    let npy = folder.path().join("x.npy");
    fs::write(&npy, floats("(1, 2)", &[1.0, 0.0])).unwrap();
    let input = format!("x={}", npy.display());
    host(&["bench", "plain.torchscript", "-i", &input, "--seconds", "0.01"]).answer();
}

#[test]
fn tables_and_pictures_go_through_the_sandbox() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    fs::write(at("rows.csv"), "id,x.0,x.1,h.0,h.1\na,1,2,0.5,0\nb,3,4,0,0.25\n").unwrap();
    let words = ["run", "cell.torchscript", "--sandbox", "on", "-i", &at("rows.csv"), "-o", &at("out.csv")];
    host(&words).answer();
    assert_eq!(fs::read_to_string(at("out.csv")).unwrap(), "id,total.0,total.1,count\na,2.5,4.0,3\nb,6.0,8.25,7\n");
    host(&["run", "cell.torchscript", "--sandbox", "on", "-i", &at("rows.csv"), "-o", &at("no/out.csv")])
        .refuses(2, &["no`: no such folder", "mkdir -p"]);
    let left = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/left.png");
    fs::create_dir(at("p")).unwrap();
    fs::copy(&left, at("p/a.png")).unwrap();
    // A link out of the folder is read as well.
    fs::copy(&left, at("elsewhere.png")).unwrap();
    std::os::unix::fs::symlink(at("elsewhere.png"), at("p/b.png")).unwrap();
    fs::write(at("list.txt"), format!("{}\n{}\n", at("p/a.png"), at("elsewhere.png"))).unwrap();
    for input in ["p", "list.txt"] {
        let words = ["run", "classifier.torchscript", "--sandbox", "on", "-i", &at(input), "-o", &at("out.jsonl")];
        host(&words).answer();
        let text = fs::read_to_string(at("out.jsonl")).unwrap();
        assert!(text.lines().count() == 2 && text.lines().all(|l| l.contains("\"label\": \"left\"")), "{text}");
    }
    assert!(names(folder.path()).iter().all(|n| !n.starts_with('.')));
}

#[test]
fn a_model_that_never_ends_ends_at_the_timeout() {
    let start = Instant::now();
    let words = ["run", "endless.torchscript", "-i", "x=[1.0]", "--timeout", "0.5"];
    for sandbox in ["on", "off"] {
        run(&words, Some(sandbox), &[]).refuses(1, &["did not answer within 0.5 s"]);
    }
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn memory_that_is_not_there_is_a_sentence_at_every_size() {
    let (mut short, mut enough) = (0, 0);
    // The model makes 80 MB of numbers.
    for size in ["1B", "1kB", "1MB", "30MB", "60MB", "90MB", "120MB", "200MB", "300MB", "400MB", "500MB", "3GB"] {
        let words = ["run", "large.torchscript", "-i", "n=10000000", "--max-memory", size, "--sandbox", "off"];
        let ran = host(&words);
        match ran.code {
            Some(0) => enough += 1,
            _ => {
                ran.refuses(1, &["--max-memory"]);
                short += 1;
            }
        }
    }
    assert!(short >= 5 && enough >= 1, "{short} {enough}");
    let words = ["-i", "n=100000000000", "--sandbox", "on", "--max-memory", "300MB"];
    host(&[&["run", "large.torchscript"], &words[..]].concat()).refuses(1, &["--max-memory", "300.0 MB"]);
    host(&["verify", "cell.torchscript", "--max-memory", "1B"]).refuses(1, &["--max-memory"]);
    host(&["verify", "cell.torchscript", "--max-memory", "1GB"]).answer();
    host(&["run", "large.torchscript", "-i", "n=10", "--max-memory", "0MB"]).refuses(2, &["a size as 500MB or 2GB"]);
    host(&["run", "large.torchscript", "-i", "n=10", "--max-memory", "500"]).refuses(2, &["a size as 500MB or 2GB"]);
}

#[test]
fn a_worker_that_dies_is_a_sentence_and_one_whose_first_process_dies_goes_too() {
    // Whoever kills it plays the model that crashes.
    let kill = |signal: &str, process: &str| {
        assert!(Command::new("kill").args(["-s", signal, process]).status().unwrap().success());
    };
    for (signal, said) in [("ABRT", "ended by signal 6 (SIGABRT)"), ("KILL", "out of memory")] {
        let child = waiting(&["run", "plain.torchscript", "-i", "-"]);
        kill(signal, &worker_of(child.id()).unwrap());
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && text.starts_with("error: ") && text.contains(said), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
    for signal in ["INT", "KILL"] {
        let mut child = waiting(&["run", "plain.torchscript", "-i", "-"]);
        let _stays_open = child.stdin.take();
        let worker = worker_of(child.id()).unwrap();
        kill(signal, &child.id().to_string());
        assert_eq!(child.wait().unwrap().code(), None, "ended by the signal, as without a worker");
        let end = Instant::now() + Duration::from_secs(10);
        while fs::read_to_string(format!("/proc/{worker}/cmdline")).is_ok_and(|c| !c.is_empty()) {
            assert!(Instant::now() < end, "the worker lives on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn nobody_is_a_worker_without_the_first_process() {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(binary());
    command.arg0("rust-host: worker").arg("--version");
    start(command, b"").refuses(1, &["no process that it works for"]);
}

#[test]
fn a_worker_that_begins_after_its_first_process_has_ended_ends_too() {
    use std::os::{fd::OwnedFd, unix::net::UnixStream};
    // This test made the socket and keeps its end open, and a shell is the parent.
    let (_ours, theirs) = UnixStream::pair().unwrap();
    let mut command = Command::new("bash");
    command.args(["-c", "(exec -a 'rust-host: worker' \"$0\" --version); exit $?"]).arg(binary());
    let output = command.stdin(Stdio::from(OwnedFd::from(theirs))).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && text.contains("no process that it works for"), "{text}");
}
