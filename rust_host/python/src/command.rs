//! The command `rust-host` of the wheel: the cli crate in this process.

use crate::backends::Installed;
use pyo3::prelude::*;
use std::ffi::OsString;

/// Runs one command line, without the program's name, and returns its exit code.
#[pyfunction]
pub(crate) fn main(py: Python<'_>, args: Vec<OsString>) -> i32 {
    if std::env::var_os("RUST_BACKTRACE").is_none() {
        // `run` says it in a sentence.
        std::panic::set_hook(Box::new(|_| {}));
    }
    py.detach(|| rust_host_cli::run(args, &Installed))
}
