//! The worker's side. Its stdin is the socket at first; the real one comes over it.

use super::{
    channel::{Answer, Ask, Channel},
    parent::out_of_memory,
};
use rust_host_engine::{Error, ErrorKind, Result};
use rust_host_tables::AtomicFile;
use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::OnceLock,
};

/// What the worker is called in `ps`, by which it also knows that it is one.
pub(super) const NAME: &str = "rust-host: worker";

static CHANNEL: OnceLock<Channel> = OnceLock::new();

/// Whether this process is a worker.
pub(crate) fn is_worker() -> bool {
    CHANNEL.get().is_some()
}

/// Makes this process a worker if it was started as one.
///
/// # Errors
/// `Internal` if whoever started it is not this program.
pub(crate) fn attach() -> Result<()> {
    if std::env::args_os().next().is_none_or(|name| name != NAME) {
        return Ok(());
    }
    let lost = |e: io::Error| Error::internal(format!("this worker has no process that it works for: {e}"));
    // Whatever ends the first process ends this one, from here on. If it ended before, the parent is not the process that made
    // the socket, and nobody would ever end this one.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(|e| lost(e.into()))?;
    let first = rustix::net::sockopt::socket_peercred(io::stdin()).map_err(|e| lost(e.into()))?.pid;
    if rustix::process::getppid() != Some(first) {
        return Err(lost(io::ErrorKind::NotConnected.into()));
    }
    let channel = Channel(io::stdin().as_fd().try_clone_to_owned().map_err(lost)?);
    let (answer, stdin): (Answer, Option<OwnedFd>) =
        channel.receive().map_err(lost)?.ok_or_else(|| lost(io::ErrorKind::UnexpectedEof.into()))?;
    answer.into_result()?;
    rustix::stdio::dup2_stdin(stdin.ok_or_else(|| lost(io::ErrorKind::InvalidData.into()))?)
        .map_err(|e| lost(e.into()))?;
    // It was started by a link called `exe`.
    let _named = rustix::thread::set_name(c"rust-host");
    // A crash shall not write the model's memory to the disk.
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).map_err(|e| lost(e.into()))?;
    CHANNEL.set(channel).map_err(|_| Error::internal("this process is a worker twice"))
}

/// What libtorch's parser gets as its stack while a file is loaded: address space, of which hardly anything is used.
const STACK: u64 = 256 << 20;

/// The bound, where there is one.
static LIMIT: OnceLock<u64> = OnceLock::new();

/// Bounds what this process may write to.
///
/// # Errors
/// `Unavailable` if the system refuses.
pub(crate) fn limit_memory(bytes: u64) -> Result<()> {
    LIMIT.get_or_init(|| bytes);
    let most = Some(bytes.saturating_add(STACK));
    setrlimit(Resource::Data, Rlimit { current: most, maximum: most })
        .map_err(|e| Error::unavailable(format!("the memory of this process cannot be limited: {e}")))
}

/// Names the bound where it is what an error comes from.
///
/// # Errors
/// The same.
pub(crate) fn explain<T>(result: Result<T>) -> Result<T> {
    let Some(&limit) = LIMIT.get() else { return result };
    result.map_err(|e| {
        // Out of memory, as libtorch, the engine, the kernel, the dynamic loader and the standard library say it.
        let by_libtorch = ["bad_alloc", "DefaultCPUAllocator", "enough memory", "temporarily unavailable"];
        let by_others = ["memory", "(os error 11)", "(os error 12)", "segment from shared object", "spawn thread"];
        let says = |signs: &[&str]| signs.iter().any(|sign| e.message.contains(sign));
        let is_this = match e.kind {
            ErrorKind::Unavailable | ErrorKind::Internal => says(&by_libtorch) || says(&by_others),
            ErrorKind::Failed | ErrorKind::InvalidModel => says(&by_libtorch),
            _ => false,
        };
        match is_this {
            true => out_of_memory(limit).caused_by(e.message),
            false => e,
        }
    })
}

fn ask(what: &Ask) -> Result<Option<OwnedFd>> {
    let lost = |e: io::Error| Error::internal(format!("the first process does not answer: {e}"));
    let channel = CHANNEL.get().ok_or_else(|| lost(io::ErrorKind::NotConnected.into()))?;
    channel.send(what, None).map_err(lost)?;
    let (answer, file): (Answer, _) =
        channel.receive().map_err(lost)?.ok_or_else(|| lost(io::ErrorKind::UnexpectedEof.into()))?;
    answer.into_result()?;
    Ok(file)
}

/// Begins an output file, which [`finish`] puts in its place.
///
/// # Errors
/// As [`AtomicFile::create`].
pub(crate) fn begin(path: &Path) -> Result<AtomicFile> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let file = ask(&Ask::Begin(name))?.ok_or_else(|| Error::internal("the first process sent no file"))?;
    Ok(AtomicFile::elsewhere(path, File::from(file), finish))
}

/// Puts all files that were begun in their places.
///
/// # Errors
/// As [`AtomicFile::finish`].
pub(crate) fn finish(_path: &Path) -> Result<()> {
    ask(&Ask::Finish).map(drop)
}

/// Everything is told; if this process dies now, there is nothing to add.
pub(crate) fn said() {
    if let Some(channel) = CHANNEL.get() {
        let _sent = channel.send(&Ask::Said, None);
    }
}
