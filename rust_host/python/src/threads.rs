//! How many threads a call gets in a Python process, which is not ours: what the user chose stays; else what `rust-host tune`
//! found for the model, else libtorch's own number, lowered to what can work at once. libtorch's number is the process's: where
//! torch is imported, it is torch's too.

use crate::backends;
use pyo3::prelude::*;
use rust_host_engine::{Backend, host_settings::HostSettings, threads as planned};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What the user chose; 0 before. Held while a number is passed on, so that the last one is in force everywhere. Who holds it may
/// not wait for the GIL.
static CHOSEN: Mutex<Chosen> = Mutex::new(Chosen { count: 0, torch_knows: false });

struct Chosen {
    count: usize,
    /// Whether torch was told: what its user sets later is the number then.
    torch_knows: bool,
}

fn chosen() -> MutexGuard<'static, Chosen> {
    CHOSEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Number of threads that one call may use inside its operators.
#[pyfunction]
pub(crate) fn set_threads(py: Python<'_>, count: usize) -> PyResult<()> {
    let count = count.clamp(1, i32::MAX as usize);
    let torch_knows = backends::threads_of_torch(py, Some(count))?.is_some();
    let mut chosen = chosen();
    *chosen = Chosen { count, torch_knows };
    if let Some(torch) = backends::opened_torch() {
        torch.set_threads(count);
    }
    rust_host_compiled::set_threads(count);
    rust_host_onnx::set_threads(count);
    Ok(())
}

/// Tells libtorch, which was loaded just now, what the user chose before.
pub(crate) fn pass_on(torch: &dyn Backend) {
    let chosen = chosen();
    if chosen.count > 0 && !chosen.torch_knows {
        torch.set_threads(chosen.count);
    }
}

/// The number in force.
#[pyfunction]
pub(crate) fn threads(py: Python<'_>) -> PyResult<usize> {
    Ok(match backends::opened_torch() {
        Some(torch) => torch.threads(),
        None => backends::threads_of_torch(py, None)?.unwrap_or_else(|| backends::compiled().threads()),
    })
}

/// Before a model is opened. Says how many of its calls may run at once, where that was measured with the threads that it gets.
pub(crate) fn settle(backend: &dyn Backend, tuned: Option<&HostSettings>) -> Option<usize> {
    let chosen = chosen();
    if chosen.count > 0 {
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
