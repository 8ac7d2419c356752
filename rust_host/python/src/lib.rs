//! The module `rust_host._native`: the engine as Python sees it. Conversion only: a file a Python
//! type, and every rule lives in the engine.

mod array;
mod backends;
mod calls;
mod command;
mod error;
mod map;
mod model;
mod signal;
mod threads;
mod value;
mod verdict;

use pyo3::prelude::*;

/// What `rust_host` re-exports.
#[pymodule]
mod _native {
    #[pymodule_export]
    use super::{
        backends::functions_of_packages, command::main, map::Mapped, model::Model, threads::set_threads,
        threads::threads, verdict::Verdict,
    };
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        super::calls::register(module)
    }
}
