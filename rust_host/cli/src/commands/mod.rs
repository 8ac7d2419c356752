//! One module a command: a function from plain values to a value. Nothing here prints or parses words.

pub(crate) mod bench;
pub(crate) mod build;
pub(crate) mod doctor;
pub(crate) mod info;
pub(crate) mod run;
pub(crate) mod tables;
pub(crate) mod tune;
pub(crate) mod verify;

use rust_host_engine::{
    Archive, Backend, Contract, DeviceRequest, Method, Model, Result, host_settings, model::find_method,
    operators::Policy, threads,
};
use std::path::Path;

/// Loads a model and says which method of it is to be called.
fn load(
    archive: Archive,
    backend: &dyn Backend,
    device: DeviceRequest,
    policy: &Policy,
    method: Option<&str>,
) -> Result<Model> {
    let model = Model::from_archive(archive, backend, device, policy)?;
    match method {
        Some(name) => model.calling(name),
        None => Ok(model),
    }
}

/// The method that is to be called, among those that the file's own text describes; `None` where that describes none.
fn method_of<'a>(methods: &'a [Method], name: Option<&str>, file: &Path) -> Result<Option<&'a Method>> {
    let at = name.map(|name| find_method(methods, name, file)).transpose()?;
    Ok(methods.get(at.unwrap_or(0)))
}

/// What a model is called: by its contract, else by its file.
fn model_name(archive: &Archive, contract: Option<&Contract>) -> String {
    contract.map(|c| c.name.clone()).unwrap_or_else(|| {
        archive.path().file_stem().map_or_else(|| "model".to_owned(), |s| s.to_string_lossy().into_owned())
    })
}

/// The contract, which describes `forward` alone.
fn contract_of(archive: &Archive, method: Option<&str>) -> Result<Option<Contract>> {
    Ok(archive.contract()?.filter(|_| method.is_none_or(|name| name == "forward")))
}

/// How a file is run on this machine, found before the sandbox closes: what `rust-host tune` measured, else the defaults.
pub(crate) struct Way {
    /// Threads that were asked for, or measured.
    threads: Option<usize>,
    /// Calls at once that were measured with those threads, for throughput.
    pub at_once: usize,
    /// As many as can work at once: libtorch counts processors and does not see a container's limit.
    planned: usize,
    /// Whether the optimised form is wanted.
    pub optimised: bool,
    /// Why a `host.toml` is not used.
    pub note: Option<String>,
}

impl Way {
    /// # Errors
    /// `InvalidInput` for a `host.toml` beside the file that cannot be read.
    pub(crate) fn of(file: &Path, asked: Option<usize>) -> Result<Self> {
        let found = host_settings::read(file.parent().unwrap_or(Path::new("")))?;
        let tuned = found.of(file);
        Ok(Self {
            threads: asked.or(tuned.map(|t| t.threads)),
            at_once: tuned.filter(|_| asked.is_none()).map_or(1, |t| t.instances),
            planned: threads::plan().count,
            optimised: tuned.is_none_or(|t| t.optimised),
            note: found.note,
        })
    }

    /// Sets the backend's threads; without a number of our own, its own is only lowered.
    pub(crate) fn set(&self, backend: &dyn Backend) {
        match self.threads {
            Some(count) => backend.set_threads(count),
            None if backend.threads() > self.planned => backend.set_threads(self.planned),
            None => {}
        }
    }
}
