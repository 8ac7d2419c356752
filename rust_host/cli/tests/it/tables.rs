//! `run` with a table or a folder of pictures: exit codes, what is written, and what is left behind.

use crate::host::{binary, host, model, names, start};
use std::{
    fs,
    io::Write,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const HEADER: &str = "id,x.0,x.1,h.0,h.1\n";

fn run(model_name: &str, input: &Path, output: &Path, more: &[&str]) -> crate::host::Ran {
    let (model, input, output) = (model(model_name), input.display().to_string(), output.display().to_string());
    let mut words = vec!["run", &model, "--input", &input, "--output", &output];
    words.extend(more);
    host(&words)
}

#[test]
fn a_table_goes_in_and_a_table_comes_out() {
    let folder = tempfile::tempdir().unwrap();
    let (rows, out) = (folder.path().join("rows.csv"), folder.path().join("out.csv"));
    fs::write(&rows, format!("{HEADER}a,1,2,0.5,0\nb,3,4,0,0.25\n")).unwrap();
    let ran = run("cell", &rows, &out, &[]);
    assert_eq!(ran.answer(), format!("{}\n", out.display()));
    assert!(ran.stderr.starts_with("note: 2 rows in "), "{}", ran.stderr);
    assert_eq!(fs::read_to_string(&out).unwrap(), "id,total.0,total.1,count\na,2.5,4.0,3\nb,6.0,8.25,7\n");
    let json = run("cell", &rows, &out, &["--json"]).json();
    assert_eq!((&json["rows"], &json["failed"]), (&2.into(), &0.into()));
}

#[test]
fn a_bad_row_is_misuse_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (rows, out) = (folder.path().join("rows.csv"), folder.path().join("out.csv"));
    fs::write(&rows, format!("{HEADER}a,1,2,0,0\nb,3,x,0,0\n")).unwrap();
    run("cell", &rows, &out, &[]).refuses(2, &["rows.csv`: row 2: column `x.1`: `x` is no number", "--on-error null"]);
    assert_eq!(names(folder.path()), ["rows.csv"]);
    let ran = run("cell", &rows, &out, &["--on-error", "null"]);
    assert!(ran.stderr.contains("1 without outputs, the first: ") && ran.code == Some(0), "{}", ran.stderr);
    assert_eq!(fs::read_to_string(&out).unwrap(), "id,total.0,total.1,count\na,2.0,4.0,3\nb,,,\n");
}

#[test]
fn a_folder_of_pictures_becomes_labels() {
    let folder = tempfile::tempdir().unwrap();
    let (pictures, out) = (folder.path().join("p"), folder.path().join("out.jsonl"));
    fs::create_dir(&pictures).unwrap();
    let left = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/left.png");
    for name in ["b.png", "a.png"] {
        fs::copy(&left, pictures.join(name)).unwrap();
    }
    run("classifier", &pictures, &out, &["--top-k", "1"]).answer();
    let text = fs::read_to_string(&out).unwrap();
    let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert!(first["path"].as_str().unwrap().ends_with("p/a.png") && first["label_1"] == "left", "{text}");
    fs::write(pictures.join("aa.png"), b"\x89PNG\r\n\x1a\n").unwrap();
    run("classifier", &pictures, &out, &[]).refuses(2, &["aa.png`: the picture cannot be decoded"]);
    assert_eq!(fs::read_to_string(&out).unwrap(), text);
}

#[test]
fn words_that_fit_no_table_are_sentences() {
    let folder = tempfile::tempdir().unwrap();
    let (rows, out) = (folder.path().join("rows.csv"), folder.path().join("out.csv"));
    run("cell", &rows, &out, &[]).refuses(2, &["rows.csv`: no such file"]);
    fs::write(&rows, HEADER).unwrap();
    run("cell", &rows, folder.path(), &[]).refuses(2, &["`--output` names no table", "--output out.csv"]);
    run("cell", &rows, &out, &["--format", "npy"]).refuses(2, &["the ending of `--output`"]);
    run("cell", &rows, &out, &["--batch-size", "0"]).refuses(2, &["--batch-size"]);
    run("plain", &rows, &out, &[]).refuses(2, &["has no contract"]);
    run("cell", &rows, &folder.path().join("no/out.csv"), &[]).refuses(2, &["no`: no such folder", "mkdir -p"]);
    let named = format!("x={}", rows.display());
    let words = ["run", &model("cell"), "--input", &named, "--output", &out.display().to_string()];
    host(&words).refuses(2, &["by the names of its columns"]);
    assert_eq!(names(folder.path()), ["rows.csv"]);
}

#[test]
fn a_full_disk_is_a_sentence_and_leaves_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let (rows, out) = (folder.path().join("rows.csv"), folder.path().join("out.csv"));
    fs::write(&rows, format!("{HEADER}{}", "a,1,2,0,0\n".repeat(20_000))).unwrap();
    fs::write(&out, "before").unwrap();
    let line = "ulimit -f 8; exec \"$0\" run \"$1\" --input \"$2\" --output \"$3\"";
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", line]).arg(binary()).arg(model("cell")).args([&rows, &out]);
    start(shell, b"").refuses(1, &["out.csv`: cannot write: the file would be larger"]);
    assert_eq!(fs::read_to_string(&out).unwrap(), "before");
    assert_eq!(names(folder.path()), ["out.csv", "rows.csv"]);
}

/// Whether the process has written more than a little into a file of that folder that has no name (or is to get one).
fn has_begun(process: u32, folder: &Path) -> bool {
    let open = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    let mut files = open.map(|e| e.path()).filter(|fd| {
        let target = fs::read_link(fd).unwrap_or_default();
        target.starts_with(folder) && !target.ends_with("rows.csv")
    });
    files.any(|fd| fs::metadata(fd).is_ok_and(|m| m.len() > 1000))
}

/// The writing end of a pipe that the child reads; opening it plainly would wait for ever where the child has failed.
fn open_for(child: &mut Child, pipe: &Path) -> fs::File {
    use std::os::unix::fs::OpenOptionsExt;
    while fs::OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(pipe).is_err() {
        assert_eq!(child.try_wait().unwrap(), None, "it ended before it read anything");
        std::thread::sleep(Duration::from_millis(5));
    }
    fs::OpenOptions::new().write(true).open(pipe).unwrap()
}

#[test]
fn a_run_that_is_ended_leaves_what_was_there_and_nothing_else() {
    for (signal, sandbox) in [("KILL", "off"), ("INT", "off"), ("TERM", "off"), ("KILL", "on"), ("INT", "on")] {
        let folder = tempfile::tempdir().unwrap();
        let (rows, out) = (folder.path().join("rows.csv"), folder.path().join("out.csv"));
        assert!(Command::new("mkfifo").arg(&rows).status().unwrap().success());
        fs::write(&out, "before").unwrap();
        let mut child = Command::new(binary())
            .args(["run", &model("cell"), "--sandbox", sandbox, "--batch-size", "500", "--input"])
            .arg(&rows)
            .arg("--output")
            .arg(&out)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut pipe = open_for(&mut child, &rows);
        // More than one read of the host, so that some of it is written while it waits for the rest.
        pipe.write_all(format!("{HEADER}{}", "a,1,2,0,0\n".repeat(300_000)).as_bytes()).unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        while !has_begun(child.id(), folder.path()) {
            assert!(Instant::now() < end, "nothing was written: {:?}", names(folder.path()));
            std::thread::sleep(Duration::from_millis(5));
        }
        let killed = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap();
        assert!(killed.success() && !child.wait().unwrap().success());
        assert_eq!(fs::read_to_string(&out).unwrap(), "before", "{signal}");
        assert_eq!(names(folder.path()), ["out.csv", "rows.csv"], "{signal}");
    }
}
