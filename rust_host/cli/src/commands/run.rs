//! `run`: inputs → model → outputs, on the screen, in a folder or on stdout.

use super::{Way, contract_of, load, method_of, model_name};
use crate::{
    deadline, folder,
    worker::{self, Confinement},
};
use rust_host_console::{self as console, Given, Outcome};
use rust_host_engine::{
    Archive, Backends, Contract, Description, DeviceRequest, Error, Result, Tensor, Value, error::ErrorKind, npy,
    operators::Policy,
};
use std::{path::PathBuf, time::Duration};

/// Where outputs go.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A table or JSON for a person or a program to read.
    Screen,
    /// Bytes on stdout (`--output -`).
    Stdout,
    /// Files in a folder.
    Folder(PathBuf),
}

/// What outputs look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub(crate) enum Form {
    Table,
    Json,
    Npy,
    Npz,
}

/// What to run, on what, and what to do with the outputs.
pub(crate) struct Settings {
    /// The model's file.
    pub file: PathBuf,
    /// Inputs as they were typed.
    pub inputs: Vec<Given>,
    /// The method to call, where it is not `forward`.
    pub method: Option<String>,
    /// Where outputs go.
    pub target: Target,
    /// What they look like; by default what suits the target.
    pub form: Option<Form>,
    /// Labels to show.
    pub top_k: usize,
    /// Longest that a call may take.
    pub timeout: Option<Duration>,
    /// Draw pictures also where the output is no terminal.
    pub draw: bool,
    /// Where to run.
    pub device: DeviceRequest,
    /// Threads inside operators.
    pub threads: Option<usize>,
    /// Operators that the owner of this machine allows.
    pub policy: Policy,
    /// What the model's process may do.
    pub confinement: Confinement,
}

/// What came out, and how it leaves.
pub(crate) struct Ran {
    /// To be shown.
    pub outcome: Outcome,
    /// One sentence each, for stderr.
    pub notes: Vec<String>,
    /// Whether drawings were asked for.
    pub draw: bool,
    /// How the outputs leave.
    pub leaving: Leaving,
}

/// How outputs leave.
pub(crate) enum Leaving {
    /// To be printed.
    Table,
    /// To be printed.
    Json,
    /// To be written to stdout as they are.
    Bytes(Vec<u8>),
    /// Written already.
    Files(Vec<PathBuf>),
}

/// Runs a model once.
///
/// # Errors
/// `InvalidInput` for inputs that cannot be read or do not fit, and what opening, running and writing say.
pub(crate) fn run(settings: Settings, backends: &dyn Backends) -> Result<Ran> {
    let form = form(&settings)?;
    let archive = Archive::open_signed(&settings.file, settings.policy.signed_by.as_ref())?;
    let way = Way::of(&settings.file, settings.threads)?;
    let name = settings.method.as_deref();
    let contract = contract_of(&archive, name)?;
    // The file's own text says what the arguments are, so that wrong inputs are told before libtorch is loaded.
    let description = Description::read(&archive)?;
    let method = method_of(&description.methods, name, &settings.file)?;
    let provisional = description.foreign.provisional.as_ref().filter(|_| method.is_some_and(|m| m.name == "forward"));
    let early = match method {
        Some(method) => Some(console::gather(&settings.inputs, method, contract.as_ref(), provisional)?),
        None => None,
    };
    let backend = backends.open(archive.platform())?;
    // Read already, unless the file does not say what it takes.
    let reads = if early.is_some() { Vec::new() } else { settings.inputs.iter().flat_map(Given::paths).collect() };
    let note = worker::enter(settings.confinement, backend.as_ref(), settings.device, contract.is_some(), &reads)?;
    way.set(backend.as_ref());
    // A file's code may run while it is loaded.
    let model = deadline::within(settings.timeout, deadline::no_answer, || {
        load(archive, backend.as_ref(), settings.device, &settings.policy, name)
    })?;
    let found = match early {
        Some(found) => found,
        None => console::gather(&settings.inputs, model.method(), contract.as_ref(), None)?,
    };
    let image = contract.as_ref().and_then(|c| c.image.as_ref()).or(provisional.and_then(|p| p.image.as_ref()));
    let picture = image.and_then(|image| {
        found.values.iter().find_map(|(n, v)| match v {
            Value::Tensor(t) if *n == image.input => Some(console::draw(t, image)),
            _ => None,
        })
    });
    let given = said(&found.values);
    let outputs = deadline::within(settings.timeout, deadline::no_answer, || model.run(found.values))
        .map_err(|e| with_datatypes(e, contract.as_ref(), &given))?;
    let mut notes = found.notes;
    notes.extend(way.note.into_iter().chain(note));
    if settings.draw && picture.is_none() {
        notes.push("nothing to draw: no input is a picture by the model's contract".to_owned());
    }
    let predictions = match (&contract, provisional) {
        (Some(contract), _) => console::predict(contract, &outputs, settings.top_k),
        (None, Some(by)) => console::predict_provisional(by, &outputs, settings.top_k),
        (None, None) => Vec::new(),
    };
    if let (None, Some(by), Some(labelled)) = (&contract, provisional, predictions.first()) {
        notes.push(format!("the labels of `{}` are by `{}`, not verified", labelled.output, by.from));
    }
    let leaving = match (settings.target, form) {
        (Target::Screen, Form::Table) => Leaving::Table,
        (Target::Screen | Target::Stdout, Form::Json) => Leaving::Json,
        (Target::Screen | Target::Stdout, Form::Npy) => Leaving::Bytes(npy::write(only_tensor(&outputs)?)),
        (Target::Screen | Target::Stdout, Form::Npz) => Leaving::Bytes(npy::write_npz(&tensors(&outputs)?)?),
        (Target::Stdout, Form::Table) => match only_tensor(&outputs) {
            Ok(tensor) => Leaving::Bytes(npy::write(tensor)),
            Err(_) => Leaving::Bytes(npy::write_npz(&tensors(&outputs)?)?),
        },
        (Target::Folder(path), Form::Npz) => {
            let bytes = npy::write_npz(&tensors(&outputs)?)?;
            Leaving::Files(folder::write(&path, &[folder::Entry { name: "outputs.npz".to_owned(), bytes }])?)
        }
        (Target::Folder(path), form) => {
            Leaving::Files(folder::write(&path, &folder::entries(&outputs, form == Form::Json))?)
        }
    };
    let outcome = Outcome {
        model_name: model_name(model.archive(), contract.as_ref()),
        device: model.device(),
        outputs,
        predictions,
        drawings: picture.unwrap_or_default(),
    };
    Ok(Ran { outcome, notes, draw: settings.draw, leaving })
}

/// The form that was asked for, or what suits the target. `Table` with stdout means: the array itself, or `.npz` for several.
fn form(settings: &Settings) -> Result<Form> {
    match (&settings.target, settings.form) {
        (Target::Screen | Target::Stdout, None) => Ok(Form::Table),
        (Target::Folder(_), None) => Ok(Form::Npy),
        (Target::Folder(_) | Target::Stdout, Some(Form::Table)) => {
            Err(Error::invalid_input("a table cannot be written with `--output`, expected the format npy, npz or json"))
        }
        (_, Some(form)) => Ok(form),
    }
}

fn only_tensor(outputs: &[(String, Value)]) -> Result<&Tensor> {
    match outputs {
        [(_, Value::Tensor(tensor))] => Ok(tensor),
        _ => {
            let names: Vec<_> = outputs.iter().map(|(n, v)| format!("`{n}` ({})", v.kind())).collect();
            Err(Error::invalid_input(format!("one .npy holds one tensor, the outputs are {}", names.join(", ")))
                .hint("`--format npz` or `--format json` holds all, `--output DIR` writes one file each"))
        }
    }
}

/// Every output as a tensor; plain numbers become tensors without dimensions.
fn tensors(outputs: &[(String, Value)]) -> Result<Vec<(String, Tensor)>> {
    let tensor = |(name, value): &(String, Value)| {
        let tensor = match value {
            Value::Tensor(tensor) => tensor.clone(),
            Value::Int(i) => Tensor::from_elements(vec![], vec![*i])?,
            Value::Float(x) => Tensor::from_elements(vec![], vec![*x])?,
            Value::Bool(b) => Tensor::from_bools(vec![], vec![*b])?,
            other => {
                return Err(Error::invalid_input(format!(
                    "output `{name}` is {}, which no .npz can hold",
                    other.kind()
                ))
                .hint("`--format json` holds every output"));
            }
        };
        Ok((name.clone(), tensor))
    };
    outputs.iter().map(tensor).collect()
}

/// `x: FP64 [1, 4], n: int`
fn said(values: &[(String, Value)]) -> String {
    let one = |(name, value): &(String, Value)| match value {
        Value::Tensor(t) => format!("`{name}` {} ({}) {:?}", t.datatype(), t.datatype().numpy_name(), t.shape()),
        other => format!("`{name}` {}", other.kind()),
    };
    values.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Without a contract it is the model itself that refuses an input, in words that may not say what it was given.
fn with_datatypes(error: Error, contract: Option<&Contract>, given: &str) -> Error {
    if error.kind != ErrorKind::Failed || error.hint.is_some() || contract.is_some() || given.is_empty() {
        return error;
    }
    error.hint(format!("the model has no contract to check inputs against; it was given {given}"))
}
