//! The backends of the wheel. Nothing is linked to libtorch: compiled packages and ONNX files run without, and for TorchScript
//! the library beside this module is opened, with the libtorch of the installed `torch`.

use crate::threads;
use pyo3::{intern, prelude::*};
use rust_host_engine::{
    Backend, Backends, Error, Platform, Result,
    machine::{self, LibtorchLocation},
};
use rust_host_loader::{LIBTORCH, TORCH_LIBRARY, keep_loaded, open_torch};
use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

/// What is installed beside this module.
pub(crate) struct Installed;

impl Backends for Installed {
    fn open(&self, platform: Platform) -> Result<Arc<dyn Backend>> {
        match platform {
            Platform::TorchScript => torch(),
            Platform::Compiled => Ok(compiled()),
            Platform::Onnx => rust_host_onnx::backend(),
        }
    }

    fn let_waiting_threads_sleep(&self) {
        rust_host_onnx::let_waiting_threads_sleep();
    }

    /// Where somebody has loaded it from; else in the package `torch` that an import would find.
    fn locate(&self) -> Result<LibtorchLocation> {
        torch_library()?;
        let loaded = loaded(LIBTORCH);
        let folder = match loaded.as_deref().and_then(|p| p.parent()) {
            Some(folder) => Some(folder.to_owned()),
            None => Python::attach(|py| from_python(py, "libraries")).map_err(|e| not_found(&e))?,
        };
        let file = folder.as_deref().map(|f| f.join(LIBTORCH));
        Ok(LibtorchLocation {
            version: folder.as_deref().and_then(machine::libtorch_version),
            path: file.filter(|f| f.is_file()),
            searched: folder.into_iter().collect(),
            of_python: true,
        })
    }
}

static TORCH: OnceLock<Arc<dyn Backend>> = OnceLock::new();

/// The backend for TorchScript, if a model needed it already.
pub(crate) fn opened_torch() -> Option<&'static Arc<dyn Backend>> {
    TORCH.get()
}

/// The number of threads of the torch that is imported, set before if there is one to be set; `None` without one. Its backend is
/// not opened for that, which would change how forks and prints go in this process.
pub(crate) fn threads_of_torch(py: Python<'_>, count: Option<usize>) -> PyResult<Option<usize>> {
    py.import(intern!(py, "rust_host._torch"))?.call_method1(intern!(py, "threads"), (count,))?.extract()
}

/// The backend for compiled packages.
pub(crate) fn compiled() -> Arc<dyn Backend> {
    rust_host_compiled::backend(libtorch)
}

/// The functions that compiled packages call, by their names, and where they are: tests compare them with libtorch's.
#[pyfunction]
pub(crate) fn functions_of_packages() -> BTreeMap<&'static str, usize> {
    rust_host_compiled::own_functions().collect()
}

fn torch() -> Result<Arc<dyn Backend>> {
    if let Some(backend) = opened_torch() {
        return Ok(backend.clone());
    }
    let library = torch_library()?;
    // Before the library that wants it: that finds it by its name wherever the two are installed.
    keep_loaded(&libtorch()?)?;
    let backend = open_torch(&library, REMEDY)?;
    let backend = TORCH.get_or_init(|| backend);
    threads::pass_on(&**backend);
    Ok(backend.clone())
}

/// What is to be done where the wheel's own files do not fit together, or were replaced while this process runs.
const REMEDY: &str = "`pip install --force-reinstall --no-deps rust-host`, and start Python again";

/// The library of the wheel that is linked to libtorch.
fn torch_library() -> Result<PathBuf> {
    let folder = Python::attach(|py| from_python(py, "own_libraries")).map_err(|e| not_found(&e))?;
    let library = folder.unwrap_or_default().join(TORCH_LIBRARY);
    match library.is_file() {
        true => Ok(library),
        false => Err(Error::unavailable(format!("the wheel's `{}` is missing", library.display())).hint(REMEDY)),
    }
}

/// `libtorch_cpu.so` of the right version.
fn libtorch() -> Result<PathBuf> {
    Installed.locate()?.check().map(Into::into)
}

/// A folder that `rust_host._torch` knows.
fn from_python(py: Python<'_>, name: &str) -> PyResult<Option<PathBuf>> {
    py.import(intern!(py, "rust_host._torch"))?.call_method0(name)?.extract()
}

fn not_found(error: &PyErr) -> Error {
    Error::unavailable(format!("Python cannot say where torch is installed: {error}"))
}

/// The file of that name that is mapped into this process.
fn loaded(name: &str) -> Option<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let paths = maps.lines().filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..])));
    paths.into_iter().find(|path| path.file_name().is_some_and(|n| n == name))
}
