//! TorchScript through tch and libtorch, on the processor and on CUDA.
//!
//! tch gives tensors' ownership, devices and threads; the shim in `csrc/` gives what tch does not reach. Binary and wheel open
//! it at need, as the library of the crate beside this one.
#![expect(
    unsafe_code,
    reason = "the wall towards libtorch: ffi.rs, shim.rs and convert.rs, each block with its SAFETY line"
)]

mod convert;
mod device;
mod ffi;
mod gpu;
mod shim;

use rust_host_engine::{
    Archive, Backend, Bytes, Device, DeviceRequest, Error, Method, Platform, Program, Result, Speed, Tolerance, Value,
};
use std::sync::{Arc, OnceLock};

/// The backend of this process. The first call sets libtorch up.
///
/// # Errors
/// `Unavailable` if libtorch cannot be set up.
///
/// ```
/// use rust_host_engine::DeviceRequest;
/// let backend = rust_host_torch::backend()?;
/// assert_eq!(backend.device(DeviceRequest::Only(rust_host_engine::Device::Cpu))?.to_string(), "cpu");
/// # Ok::<(), rust_host_engine::Error>(())
/// ```
pub fn backend() -> Result<Arc<dyn Backend>> {
    static READY: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    READY.get_or_init(|| shim::initialise().map_err(|e| e.message)).clone().map_err(Error::unavailable)?;
    Ok(Arc::new(Torch))
}

struct Torch;

impl Backend for Torch {
    fn platform(&self) -> Platform {
        Platform::TorchScript
    }

    fn library(&self) -> String {
        format!("libtorch {}", shim::version())
    }

    fn device(&self, request: DeviceRequest) -> Result<Device> {
        device::settle(request)
    }

    fn open(&self, archive: &Archive, device: Device) -> Result<Box<dyn Program>> {
        Ok(Box::new(TorchProgram::load(archive.bytes().clone(), device)?))
    }

    fn set_threads(&self, count: usize) {
        tch::set_num_threads(i32::try_from(count.max(1)).unwrap_or(i32::MAX));
    }

    fn threads(&self) -> usize {
        usize::try_from(tch::get_num_threads()).unwrap_or(1)
    }
}

struct TorchProgram {
    /// `None` only while it is dropped.
    module: Option<shim::Module>,
    /// What it was loaded from.
    bytes: Bytes,
    state: shim::State,
    methods: Vec<Method>,
    operators: Vec<String>,
    device: Device,
}

impl TorchProgram {
    fn load(bytes: Bytes, device: Device) -> Result<Self> {
        on_a_large_stack(move || {
            let module = shim::Module::load(&bytes, device)?;
            let (state, methods, operators) = (module.state(), module.methods()?, module.operators()?);
            Ok(Self { module: Some(module), bytes, state, methods, operators, device })
        })
    }

    fn module(&self) -> Result<&shim::Module> {
        self.module.as_ref().ok_or_else(|| Error::internal("the model is being dropped"))
    }
}

impl Program for TorchProgram {
    fn device(&self) -> Device {
        self.device
    }

    fn methods(&self) -> &[Method] {
        &self.methods
    }

    fn operators(&self) -> &[String] {
        &self.operators
    }

    fn is_stateful(&self) -> bool {
        self.state != shim::State::None
    }

    fn optimise(&mut self, tolerance: Tolerance) -> Result<()> {
        let Some(mut module) = self.module.take() else { return self.module().map(drop) };
        // The passes over its graph recurse as loading does.
        self.module = Some(on_a_large_stack(move || module.optimise(tolerance).map(|()| module))?);
        Ok(())
    }

    fn speed(&self) -> Speed {
        self.module().map_or(Speed::Plain, shim::Module::speed)
    }

    fn session(&self) -> Result<Box<dyn Program>> {
        Ok(Box::new(match self.state {
            shim::State::InAttributes => Self {
                module: Some(self.module()?.session()?),
                bytes: self.bytes.clone(),
                state: self.state,
                methods: self.methods.clone(),
                operators: self.operators.clone(),
                device: self.device,
            },
            // Copies of tensors would lose which of them share memory; the file has it.
            shim::State::None | shim::State::InMemory => Self::load(self.bytes.clone(), self.device)?,
        }))
    }

    fn run(&self, method: usize, arguments: &[Option<Value>]) -> Result<Value> {
        self.module()?.run(method, arguments)
    }
}

impl Drop for TorchProgram {
    fn drop(&mut self) {
        let module = self.module.take();
        // Dropping a deeply nested module recurses, as loading does.
        let _dropped = on_a_large_stack(move || {
            drop(module);
            Ok(())
        });
    }
}

/// libtorch's parser recurses over a file's code: on a thread of 2 MiB four thousand statements in a row overflow its stack,
/// which ends the process. This much held everything that was tried; it is address space, not memory.
const STACK: usize = 256 << 20;

fn on_a_large_stack<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let thread = std::thread::Builder::new().name("rust-host-load".into()).stack_size(STACK).spawn(work);
    let thread =
        thread.map_err(|e| Error::unavailable(format!("a thread with a stack of 256 MiB cannot be started: {e}")))?;
    thread.join().map_err(|_| Error::internal("loading panicked"))?
}
