//! The module `rust_host._native`: the engine and its torch backend as Python sees them. Conversion only: a file a Python
//! type, and every rule lives in the engine.

mod array;
mod command;
mod ending;
mod error;
mod map;
mod model;
mod signal;
mod value;
mod verdict;

use pyo3::prelude::*;

/// Number of threads that one call may use inside its operators.
#[pyfunction]
fn set_threads(py: Python<'_>, count: usize) -> PyResult<()> {
    let backend = rust_host_torch::backend().map_err(|e| error::to_py(py, &e))?;
    backend.set_threads(count);
    rust_host_onnx::set_threads(count);
    Ok(())
}

/// The number in force.
#[pyfunction]
fn threads(py: Python<'_>) -> PyResult<usize> {
    Ok(rust_host_torch::backend().map_err(|e| error::to_py(py, &e))?.threads())
}

/// What `rust_host` re-exports.
#[pymodule]
mod _native {
    #[pymodule_export]
    use super::{command::main, map::Mapped, model::Model, set_threads, threads, verdict::Verdict};
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        super::ending::register(module)
    }
}
