//! The command `rust-host` of the wheel: the cli crate in this process, with the backends that are linked here.

use pyo3::prelude::*;
use rust_host_engine::{Backend, Backends, Error, Platform, Result, machine};
use std::{ffi::OsString, fs, path::PathBuf, sync::Arc};

/// libtorch was loaded with this module.
pub(crate) struct Linked;

impl Backends for Linked {
    fn open(&self, platform: Platform) -> Result<Arc<dyn Backend>> {
        match platform {
            Platform::TorchScript => rust_host_torch::backend(),
            Platform::Compiled => Ok(rust_host_compiled::backend(|| {
                Linked.locate()?.path.ok_or_else(|| Error::internal("libtorch is not in this process"))
            })),
            Platform::Onnx => rust_host_onnx::backend(),
        }
    }

    fn let_waiting_threads_sleep(&self) {
        rust_host_onnx::let_waiting_threads_sleep();
    }

    fn locate(&self) -> Result<machine::LibtorchLocation> {
        let path = loaded("libtorch_cpu.so");
        let folder = path.as_deref().and_then(|p| p.parent());
        Ok(machine::LibtorchLocation {
            version: folder.and_then(machine::libtorch_version),
            searched: folder.map(Into::into).into_iter().collect(),
            path,
        })
    }
}

/// The file of that name that is mapped into this process.
fn loaded(name: &str) -> Option<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let paths = maps.lines().filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..])));
    paths.into_iter().find(|path| path.file_name().is_some_and(|n| n == name))
}

/// Runs one command line, without the program's name, and returns its exit code.
#[pyfunction]
pub(crate) fn main(py: Python<'_>, args: Vec<OsString>) -> i32 {
    if std::env::var_os("RUST_BACKTRACE").is_none() {
        // `run` says it in a sentence.
        std::panic::set_hook(Box::new(|_| {}));
    }
    py.detach(|| rust_host_cli::run(args, &Linked))
}
