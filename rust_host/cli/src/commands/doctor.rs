//! `doctor`: what this machine has, and exactly why not. Loads no library.

use rust_host_engine::{
    Backends,
    machine::{self, Cpu, Cuda, LibtorchLocation, Limits},
};
use std::path::Path;

/// The whole report.
pub(crate) struct Report {
    /// Where libtorch is; `None` if the backend itself is missing.
    pub libtorch: Option<LibtorchLocation>,
    /// Why libtorch cannot be used, and what to do.
    pub problem: Option<rust_host_engine::Error>,
    /// The processor.
    pub cpu: Cpu,
    /// Threads that this process may run at once.
    pub threads: usize,
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
        cpu: machine::cpu(),
        threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        limits: machine::limits(),
        libtorch,
    }
}
