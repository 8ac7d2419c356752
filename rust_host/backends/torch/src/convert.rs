//! The engine's values ↔ the shim's, without copying the elements: an argument's memory is kept alive by a reference that
//! libtorch gives back when its last tensor over it is gone; a result's memory is kept alive by the libtorch tensor.

use crate::ffi::{self, RawTensor, RawValue};
use rust_host_engine::{Datatype, Error, Memory, Result, Tensor, Value};
use std::{
    ffi::{c_char, c_void},
    ptr::{self, NonNull},
    sync::Arc,
};

/// Arguments in C form. What the raw values point to lives as long as this and must not move, hence the boxes.
pub(crate) struct Arguments {
    values: Vec<RawValue>,
    nested: Vec<Vec<RawValue>>,
    #[expect(clippy::vec_box, reason = "raw values point to them: they must not move when the vector grows")]
    tensors: Vec<Box<HeldTensor>>,
    texts: Vec<String>,
}

struct HeldTensor {
    raw: RawTensor,
    /// And strides.
    #[expect(dead_code, reason = "raw pointers refer to it")]
    sizes: Vec<i64>,
}

const EMPTY: RawValue = RawValue {
    tag: ffi::NONE,
    integer: 0,
    number: 0.0,
    text: ptr::null(),
    count: 0,
    items: ptr::null(),
    tensor: ptr::null_mut(),
};

impl Arguments {
    /// The owners inside are taken over by `rh_run`, which must be called exactly once.
    pub(crate) fn new(arguments: &[Option<Value>]) -> Self {
        let mut this = Self { values: Vec::new(), nested: Vec::new(), tensors: Vec::new(), texts: Vec::new() };
        let mut values = Vec::with_capacity(arguments.len());
        for argument in arguments {
            values.push(match argument {
                None => RawValue { tag: ffi::DEFAULT, ..EMPTY },
                Some(value) => this.convert(value),
            });
        }
        this.values = values;
        this
    }

    pub(crate) fn as_ptr(&self) -> *const RawValue {
        self.values.as_ptr()
    }

    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    fn convert(&mut self, value: &Value) -> RawValue {
        match value {
            Value::None => EMPTY,
            Value::Tensor(tensor) => RawValue { tag: ffi::TENSOR, tensor: self.tensor(tensor), ..EMPTY },
            Value::Int(i) => RawValue { tag: ffi::INT, integer: *i, ..EMPTY },
            Value::Float(x) => RawValue { tag: ffi::FLOAT, number: *x, ..EMPTY },
            Value::Bool(b) => RawValue { tag: ffi::BOOL, integer: i64::from(*b), ..EMPTY },
            Value::Str(s) => self.text(s),
            Value::List(items) => self.items(ffi::LIST, items.iter()),
            Value::Tuple(items) => self.items(ffi::TUPLE, items.iter()),
            Value::NamedTuple(fields) => self.items(ffi::TUPLE, fields.iter().map(|(_, v)| v)),
            Value::Dict(pairs) => self.items(ffi::DICT, pairs.iter().flat_map(|(k, v)| [k, v])),
        }
    }

    fn text(&mut self, text: &str) -> RawValue {
        let text = text.to_owned();
        let raw = RawValue { tag: ffi::STR, text: text.as_ptr().cast::<c_char>(), count: text.len(), ..EMPTY };
        self.texts.push(text); // moving a String does not move its bytes
        raw
    }

    fn items<'a>(&mut self, tag: i32, items: impl Iterator<Item = &'a Value>) -> RawValue {
        let items: Vec<RawValue> = items.map(|v| self.convert(v)).collect();
        let raw = RawValue { tag, count: items.len(), items: items.as_ptr(), ..EMPTY };
        self.nested.push(items);
        raw
    }

    fn tensor(&mut self, tensor: &Tensor) -> *mut RawTensor {
        // libtorch has no negative strides; an element that is read twice must not be written, so zero strides go too.
        let plain = tensor.strides().is_none_or(|s| s.iter().all(|&s| s > 0));
        let tensor = if plain { tensor.clone() } else { tensor.to_contiguous() };
        let dim = tensor.shape().len();
        let mut sizes = Vec::with_capacity(2 * dim);
        sizes.extend_from_slice(tensor.shape());
        match tensor.strides() {
            Some(strides) => sizes.extend_from_slice(strides),
            None => {
                sizes.resize(2 * dim, 1);
                for d in (1..dim).rev() {
                    sizes[dim + d - 1] = sizes[dim + d] * sizes[d].max(1);
                }
            }
        }
        // An empty tensor may lie at the end of its memory, where there is no byte to point to.
        let data = tensor.memory().bytes().get(tensor.offset()..).unwrap_or_default().as_ptr();
        let raw = RawTensor {
            data: data.cast_mut().cast(),
            sizes: sizes.as_ptr(),
            strides: sizes[dim..].as_ptr(),
            dim: dim as i64,
            dtype: tensor.datatype().torch_code(),
            writable: 0,
            span: 0,
            handle: ptr::null_mut(),
            owner: Box::into_raw(Box::new(tensor.memory().clone())).cast(),
            release: Some(release),
        };
        self.tensors.push(Box::new(HeldTensor { raw, sizes })); // moving a Vec does not move its elements
        match self.tensors.last_mut() {
            Some(last) => &raw mut last.raw,
            None => ptr::null_mut(),
        }
    }
}

/// Called by libtorch, on whatever thread the last tensor over the memory was dropped.
unsafe extern "C" fn release(owner: *mut c_void) {
    // SAFETY: `owner` was made by `Box::into_raw` in `Arguments::tensor`, and the shim calls this exactly once for it.
    drop(unsafe { Box::from_raw(owner.cast::<Arc<dyn Memory>>()) });
}

/// The memory of a result: a libtorch tensor in host memory, which nobody else writes to.
struct TorchMemory {
    /// Only for its destructor: it owns the bytes.
    _tensor: tch::Tensor,
    data: NonNull<u8>,
    span: usize,
    writable: bool,
}

// SAFETY: the tensor is only dropped, which libtorch allows on any thread; the bytes behind `data` are owned by it and are
// read only through `bytes`.
unsafe impl Send for TorchMemory {}
// SAFETY: as above; no method of the tensor is called.
unsafe impl Sync for TorchMemory {}

impl Memory for TorchMemory {
    fn bytes(&self) -> &[u8] {
        // SAFETY: the shim computed `span` from the tensor's sizes and strides; the tensor lives as long as self.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.span) }
    }

    fn writable(&self) -> Option<NonNull<u8>> {
        self.writable.then_some(self.data)
    }
}

/// A result in the engine's form. Takes the tensors out of it.
///
/// # Safety
/// `raw` must come from `rh_result_value` of a result that lives, and be converted only once.
pub(crate) unsafe fn to_value(raw: &RawValue) -> Result<Value> {
    // SAFETY: the shim's nodes point to `count` items or bytes that live as long as the result.
    let items = || unsafe { slice(raw.items, raw.count) };
    Ok(match raw.tag {
        ffi::TENSOR => {
            // SAFETY: a node with this tag points to a tensor of the result.
            let tensor = unsafe { &mut *raw.tensor };
            Value::Tensor(take_tensor(tensor)?)
        }
        ffi::INT => Value::Int(raw.integer),
        ffi::FLOAT => Value::Float(raw.number),
        ffi::BOOL => Value::Bool(raw.integer != 0),
        ffi::STR => Value::Str(text(raw)),
        ffi::LIST => Value::List(all(items())?),
        ffi::TUPLE => Value::Tuple(all(items())?),
        ffi::DICT => Value::Dict(pairs(all(items())?)),
        ffi::NAMED_TUPLE => Value::NamedTuple(pairs(all(items())?).into_iter().map(|(k, v)| (k.key(), v)).collect()),
        _ => Value::None,
    })
}

fn all(items: &[RawValue]) -> Result<Vec<Value>> {
    // Every tensor is taken, also after the first that fails: what is not taken would never be freed.
    // SAFETY: as for the caller: each item is a node of the same result and converted once.
    let converted: Vec<_> = items.iter().map(|i| unsafe { to_value(i) }).collect();
    converted.into_iter().collect()
}

fn pairs(items: Vec<Value>) -> Vec<(Value, Value)> {
    let mut items = items.into_iter();
    std::iter::from_fn(|| Some((items.next()?, items.next()?))).collect()
}

fn text(raw: &RawValue) -> String {
    // SAFETY: a string node points to `count` bytes that live as long as the result.
    String::from_utf8_lossy(unsafe { slice(raw.text.cast::<u8>(), raw.count) }).into_owned()
}

fn take_tensor(raw: &mut RawTensor) -> Result<Tensor> {
    let dim = raw.dim as usize;
    // SAFETY: sizes and strides point into the tensor of `handle`, which lives until it is dropped below or with the memory.
    let (shape, strides) = unsafe { (slice(raw.sizes, dim).to_vec(), slice(raw.strides, dim).to_vec()) };
    let handle = std::mem::replace(&mut raw.handle, ptr::null_mut());
    // SAFETY: the shim put a fresh at::Tensor there, which is taken over once.
    let tensor = unsafe { tch::Tensor::from_ptr(handle.cast()) };
    let Some(datatype) = Datatype::from_torch_code(raw.dtype) else {
        return Err(Error::failed(format!("an output has the type {}, which no datatype stands for", raw.dtype)));
    };
    // An empty tensor has no memory.
    let data = NonNull::new(raw.data.cast::<u8>()).unwrap_or(NonNull::dangling());
    let memory = TorchMemory { _tensor: tensor, data, span: raw.span as usize, writable: raw.writable != 0 };
    Tensor::strided(datatype, shape, strides, 0, Arc::new(memory))
}

/// # Safety
/// `data` must point to `count` elements that live for `'a`, or `count` must be 0.
unsafe fn slice<'a, T>(data: *const T, count: usize) -> &'a [T] {
    if count == 0 || data.is_null() {
        return &[];
    }
    // SAFETY: said by the caller.
    unsafe { std::slice::from_raw_parts(data, count) }
}
