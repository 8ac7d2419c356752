//! `bench`: how long a call takes at several batch sizes. Inputs are the model's golden examples, cut or repeated.

use super::{Way, contract_of, load, method_of, model_name};
use crate::worker::{self, Confinement};
use rust_host_console::{self as console, Given};
use rust_host_engine::{
    Archive, Backends, Contract, Description, Device, DeviceRequest, Error, Measurement, Model, Result, Speed, Tensor,
    Value, contract::Dim, golden, measure, measure_at_once, onnx, operators::Policy,
};
use std::{path::PathBuf, sync::Arc, time::Duration};

/// What to measure.
pub(crate) struct Settings {
    /// The model's file.
    pub file: PathBuf,
    /// Inputs as they were typed; by default the golden examples.
    pub inputs: Vec<Given>,
    /// The method to call, where it is not `forward`.
    pub method: Option<String>,
    /// Batch sizes; by default 1, 8, 32 where the batch is free.
    pub batches: Vec<i64>,
    /// How long to measure each.
    pub time: Duration,
    /// Where to run.
    pub device: DeviceRequest,
    /// Threads inside operators.
    pub threads: Option<usize>,
    /// Calls at once; by default what was measured for throughput, else 1.
    pub at_once: Option<usize>,
    /// Operators that the owner of this machine allows.
    pub policy: Policy,
    /// What the model's process may do.
    pub confinement: Confinement,
}

/// What was measured, and where.
pub(crate) struct Measured {
    /// The model's name.
    pub model_name: String,
    /// Where it ran.
    pub device: Device,
    /// With which library.
    pub library: String,
    /// In which form it ran.
    pub speed: Speed,
    /// Threads inside operators.
    pub threads: usize,
    /// Calls at once.
    pub at_once: usize,
    /// Notes for stderr.
    pub notes: Vec<String>,
    /// One entry a batch size; the size is unknown where no input has a batch.
    pub results: Vec<(Option<i64>, Measurement)>,
}

/// Measures the model.
///
/// # Errors
/// `InvalidInput` if there is nothing to run it on or the batch cannot be changed, and what opening and running say.
pub(crate) fn bench(settings: &Settings, backends: &dyn Backends) -> Result<Measured> {
    let archive = Archive::open_signed(&settings.file, settings.policy.signed_by.as_ref())?;
    let way = Way::of(&settings.file, settings.threads)?;
    let name = settings.method.as_deref();
    let contract = contract_of(&archive, name)?;
    let golden = match &contract {
        Some(contract) if settings.inputs.is_empty() => golden::read(&archive, contract)?.into_iter().next(),
        _ => None,
    };
    if settings.inputs.is_empty() && contract.is_none() {
        return Err(Error::invalid_input(format!(
            "`{}` has no golden examples{}, and no input was given to measure it with",
            settings.file.display(),
            name.map_or(String::new(), |name| format!(" of `{name}`"))
        ))
        .hint("`--input NAME=FILE.npy`, as `rust-host run` takes it"));
    }
    // Read where files still can be, unless the file does not say what it takes.
    let description = Description::read(&archive)?;
    let provisional = description.foreign.provisional.as_ref().filter(|by| by.from == onnx::GRAPH);
    let early = match (&golden, method_of(&description.methods, name, &settings.file)?) {
        (None, Some(method)) => Some(console::gather(&settings.inputs, method, contract.as_ref(), provisional)?),
        _ => None,
    };
    let backend = backends.open(archive.platform())?;
    let reads = if early.is_some() { Vec::new() } else { settings.inputs.iter().flat_map(Given::paths).collect() };
    let note = worker::enter(settings.confinement, backend.as_ref(), settings.device, contract.is_some(), &reads)?;
    way.set(backend.as_ref());
    let model = load(archive, backend.as_ref(), settings.device, &settings.policy, name)?;
    let model = if way.optimised { model.optimised()? } else { model };
    let (values, mut notes): (Vec<_>, _) = match golden {
        Some(example) => (example.inputs.into_iter().map(|(n, t)| (n, Value::Tensor(t))).collect(), Vec::new()),
        None => {
            let found = match early {
                Some(found) => found,
                None => console::gather(&settings.inputs, model.method(), contract.as_ref(), None)?,
            };
            (found.values, found.notes)
        }
    };
    notes.extend(way.note.into_iter().chain(note));
    if model.is_stateful() {
        notes.push("the model keeps state between calls: each call went on from the one before".to_owned());
    }
    let axes = batch_axes(contract.as_ref(), &values);
    let batches: Vec<Option<i64>> = match (settings.batches.as_slice(), axes.is_empty()) {
        ([], false) if contract.is_some() => {
            [1, 8, 32].into_iter().filter(|n| allowed(contract.as_ref(), *n)).map(Some).collect()
        }
        ([], _) => vec![None],
        (_, true) => {
            return Err(Error::invalid_input("the batch size of this model's inputs cannot be changed")
                .hint("leave `--batch` out"));
        }
        (sizes, false) => sizes.iter().copied().map(Some).collect(),
    };
    // What was measured on the processor says nothing of a GPU.
    let usual = if model.device() == Device::Cpu && !model.is_stateful() { way.at_once } else { 1 };
    let at_once = settings.at_once.unwrap_or(usual);
    let model = if at_once > 1 { model.at_once(at_once) } else { model };
    let mut results = Vec::new();
    for batch in batches {
        let sized = match batch {
            Some(size) => resize(&values, &axes, size)?,
            None => values.clone(),
        };
        let shown = batch.or_else(|| first_size(&sized, &axes));
        let bound = model.bind(sized)?;
        let measured = match at_once {
            1 => measure(settings.time, || model.call(&bound).map(drop))?,
            _ => {
                // One that keeps state: each caller with its own.
                let callers = (0..at_once).map(|_| model.session()).collect::<Result<Vec<Model>>>()?;
                let bound = &bound;
                let call = |caller: Model| move || caller.call(bound).map(drop);
                measure_at_once(settings.time, callers.into_iter().map(call).collect())?
            }
        };
        results.push((shown, measured));
    }
    if model.speed() == Speed::Dropped {
        notes.push("the optimised form failed or gave other numbers, so the file's own form was measured".to_owned());
    }
    Ok(Measured {
        model_name: model_name(model.archive(), contract.as_ref()),
        speed: model.speed(),
        device: model.device(),
        library: backend.library(),
        threads: backend.threads(),
        at_once,
        notes,
        results,
    })
}

/// For each input the axis that is the batch: where the contract has the same name as on the first free axis of the first
/// input, or, without a contract, the first axis of every tensor.
pub(super) fn batch_axes(contract: Option<&Contract>, values: &[(String, Value)]) -> Vec<(String, usize)> {
    let Some(contract) = contract else {
        let tensors = values.iter().filter(|(_, v)| matches!(v, Value::Tensor(t) if !t.shape().is_empty()));
        return tensors.map(|(n, _)| (n.clone(), 0)).collect();
    };
    let Some(batch) = batch_name(contract) else { return Vec::new() };
    let axis = |dims: &[Dim]| dims.iter().position(|d| matches!(d, Dim::Named(n) if n == batch));
    contract.inputs.iter().filter_map(|i| Some((i.name.clone(), axis(&i.dims)?))).collect()
}

/// The name of the batch: `batch` where there is one, else the first name on a first axis.
fn batch_name(contract: &Contract) -> Option<&str> {
    let all = || contract.inputs.iter().flat_map(|i| i.dims.iter());
    let named = |d: &'_ Dim| matches!(d, Dim::Named(n) if n == "batch");
    if all().any(named) {
        return Some("batch");
    }
    contract.inputs.iter().find_map(|i| match i.dims.first() {
        Some(Dim::Named(name)) => Some(name.as_str()),
        _ => None,
    })
}

pub(super) fn allowed(contract: Option<&Contract>, size: i64) -> bool {
    let bounds = contract.and_then(|c| c.dims.get(batch_name(c)?));
    bounds.is_none_or(|b| b.min.is_none_or(|min| size >= min) && b.max.is_none_or(|max| size <= max))
}

fn first_size(values: &[(String, Value)], axes: &[(String, usize)]) -> Option<i64> {
    let (name, axis) = axes.first()?;
    values.iter().find_map(|(n, v)| match v {
        Value::Tensor(t) if n == name => t.shape().get(*axis).copied(),
        _ => None,
    })
}

pub(super) fn resize(values: &[(String, Value)], axes: &[(String, usize)], size: i64) -> Result<Vec<(String, Value)>> {
    let one = |(name, value): &(String, Value)| {
        let axis = axes.iter().find(|(n, _)| n == name).map(|(_, axis)| *axis);
        Ok(match (value, axis) {
            (Value::Tensor(tensor), Some(axis)) => (name.clone(), Value::Tensor(repeat(tensor, axis, size, name)?)),
            _ => (name.clone(), value.clone()),
        })
    };
    values.iter().map(one).collect()
}

/// The tensor with another size along one axis: its slices over and over, or fewer of them.
fn repeat(tensor: &Tensor, axis: usize, size: i64, name: &str) -> Result<Tensor> {
    let whole = tensor.to_contiguous();
    let mut shape = tensor.shape().to_vec();
    let have = shape.get(axis).copied().unwrap_or(0);
    if have == 0 && size > 0 {
        return Err(Error::invalid_input(format!(
            "input `{name}` is empty, it cannot be repeated to a batch of {size}"
        ))
        .hint("give a larger one with `--input`"));
    }
    shape[axis] = size;
    let need = rust_host_engine::byte_length(tensor.datatype(), &shape)?;
    let bytes = whole.contiguous_bytes().unwrap_or_default();
    let slice = shape[axis + 1..].iter().product::<i64>() as usize * tensor.datatype().size();
    let mut repeated = Vec::new();
    repeated.try_reserve_exact(need).map_err(|_| Error::unavailable(format!("{need} bytes do not fit in memory")))?;
    for outer in bytes.chunks(slice.saturating_mul(have as usize).max(1)) {
        for i in 0..size {
            let at = (i % have) as usize * slice;
            repeated.extend_from_slice(&outer[at..at + slice]);
        }
    }
    Tensor::new(tensor.datatype(), shape, Arc::new(repeated))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_repeated_or_cut_along_its_axis() {
        let t = Tensor::from_elements(vec![2, 3], vec![1i32, 2, 3, 4, 5, 6]).unwrap();
        let rows = repeat(&t, 0, 3, "x").unwrap();
        assert_eq!((rows.shape(), rows.to_vec::<i32>().unwrap()), (&[3, 3][..], vec![1, 2, 3, 4, 5, 6, 1, 2, 3]));
        let columns = repeat(&t, 1, 2, "x").unwrap();
        assert_eq!(columns.to_vec::<i32>().unwrap(), [1, 2, 4, 5]);
        let wider = repeat(&t, 1, 4, "x").unwrap();
        assert_eq!(wider.to_vec::<i32>().unwrap(), [1, 2, 3, 1, 4, 5, 6, 4]);
        let empty = Tensor::from_elements(vec![0, 3], Vec::<i32>::new()).unwrap();
        assert!(repeat(&empty, 0, 2, "x").unwrap_err().message.contains("is empty"));
    }
}
