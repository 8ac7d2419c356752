//! Engine errors → the classes of `rust_host.errors`, and panics → one of them.

use crate::{calls, signal};
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
    if error.kind == ErrorKind::Timeout
        && let Some(raised) = signal::take_raised()
    {
        return raised;
    }
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
    calls::counted(py, || catch_unwind(AssertUnwindSafe(body))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(to_py(py, &Error::internal(format!("a mistake in rust_host: {}", text.unwrap_or("unknown")))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use pyo3::exceptions::PyException;

    /// An interpreter in which `rust_host.errors` can be imported, without the package's own `__init__`.
    fn with_errors(test: impl FnOnce(Python<'_>)) {
        Python::initialize();
        Python::attach(|py| {
            let package = concat!(env!("CARGO_MANIFEST_DIR"), "/rust_host");
            let module = PyModule::new(py, "rust_host").unwrap();
            module.setattr("__path__", [package]).unwrap();
            py.import("sys").unwrap().getattr("modules").unwrap().set_item("rust_host", module).unwrap();
            test(py);
        });
    }

    #[test]
    fn every_kind_has_a_class_that_says_the_kind() {
        use ErrorKind as K;
        let kinds = [
            K::NotFound,
            K::InvalidInput,
            K::InvalidModel,
            K::InvalidContract,
            K::Refused,
            K::Mismatch,
            K::Failed,
            K::Unavailable,
            K::Overloaded,
            K::Timeout,
            K::Internal,
        ];
        with_errors(|py| {
            for kind in kinds {
                let error = to_py(py, &Error::new(kind, "what").hint("do this"));
                let attribute = |name| error.value(py).getattr(name).unwrap().to_string();
                assert_eq!((attribute("kind"), attribute("hint")), (kind.as_str().to_owned(), "do this".to_owned()));
                assert_eq!(error.value(py).to_string(), "what\nhint: do this");
            }
        });
    }

    #[test]
    fn a_panic_is_an_error_that_except_exception_sees() {
        with_errors(|py| {
            let error = guarded(py, || -> PyResult<()> { panic!("index {} of 3", 7) }).unwrap_err();
            assert!(error.is_instance_of::<PyException>(py));
            assert_eq!(error.value(py).to_string(), "a mistake in rust_host: index 7 of 3");
        });
    }
}
