//! The calls that run, and who waits for them: the end of the interpreter and a fork. Daemon threads go on while the process
//! takes libtorch's memory apart, and a forward pass in the middle of that ends it by a signal. A fork copies the locks that
//! other threads hold in libtorch (while it sets itself up, in each first call) and not the threads: the child waits for ever.
//! So `atexit` and `os.fork` wait here for the calls that run, and hold every other thread that calls meanwhile, without the
//! GIL: until the fork is over, or the process is gone.

use pyo3::{prelude::*, types::PyDict};
use std::{
    cell::Cell,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

/// For an operator that cannot be interrupted: after that the process ends, or forks, all the same.
const LONGEST: Duration = Duration::from_secs(10);
/// How often those who wait look.
const LOOK: Duration = Duration::from_micros(200);

static RUNNING: AtomicUsize = AtomicUsize::new(0);
/// How many threads hold the others: those that fork, and the one that ends the interpreter.
static HOLDING: AtomicUsize = AtomicUsize::new(0);
static ENDING: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// Whether this thread ends the interpreter: handlers of `atexit` may still call models.
    static ENDS_IT: Cell<bool> = const { Cell::new(false) };
    /// How many of the calls that run are this thread's: a signal handler may call a model inside a call, or fork.
    static OWN: Cell<usize> = const { Cell::new(0) };
    /// Whether this thread forks: its other hooks may still call models.
    static FORKS: Cell<bool> = const { Cell::new(false) };
}

/// Has Python call [`end`] before it takes itself apart, and the others around `os.fork`; and the engine hear of forks.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    rust_host_compiled::watch_forks();
    let py = module.py();
    py.import("atexit")?.call_method1("register", (wrap_pyfunction!(end, module)?,))?;
    let around_a_fork = PyDict::new(py);
    around_a_fork.set_item("before", wrap_pyfunction!(before_a_fork, module)?)?;
    around_a_fork.set_item("after_in_parent", wrap_pyfunction!(after_in_parent, module)?)?;
    around_a_fork.set_item("after_in_child", wrap_pyfunction!(after_in_child, module)?)?;
    py.import("os")?.call_method("register_at_fork", (), Some(&around_a_fork)).map(drop)
}

/// Waits for the calls of other threads.
#[pyfunction]
fn end(py: Python<'_>) {
    ENDS_IT.set(true);
    ENDING.store(true, SeqCst);
    hold_others(py);
}

#[pyfunction]
fn before_a_fork(py: Python<'_>) {
    FORKS.set(true);
    hold_others(py);
}

#[pyfunction]
fn after_in_parent() {
    FORKS.set(false);
    HOLDING.fetch_sub(1, SeqCst);
}

/// The other threads are not here, nor is what they held or ran.
#[pyfunction]
fn after_in_child() {
    FORKS.set(false);
    HOLDING.store(0, SeqCst);
    ENDING.store(false, SeqCst);
    RUNNING.store(OWN.get(), SeqCst);
}

fn hold_others(py: Python<'_>) {
    HOLDING.fetch_add(1, SeqCst);
    let own = OWN.get();
    py.detach(|| {
        let last = Instant::now() + LONGEST;
        while RUNNING.load(SeqCst) > own && Instant::now() < last {
            thread::sleep(LOOK);
        }
    });
}

/// Whether the interpreter ends and nobody waits for this thread any more.
pub(crate) fn is_left_behind() -> bool {
    ENDING.load(SeqCst) && !ENDS_IT.get()
}

/// Runs a call; not while a process is forked, and does not come back, nor begin, where the interpreter ends.
pub(crate) fn counted<T>(py: Python<'_>, call: impl FnOnce() -> T) -> T {
    // Counted before it is asked: who holds the others either sees this call or is seen by it.
    RUNNING.fetch_add(1, SeqCst);
    if is_held() {
        wait(py);
    }
    let outer = OWN.replace(OWN.get() + 1);
    let result = call();
    OWN.set(outer);
    if is_left_behind() {
        wait(py);
    }
    RUNNING.fetch_sub(1, SeqCst);
    result
}

/// A call inside a call of this thread is held by no fork, which waits for the outer one.
fn is_held() -> bool {
    let by_a_fork = || !ENDING.load(SeqCst) && OWN.get() == 0 && !FORKS.get();
    HOLDING.load(SeqCst) > 0 && (is_left_behind() || by_a_fork())
}

/// Until nobody holds this thread; for a fork not for ever, as its other hooks may wait for a lock that this thread has. It is
/// counted again before it asks for the GIL, which is no longer there at the end.
fn wait(py: Python<'_>) {
    py.detach(|| {
        let last = Instant::now() + LONGEST;
        while is_held() && (is_left_behind() || Instant::now() < last) {
            RUNNING.fetch_sub(1, SeqCst);
            thread::sleep(LOOK);
            RUNNING.fetch_add(1, SeqCst);
        }
    });
}
