//! The first process's side: starts the worker, does for it what it may not, and says how it died, if it does.

use super::{
    Confinement,
    channel::{Answer, Ask, Channel},
    child::NAME,
};
use crate::{folder::Files, interrupted};
use rust_host_console::table;
use rust_host_engine::{Error, Result};
use rust_host_tables::AtomicFile;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::{
    ffi::OsString,
    fs::File,
    io::{self, BufRead, BufReader, Write},
    os::{
        fd::AsFd,
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::{Component, Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
};

/// What the worker may have written, as this process read it from the command line.
#[derive(Debug)]
pub(crate) enum Outputs {
    /// Nothing.
    None,
    /// Files in this folder.
    Folder(PathBuf, Option<Files>),
    /// This one file.
    File(PathBuf, Option<AtomicFile>),
}

impl Outputs {
    fn begin(&mut self, name: &str) -> Result<File> {
        match self {
            Self::None => Err(Error::internal("the worker asks for a file, and none was asked for")),
            Self::File(path, file) => {
                interrupted::remove_what_is_begun();
                file.insert(AtomicFile::create(path)?).handle()
            }
            Self::Folder(folder, files) => {
                // The name comes from a process that runs foreign code.
                if !is_plain(name) {
                    return Err(Error::internal(format!(
                        "the worker asks for the file `{name}`, which is no plain name"
                    )));
                }
                let files = match files {
                    Some(files) => files,
                    None => files.insert(Files::begin(folder)?),
                };
                files.create(name)?.handle()
            }
        }
    }

    fn finish(&mut self) -> Result<()> {
        match self {
            Self::None | Self::File(_, None) => Ok(()),
            Self::File(_, file) => file.take().map_or(Ok(()), AtomicFile::finish),
            // A model without outputs has a folder all the same.
            Self::Folder(folder, files) => match files.take() {
                Some(files) => files.finish(),
                None => Files::begin(folder)?.finish(),
            },
        }
    }
}

/// One name, which is not hidden and leads nowhere.
fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let one = matches!((parts.next(), parts.next()), (Some(Component::Normal(n)), None) if n == name);
    one && !name.starts_with('.') && !name.chars().any(char::is_control)
}

/// A started worker.
pub(crate) struct Worker {
    child: Child,
    channel: Channel,
}

/// Starts the worker with the words of this process.
///
/// # Errors
/// `Unavailable` if no process can be started.
pub(crate) fn start() -> Result<Worker> {
    let failed = |e: io::Error| Error::unavailable(format!("a second process for the model cannot be started: {e}"));
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|e| failed(e.into()))?;
    // Dropped at the end of the statement, and with it our copy of the worker's end.
    let child = Command::new("/proc/self/exe")
        .arg0(NAME)
        .args(std::env::args_os().skip(1).collect::<Vec<OsString>>())
        .stdin(Stdio::from(theirs))
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    Ok(Worker { child, channel: Channel(ours) })
}

/// Serves the worker until it ends, and returns its exit code.
///
/// # Errors
/// `Unavailable` or `Failed` if it died before it had told what happened.
pub(crate) fn run(worker: Worker, mut outputs: Outputs, wanted: Confinement) -> Result<i32> {
    let Worker { mut child, channel } = worker;
    let stderr = child.stderr.take().map(|pipe| thread::spawn(move || pass_on(pipe)));
    let said = serve(&channel, &mut outputs);
    drop(channel);
    let status = child.wait().map_err(|e| Error::internal(format!("the worker cannot be waited for: {e}")))?;
    let held_back = stderr.and_then(|thread| thread.join().ok()).unwrap_or_default();
    match (status.code(), said) {
        (Some(code), true) => {
            let _printed = io::stderr().write_all(&held_back);
            Ok(code)
        }
        _ => Err(died(status, wanted)),
    }
}

/// Answers until the other end is closed; whether the worker had told everything by then.
fn serve(channel: &Channel, outputs: &mut Outputs) -> bool {
    let first = channel.send(&Answer::Done, Some(io::stdin().as_fd()));
    let mut said = false;
    while let (false, true, Ok(Some((ask, _)))) = (said, first.is_ok(), channel.receive()) {
        let (result, file) = match ask {
            Ask::Begin(name) => match outputs.begin(&name) {
                Ok(file) => (Ok(()), Some(file)),
                Err(e) => (Err(e), None),
            },
            Ask::Finish => (outputs.finish(), None),
            Ask::Said => {
                said = true;
                break;
            }
        };
        let answer = result.map_or_else(Answer::failed, |()| Answer::Done);
        if channel.send(&answer, file.as_ref().map(AsFd::as_fd)).is_err() {
            break;
        }
    }
    said
}

/// How lines of our own begin, and the warnings of libtorch.
const OURS: [&str; 6] = ["note: ", "error: ", "hint: ", "  caused by: ", "[W", "Warning"];

/// And how a line of Rust's begins that looks like one of them.
const NOT_OURS: &[u8] = b"note: run with `RUST_BACKTRACE";

/// Passes the worker's stderr on, line by line. What is not known as ours is kept and returned: if the worker dies, it is what
/// some library said at the end (`terminate called after throwing …`), and one sentence stands for it.
fn pass_on(pipe: impl io::Read) -> Vec<u8> {
    let mut held_back = Vec::new();
    let mut pipe = BufReader::new(pipe);
    let mut line = Vec::new();
    while pipe.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        let is_progress = line.first().is_some_and(u8::is_ascii_digit);
        let is_ours = OURS.iter().any(|ours| line.starts_with(ours.as_bytes())) && !line.starts_with(NOT_OURS);
        if is_progress || is_ours {
            let _printed = io::stderr().write_all(&line);
        } else if held_back.len() < 1 << 20 {
            held_back.extend_from_slice(&line);
        }
        line.clear();
    }
    held_back
}

fn died(status: ExitStatus, wanted: Confinement) -> Error {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGKILL, SIGTERM};
    let signal = status.signal();
    if let Some(signal @ (SIGINT | SIGTERM | SIGHUP)) = signal {
        // Somebody ended it, and so means this process too.
        let _ended = signal_hook::low_level::emulate_default_handler(signal);
    }
    if let Some(memory) = wanted.memory {
        return out_of_memory(memory);
    }
    let how = match signal {
        Some(SIGKILL) => "killed, as a system does that is out of memory".to_owned(),
        Some(signal) => {
            let name = signal_hook::low_level::signal_name(signal).map(|n| format!(" ({n})")).unwrap_or_default();
            format!("ended by signal {signal}{name}")
        }
        None => format!("ended by one of its libraries, with exit code {}", status.code().unwrap_or_default()),
    };
    Error::failed(format!("the process that ran the model was {how}"))
}

/// Also said by the worker itself, where it notices.
pub(super) fn out_of_memory(memory: u64) -> Error {
    let shown = table::bytes(memory);
    Error::unavailable(format!("the model needs more than the {shown} of memory that `--max-memory` leaves it"))
        .hint("a larger `--max-memory`, or a smaller batch")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_can_name_no_file_outside_the_folder() {
        for name in ["", ".", "..", "/", "/etc/passwd", "a/b", "../a", "a/", ".bashrc", "a\0b", "a\nb"] {
            assert!(!is_plain(name), "{name:?}");
        }
        assert!(is_plain("total.npy") && is_plain("%2E.%2Fup.npy") && is_plain("a b…"));
    }

    #[test]
    fn what_libraries_say_at_the_end_is_held_back() {
        let held = "memory allocation of 9 bytes failed\nnote: run with `RUST_BACKTRACE=1`\n  what():  x\n";
        assert_eq!(pass_on(format!("note: a\n{held}1000 rows  3 a second\n").as_bytes()), held.as_bytes());
    }
}
