//! `run` with a table or a folder of pictures: files in, files out.

use super::Way;
use crate::{
    deadline, interrupted,
    worker::{self, Confinement},
};
use rust_host_engine::{Archive, Backends, DeviceRequest, Error, ErrorKind, Model, Result, operators::Policy};
use rust_host_tables::{AtomicFile, Format, OnError, Source, Summary};
use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// What to run, on what, and where to write.
pub(crate) struct Settings {
    /// The model's file.
    pub file: PathBuf,
    /// Inputs as they were typed.
    pub words: Vec<OsString>,
    /// The table to write.
    pub output: Option<PathBuf>,
    /// A method was named, which no table can have.
    pub method: Option<String>,
    /// A form was asked for, which only the ending of the output may say.
    pub form: bool,
    /// What a bad row does.
    pub on_error: OnError,
    /// Rows or pictures a call.
    pub batch_size: Option<usize>,
    /// Labels, where a number was asked for.
    pub top_k: Option<usize>,
    /// Longest that reading, running and writing may take together.
    pub timeout: Option<Duration>,
    /// Where to run.
    pub device: DeviceRequest,
    /// Threads inside operators.
    pub threads: Option<usize>,
    /// Operators that the owner of this machine allows.
    pub policy: Policy,
    /// What the model's process may do.
    pub confinement: Confinement,
    /// Whether to print the summary as JSON.
    pub json: bool,
}

/// Whether these words ask for a table: the output is one, or an input can only be one.
pub(crate) fn are_meant(words: &[OsString], output: Option<&Path>) -> bool {
    let by_ending = |path: &Path| path.extension().is_some_and(|e| ["csv", "tsv", "parquet"].iter().any(|t| e == *t));
    output.is_some_and(|o| Format::of(o).is_some() && !o.is_dir())
        || matches!(words, [word] if split(word).1.is_dir() || by_ending(split(word).1))
}

/// `NAME=PATH` or `PATH`; a path that is there may have a `=` of its own.
fn split(word: &OsStr) -> (Option<&str>, &Path) {
    let whole = Path::new(word);
    let Some(at) = word.as_bytes().iter().position(|&b| b == b'=').filter(|_| !whole.exists()) else {
        return (None, whole);
    };
    match std::str::from_utf8(&word.as_bytes()[..at]) {
        Ok(name) => (Some(name), Path::new(OsStr::from_bytes(&word.as_bytes()[at + 1..]))),
        Err(_) => (None, whole),
    }
}

/// Runs a model over a table or pictures.
///
/// # Errors
/// `InvalidInput` for words that contradict each other, and what [`rust_host_tables::run`] says.
pub(crate) fn run(settings: &Settings, backends: &dyn Backends) -> Result<(PathBuf, Summary)> {
    let [word] = settings.words.as_slice() else {
        return Err(Error::invalid_input(format!("{} inputs were given, a table has one", settings.words.len()))
            .hint("`--input rows.csv --output out.csv`"));
    };
    let (name, path) = split(word);
    let shown = path.display();
    let Some(input) = Source::of(path) else {
        return Err(Error::invalid_input(format!(
            "`{shown}` is no table and no folder, expected .csv, .tsv, .parquet, a list of pictures (.txt) or a folder"
        ))
        .hint("a single input writes its outputs into a folder: `--output DIR`"));
    };
    if !path.exists() {
        return Err(Error::not_found(format!("`{shown}`: no such file or folder")));
    }
    let output = settings.output.as_deref().filter(|o| Format::of(o).is_some()).ok_or_else(|| {
        Error::invalid_input(format!("`{shown}` gives a row for each of its rows, but `--output` names no table"))
            .hint("`--output out.csv`, .tsv, .jsonl or .parquet")
    })?;
    if settings.form {
        return Err(Error::invalid_input("the ending of `--output` says the form of a table, `--format` cannot"));
    }
    if let Some(method) = settings.method.as_ref().filter(|m| *m != "forward") {
        return Err(Error::invalid_input(format!(
            "a table needs the model's contract, which describes `forward` and not `{method}`"
        ))
        .hint("`--output DIR` writes the outputs of one call of any method"));
    }
    let archive = Archive::open_signed(&settings.file, settings.policy.signed_by.as_ref())?;
    if let (Some(name), Some(contract)) = (name, archive.contract()?) {
        let picture = contract.image.as_ref().map(|i| i.input.as_str());
        if !matches!(input, Source::Folder(_) | Source::List(_)) {
            return Err(Error::invalid_input("a table fills inputs by the names of its columns")
                .hint(format!("`--input {shown}` without `{name}=`")));
        }
        if picture != Some(name) {
            return Err(Error::invalid_input(format!("input `{name}` takes no pictures, by the model's contract")));
        }
    }
    // 400 JPEGs of 640 x 480 took 2.6 s of processor time with threads that spin and 1.5 s with threads that sleep.
    backends.let_waiting_threads_sleep();
    let backend = backends.open(archive.platform())?;
    // Counted here: in the sandbox the container's limit cannot be read.
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // Its threads wait by spinning, which takes the cores away from those that read and write: 1,000,000 rows took 4.3 s
    // with 2 threads and 0.3 s with one, on 2 busy cores.
    let one_is_enough = !matches!(input, Source::Folder(_) | Source::List(_));
    let way = Way::of(&settings.file, settings.threads.or(one_is_enough.then_some(1)))?;
    let has_contract = archive.contract()?.is_some();
    let reads = if worker::is_worker() { rust_host_tables::reads(&input)? } else { Vec::new() };
    let note = worker::enter(settings.confinement, backend.as_ref(), settings.device, has_contract, &reads)?;
    way.set(backend.as_ref());
    let model = Model::from_archive(archive, backend.as_ref(), settings.device, &settings.policy)?;
    let model = if way.optimised { model.optimised()? } else { model };
    let mut table = rust_host_tables::Settings::new(input, output);
    table.on_error = settings.on_error;
    table.batch_size = settings.batch_size;
    table.top_k = settings.top_k;
    table.progress = true;
    table.workers = Some(workers);
    table.create = create;
    let shown = output.display().to_string();
    let late = move |limit: Duration| {
        let text = format!("the run is not done within {} s, `{shown}` was not written", limit.as_secs_f64());
        Error::new(ErrorKind::Timeout, text)
    };
    let give_up = {
        let late = late.clone();
        move |limit| {
            // Held until the process is gone.
            std::mem::forget(rust_host_tables::remove_unfinished());
            late(limit)
        }
    };
    let start = Instant::now();
    let summary = deadline::within(settings.timeout, give_up, || rust_host_tables::run(&model, &table));
    let is_late = |limit: &Duration| start.elapsed() >= *limit;
    let mut summary = summary.map_err(|e| match settings.timeout.filter(is_late) {
        Some(limit) if e.kind == ErrorKind::Timeout => late(limit),
        _ => e,
    })?;
    summary.notes.splice(0..0, way.note.into_iter().chain(note));
    Ok((output.to_owned(), summary))
}

/// Begins the output: by the process that may write, and so that nothing of it stays behind.
fn create(path: &Path) -> Result<AtomicFile> {
    if worker::is_worker() {
        return worker::begin(path);
    }
    interrupted::remove_what_is_begun();
    AtomicFile::create(path)
}
