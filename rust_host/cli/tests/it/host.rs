//! Starts the binary. `cargo test` builds `librust_host_torch_library.so` as a dependency, into `deps/`; both are linked into one
//! folder, as a bundle has them.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

pub const BACKEND: &str = "librust_host_torch_library.so";

/// The binary, with its backend beside it.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let built = Path::new(env!("CARGO_BIN_EXE_rust-host"));
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bin-{}", env!("CARGO_PKG_VERSION")));
        fs::create_dir_all(&folder).unwrap();
        link(built, &folder.join("rust-host"));
        link(&backend(), &folder.join(BACKEND));
        folder.join("rust-host")
    })
}

/// The backend as cargo built it.
pub fn backend() -> PathBuf {
    let profile = Path::new(env!("CARGO_BIN_EXE_rust-host")).parent().unwrap();
    let backend = profile.join("deps").join(BACKEND);
    assert!(backend.exists(), "there is no `{}`: run `cargo build` first", backend.display());
    backend
}

/// Puts `from` at `to`, in one step, because another test run may be looking.
pub fn link(from: &Path, to: &Path) {
    let temporary = to.with_extension(std::process::id().to_string());
    let _old = fs::remove_file(&temporary);
    fs::hard_link(from, &temporary).or_else(|_| fs::copy(from, &temporary).map(drop)).unwrap();
    fs::rename(&temporary, to).unwrap();
    // Renaming a link onto another link of the same file leaves both.
    let _rest = fs::remove_file(&temporary);
}

/// What a run did.
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub bytes: Vec<u8>,
    pub stderr: String,
}

impl Ran {
    /// The JSON document on stdout.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}{}", self.stdout, self.stderr))
    }

    /// Asserts an error: the exit code, nothing on stdout, one sentence that has all the words.
    #[track_caller]
    pub fn refuses(&self, code: i32, words: &[&str]) {
        let all = format!("{}{}", self.stdout, self.stderr);
        assert_eq!(self.code, Some(code), "{all}");
        assert!(self.stdout.is_empty(), "{all}");
        assert!(self.stderr.starts_with("error: ") && !self.stderr.contains("panicked"), "{all}");
        let lines: Vec<_> = self.stderr.lines().collect();
        let rest_is_told = |l: &&str| l.starts_with("hint: ") || l.starts_with("  caused by: ");
        assert!(lines[1..].iter().all(rest_is_told), "more than one sentence: {all}");
        assert!(lines[0].len() < 500, "{all}");
        for word in words {
            assert!(self.stderr.contains(word), "`{word}` is not in: {all}");
        }
    }

    /// stdout of a run that went well.
    #[track_caller]
    pub fn answer(&self) -> &str {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        &self.stdout
    }
}

/// A model beside make.py.
pub fn model(name: &str) -> String {
    format!("{}/tests/data/{name}.torchscript", env!("CARGO_MANIFEST_DIR"))
}

/// Runs the binary with these words, in `tests/data`, in an empty environment.
pub fn host(words: &[&str]) -> Ran {
    host_with(words, &[])
}

/// The same with something on stdin.
pub fn host_with(words: &[&str], stdin: &[u8]) -> Ran {
    let mut command = Command::new(binary());
    command.args(words);
    start(command, stdin)
}

/// Runs any command in `tests/data`, in an empty environment.
pub fn start(mut command: Command, stdin: &[u8]) -> Ran {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    command.env_clear().current_dir(data).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    // It may end without reading.
    let _written = pipe.write_all(stdin);
    drop(pipe);
    let output = child.wait_with_output().unwrap();
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        bytes: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A `.npy` with that header and those bytes.
pub fn npy(header: &str, data: &[u8]) -> Vec<u8> {
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend(u16::try_from(header.len() + 1).unwrap().to_le_bytes());
    out.extend(header.as_bytes());
    out.push(b'\n');
    out.extend(data);
    out
}

/// A `.npy` of 32-bit floats.
pub fn floats(shape: &str, values: &[f32]) -> Vec<u8> {
    let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    npy(&format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"), &data)
}

/// Names of what lies in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
