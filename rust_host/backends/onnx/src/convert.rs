//! The engine's values ↔ those of ONNX Runtime, numbers without a copy where that is possible: an input's memory is lent for
//! the call, a result's is kept alive by the value that owns it.

use crate::value::{Form, Value as Ort};
use ort::{memory::MemoryInfo, sys::ONNXTensorElementDataType as Element};
use rust_host_engine::{
    Datatype, Error, Memory, Result, Tensor, Value, byte_length,
    contract::Dim,
    onnx::{self, Kind, STRING, Slot},
};
use std::{any::Any, ffi::CString, ops::Range, ptr::NonNull, sync::Arc};

fn element(datatype: Datatype) -> Element {
    match datatype {
        Datatype::Bool => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL,
        Datatype::Uint8 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
        Datatype::Uint16 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16,
        Datatype::Uint32 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32,
        Datatype::Uint64 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64,
        Datatype::Int8 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
        Datatype::Int16 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16,
        Datatype::Int32 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
        Datatype::Int64 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
        Datatype::Fp16 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
        Datatype::Bf16 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
        Datatype::Fp32 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
        Datatype::Fp64 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE,
    }
}

/// Whoever keeps the allocators of results alive.
pub(crate) type Owner = Arc<dyn Any + Send + Sync>;

/// The inputs of one call, in the order of the slots.
pub(crate) struct Inputs {
    values: Vec<Ort>,
    /// Memory of the caller that is lent, and of results that were taken: no other result must lie in it.
    taken: Vec<Range<usize>>,
}

impl Inputs {
    /// `arguments` must outlive what is made here.
    ///
    /// # Errors
    /// `InvalidInput` that names the input, where a value does not fit its slot.
    pub(crate) fn new(memory: &MemoryInfo<'_>, slots: &[Slot], arguments: &[Option<Value>]) -> Result<Self> {
        let mut this = Self { values: Vec::with_capacity(slots.len()), taken: Vec::with_capacity(2 * slots.len()) };
        for (slot, argument) in slots.iter().zip(arguments) {
            let none = Value::None;
            let value = this.convert(memory, &slot.name, &slot.kind, argument.as_ref().unwrap_or(&none))?;
            this.values.push(value);
        }
        Ok(this)
    }

    pub(crate) fn pointers(&self) -> Vec<*const ort::sys::OrtValue> {
        self.values.iter().map(|v| v.as_ptr().cast_const()).collect()
    }

    fn convert(&mut self, memory: &MemoryInfo<'_>, name: &str, kind: &Kind, value: &Value) -> Result<Ort> {
        match (kind, value) {
            (Kind::Tensor(STRING, dims), value) => texts(name, dims.as_deref(), value),
            (Kind::Tensor(wanted, dims), Value::Tensor(tensor)) => {
                check(name, *wanted, dims.as_deref(), tensor)?;
                self.tensor(memory, tensor)
            }
            (Kind::Sequence(item), Value::List(values)) if !values.is_empty() => {
                let values = values.iter().map(|v| self.convert(memory, name, item, v)).collect::<Result<Vec<_>>>()?;
                Ort::sequence(&values)
            }
            (Kind::Tensor(..), other) => {
                Err(Error::invalid_input(format!("input `{name}` is {}, expected Tensor", other.kind())))
            }
            (Kind::Sequence(_), other) => Err(Error::invalid_input(format!(
                "input `{name}` is {}, expected a List with at least one value",
                other.kind()
            ))),
            (kind, _) => Err(Error::invalid_input(format!(
                "input `{name}` is of the type {}, which cannot be given to an ONNX model here",
                kind.as_type()
            ))),
        }
    }

    fn tensor(&mut self, memory: &MemoryInfo<'_>, tensor: &Tensor) -> Result<Ort> {
        let (datatype, shape) = (tensor.datatype(), tensor.shape());
        let plain = tensor.contiguous_bytes().filter(|b| (b.as_ptr() as usize).is_multiple_of(datatype.size()));
        if let Some(bytes) = plain {
            let start = bytes.as_ptr() as usize;
            self.taken.push(start..start + bytes.len());
            // SAFETY: the bytes are as many as datatype and shape need, aligned, and live as long as the caller's tensor,
            // which outlives the call.
            return unsafe { Ort::over(memory, element(datatype), shape, bytes.as_ptr(), bytes.len()) };
        }
        let copy = Ort::new(element(datatype), shape)?;
        let whole = tensor.to_contiguous();
        let bytes = whole.contiguous_bytes().unwrap_or_default();
        if !bytes.is_empty() {
            // SAFETY: the new tensor has the same datatype and shape, so as many bytes, and nobody else knows it.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), copy.data()?, bytes.len()) };
        }
        Ok(copy)
    }

    /// A result in the engine's form.
    ///
    /// # Errors
    /// `Failed` where it is of a type that has none.
    pub(crate) fn output(&mut self, name: &str, value: Ort, owner: &Owner) -> Result<Value> {
        match value.form()? {
            Form::Tensor => self.output_tensor(name, value, owner),
            Form::Sequence => {
                let items = 0..value.count()?;
                items.map(|i| self.output(name, value.item(i)?, owner)).collect::<Result<_>>().map(Value::List)
            }
            Form::Map => {
                let mut part = |i| self.output(name, value.item(i)?, owner).and_then(|v| each(name, v));
                Ok(Value::Dict(part(0)?.into_iter().zip(part(1)?).collect()))
            }
            Form::Optional if !value.is_there()? => Ok(Value::None),
            Form::Optional | Form::Other => {
                Err(Error::failed(format!("output `{name}` is of a type of ONNX that has no value here")))
            }
        }
    }

    fn output_tensor(&mut self, name: &str, value: Ort, owner: &Owner) -> Result<Value> {
        if !value.is_there()? {
            return Ok(Value::None);
        }
        let (element, shape) = value.shape()?;
        if element == STRING {
            let count: i64 = shape.iter().product();
            return Ok(nested(&mut value.texts(usize::try_from(count).unwrap_or(0))?.into_iter(), &shape));
        }
        let Some(datatype) = onnx::datatype(element) else {
            let what = onnx::element_name(element);
            return Err(Error::failed(format!("output `{name}` is of {what}, which no datatype stands for here")));
        };
        let length = byte_length(datatype, &shape)?;
        let Some(data) = NonNull::new(value.data()?).filter(|_| length > 0) else {
            return Tensor::new(datatype, shape, Arc::new(Vec::new())).map(Value::Tensor);
        };
        let start = data.as_ptr() as usize;
        let range = start..start + length;
        // An input that the graph returns as it is lies in memory of the caller, who may free it.
        let shares = self.taken.iter().any(|other| other.start < range.end && range.start < other.end);
        let memory = OrtMemory { _value: value, _owner: owner.clone(), data, length };
        if shares {
            return Tensor::new(datatype, shape, Arc::new(memory.bytes().to_vec())).map(Value::Tensor);
        }
        self.taken.push(range);
        Tensor::new(datatype, shape, Arc::new(memory)).map(Value::Tensor)
    }
}

/// Without this, ONNX Runtime's own words would tell indices, not names.
fn check(name: &str, wanted: u64, dims: Option<&[Dim]>, tensor: &Tensor) -> Result<()> {
    let got = tensor.datatype();
    let Some(datatype) = onnx::datatype(wanted) else {
        return Err(Error::invalid_input(format!(
            "input `{name}` is a tensor of {}, which no datatype stands for here",
            onnx::element_name(wanted)
        )));
    };
    if got != datatype {
        return Err(Error::invalid_input(format!(
            "input `{name}` is {got} ({}), the model expects {datatype} ({})",
            got.numpy_name(),
            datatype.numpy_name()
        )));
    }
    let Some(dims) = dims else { return Ok(()) };
    let fits = |(size, dim): (&i64, &Dim)| !matches!(dim, Dim::Fixed(n) if n != size);
    if tensor.shape().len() != dims.len() || !tensor.shape().iter().zip(dims).all(fits) {
        return Err(Error::invalid_input(format!(
            "input `{name}` has shape {:?}, the model expects {}",
            tensor.shape(),
            shown(dims)
        )));
    }
    Ok(())
}

/// `[batch, 4]`
fn shown(dims: &[Dim]) -> String {
    let one = |dim: &Dim| match dim {
        Dim::Fixed(n) => n.to_string(),
        Dim::Named(name) => name.clone(),
    };
    format!("[{}]", dims.iter().map(one).collect::<Vec<_>>().join(", "))
}

/// Lists of texts, one in the other for each dimension, as a tensor.
fn texts(name: &str, dims: Option<&[Dim]>, value: &Value) -> Result<Ort> {
    fn collect(value: &Value, depth: usize, shape: &mut Vec<i64>, all: &mut Vec<CString>) -> Option<()> {
        match value {
            Value::Str(text) if depth == shape.len() => all.push(CString::new(text.as_str()).ok()?),
            Value::List(items) => {
                let size = items.len() as i64;
                if shape.len() == depth && all.is_empty() {
                    shape.push(size);
                }
                if shape.get(depth) != Some(&size) {
                    return None;
                }
                items.iter().try_for_each(|item| collect(item, depth + 1, shape, all))?;
            }
            _ => return None,
        }
        Some(())
    }
    let (mut shape, mut all) = (Vec::new(), Vec::new());
    let fits = |shape: &[i64]| {
        dims.is_none_or(|dims| {
            dims.len() == shape.len() && dims.iter().zip(shape).all(|(d, s)| !matches!(d, Dim::Fixed(n) if n != s))
        })
    };
    let is_whole = collect(value, 0, &mut shape, &mut all).is_some();
    if let (Some(dims), true) = (dims, shape.contains(&0)) {
        // A list without rows does not say how long its rows would be.
        let missing = dims.iter().skip(shape.len()).map(|d| if let Dim::Fixed(n) = d { *n } else { 0 });
        shape.extend(missing);
    }
    if !is_whole || !fits(&shape) {
        let expected = dims.map_or_else(|| "any shape".to_owned(), |dims| format!("shape {}", shown(dims)));
        return Err(Error::invalid_input(format!(
            "input `{name}` takes texts, as lists of str in each other, of {expected}, none with a NUL in it"
        )));
    }
    let tensor = Ort::new(Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING, &shape)?;
    if !all.is_empty() {
        tensor.fill(&all)?;
    }
    Ok(tensor)
}

/// The memory of a result.
struct OrtMemory {
    /// Only for its destructor: it owns the bytes.
    _value: Ort,
    /// The bytes came from an allocator of the session.
    _owner: Owner,
    data: NonNull<u8>,
    length: usize,
}

// SAFETY: the value may be released on any thread; the bytes behind `data` are owned by it and read only through `bytes`.
unsafe impl Send for OrtMemory {}
// SAFETY: as above.
unsafe impl Sync for OrtMemory {}

impl Memory for OrtMemory {
    fn bytes(&self) -> &[u8] {
        // SAFETY: the tensor has that many bytes and lives as long as self.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.length) }
    }

    fn writable(&self) -> Option<NonNull<u8>> {
        // ONNX Runtime copies a weight that is a result; what lies in memory of others was copied here.
        Some(self.data)
    }
}

/// Texts as lists in each other.
fn nested(texts: &mut dyn Iterator<Item = String>, shape: &[i64]) -> Value {
    match shape.split_first() {
        None => Value::Str(texts.next().unwrap_or_default()),
        Some((&size, rest)) => Value::List((0..size).map(|_| nested(texts, rest)).collect()),
    }
}

/// The keys or values of a map, one by one.
fn each(name: &str, value: Value) -> Result<Vec<Value>> {
    let odd = || Error::failed(format!("output `{name}` is a map of a type that has no value here"));
    match value {
        Value::List(items) => Ok(items),
        Value::Tensor(t) if t.datatype() == Datatype::Int64 => {
            Ok(t.to_vec::<i64>()?.into_iter().map(Value::Int).collect())
        }
        Value::Tensor(t) if t.datatype().is_float() => Ok(t.to_f64_vec().into_iter().map(Value::Float).collect()),
        _ => Err(odd()),
    }
}
