//! The end of the interpreter. Daemon threads go on while the process takes libtorch's memory apart, and a forward pass in
//! the middle of that ends it by a signal. So Python's `atexit` waits here for the calls that run, and holds every other
//! thread that calls or comes back later, without the GIL, until the process is gone.

use pyo3::prelude::*;
use std::{
    cell::Cell,
    convert::Infallible,
    sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

/// For an operator that cannot be interrupted: after that the process ends all the same.
const LONGEST: Duration = Duration::from_secs(10);

static RUNNING: AtomicUsize = AtomicUsize::new(0);
static ENDING: AtomicBool = AtomicBool::new(false);
/// The process that the calls are counted in: a forked child inherits the number, and not the threads.
static PROCESS: AtomicU32 = AtomicU32::new(0);

thread_local! {
    /// Whether this thread ends the interpreter: handlers of `atexit` may still call models.
    static ENDS_IT: Cell<bool> = const { Cell::new(false) };
}

/// Has Python call [`end`] before it takes itself apart.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    PROCESS.store(std::process::id(), SeqCst);
    let end = wrap_pyfunction!(end, module)?;
    module.py().import("atexit")?.call_method1("register", (end,)).map(drop)
}

/// Waits for the calls of other threads.
#[pyfunction]
fn end(py: Python<'_>) {
    ENDS_IT.set(true);
    ENDING.store(true, SeqCst);
    if PROCESS.load(SeqCst) != std::process::id() {
        return;
    }
    py.detach(|| {
        let last = Instant::now() + LONGEST;
        while RUNNING.load(SeqCst) > 0 && Instant::now() < last {
            thread::sleep(Duration::from_millis(1));
        }
    });
}

/// Whether the interpreter ends and nobody waits for this thread any more.
pub(crate) fn is_left_behind() -> bool {
    ENDING.load(SeqCst) && !ENDS_IT.get()
}

/// Runs a call; does not come back, nor begin, where the interpreter ends.
pub(crate) fn counted<T>(py: Python<'_>, call: impl FnOnce() -> T) -> T {
    // Counted before it is asked: `end` either sees this call or is seen by it.
    RUNNING.fetch_add(1, SeqCst);
    if is_left_behind() {
        hold(py);
    }
    let result = call();
    if is_left_behind() {
        hold(py);
    }
    RUNNING.fetch_sub(1, SeqCst);
    result
}

fn hold(py: Python<'_>) -> Infallible {
    py.detach(|| {
        RUNNING.fetch_sub(1, SeqCst);
        loop {
            thread::park();
        }
    })
}
