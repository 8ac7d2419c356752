//! `rust_host.Model`: a loaded model as Python calls it. The numbers go in and out through [`crate::value`]; the forward
//! pass runs without the GIL.

use crate::{
    backends::Installed,
    error::{guarded, invalid_input, to_py},
    map::{self, Mapped},
    signal, threads,
    value::{self, Library},
    verdict::Verdict,
};
use pyo3::{
    exceptions::PyUserWarning,
    intern,
    prelude::*,
    types::{PyDict, PyList, PyMapping, PyString, PyTuple},
};
use rust_host_engine::{
    Archive, Backends, Datatype, Device, DeviceRequest, Model as Engine, Type, Value, contract::Dim, golden,
    host_settings, onnx::Slot, operators::Policy, signed::PublicKeys, versions,
};
use std::{
    ffi::CString,
    path::{Path, PathBuf},
};

/// A model file, ready to run: `Model(path, device="auto", *, method=None, to="numpy", optimise=True, …)`.
///
/// Args:
///     path: the file, with or without a contract.
///     device: "auto" (CUDA where it can be used), "cpu", "cuda" or "cuda:N"; a torch.device will do. "cuda" never falls
///         back to the processor.
///     method: the method that is called, where it is not `forward`; the contract describes `forward` alone.
///     to: what results are made of, "numpy" arrays or "torch" tensors on the processor.
///     optimise: make `forward` faster where that is possible. The first call then runs both forms, and the faster one is used
///         from then on if its numbers lie within the contract's tolerance (without a contract: 1e-4); see `speed`. With
///         False the numbers are libtorch's own to the last bit, and layers take half the memory.
///     allow_operators: operators that the file may use although they are refused by default, such as
///         "aten::from_file"; only for a file that you trust.
///     trust: SHA-256 of compiled packages whose native code may be opened, beside those in `trusted.toml`.
///     require_signed: a PEM file of public keys: the file is opened only if `manifest.json` beside it lists its SHA-256 and one
///         of the keys has signed that. Default: the file that the environment's RUST_HOST_REQUIRE_SIGNED names.
///
/// Where `rust-host tune` has left a `host.toml` beside the file, its number of threads is set and that of calls at once holds
/// (`at_once`), unless `set_threads` was called before, and its choice between the optimised form and the file's own is
/// followed. One that was measured on another machine is left alone, with a warning.
///
/// One model may be called from many threads at once; the GIL is released meanwhile. A model that keeps state between calls
/// (`stateful`) belongs to the thread that calls it first: `session()` gives every other caller a state of its own.
#[pyclass(frozen, module = "rust_host")]
pub(crate) struct Model {
    /// `None` only while it is dropped.
    engine: Option<Engine>,
    /// The contract's datatype of each argument, in the method's order.
    datatypes: Vec<Option<Datatype>>,
    library: Library,
}

impl Drop for Model {
    fn drop(&mut self) {
        let engine = self.engine.take();
        // Unloading may wait for another thread that gives back an array which the model kept, and that takes the GIL.
        Python::attach(|py| py.detach(|| drop(engine)));
    }
}

#[pymethods]
impl Model {
    #[new]
    #[expect(clippy::too_many_arguments, reason = "keywords of Python, each with a default")]
    #[pyo3(
        signature = (path, device = None, *, method = None, to = "numpy", optimise = true, allow_operators = Vec::new(), trust = Vec::new(), require_signed = None),
        text_signature = "(path, device='auto', *, method=None, to='numpy', optimise=True, allow_operators=(), trust=(), require_signed=None)"
    )]
    fn new(
        py: Python<'_>,
        path: PathBuf,
        device: Option<&Bound<'_, PyAny>>,
        method: Option<String>,
        to: &str,
        optimise: bool,
        allow_operators: Vec<String>,
        trust: Vec<String>,
        require_signed: Option<PathBuf>,
    ) -> PyResult<Self> {
        guarded(py, || {
            py.import(intern!(py, "numpy"))?; // its absence is said here, not in the middle of a call
            let library = Library::parse(py, to)?;
            let device = device.map_or_else(|| Ok(PyString::new(py, "auto")), PyAnyMethods::str)?;
            let device: DeviceRequest = device.to_cow()?.parse().map_err(|e| to_py(py, &e))?;
            let open = || {
                let signed_by = PublicKeys::required(require_signed.as_deref())?;
                let policy = Policy { allowed: allow_operators.into_iter().collect(), trusted: trust, signed_by };
                let file = versions::file(&path, None)?;
                let found = host_settings::read(file.parent().unwrap_or(Path::new("")))?;
                let tuned = found.of(&file);
                let archive = Archive::open_signed(&file, policy.signed_by.as_ref())?;
                let backend = Installed.open(archive.platform())?;
                let at_once = threads::settle(&*backend, tuned);
                let model = Engine::from_archive(archive, &*backend, device, &policy)?;
                let model = match &method {
                    Some(name) => model.calling(name)?,
                    None => model,
                };
                let optimise = optimise && tuned.is_none_or(|t| t.optimised);
                let model = if optimise { model.optimised()? } else { model };
                // What was measured on the processor says nothing of a GPU.
                let model = match at_once.filter(|_| model.device() == Device::Cpu) {
                    Some(calls) => model.at_once(calls),
                    None => model,
                };
                Ok((model, found.note))
            };
            signal::watch();
            let (engine, note) = py.detach(open).map_err(|e| to_py(py, &e))?;
            if let Some(note) = note {
                let text = CString::new(note).unwrap_or_default();
                PyErr::warn(py, &py.get_type::<PyUserWarning>(), &text, 1)?;
            }
            let input = |name: &str| engine.contract().and_then(|c| c.inputs.iter().find(|i| i.name == name));
            let slot = |name: &str| engine.graph()?.inputs.iter().find(|s| s.name == name)?.kind.datatype();
            let datatype = |name: &str| input(name).map(|i| i.datatype).or_else(|| slot(name));
            let datatypes = engine.method().arguments.iter().map(|a| datatype(&a.name)).collect();
            Ok(Self { engine: Some(engine), datatypes, library })
        })
    }

    /// The model as it was loaded, for one more caller: where it keeps state between calls, with a state of its own, and
    /// otherwise the same model. A session may move between threads, but two calls of it at once are refused. A new session
    /// is how one begins again.
    fn session(&self, py: Python<'_>) -> PyResult<Self> {
        guarded(py, || {
            let engine = self.engine(py)?;
            let session = py.detach(|| engine.session()).map_err(|e| to_py(py, &e))?;
            Ok(Self { engine: Some(session), datatypes: self.datatypes.clone(), library: self.library })
        })
    }

    /// Calls `forward`, or the method that was named, with its inputs in order or by name, and returns what it returned, nested in the same way.
    ///
    /// A tensor is taken from a NumPy array or anything with `__dlpack__`, without a copy unless it is big-endian,
    /// unaligned or backwards, or the model writes to it; from a list of numbers too. The caller's array is never changed.
    /// Other arguments are Python's own int, float, bool, str, list, tuple, dict and None. Results are the caller's alone;
    /// NumPy has no bfloat16, so such a result is float32 there.
    #[pyo3(signature = (*args, **kwargs))]
    fn __call__<'py>(
        &self,
        py: Python<'py>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        guarded(py, || {
            let arguments = self.bind(args, kwargs)?;
            let result = self.call(py, &arguments)?;
            value::to_py(py, result, self.library)
        })
    }

    /// Calls it with inputs by name and returns the outputs by name, flat: the contract's names, else `output_0`, …
    /// and the keys of dicts. `to` overrides the model's own choice of "numpy" or "torch".
    #[pyo3(signature = (inputs, *, to = None))]
    fn run<'py>(&self, py: Python<'py>, inputs: &Bound<'py, PyAny>, to: Option<&str>) -> PyResult<Bound<'py, PyDict>> {
        guarded(py, || {
            let library = to.map_or(Ok(self.library), |name| Library::parse(py, name))?;
            let arguments = self.bind_named(Vec::new(), &by_name(inputs)?)?;
            let result = self.call(py, &arguments)?;
            let outputs = PyDict::new(py);
            for (name, leaf) in self.engine(py)?.outputs(result).map_err(|e| to_py(py, &e))? {
                outputs.set_item(name, value::to_py(py, leaf, library)?)?;
            }
            Ok(outputs)
        })
    }

    /// Runs the model over every row of a table, and returns the table with the outputs as columns.
    ///
    /// Args:
    ///     table: anything with `__arrow_c_stream__` or `__arrow_c_array__`: a Polars or pandas DataFrame, a pyarrow Table,
    ///         RecordBatch or reader, a DuckDB relation. Columns meet inputs by name: `x` for one value a row or lists,
    ///         else `x.0`, `x.1`, …; the only input of a model takes all columns of numbers that are no ids. The others
    ///         pass through.
    ///     on_error: "stop" raises for the first row that cannot be read or run, "null" leaves its outputs empty.
    ///     top_k: columns `label_1`, `score_1`, … for outputs with labels, instead of one label and the values.
    ///
    /// Returns:
    ///     A table of as many rows in the same order, with `__arrow_c_stream__`. An output of the shape `[rows]` or
    ///     `[rows, 1]` is the column `y`, one of `[rows, n]` is `y.0`, …, `y.<n - 1>`, in the contract's datatype.
    ///
    /// All rows have run when it returns; columns that pass through share the caller's memory. Needs a contract.
    ///
    /// Example:
    ///     >>> polars.DataFrame(model.map(polars.read_parquet("rows.parquet")))
    #[pyo3(signature = (table, /, *, on_error = "stop", top_k = None))]
    fn map(&self, py: Python<'_>, table: &Bound<'_, PyAny>, on_error: &str, top_k: Option<usize>) -> PyResult<Mapped> {
        guarded(py, || map::map(self.engine(py)?, table, on_error, top_k))
    }

    /// Replays the file's golden examples on this machine and says how far the results are from the author's.
    fn verify(&self, py: Python<'_>) -> PyResult<Verdict> {
        guarded(py, || {
            let engine = self.engine(py)?;
            py.detach(|| golden::verify(engine)).map(Verdict::new).map_err(|e| to_py(py, &e))
        })
    }

    /// The file's contract as its `contract.json` has it; `None` if it has none.
    #[getter]
    fn contract<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let engine = self.engine(py)?;
        if engine.contract().is_none() {
            return Ok(None);
        }
        // The file's own text, so that keys which this version does not know are there too.
        let json = engine.archive().extra("contract.json").map_err(|e| to_py(py, &e))?;
        json.map(|bytes| py.import("json")?.call_method1("loads", (bytes.as_ref(),))).transpose()
    }

    /// What goes in: name, datatype, shape and dims of each input, `None` where only a contract would say it.
    #[getter]
    fn inputs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if let Some(contract) = self.contract(py)? {
            return contract.get_item("inputs");
        }
        let inputs = PyList::empty(py);
        if let Some(graph) = self.engine(py)?.graph() {
            graph.inputs.iter().try_for_each(|slot| inputs.append(of_slot(py, slot)?))?;
            return Ok(inputs.into_any());
        }
        for argument in &self.engine(py)?.method().arguments {
            let input = unknown(py, Some(&argument.name), &argument.kind)?;
            if let Some(default) = &argument.default {
                input.set_item("default", default)?;
            }
            inputs.append(input)?;
        }
        Ok(inputs.into_any())
    }

    /// What comes out, in the same form. Without a contract a list or dict has the name `None`: what is in it is known
    /// after a call.
    #[getter]
    fn outputs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if let Some(contract) = self.contract(py)? {
            return contract.get_item("outputs");
        }
        let outputs = PyList::empty(py);
        if let Some(graph) = self.engine(py)?.graph() {
            graph.outputs.iter().try_for_each(|slot| outputs.append(of_slot(py, slot)?))?;
            return Ok(outputs.into_any());
        }
        let mut leaves = Vec::new();
        match &self.engine(py)?.method().returns {
            Type::Tuple(items) => {
                for (i, item) in items.iter().enumerate() {
                    leaf_types(item, Some(format!("output_{i}")), &mut leaves);
                }
            }
            other => leaf_types(other, Some("output_0".to_owned()), &mut leaves),
        }
        for (name, kind) in leaves {
            outputs.append(unknown(py, name.as_deref(), kind)?)?;
        }
        Ok(outputs.into_any())
    }

    /// Where it runs: "cpu" or "cuda:N".
    #[getter]
    fn device(&self, py: Python<'_>) -> PyResult<String> {
        Ok(self.engine(py)?.device().to_string())
    }

    /// In which form `forward` runs: "plain" (there is nothing to gain), "unchecked" (before the first call), "optimised", or
    /// "dropped" (the optimised form failed or gave other numbers, so the plain one is used).
    #[getter]
    fn speed(&self, py: Python<'_>) -> PyResult<&'static str> {
        Ok(self.engine(py)?.speed().as_str())
    }

    /// Whether a call changes what a later one computes: the model's code writes to its own attributes.
    #[getter]
    fn stateful(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.engine(py)?.is_stateful())
    }

    /// Most calls that run at once, from all threads and sessions together; further callers wait. None: all run at once.
    /// Where `rust-host tune` measured: for throughput the number that was best, for latency as many as have cores.
    #[getter]
    fn at_once(&self, py: Python<'_>) -> PyResult<Option<usize>> {
        Ok(self.engine(py)?.most_at_once())
    }

    /// The method that is called, with the types of its arguments: "forward(x: Tensor) -> Tensor".
    #[getter]
    fn method(&self, py: Python<'_>) -> PyResult<String> {
        Ok(self.engine(py)?.method().to_string())
    }

    /// The file it was loaded from.
    #[getter]
    fn path(&self, py: Python<'_>) -> PyResult<String> {
        Ok(self.engine(py)?.archive().path().display().to_string())
    }

    /// What results are made of: "numpy" or "torch".
    #[getter]
    fn to(&self) -> &'static str {
        self.library.as_str()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let engine = self.engine(py)?;
        let shown = PyString::new(py, &engine.archive().path().display().to_string());
        let name = engine.contract().map(|c| format!(" {}", c.name)).unwrap_or_default();
        Ok(format!("<rust_host.Model{name} from {}, {} on {}>", shown.repr()?, engine.method(), engine.device()))
    }
}

impl Model {
    fn engine(&self, py: Python<'_>) -> PyResult<&Engine> {
        self.engine.as_ref().ok_or_else(|| to_py(py, &rust_host_engine::Error::internal("the model is being dropped")))
    }

    fn call(&self, py: Python<'_>, arguments: &[Option<Value>]) -> PyResult<Value> {
        let engine = self.engine(py)?;
        py.detach(|| engine.call(arguments)).map_err(|e| to_py(py, &e))
    }

    fn bind(&self, args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>) -> PyResult<Vec<Option<Value>>> {
        let py = args.py();
        let method = self.engine(py)?.method();
        if args.len() > method.arguments.len() {
            let (got, takes) = (args.len(), method.arguments.len());
            return Err(invalid_input(py, format!("{got} inputs were given, the model takes {takes}: `{method}`")));
        }
        let mut positional = Vec::with_capacity(method.arguments.len());
        for ((argument, datatype), object) in method.arguments.iter().zip(&self.datatypes).zip(args.iter_borrowed()) {
            positional.push(Some(value::from_py(&object, &argument.kind, *datatype, &argument.name)?));
        }
        match kwargs {
            None if args.len() == method.arguments.len() => Ok(positional),
            None => self.bind_named(positional, &[]),
            Some(kwargs) => self.bind_named(positional, &by_name(kwargs)?),
        }
    }

    /// Adds inputs by name to those given in order; the engine says what is unknown, doubled or missing.
    fn bind_named(
        &self,
        positional: Vec<Option<Value>>,
        named: &[(String, Bound<'_, PyAny>)],
    ) -> PyResult<Vec<Option<Value>>> {
        let to_error = |e| Python::attach(|py| to_py(py, &e));
        let Some(engine) = &self.engine else { return Ok(Vec::new()) };
        let arguments = &engine.method().arguments;
        let mut inputs: Vec<(String, Value)> = Vec::with_capacity(arguments.len());
        for (argument, value) in arguments.iter().zip(positional) {
            inputs.extend(value.map(|v| (argument.name.clone(), v)));
        }
        for (name, object) in named {
            let at = arguments.iter().position(|a| a.name == *name);
            // An unknown name is refused by `bind`, whatever its value.
            let value = match at {
                Some(at) => value::from_py(object, &arguments[at].kind, self.datatypes[at], name)?,
                None => Value::None,
            };
            inputs.push((name.clone(), value));
        }
        engine.bind(inputs).map_err(to_error)
    }
}

/// The pairs of a mapping from names to anything.
fn by_name<'py>(inputs: &Bound<'py, PyAny>) -> PyResult<Vec<(String, Bound<'py, PyAny>)>> {
    let py = inputs.py();
    let key = |k: &Bound<'py, PyAny>| {
        let name = k.cast::<PyString>().map_err(|_| invalid_input(py, format!("the input name {k:?} is no str")))?;
        PyResult::Ok(name.to_cow()?.into_owned())
    };
    if let Ok(dict) = inputs.cast::<PyDict>() {
        return dict.iter().map(|(k, v)| Ok((key(&k)?, v))).collect();
    }
    let Ok(mapping) = inputs.cast::<PyMapping>() else {
        let kind = inputs.get_type().name()?;
        let wrong = rust_host_engine::Error::invalid_input(format!(
            "the inputs are {kind}, expected a dict from name to array"
        ));
        return Err(to_py(py, &wrong.hint("`model(x)` takes inputs in order, `model.run({\"x\": x})` by name")));
    };
    mapping
        .items()?
        .iter()
        .map(|pair| pair.extract::<(Bound<'py, PyAny>, Bound<'py, PyAny>)>())
        .map(|pair| {
            let (k, v) = pair?;
            Ok((key(&k)?, v))
        })
        .collect()
}

/// An input or output as the graph of an ONNX file says it.
fn of_slot<'py>(py: Python<'py>, slot: &Slot) -> PyResult<Bound<'py, PyDict>> {
    let entry = unknown(py, Some(&slot.name), &slot.kind.as_type())?;
    if let Some(datatype) = slot.kind.datatype() {
        entry.set_item("datatype", datatype.as_str())?;
    }
    if let Some(dims) = slot.kind.dims() {
        let (sizes, names) = (PyList::empty(py), PyList::empty(py));
        for dim in dims {
            match dim {
                Dim::Fixed(n) => (sizes.append(n)?, names.append(n)?),
                Dim::Named(name) => (sizes.append(-1)?, names.append(name)?),
            };
        }
        entry.set_item("shape", sizes)?;
        entry.set_item("dims", names)?;
    }
    Ok(entry)
}

/// What is known of an input or output without a contract.
fn unknown<'py>(py: Python<'py>, name: Option<&str>, kind: &Type) -> PyResult<Bound<'py, PyDict>> {
    let entry = PyDict::new(py);
    entry.set_item("name", name)?;
    for key in ["datatype", "shape", "dims"] {
        entry.set_item(key, py.None())?;
    }
    entry.set_item("type", kind.to_string())?;
    Ok(entry)
}

/// The leaves of a type under the names that [`Engine::outputs`] gives them; how many a list or dict will have, and what
/// they are called, is known only after a call.
fn leaf_types<'t>(kind: &'t Type, name: Option<String>, leaves: &mut Vec<(Option<String>, &'t Type)>) {
    match kind {
        Type::Tuple(items) => {
            for (i, item) in items.iter().enumerate() {
                leaf_types(item, name.as_ref().map(|n| format!("{n}.{i}")), leaves);
            }
        }
        Type::List(_) | Type::Dict(..) | Type::Other(_) => leaves.push((None, kind)),
        leaf => leaves.push((name, leaf)),
    }
}
