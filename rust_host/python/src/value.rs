//! Python objects ↔ values of TorchScript, by the types that the method declares.

use crate::{
    array::{self, dlpack},
    error::invalid_input,
};
use numpy::PyUntypedArray;
use pyo3::{
    intern,
    prelude::*,
    sync::PyOnceLock,
    types::{IntoPyDict, PyBool, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple},
};
use rust_host_engine::{Datatype, Type, Value};

/// Containers that are nested deeper are refused: a list can contain itself.
const DEEPEST: usize = 64;

/// Which library the results' arrays belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Library {
    NumPy,
    Torch,
}

impl Library {
    pub(crate) fn parse(py: Python<'_>, name: &str) -> PyResult<Self> {
        match name {
            "numpy" => Ok(Self::NumPy),
            "torch" => Ok(Self::Torch),
            other => Err(invalid_input(py, format!("unknown library `{other}` in `to`, expected numpy or torch"))),
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::NumPy => "numpy",
            Self::Torch => "torch",
        }
    }
}

/// An argument of that type. `datatype` is the contract's, for lists and numbers that become tensors; `at` names the
/// argument in messages.
///
/// # Errors
/// `InvalidInputError` for what does not fit the type.
pub(crate) fn from_py(object: &Bound<'_, PyAny>, kind: &Type, datatype: Option<Datatype>, at: &str) -> PyResult<Value> {
    at_depth(object, kind, datatype, at, 0)
}

fn at_depth(
    object: &Bound<'_, PyAny>,
    kind: &Type,
    datatype: Option<Datatype>,
    at: &str,
    depth: usize,
) -> PyResult<Value> {
    let py = object.py();
    if depth > DEEPEST {
        return Err(invalid_input(py, format!("input `{at}` is nested more than {DEEPEST} deep")));
    }
    let wrong = || misfit(object, kind, at);
    let item = |object: &Bound<'_, PyAny>, kind: &Type, key: &dyn std::fmt::Display| {
        at_depth(object, kind, datatype, &format!("{at}[{key}]"), depth + 1)
    };
    Ok(match kind {
        Type::Tensor => tensor(object, datatype, at)?.ok_or_else(wrong)?,
        Type::Optional(_) | Type::None if object.is_none() => Value::None,
        Type::Optional(inner) => at_depth(object, inner, datatype, at, depth + 1)?,
        Type::Int => Value::Int(int(object).ok_or_else(wrong)?),
        Type::Float => Value::Float(float(object).ok_or_else(wrong)?),
        Type::Bool => Value::Bool(object.extract().map_err(|_| wrong())?),
        Type::Number => number(object).ok_or_else(wrong)?,
        Type::Str => Value::Str(object.cast::<PyString>().map_err(|_| wrong())?.to_cow()?.into_owned()),
        // An array of texts, as ONNX models take them; it has no memory that anybody else could read.
        Type::List(_) if is_of_texts(kind) && object.cast::<PyUntypedArray>().is_ok() => {
            at_depth(&object.call_method0("tolist")?, kind, datatype, at, depth + 1)?
        }
        Type::List(kind) => {
            let items = sequence(object).ok_or_else(wrong)?;
            Value::List(items.iter().enumerate().map(|(i, o)| item(o, kind, &i)).collect::<PyResult<_>>()?)
        }
        Type::Tuple(kinds) => {
            let items = sequence(object).filter(|items| items.len() == kinds.len()).ok_or_else(wrong)?;
            let items = items.iter().zip(kinds).enumerate();
            Value::Tuple(items.map(|(i, (o, kind))| item(o, kind, &i)).collect::<PyResult<_>>()?)
        }
        Type::Dict(key_kind, item_kind) => {
            let pairs = object.cast::<PyDict>().map_err(|_| wrong())?;
            let pair = |(k, v): (Bound<'_, PyAny>, Bound<'_, PyAny>)| {
                Ok((item(&k, key_kind, &"key")?, item(&v, item_kind, &k)?))
            };
            Value::Dict(pairs.iter().map(pair).collect::<PyResult<_>>()?)
        }
        Type::None => return Err(wrong()),
        // A NamedTuple or a Union: what it can be is known to libtorch only.
        Type::Other(_) => as_it_is(object, datatype, at, depth)?.ok_or_else(wrong)?,
    })
}

fn is_of_texts(kind: &Type) -> bool {
    match kind {
        Type::List(inner) => is_of_texts(inner),
        kind => *kind == Type::Str,
    }
}

fn misfit(object: &Bound<'_, PyAny>, kind: &Type, at: &str) -> PyErr {
    let got = object.get_type().name().map_or_else(|_| "unknown".to_owned(), |n| n.to_string());
    invalid_input(object.py(), format!("input `{at}` is {got}, expected {kind}"))
}

fn sequence<'py>(object: &Bound<'py, PyAny>) -> Option<Vec<Bound<'py, PyAny>>> {
    if let Ok(list) = object.cast::<PyList>() {
        return Some(list.iter().collect());
    }
    object.cast::<PyTuple>().ok().map(|tuple| tuple.iter().collect())
}

/// A whole number; `True` is none, although Python says so.
fn int(object: &Bound<'_, PyAny>) -> Option<i64> {
    if object.is_instance_of::<PyBool>() { None } else { object.extract().ok() }
}

fn float(object: &Bound<'_, PyAny>) -> Option<f64> {
    if object.is_instance_of::<PyBool>() { None } else { object.extract().ok() }
}

fn number(object: &Bound<'_, PyAny>) -> Option<Value> {
    if let Ok(b) = object.extract::<bool>() {
        return Some(Value::Bool(b));
    }
    int(object).map(Value::Int).or_else(|| float(object).map(Value::Float))
}

/// A tensor of whatever is an array or can be made one.
fn tensor(object: &Bound<'_, PyAny>, datatype: Option<Datatype>, at: &str) -> PyResult<Option<Value>> {
    if let Ok(array) = object.cast::<PyUntypedArray>() {
        return array::from_numpy(array, at).map(|t| Some(Value::Tensor(t)));
    }
    if let Some(tensor) = dlpack::read(object, at)? {
        return Ok(Some(Value::Tensor(tensor)));
    }
    from_numbers(object, datatype, at)
}

/// Python's numbers and lists of them, and NumPy's scalars: as the contract's datatype if every value keeps its value in
/// it, else bool, int64, or float32 as soon as there is a float.
fn from_numbers(object: &Bound<'_, PyAny>, datatype: Option<Datatype>, at: &str) -> PyResult<Option<Value>> {
    let py = object.py();
    let numpy = py.import(intern!(py, "numpy"))?;
    let scalar = object.is_instance(&numpy.getattr(intern!(py, "generic"))?)?;
    let number = object.is_instance_of::<PyInt>() || object.is_instance_of::<PyFloat>();
    if !(scalar || number || object.is_instance_of::<PyList>() || object.is_instance_of::<PyTuple>()) {
        return Ok(None);
    }
    let wrong = |what: String| invalid_input(py, format!("input `{at}` {what}"));
    let array = numpy
        .call_method1(intern!(py, "asarray"), (object,))
        .map_err(|e| wrong(format!("cannot be made an array: {}", e.value(py))))?;
    let dtype = array.getattr(intern!(py, "dtype"))?;
    let kind: String = dtype.getattr(intern!(py, "kind"))?.extract()?;
    if !["b", "i", "u", "f"].contains(&kind.as_str()) {
        return Err(wrong(format!("cannot be made an array of numbers, it would be one of {}", dtype.str()?)));
    }
    let target = match datatype {
        Some(Datatype::Bf16) | None if kind == "f" && !scalar => "float32",
        Some(Datatype::Bf16) | None => return read_array(&array, at),
        Some(datatype) => datatype.numpy_name(),
    };
    let converted = array.call_method1(intern!(py, "astype"), (target,))?;
    let whole = datatype.is_some_and(|d| !d.is_float());
    if whole && !numpy.call_method1(intern!(py, "array_equal"), (&array, &converted))?.is_truthy()? {
        return Err(wrong(format!("has values that are no {target}")));
    }
    read_array(&converted, at)
}

fn read_array(array: &Bound<'_, PyAny>, at: &str) -> PyResult<Option<Value>> {
    Ok(Some(Value::Tensor(array::from_numpy(array.cast::<PyUntypedArray>()?, at)?)))
}

/// A value by what it is, where the type says nothing.
fn as_it_is(object: &Bound<'_, PyAny>, datatype: Option<Datatype>, at: &str, depth: usize) -> PyResult<Option<Value>> {
    let inner = |o: &Bound<'_, PyAny>| match depth < DEEPEST {
        true => as_it_is(o, datatype, at, depth + 1)?.ok_or_else(|| misfit(o, &Type::Tensor, at)),
        false => Err(invalid_input(o.py(), format!("input `{at}` is nested more than {DEEPEST} deep"))),
    };
    Ok(Some(if object.is_none() {
        Value::None
    } else if let Ok(s) = object.cast::<PyString>() {
        Value::Str(s.to_cow()?.into_owned())
    } else if let Ok(pairs) = object.cast::<PyDict>() {
        Value::Dict(pairs.iter().map(|(k, v)| Ok((inner(&k)?, inner(&v)?))).collect::<PyResult<_>>()?)
    } else if let Some(items) = sequence(object) {
        let items = items.iter().map(inner).collect::<PyResult<_>>()?;
        if object.is_instance_of::<PyTuple>() { Value::Tuple(items) } else { Value::List(items) }
    } else if object.is_instance_of::<PyInt>() || object.is_instance_of::<PyFloat>() {
        return Ok(number(object));
    } else {
        return tensor(object, datatype, at);
    }))
}

/// A result in the shape that the model returned it.
pub(crate) fn to_py<'py>(py: Python<'py>, value: Value, library: Library) -> PyResult<Bound<'py, PyAny>> {
    let all = |items: Vec<Value>| items.into_iter().map(|v| to_py(py, v, library)).collect::<PyResult<Vec<_>>>();
    Ok(match value {
        Value::Tensor(tensor) => match library {
            Library::NumPy => array::to_numpy(py, &tensor)?,
            Library::Torch => dlpack::to_torch(py, tensor)?,
        },
        Value::Int(i) => i.into_pyobject(py)?.into_any(),
        Value::Float(x) => x.into_pyobject(py)?.into_any(),
        Value::Bool(b) => b.into_pyobject(py)?.to_owned().into_any(),
        Value::Str(s) => s.into_pyobject(py)?.into_any(),
        Value::None => py.None().into_bound(py),
        Value::List(items) => PyList::new(py, all(items)?)?.into_any(),
        Value::Tuple(items) => PyTuple::new(py, all(items)?)?.into_any(),
        Value::Dict(pairs) => {
            let dict = PyDict::new(py);
            for (key, item) in pairs {
                dict.set_item(to_py(py, key, library)?, to_py(py, item, library)?)?;
            }
            dict.into_any()
        }
        Value::NamedTuple(fields) => {
            let (names, items): (Vec<String>, Vec<Value>) = fields.into_iter().unzip();
            named_tuple(py, names)?.call1(PyTuple::new(py, all(items)?)?)?
        }
    })
}

/// A namedtuple class with these fields; made once for each list of names.
fn named_tuple(py: Python<'_>, names: Vec<String>) -> PyResult<Bound<'_, PyAny>> {
    static CLASSES: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
    let classes = CLASSES.get_or_init(py, || PyDict::new(py).unbind()).bind(py);
    let names = PyTuple::new(py, names)?;
    if let Some(class) = classes.get_item(&names)? {
        return Ok(class);
    }
    // Outputs of ONNX may have names that Python's fields cannot: these are called by their places.
    let rename = [("rename", true)].into_py_dict(py)?;
    let class = py.import("collections")?.call_method("namedtuple", ("Result", &names), Some(&rename))?;
    classes.set_item(names, &class)?;
    Ok(class)
}
