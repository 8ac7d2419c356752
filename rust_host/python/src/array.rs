//! NumPy arrays ↔ the engine's tensors, without copying the elements where both sides allow it. With `dlpack`, the only
//! place of this crate that touches memory by address.
#![expect(unsafe_code, reason = "arrays outlive the call that made them, so their memory is held by address and owner")]

pub(crate) mod dlpack;

use crate::error::{invalid_input, to_py};
use numpy::npyffi::{_PyArray_GET_ITEM_DATA, NPY_ARRAY_WRITEABLE, NPY_TYPES, NpyTypes, get_type_object};
use numpy::{PY_ARRAY_API, PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::{intern, prelude::*, types::PyDict};
use rust_host_engine::{Datatype, Memory, Tensor};
use std::{
    ffi::{c_int, c_long, c_void},
    ptr::{self, NonNull},
    sync::Arc,
};

// NumPy's `long` and index types are 64 bits wide wherever this is built.
const _: () = assert!(size_of::<c_long>() == 8 && size_of::<isize>() == 8);

/// Results up to this many bytes are copied: that is faster than an owner object, and frees libtorch's block at once.
const SMALL: usize = 1024;

/// The memory of a NumPy array, kept alive by a reference to the array.
struct ArrayMemory {
    start: NonNull<u8>,
    length: usize,
    /// Dropped last. On a thread without the GIL, PyO3 gives the reference back when the GIL is next taken: waiting for it
    /// here could be for ever, if its holder waits for this thread.
    _array: Py<PyAny>,
}

// SAFETY: `start` is only read, and the array's memory does not move while it is referenced (NumPy refuses to resize it).
// That another Python thread may write to it meanwhile is as with every NumPy function: numbers, never addresses, change.
unsafe impl Send for ArrayMemory {}
// SAFETY: as above.
unsafe impl Sync for ArrayMemory {}

impl Memory for ArrayMemory {
    fn bytes(&self) -> &[u8] {
        // SAFETY: `from_numpy` computed the span from the array's own shape and strides; the array lives as long as self.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

/// The datatype of a NumPy type number.
fn datatype(number: c_int) -> Option<Datatype> {
    use NPY_TYPES as N;
    Some(match number {
        n if n == N::NPY_FLOAT as c_int => Datatype::Fp32,
        n if n == N::NPY_LONG as c_int || n == N::NPY_LONGLONG as c_int => Datatype::Int64,
        n if n == N::NPY_BOOL as c_int => Datatype::Bool,
        n if n == N::NPY_BYTE as c_int => Datatype::Int8,
        n if n == N::NPY_UBYTE as c_int => Datatype::Uint8,
        n if n == N::NPY_SHORT as c_int => Datatype::Int16,
        n if n == N::NPY_USHORT as c_int => Datatype::Uint16,
        n if n == N::NPY_INT as c_int => Datatype::Int32,
        n if n == N::NPY_UINT as c_int => Datatype::Uint32,
        n if n == N::NPY_ULONG as c_int || n == N::NPY_ULONGLONG as c_int => Datatype::Uint64,
        n if n == N::NPY_HALF as c_int => Datatype::Fp16,
        n if n == N::NPY_DOUBLE as c_int => Datatype::Fp64,
        _ => return None,
    })
}

/// NumPy's type for a datatype; it has none for BF16, whose values FP32 holds exactly.
fn type_number(datatype: Datatype) -> c_int {
    (match datatype {
        Datatype::Bool => NPY_TYPES::NPY_BOOL,
        Datatype::Uint8 => NPY_TYPES::NPY_UBYTE,
        Datatype::Uint16 => NPY_TYPES::NPY_USHORT,
        Datatype::Uint32 => NPY_TYPES::NPY_UINT,
        Datatype::Uint64 => NPY_TYPES::NPY_ULONG,
        Datatype::Int8 => NPY_TYPES::NPY_BYTE,
        Datatype::Int16 => NPY_TYPES::NPY_SHORT,
        Datatype::Int32 => NPY_TYPES::NPY_INT,
        Datatype::Int64 => NPY_TYPES::NPY_LONG,
        Datatype::Fp16 => NPY_TYPES::NPY_HALF,
        Datatype::Fp32 | Datatype::Bf16 => NPY_TYPES::NPY_FLOAT,
        Datatype::Fp64 => NPY_TYPES::NPY_DOUBLE,
    }) as c_int
}

/// A tensor over the array's memory. Big-endian, unaligned and backwards arrays are copied first; the caller's array is
/// never written to.
///
/// # Errors
/// `InvalidInputError` for elements that are no numbers, or wider than any datatype.
pub(crate) fn from_numpy(array: &Bound<'_, PyUntypedArray>, at: &str) -> PyResult<Tensor> {
    let py = array.py();
    let dtype = array.dtype();
    let number = dtype.num();
    let Some(datatype) = datatype(number).or_else(|| bfloat16(&dtype)) else {
        let known = "bool, int8 to int64, uint8 to uint64, float16, float32, float64";
        return Err(invalid_input(py, format!("input `{at}` has the dtype {}, expected one of {known}", dtype.str()?)));
    };
    let size = datatype.size();
    let fits = array.is_aligned()
        && dtype.is_native_byteorder() != Some(false)
        && (array.is_c_contiguous() || array.strides().iter().all(|&s| s >= 0 && (s as usize).is_multiple_of(size)));
    if fits {
        return view(array, datatype, at);
    }
    let options = PyDict::new(py);
    options.set_item(intern!(py, "order"), intern!(py, "C"))?;
    let native = dtype.call_method1(intern!(py, "newbyteorder"), (intern!(py, "="),))?;
    options.set_item(intern!(py, "dtype"), native)?;
    let copy = py.import(intern!(py, "numpy"))?.call_method(intern!(py, "array"), (array,), Some(&options))?;
    view(copy.cast::<PyUntypedArray>()?, datatype, at)
}

/// `bfloat16` of the package ml_dtypes, which JAX and TensorFlow use.
fn bfloat16(dtype: &Bound<'_, numpy::PyArrayDescr>) -> Option<Datatype> {
    let named = dtype.getattr(intern!(dtype.py(), "name")).is_ok_and(|n| n.eq("bfloat16").unwrap_or(false));
    (named && dtype.itemsize() == 2).then_some(Datatype::Bf16)
}

/// A tensor over an array of native, aligned elements with strides that are no negative multiples of the element.
fn view(array: &Bound<'_, PyUntypedArray>, datatype: Datatype, at: &str) -> PyResult<Tensor> {
    let size = datatype.size();
    let (sizes, strides) = (array.shape(), array.strides());
    let length = match array.len() {
        0 => 0,
        _ => sizes.iter().zip(strides).map(|(&n, &s)| (n - 1) * s as usize).sum::<usize>() + size,
    };
    // SAFETY: the array is alive and the GIL is held.
    let data = unsafe { (*_PyArray_GET_ITEM_DATA(array.as_array_ptr())).data };
    let start = NonNull::new(data.cast::<u8>()).unwrap_or(NonNull::dangling());
    let memory = Arc::new(ArrayMemory { start, length, _array: array.clone().into_any().unbind() });
    let shape = sizes.iter().map(|&n| n as i64).collect();
    let tensor = if array.is_c_contiguous() {
        Tensor::new(datatype, shape, memory)
    } else {
        Tensor::strided(datatype, shape, strides.iter().map(|&s| s as i64 / size as i64).collect(), 0, memory)
    };
    tensor.map_err(|e| {
        to_py(array.py(), &rust_host_engine::Error { message: format!("input `{at}`: {}", e.message), ..e })
    })
}

/// The owner of a result's memory: the base of the NumPy array over it.
#[pyclass(frozen, module = "rust_host._native")]
struct Owner {
    /// Only for its destructor.
    _memory: Arc<dyn Memory>,
}

/// A NumPy array that shares the result's memory, or a copy where somebody else may be reading that. BF16 becomes float32,
/// which holds each of its values exactly.
pub(crate) fn to_numpy<'py>(py: Python<'py>, tensor: &Tensor) -> PyResult<Bound<'py, PyAny>> {
    let size = tensor.datatype().size() as isize;
    match tensor.memory().writable() {
        Some(start) if tensor.byte_len() > SMALL && tensor.datatype() != Datatype::Bf16 => {
            let strides: Option<Vec<isize>> =
                tensor.strides().map(|strides| strides.iter().map(|&s| s as isize * size).collect());
            let owner = Bound::new(py, Owner { _memory: tensor.memory().clone() })?;
            // SAFETY: the tensor was checked to lie within its memory, so its offset does.
            let data = unsafe { start.add(tensor.offset()) };
            // SAFETY: `owner` keeps the memory alive as the array's base, and `writable` says that nobody else uses it.
            let array = unsafe { new_array(py, tensor, strides.as_deref(), data.as_ptr()) }?;
            // SAFETY: both are alive; the call takes over the reference to `owner`, also if it fails.
            let set =
                unsafe { PY_ARRAY_API.PyArray_SetBaseObject(py, array.as_ptr().cast(), owner.into_any().into_ptr()) };
            if set < 0 { Err(PyErr::fetch(py)) } else { Ok(array) }
        }
        _ => copy(py, tensor),
    }
}

fn copy<'py>(py: Python<'py>, tensor: &Tensor) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: without data the array has memory of its own.
    let array = unsafe { new_array(py, tensor, None, ptr::null_mut()) }?;
    // SAFETY: the array is alive and the GIL is held.
    let data = unsafe { (*_PyArray_GET_ITEM_DATA(array.as_ptr().cast())).data };
    let whole = tensor.to_contiguous();
    let bytes = whole.contiguous_bytes().unwrap_or_default();
    if tensor.datatype() == Datatype::Bf16 {
        let (halves, _) = bytes.as_chunks::<2>();
        for (i, half) in halves.iter().enumerate() {
            let wide = f32::from_bits(u32::from(u16::from_ne_bytes(*half)) << 16);
            // SAFETY: the new float32 array has as many elements as the tensor.
            unsafe { data.cast::<f32>().add(i).write_unaligned(wide) };
        }
    } else {
        // SAFETY: the new array is row-major and has exactly the tensor's bytes; nobody else knows it yet.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), data.cast::<u8>(), bytes.len()) };
    }
    Ok(array)
}

/// A writable array of the tensor's shape; over `data` with these strides in bytes, or with new memory if `data` is null.
///
/// # Safety
/// `data` must be null or hold the tensor's elements for as long as the array lives.
unsafe fn new_array<'py>(
    py: Python<'py>,
    tensor: &Tensor,
    strides: Option<&[isize]>,
    data: *mut u8,
) -> PyResult<Bound<'py, PyAny>> {
    let shape = tensor.shape();
    let strides = strides.map_or(ptr::null(), <[isize]>::as_ptr);
    // SAFETY: the type's number is one of NumPy's own; a new reference comes back and is taken over by the next call. Shape
    // and strides have as many entries as there are dimensions and are only read.
    unsafe {
        let descriptor = PY_ARRAY_API.PyArray_DescrFromType(py, type_number(tensor.datatype()));
        let array = PY_ARRAY_API.PyArray_NewFromDescr(
            py,
            get_type_object(py, NpyTypes::PyArray_Type),
            descriptor,
            shape.len() as c_int,
            shape.as_ptr().cast_mut().cast::<isize>(),
            strides.cast_mut(),
            data.cast::<c_void>(),
            if data.is_null() { 0 } else { NPY_ARRAY_WRITEABLE },
            ptr::null_mut(),
        );
        Bound::from_owned_ptr_or_err(py, array)
    }
}
