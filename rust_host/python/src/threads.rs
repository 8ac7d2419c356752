//! How many threads a call gets in a Python process, which is not ours: what the user chose stays; else what `rust-host tune`
//! found for the model, else libtorch's own number, lowered to what can work at once.

use crate::backends;
use pyo3::prelude::*;
use rust_host_engine::{Backend, host_settings::HostSettings, threads as planned};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What the user chose; 0 before. Held while a number is passed on, so that the last one is in force everywhere, also in a libtorch
/// that is loaded meanwhile.
static CHOSEN: Mutex<usize> = Mutex::new(0);

fn chosen() -> MutexGuard<'static, usize> {
    CHOSEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Number of threads that one call may use inside its operators.
#[pyfunction]
pub(crate) fn set_threads(count: usize) {
    backends::open_torch_that_is_loaded();
    let mut chosen = chosen();
    *chosen = count.max(1);
    if let Some(torch) = backends::opened_torch() {
        torch.set_threads(count);
    }
    rust_host_compiled::set_threads(count);
    rust_host_onnx::set_threads(count);
}

/// Tells libtorch, which was loaded just now, what the user chose before.
pub(crate) fn pass_on(torch: &dyn Backend) {
    let chosen = chosen();
    if *chosen > 0 {
        torch.set_threads(*chosen);
    }
}

/// The number in force.
#[pyfunction]
#[pyo3(name = "threads")]
pub(crate) fn in_force() -> usize {
    backends::open_torch_that_is_loaded();
    match backends::opened_torch() {
        Some(torch) => torch.threads(),
        None => backends::compiled().threads(),
    }
}

/// Before a model is opened. Says how many of its calls may run at once, where that was measured with the threads that it gets.
pub(crate) fn settle(backend: &dyn Backend, tuned: Option<&HostSettings>) -> Option<usize> {
    let chosen = chosen();
    if *chosen > 0 {
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
