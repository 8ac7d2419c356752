//! How many threads a call gets in a Python process, which is not ours: what the user chose stays; else what `rust-host tune`
//! found for the model, else libtorch's own number, lowered to what can work at once.

use crate::error;
use pyo3::prelude::*;
use rust_host_engine::{Backend, host_settings::HostSettings, threads as planned};
use std::sync::atomic::{AtomicUsize, Ordering};

/// What the user chose; 0 before.
static CHOSEN: AtomicUsize = AtomicUsize::new(0);

/// Number of threads that one call may use inside its operators.
#[pyfunction]
pub(crate) fn set_threads(py: Python<'_>, count: usize) -> PyResult<()> {
    let backend = rust_host_torch::backend().map_err(|e| error::to_py(py, &e))?;
    // First, or a model that is being opened meanwhile would set another number afterwards.
    CHOSEN.store(count.max(1), Ordering::Relaxed);
    backend.set_threads(count);
    rust_host_compiled::set_threads(count);
    rust_host_onnx::set_threads(count);
    Ok(())
}

/// The number in force.
#[pyfunction]
pub(crate) fn threads(py: Python<'_>) -> PyResult<usize> {
    Ok(rust_host_torch::backend().map_err(|e| error::to_py(py, &e))?.threads())
}

/// Before a model is opened. Says how many of its calls may run at once, where that was measured with the threads that it gets.
pub(crate) fn settle(backend: &dyn Backend, tuned: Option<&HostSettings>) -> Option<usize> {
    let chosen = CHOSEN.load(Ordering::Relaxed);
    if chosen > 0 {
        return None; // by `set_threads`, for every kind of file
    }
    let plan = planned::plan().count;
    match tuned {
        Some(tuned) => backend.set_threads(tuned.threads),
        None if backend.threads() > plan => backend.set_threads(plan),
        None => {}
    }
    tuned.map(HostSettings::most_at_once)
}
