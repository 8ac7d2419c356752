//! Ctrl-C, a kill or a closed terminal while outputs are being written: what was begun is removed, then the process ends as
//! it would have. Only in a program of our own: in Python the interpreter handles signals, and the command returns.

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
    low_level::emulate_default_handler,
};
use std::{
    fs,
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, Once, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

static IS_PROGRAM: AtomicBool = AtomicBool::new(false);
static FOLDERS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Says that this process is the binary, not a Python interpreter.
pub(crate) fn this_is_the_program() {
    IS_PROGRAM.store(true, Ordering::Relaxed);
}

/// Whether it is.
pub(crate) fn is_the_program() -> bool {
    IS_PROGRAM.load(Ordering::Relaxed)
}

/// Folders that were made and hold nothing finished yet, inner ones last.
pub(crate) fn new_folders() -> MutexGuard<'static, Vec<PathBuf>> {
    FOLDERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Before the first output is begun.
pub(crate) fn remove_what_is_begun() {
    static ARMED: Once = Once::new();
    if !is_the_program() {
        return;
    }
    ARMED.call_once(|| {
        // A signal that is ignored (`nohup`, a background job) stays so.
        let ignored = ignored();
        let signals = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|s| ignored & (1 << (s - 1)) == 0);
        // Without a thread the process ends as it did before; a file without a name is gone then too.
        let Ok(mut signals) = Signals::new(signals) else { return };
        let _thread = thread::Builder::new().name("rust-host-signals".into()).spawn(move || {
            for signal in signals.forever() {
                let _no_more_are_begun = rust_host_tables::remove_unfinished();
                for folder in new_folders().iter().rev() {
                    let _gone = fs::remove_dir(folder);
                }
                let _ended = emulate_default_handler(signal);
            }
        });
    });
}

/// The signals that this process ignores, a bit each.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|l| l.strip_prefix("SigIgn:"));
    mask.and_then(|m| u64::from_str_radix(m.trim(), 16).ok()).unwrap_or(0)
}
