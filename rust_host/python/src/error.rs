//! Engine errors → the classes of `rust_host.errors`, and panics → one of them.

use pyo3::{intern, prelude::*, types::PyDict};
use rust_host_engine::{Error, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The class in `rust_host/errors.py`.
fn class(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => "NotFoundError",
        ErrorKind::InvalidInput => "InvalidInputError",
        ErrorKind::InvalidModel => "InvalidModelError",
        ErrorKind::InvalidContract => "InvalidContractError",
        ErrorKind::Refused => "RefusedError",
        ErrorKind::Mismatch => "MismatchError",
        ErrorKind::Failed => "FailedError",
        ErrorKind::Unavailable => "UnavailableError",
        ErrorKind::Overloaded => "OverloadedError",
        ErrorKind::Timeout => "TimeoutError",
        ErrorKind::Internal => "InternalError",
    }
}

/// The Python exception for an error of the engine.
pub(crate) fn to_py(py: Python<'_>, error: &Error) -> PyErr {
    build(py, error).map_or_else(|failed| failed, PyErr::from_value)
}

fn build<'py>(py: Python<'py>, error: &Error) -> PyResult<Bound<'py, PyAny>> {
    let options = PyDict::new(py);
    options.set_item(intern!(py, "hint"), &error.hint)?;
    let cause = error.source.as_ref().map(ToString::to_string);
    options.set_item(intern!(py, "cause"), cause)?;
    py.import(intern!(py, "rust_host.errors"))?.getattr(class(error.kind))?.call((&error.message,), Some(&options))
}

/// `InvalidInputError` with that sentence.
pub(crate) fn invalid_input(py: Python<'_>, message: impl Into<String>) -> PyErr {
    to_py(py, &Error::invalid_input(message))
}

/// Runs `body`; a panic in it becomes `InternalError`. PyO3 would make it a `BaseException`, which `except Exception` does
/// not see.
pub(crate) fn guarded<T>(py: Python<'_>, body: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(to_py(py, &Error::internal(format!("a mistake in rust_host: {}", text.unwrap_or("unknown")))))
    })
}
