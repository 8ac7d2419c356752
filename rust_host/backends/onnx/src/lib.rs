//! ONNX through ONNX Runtime, on the processor.
//!
//! ONNX Runtime is not linked: `library` finds the user's own when a model needs it, so that everything else works without.
//! `ort` sets it up and makes sessions; a call goes through its C interface (`session`, `convert`), because ort's own `run`
//! takes a session for itself alone, and ONNX Runtime lets any number of threads run one.
#![expect(
    unsafe_code,
    reason = "the wall towards ONNX Runtime: dlopen in library.rs, the C interface in value.rs, convert.rs and session.rs"
)]

mod convert;
mod library;
mod message;
mod session;
mod value;

pub use library::send_nothing;

use ort::environment::Environment;
use rust_host_engine::{Archive, Backend, Device, DeviceRequest, Error, Platform, Program, Result};
use std::{
    num::NonZero,
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

/// The backend of this process. The first call finds ONNX Runtime and opens it.
///
/// # Errors
/// `Unavailable` if there is none, or it is too old or cannot be loaded.
pub fn backend() -> Result<Arc<dyn Backend>> {
    static READY: Mutex<Option<(Environment, String)>> = Mutex::new(None);
    let mut ready = READY.lock().unwrap_or_else(PoisonError::into_inner);
    let (environment, version) = match &*ready {
        Some(ready) => ready.clone(),
        None => ready.insert(caught("setting ONNX Runtime up", library::open)?).clone(),
    };
    Ok(Arc::new(Onnx { environment, version }))
}

/// 0: as many as this process may use.
static THREADS: AtomicUsize = AtomicUsize::new(0);
static SLEEPS: AtomicBool = AtomicBool::new(false);

/// Number of threads that one call of a model may use which is opened after this; needs no ONNX Runtime.
pub fn set_threads(count: usize) {
    THREADS.store(count.max(1), Relaxed);
}

/// The number in force.
pub fn threads() -> usize {
    match THREADS.load(Relaxed) {
        0 => thread::available_parallelism().map_or(1, NonZero::get),
        count => count,
    }
}

/// In models that are opened after this, threads that wait for one another sleep instead of spinning.
pub fn let_waiting_threads_sleep() {
    SLEEPS.store(true, Relaxed);
}

struct Onnx {
    environment: Environment,
    version: String,
}

impl Backend for Onnx {
    fn platform(&self) -> Platform {
        Platform::Onnx
    }

    fn library(&self) -> String {
        format!("ONNX Runtime {}", self.version)
    }

    fn device(&self, request: DeviceRequest) -> Result<Device> {
        match request {
            DeviceRequest::Auto | DeviceRequest::Only(Device::Cpu) => Ok(Device::Cpu),
            DeviceRequest::Only(other) => {
                Err(Error::unavailable(format!("ONNX models run on the processor here, not on {other}"))
                    .hint("`--device cpu`"))
            }
        }
    }

    fn open(&self, archive: &Archive, _device: Device) -> Result<Box<dyn Program>> {
        let load = || session::Session::load(&self.environment, archive, threads(), SLEEPS.load(Relaxed));
        Ok(Box::new(caught("loading", load)?))
    }

    fn set_threads(&self, count: usize) {
        set_threads(count);
    }

    fn threads(&self) -> usize {
        threads()
    }
}

/// ort panics where ONNX Runtime breaks its own rules.
fn caught<T>(doing: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    panic::catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(Error::internal(format!("the backend panicked while {doing}"))))
}
