//! `verify`: replays a model's golden examples on this machine.

use super::{Way, model_name};
use crate::worker::{self, Confinement};
use rust_host_console::Verified;
use rust_host_engine::{Archive, Backends, DeviceRequest, Error, Model, Result, golden, operators::Policy};
use std::path::Path;

/// Replays the examples.
///
/// # Errors
/// `InvalidContract` if there is no contract or no example, and what opening and running say.
pub(crate) fn verify(
    file: &Path,
    device: DeviceRequest,
    policy: &Policy,
    confinement: Confinement,
    backends: &dyn Backends,
) -> Result<Verified> {
    let archive = Archive::open_signed(file, policy.signed_by.as_ref())?;
    let way = Way::of(file, None)?;
    // Asked before libtorch is loaded.
    let contract = archive.contract()?.ok_or_else(|| {
        Error::invalid_contract(format!("`{}` has no contract, so there is nothing to verify", file.display()))
            .hint("`py-authoring export` writes one")
    })?;
    golden::read(&archive, &contract)?;
    let backend = backends.open(archive.platform())?;
    let note = worker::enter(confinement, backend.as_ref(), device, true, &[])?;
    way.set(backend.as_ref());
    let model = Model::from_archive(archive, backend.as_ref(), device, policy)?;
    let model = if way.optimised { model.optimised()? } else { model };
    Ok(Verified {
        model_name: model_name(model.archive(), model.contract()),
        device: model.device(),
        library: backend.library(),
        verdict: golden::verify(&model)?,
        notes: way.note.into_iter().chain(note).collect(),
    })
}
