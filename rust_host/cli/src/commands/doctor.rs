//! `doctor`: what this machine has, what is made of it, and exactly why not. libtorch is not loaded.

use crate::interrupted;
use rust_host_engine::{
    Backends, Error, Platform,
    machine::{self, Cpu, Cuda, LibtorchLocation, Limits},
    threads::{self, Plan},
};
use std::path::Path;

/// The whole report.
pub(crate) struct Report {
    /// Where libtorch is; `None` if the backend itself is missing.
    pub libtorch: Option<LibtorchLocation>,
    /// Why libtorch cannot be used, and what to do.
    pub problem: Option<Error>,
    /// What runs ONNX files, or why nothing does.
    pub onnx: Result<String, Error>,
    /// The processor.
    pub cpu: Cpu,
    /// Threads that a call gets where nobody says.
    pub threads: Plan,
    /// Where memory for tensors comes from.
    pub allocator: String,
    /// Limits of the container.
    pub limits: Limits,
    /// CUDA.
    pub cuda: Cuda,
}

/// Looks at everything.
pub(crate) fn doctor(backends: &dyn Backends) -> Report {
    let (libtorch, problem) = match backends.locate() {
        Ok(location) => {
            let problem = location.check().err();
            (Some(location), problem)
        }
        Err(e) => (None, Some(e)),
    };
    let folder = libtorch.as_ref().and_then(|l| l.path.as_deref()).and_then(Path::parent);
    Report {
        cuda: machine::cuda(folder),
        problem,
        // Small, and where it is says no version.
        onnx: backends.open(Platform::Onnx).map(|b| b.library()),
        cpu: machine::cpu(),
        threads: threads::plan(),
        allocator: allocator(),
        limits: machine::limits(),
        libtorch,
    }
}

fn allocator() -> String {
    match machine::allocator() {
        Some(name) => format!("{name}, which was put in the place of the system's"),
        None if interrupted::is_the_program() && cfg!(all(target_os = "linux", target_env = "gnu")) => {
            "glibc, keeping the memory of tensors for the next call".to_owned()
        }
        None => "the system's, as this process has it".to_owned(),
    }
}
