//! Who answers what compiled code calls: our own functions ([`own`]), or libtorch through the same C interface
//! (`torch/csrc/inductor/aoti_torch/c/shim.h`), looked up once.

use crate::own;
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use rust_host_engine::{Error, Result, Tensor, process};
use std::{
    ffi::{c_int, c_void},
    path::Path,
    ptr,
    sync::OnceLock,
};

/// A tensor behind the C interface.
#[repr(C)]
pub(crate) struct RawTensor {
    _opaque: [u8; 0],
}

type Handle = *mut RawTensor;

type CreateFromBlob = unsafe extern "C" fn(
    *mut c_void,
    i64,
    *const i64,
    *const i64,
    i64,
    i32,
    i32,
    i32,
    *mut Handle,
    i32,
    *const u8,
    i64,
) -> i32;
type Ask<T> = unsafe extern "C" fn(Handle, *mut T) -> i32;

/// One of the two, with the functions that we ourselves call.
pub(crate) struct Host {
    create_tensor_from_blob: CreateFromBlob,
    delete_tensor: unsafe extern "C" fn(Handle) -> i32,
    get_data_ptr: Ask<*mut c_void>,
    get_dim: Ask<i64>,
    get_sizes: Ask<*mut i64>,
    get_strides: Ask<*mut i64>,
    get_dtype: Ask<i32>,
    get_device_type: Ask<i32>,
    threads: Threads,
    strided: i32,
    /// That opened it.
    process: u32,
}

/// Who has the threads of parallel code.
enum Threads {
    Own,
    OpenMp { libtorch: Library, get: unsafe extern "C" fn() -> c_int, set: unsafe extern "C" fn(c_int) },
}

/// `c10::DeviceType::CPU`
const CPU: i32 = 0;

/// Those of the functions that our own do not answer.
pub(crate) fn lacks(functions: &[String]) -> Vec<&str> {
    functions.iter().map(String::as_str).filter(|name| !own::answers(name)).collect()
}

static OWN: OnceLock<Host> = OnceLock::new();

/// Our own functions.
pub(crate) fn own() -> &'static Host {
    OWN.get_or_init(Host::own)
}

/// The number of threads for a call of theirs; whoever only asks does not make them this process's.
pub(crate) fn threads_of_own(asked: Option<usize>) -> usize {
    match OWN.get() {
        Some(host) => host.threads(asked),
        None => asked.unwrap_or_else(own::threads::usual),
    }
}

/// libtorch of that path, its functions visible to every library that is opened later. It is never closed.
///
/// # Errors
/// `Unavailable` if it cannot be opened or lacks a function.
pub(crate) fn libtorch(path: &Path) -> Result<&'static Host> {
    static OPENED: OnceLock<std::result::Result<Host, String>> = OnceLock::new();
    OPENED
        .get_or_init(|| Host::libtorch(path))
        .as_ref()
        .map_err(|text| Error::unavailable(text).hint("`rust-host doctor` shows which libtorch is used"))
}

impl Host {
    fn own() -> Self {
        use own::tensor;
        macro_rules! as_handle {
            ($function:path as $type:ty) => {
                // SAFETY: both types are pointers that nobody but these functions looks behind.
                unsafe { std::mem::transmute::<*const (), $type>($function as *const ()) }
            };
        }
        Self {
            create_tensor_from_blob: as_handle!(tensor::create_tensor_from_blob_v2 as CreateFromBlob),
            delete_tensor: as_handle!(tensor::delete_tensor_object as unsafe extern "C" fn(Handle) -> i32),
            get_data_ptr: as_handle!(tensor::get_data_ptr as Ask<*mut c_void>),
            get_dim: as_handle!(tensor::get_dim as Ask<i64>),
            get_sizes: as_handle!(tensor::get_sizes as Ask<*mut i64>),
            get_strides: as_handle!(tensor::get_strides as Ask<*mut i64>),
            get_dtype: as_handle!(tensor::get_dtype as Ask<i32>),
            get_device_type: as_handle!(tensor::get_device_type as Ask<i32>),
            threads: Threads::Own,
            strided: tensor::layout_strided(),
            process: process::id(),
        }
    }

    fn libtorch(path: &Path) -> std::result::Result<Self, String> {
        let shown = path.display();
        // SAFETY: libtorch's initialisers may run on any thread and run once; where it is loaded already, this only makes its
        // symbols visible.
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }.map_err(|e| {
            use std::error::Error as _;
            let text = e.source().map_or_else(|| e.to_string(), ToString::to_string);
            format!("`{shown}` cannot be loaded: {}", text.lines().next().unwrap_or_default())
        })?;
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the functions have these types in the header of the libtorch that this host is built for, and
                // another version is not run with it.
                *unsafe { library.get(concat!($name, "\0").as_bytes()) }
                    .map_err(|_| format!("`{shown}` has no `{}`, as libtorch does that runs compiled code", $name))?
            };
        }
        let layout: unsafe extern "C" fn() -> i32 = function!("aoti_torch_layout_strided");
        Ok(Self {
            create_tensor_from_blob: function!("aoti_torch_create_tensor_from_blob_v2"),
            delete_tensor: function!("aoti_torch_delete_tensor_object"),
            get_data_ptr: function!("aoti_torch_get_data_ptr"),
            get_dim: function!("aoti_torch_get_dim"),
            get_sizes: function!("aoti_torch_get_sizes"),
            get_strides: function!("aoti_torch_get_strides"),
            get_dtype: function!("aoti_torch_get_dtype"),
            get_device_type: function!("aoti_torch_get_device_type"),
            // SAFETY: it takes nothing and returns a constant.
            strided: unsafe { layout() },
            process: process::id(),
            threads: Threads::OpenMp {
                get: function!("omp_get_max_threads"),
                set: function!("omp_set_num_threads"),
                libtorch: library,
            },
        })
    }

    /// Whether libtorch has every function that a package calls; of our own, [`lacks`] says it.
    ///
    /// # Errors
    /// `Unavailable` that names those which are not there.
    pub(crate) fn check(&self, functions: &[String]) -> Result<()> {
        let Threads::OpenMp { libtorch, .. } = &self.threads else { return Ok(()) };
        // SAFETY: only whether there is such a symbol is asked; it is not used.
        let is_there = |name: &str| unsafe { libtorch.get::<*const c_void>(name.as_bytes()) }.is_ok();
        let missing: Vec<&str> = functions.iter().map(String::as_str).filter(|name| !is_there(name)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::unavailable(format!("its code calls `{}`, which this libtorch does not have", missing.join("`, `")))
            .hint("compile it with the torch that `rust-host doctor` names"))
    }

    /// Whether code that is opened for this host asks for our own functions.
    pub(crate) fn is_own(&self) -> bool {
        matches!(self.threads, Threads::Own)
    }

    /// Runs a call with as many threads as were asked for: one in a child that was forked since, whatever was asked for. It
    /// does not have the threads that parallel code would wait for. Where nobody asked, as many as this machine should use, with
    /// libtorch at most what somebody in this process told it; in Python the thread is the user's, so the number before comes
    /// back.
    pub(crate) fn with_threads<T>(&self, asked: Option<usize>, call: impl FnOnce() -> T) -> T {
        let wanted = self.threads(asked);
        match &self.threads {
            Threads::Own => own::threads::with(wanted, call),
            Threads::OpenMp { get, set, .. } => {
                // SAFETY: both are about a number of the calling thread.
                let (before, set) = (unsafe { get() }, |count: c_int| unsafe { set(count) });
                let count = c_int::try_from(wanted).unwrap_or(c_int::MAX);
                if before == count {
                    return call();
                }
                set(count);
                let result = call();
                set(before);
                result
            }
        }
    }

    /// The number for a call of this thread.
    pub(crate) fn threads(&self, asked: Option<usize>) -> usize {
        match (&self.threads, asked) {
            _ if process::id() != self.process => 1,
            (_, Some(count)) => count,
            (Threads::Own, None) => own::threads::usual(),
            // SAFETY: it reads a number of the calling thread.
            (Threads::OpenMp { get, .. }, None) => {
                usize::try_from(unsafe { get() }).unwrap_or(1).clamp(1, own::threads::usual())
            }
        }
    }

    /// A handle over the memory of a row-major tensor, which must live as long as the handle.
    pub(crate) fn borrow(&self, tensor: &Tensor) -> Result<Owned<'_>> {
        let bytes = tensor.contiguous_bytes().ok_or_else(|| Error::internal("the tensor is not row-major"))?;
        let strides = row_major_strides(tensor.shape());
        let mut handle = ptr::null_mut();
        // SAFETY: sizes and strides describe `bytes`. That the code only reads them is what the owner of this machine trusts
        // it for: `py-authoring export` compiles no model that writes into its inputs.
        let failed = unsafe {
            (self.create_tensor_from_blob)(
                bytes.as_ptr().cast_mut().cast(),
                tensor.shape().len() as i64,
                tensor.shape().as_ptr(),
                strides.as_ptr(),
                0,
                tensor.datatype().torch_code(),
                CPU,
                0,
                &raw mut handle,
                self.strided,
                ptr::null(),
                0,
            )
        };
        match failed {
            0 => Ok(Owned { host: self, handle }),
            _ => Err(Error::failed(format!("the compiled code cannot take the input {tensor:?}"))),
        }
    }

    /// What a tensor is: sizes, strides (in elements), torch's number of the datatype, and where its first element lies.
    pub(crate) fn describe(&self, tensor: &Owned<'_>) -> Result<Description> {
        let handle = tensor.handle;
        let (mut data, mut dim, mut sizes, mut strides) = (ptr::null_mut(), 0i64, ptr::null_mut(), ptr::null_mut());
        let (mut dtype, mut device) = (0, 0);
        // SAFETY: the handle lives, and the places take what the functions return.
        let failed = unsafe {
            (self.get_data_ptr)(handle, &raw mut data)
                | (self.get_dim)(handle, &raw mut dim)
                | (self.get_sizes)(handle, &raw mut sizes)
                | (self.get_strides)(handle, &raw mut strides)
                | (self.get_dtype)(handle, &raw mut dtype)
                | (self.get_device_type)(handle, &raw mut device)
        };
        if failed != 0 || device != CPU {
            return Err(Error::failed("an output of the compiled code is no tensor on the processor"));
        }
        let count = usize::try_from(dim).unwrap_or_default();
        let copy = |numbers: *mut i64| match count {
            0 => Vec::new(),
            // SAFETY: both arrays have `dim` numbers and live as long as the tensor.
            _ => unsafe { std::slice::from_raw_parts(numbers, count) }.to_vec(),
        };
        Ok(Description { shape: copy(sizes), strides: copy(strides), dtype, data: data.cast() })
    }

    /// Bytes that a tensor keeps from others, as far as that is known here.
    pub(crate) fn room(&self, tensor: &Owned<'_>) -> usize {
        match self.threads {
            // SAFETY: the handle is this host's, and lives.
            Threads::Own => unsafe { own::tensor::room(tensor.handle.cast()) },
            Threads::OpenMp { .. } => 0,
        }
    }
}

/// Distances between neighbours, in elements.
pub(crate) fn row_major_strides(shape: &[i64]) -> Vec<i64> {
    let mut strides = vec![1i64; shape.len()];
    for at in (1..strides.len()).rev() {
        strides[at - 1] = strides[at] * shape[at].max(1);
    }
    strides
}

/// What [`Host::describe`] found.
pub(crate) struct Description {
    pub(crate) shape: Vec<i64>,
    pub(crate) strides: Vec<i64>,
    pub(crate) dtype: i32,
    pub(crate) data: *mut u8,
}

/// A handle that is given back when it is dropped.
pub(crate) struct Owned<'t> {
    host: &'t Host,
    handle: Handle,
}

impl<'t> Owned<'t> {
    /// Takes over a handle, which must be one that nobody else gives back.
    pub(crate) fn from_raw(host: &'t Host, handle: *mut RawTensor) -> Option<Self> {
        (!handle.is_null()).then_some(Self { host, handle })
    }

    /// The handle, which somebody else gives back from now on.
    pub(crate) fn into_raw(self) -> *mut RawTensor {
        std::mem::ManuallyDrop::new(self).handle
    }
}

impl Drop for Owned<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle is ours alone.
        unsafe { (self.host.delete_tensor)(self.handle) };
    }
}

// SAFETY: a tensor may be given back on any thread, and nothing else is done with it through a shared reference.
unsafe impl Send for Owned<'_> {}
// SAFETY: as above.
unsafe impl Sync for Owned<'_> {}
