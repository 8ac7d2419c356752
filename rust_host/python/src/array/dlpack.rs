//! DLPack: any library's array in host memory → a tensor over its memory, and a result → a capsule that torch takes over.
//! The structs are those of dlpack.h, version 1.

use crate::error::{invalid_input, to_py};
use pyo3::{
    exceptions::{PyException, PyTypeError},
    ffi, intern,
    prelude::*,
    sync::PyOnceLock,
    types::{PyCapsule, PyDict, PyTuple},
};
use rust_host_engine::{Datatype, Memory, Tensor, byte_length};
use std::{
    ffi::{CStr, c_void},
    ptr::{self, NonNull},
    sync::Arc,
};

#[repr(C)]
struct RawTensor {
    data: *mut c_void,
    device_type: i32,
    device_number: i32,
    dimensions: i32,
    code: u8,
    bits: u8,
    lanes: u16,
    shape: *mut i64,
    /// In elements; null for row-major.
    strides: *mut i64,
    byte_offset: u64,
}

#[repr(C)]
struct Managed {
    tensor: RawTensor,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Managed)>,
}

#[repr(C)]
struct Versioned {
    major: u32,
    minor: u32,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Versioned)>,
    flags: u64,
    tensor: RawTensor,
}

const PLAIN_NAME: &CStr = c"dltensor";
const VERSIONED_NAME: &CStr = c"dltensor_versioned";
/// kDLCPU and kDLCUDAHost: memory that the processor reads.
const HOST: [i32; 2] = [1, 3];

/// What a capsule held, taken over from it.
enum Taken {
    Plain(NonNull<Managed>),
    Versioned(NonNull<Versioned>),
}

impl Taken {
    fn tensor(&self) -> &RawTensor {
        // SAFETY: the producer keeps the struct in place until its deleter is called, which only `drop` does.
        unsafe {
            match self {
                Self::Plain(m) => &m.as_ref().tensor,
                Self::Versioned(m) => &m.as_ref().tensor,
            }
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        // SAFETY: whoever takes a capsule over calls the deleter exactly once, on any thread; one that needs the GIL takes
        // it itself, as DLPack says.
        unsafe {
            match self {
                Self::Plain(m) => m.as_ref().deleter.map(|delete| delete(m.as_ptr())),
                Self::Versioned(m) => m.as_ref().deleter.map(|delete| delete(m.as_ptr())),
            };
        }
    }
}

/// The memory of a foreign array, kept alive by what its capsule held.
struct ForeignMemory {
    start: NonNull<u8>,
    length: usize,
    _taken: Taken,
}

// SAFETY: the memory is only read, and may be released on any thread (see `Taken`).
unsafe impl Send for ForeignMemory {}
// SAFETY: as above.
unsafe impl Sync for ForeignMemory {}

impl Memory for ForeignMemory {
    fn bytes(&self) -> &[u8] {
        // SAFETY: `read` computed the span from the producer's own shape and strides; the memory lives as long as `_taken`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

/// A tensor over the memory of anything with `__dlpack__`; `None` if it has no such method.
///
/// # Errors
/// `InvalidInputError` for memory that is not the processor's, for datatypes that the protocol lacks, and for what the
/// producer refuses to hand out (a torch tensor that requires gradients).
pub(crate) fn read(object: &Bound<'_, PyAny>, at: &str) -> PyResult<Option<Tensor>> {
    let py = object.py();
    let Some(export) = object.getattr_opt(intern!(py, "__dlpack__"))? else { return Ok(None) };
    let wrong = |what: String| invalid_input(py, format!("input `{at}` {what}"));
    let refused = |e: PyErr| match e.is_instance_of::<PyException>(py) {
        true => wrong(format!("is not handed out by its library: {}", e.value(py))),
        false => e, // KeyboardInterrupt and its like
    };
    let device = object.call_method0(intern!(py, "__dlpack_device__")).and_then(|d| d.extract::<(i32, i32)>());
    let (device, _) = device.map_err(refused)?;
    if !HOST.contains(&device) {
        return Err(wrong(
            "lies in the memory of another device; copy it to the processor first, in torch with `.cpu()`".into(),
        ));
    }
    // A torch view whose sign is still to be flipped would be read with the wrong one.
    if let Some(is_negative) = object.getattr_opt(intern!(py, "is_neg"))?
        && is_negative.call0()?.is_truthy()?
    {
        return Err(wrong("is a negative view of torch; call `.resolve_neg()` on it".into()));
    }
    let capsule = request(py, &export).map_err(refused)?;
    let taken = take(&capsule).map_err(|e| wrong(e.to_string()))?;
    let (datatype, shape, strides) = describe(taken.tensor()).map_err(wrong)?;
    let raw = taken.tensor();
    let (low, length) = span(datatype, &shape, &strides).map_err(|e| to_py(py, &e))?;
    let start = match NonNull::new(raw.data.cast::<u8>()) {
        // SAFETY: the producer says that its elements begin here, and `low` is where the first of them in memory lies.
        Some(data) if length > 0 => unsafe { data.offset(raw.byte_offset as isize - low as isize) },
        _ => NonNull::dangling(),
    };
    let memory = Arc::new(ForeignMemory { start, length, _taken: taken });
    Tensor::strided(datatype, shape, strides, low, memory).map(Some).map_err(|e| to_py(py, &e))
}

/// The capsule, in the newest form that the producer knows.
fn request<'py>(py: Python<'py>, export: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyCapsule>> {
    static NEWEST: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
    let newest = NEWEST.get_or_try_init(py, || {
        let options = PyDict::new(py);
        options.set_item("max_version", (1, 0))?;
        PyResult::Ok(options.unbind())
    })?;
    let capsule = match export.call(PyTuple::empty(py), Some(newest.bind(py))) {
        Err(e) if e.is_instance_of::<PyTypeError>(py) => export.call0(), // an older producer
        other => other,
    }?;
    Ok(capsule.cast_into::<PyCapsule>()?)
}

/// Takes the struct out of a capsule, which must not be used again.
fn take(capsule: &Bound<'_, PyCapsule>) -> PyResult<Taken> {
    let (taken, used) = if capsule.is_valid_checked(Some(VERSIONED_NAME)) {
        let managed = capsule.pointer_checked(Some(VERSIONED_NAME))?.cast::<Versioned>();
        // SAFETY: a capsule of this name holds such a struct; the version comes first in every version.
        let major = unsafe { managed.as_ref() }.major;
        if major > 1 {
            return Err(PyTypeError::new_err(format!("comes in version {major} of DLPack, expected 1")));
        }
        (Taken::Versioned(managed), c"used_dltensor_versioned")
    } else {
        (Taken::Plain(capsule.pointer_checked(Some(PLAIN_NAME))?.cast()), c"used_dltensor")
    };
    // SAFETY: the capsule is alive and the name is static. The name tells its destructor that the struct has another owner.
    if unsafe { ffi::PyCapsule_SetName(capsule.as_ptr(), used.as_ptr()) } != 0 {
        std::mem::forget(taken); // the capsule still owns it
        return Err(PyErr::fetch(capsule.py()));
    }
    Ok(taken)
}

/// Datatype, shape and strides in elements, or what is wrong with them.
fn describe(raw: &RawTensor) -> Result<(Datatype, Vec<i64>, Vec<i64>), String> {
    let datatype = match (raw.code, raw.bits, raw.lanes) {
        (0, 8, 1) => Datatype::Int8,
        (0, 16, 1) => Datatype::Int16,
        (0, 32, 1) => Datatype::Int32,
        (0, 64, 1) => Datatype::Int64,
        (1, 8, 1) => Datatype::Uint8,
        (1, 16, 1) => Datatype::Uint16,
        (1, 32, 1) => Datatype::Uint32,
        (1, 64, 1) => Datatype::Uint64,
        (2, 16, 1) => Datatype::Fp16,
        (2, 32, 1) => Datatype::Fp32,
        (2, 64, 1) => Datatype::Fp64,
        (4, 16, 1) => Datatype::Bf16,
        (6, 8, 1) => Datatype::Bool,
        (5, bits, 1) => return Err(format!("has the dtype complex{bits}, which no datatype stands for")),
        (code, bits, _) => {
            return Err(format!("has elements that no datatype stands for (DLPack code {code}, {bits} bits)"));
        }
    };
    let dimensions = usize::try_from(raw.dimensions).map_err(|_| "has a negative number of dimensions".to_owned())?;
    let copy = |p: *const i64| match dimensions {
        0 => Vec::new(),
        // SAFETY: the producer says that there are as many entries as dimensions.
        _ => unsafe { std::slice::from_raw_parts(p, dimensions) }.to_vec(),
    };
    let shape = if raw.shape.is_null() { Vec::new() } else { copy(raw.shape) };
    let strides = if raw.strides.is_null() {
        let mut strides = vec![1i64; shape.len()];
        for d in (1..shape.len()).rev() {
            strides[d - 1] = strides[d].saturating_mul(shape[d].max(1));
        }
        strides
    } else {
        copy(raw.strides)
    };
    Ok((datatype, shape, strides))
}

/// Bytes before the first element that memory has to have (strides may be negative), and bytes altogether.
fn span(datatype: Datatype, shape: &[i64], strides: &[i64]) -> rust_host_engine::Result<(usize, usize)> {
    let size = datatype.size() as i128;
    if byte_length(datatype, shape)? == 0 {
        return Ok((0, 0));
    }
    let (mut low, mut high) = (0i128, 0i128);
    for (&n, &s) in shape.iter().zip(strides) {
        let reach = i128::from(n - 1) * i128::from(s) * size;
        *(if reach < 0 { &mut low } else { &mut high }) += reach;
    }
    let fits = |bytes: i128| isize::try_from(bytes).ok().map(|b| b as usize);
    fits(-low).zip(fits(high - low + size)).ok_or_else(|| {
        rust_host_engine::Error::invalid_input(format!(
            "shape {shape:?} with strides {strides:?} leaves the address space"
        ))
    })
}

/// A result on its way to another library: what `torch.from_dlpack` takes.
#[pyclass(frozen, module = "rust_host._native")]
struct Export {
    tensor: Tensor,
}

#[pymethods]
impl Export {
    #[pyo3(signature = (**_options))]
    fn __dlpack__<'py>(
        &self,
        py: Python<'py>,
        _options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        let exported = Box::into_raw(Box::new(Exported::new(&self.tensor)));
        // SAFETY: the box was just made, and from here on belongs to the capsule. It points to itself, so it must not move.
        let managed = unsafe {
            let exported = &mut *exported;
            exported.managed.context = ptr::from_mut(exported).cast();
            NonNull::from(&mut exported.managed)
        };
        // SAFETY: the capsule's destructor frees the box if nobody took it over; it can run on any thread.
        unsafe { PyCapsule::new_with_pointer_and_destructor(py, managed.cast(), PLAIN_NAME, Some(destroy_capsule)) }
    }

    fn __dlpack_device__(&self) -> (i32, i32) {
        (HOST[0], 0)
    }
}

/// What a capsule of ours holds, with everything that it points to.
struct Exported {
    managed: Managed,
    shape: Vec<i64>,
    strides: Vec<i64>,
    /// The result itself, where it may be written to.
    _shared: Option<Tensor>,
    /// Otherwise a copy, of 64-bit words so that every datatype is aligned.
    copy: Vec<u64>,
}

impl Exported {
    fn new(tensor: &Tensor) -> Self {
        let (code, bits) = match tensor.datatype() {
            Datatype::Bool => (6, 8),
            Datatype::Bf16 => (4, 16),
            Datatype::Fp16 | Datatype::Fp32 | Datatype::Fp64 => (2, tensor.datatype().size() * 8),
            Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 | Datatype::Uint64 => {
                (1, tensor.datatype().size() * 8)
            }
            Datatype::Int8 | Datatype::Int16 | Datatype::Int32 | Datatype::Int64 => (0, tensor.datatype().size() * 8),
        };
        let writable = tensor.memory().writable();
        let shared = if writable.is_some() { tensor.clone() } else { tensor.to_contiguous() };
        let mut this = Self {
            managed: Managed {
                tensor: RawTensor {
                    data: ptr::null_mut(),
                    device_type: HOST[0],
                    device_number: 0,
                    dimensions: tensor.shape().len() as i32,
                    code,
                    bits: bits as u8,
                    lanes: 1,
                    shape: ptr::null_mut(),
                    strides: ptr::null_mut(),
                    byte_offset: 0,
                },
                context: ptr::null_mut(),
                deleter: Some(delete),
            },
            shape: tensor.shape().to_vec(),
            strides: shared.strides().map(<[i64]>::to_vec).unwrap_or_default(),
            _shared: None,
            copy: Vec::new(),
        };
        this.managed.tensor.shape = this.shape.as_mut_ptr(); // moving a Vec does not move its elements
        if !this.strides.is_empty() {
            this.managed.tensor.strides = this.strides.as_mut_ptr();
        }
        this.managed.tensor.data = match writable {
            // SAFETY: the tensor was checked to lie within its memory, so its offset does.
            Some(start) => unsafe { start.add(shared.offset()) }.as_ptr().cast(),
            None => {
                let bytes = shared.contiguous_bytes().unwrap_or_default();
                this.copy = vec![0; bytes.len().div_ceil(8)];
                // SAFETY: there is room for the bytes, and nobody else knows the new vector.
                unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), this.copy.as_mut_ptr().cast::<u8>(), bytes.len()) };
                this.copy.as_mut_ptr().cast()
            }
        };
        this._shared = writable.map(|_| shared);
        this
    }
}

/// Called by whoever took the capsule over, on any thread.
unsafe extern "C" fn delete(managed: *mut Managed) {
    // SAFETY: `context` is the box of `__dlpack__`, and the deleter is called exactly once.
    drop(unsafe { Box::from_raw((*managed).context.cast::<Exported>()) });
}

unsafe extern "C" fn destroy_capsule(capsule: *mut ffi::PyObject) {
    // SAFETY: Python calls this with the capsule that is being freed; under another name its struct has another owner.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, PLAIN_NAME.as_ptr()) == 1 {
            delete(ffi::PyCapsule_GetPointer(capsule, PLAIN_NAME.as_ptr()).cast());
        }
    }
}

/// The result as a torch tensor that shares its memory, or a copy where somebody else may be reading that.
pub(crate) fn to_torch<'py>(py: Python<'py>, tensor: Tensor) -> PyResult<Bound<'py, PyAny>> {
    let result = Bound::new(py, Export { tensor })?;
    py.import(intern!(py, "torch"))?.call_method1(intern!(py, "from_dlpack"), (result,))
}
