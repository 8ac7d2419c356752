//! What a backend does for the engine: open a file on a device, and run it. libtorch lies behind this trait.

use crate::{
    Archive, Device, DeviceRequest, Error, Method, Platform, Result, Value, machine::LibtorchLocation, onnx::Onnx,
};
use std::sync::Arc;

/// Runs one kind of file. One object a process; many threads may use it at once.
pub trait Backend: Send + Sync {
    /// What it runs.
    fn platform(&self) -> Platform;

    /// Name and version of the library below: `libtorch 2.13.0`.
    fn library(&self) -> String;

    /// Settles a request: the device, or the reason why it cannot be had here.
    ///
    /// # Errors
    /// `Unavailable` or `NotFound` with the exact reason; never for `auto`.
    fn device(&self, request: DeviceRequest) -> Result<Device>;

    /// Loads the archive's bytes on that device, in evaluation mode.
    ///
    /// # Errors
    /// `InvalidModel` if the library cannot load it, `Unavailable` if the device has no room.
    fn open(&self, archive: &Archive, device: Device) -> Result<Box<dyn Program>>;

    /// Number of threads that one call may use inside its operators.
    fn set_threads(&self, count: usize);

    /// The number in force.
    fn threads(&self) -> usize;
}

/// How far two forms of the same computation may lie apart: `|a - b| <= atol + atol_of_largest * max|a| + rtol * |a|`.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs, reason = "the formula says it")]
pub struct Tolerance {
    pub rtol: f64,
    pub atol: f64,
    pub atol_of_largest: f64,
}

/// In which form a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speed {
    /// As its file says: nothing else was asked for, or there is nothing to gain.
    Plain,
    /// The fast form is there, and the next call compares.
    Unchecked,
    /// The fast form.
    Optimised,
    /// As its file says, because the fast form failed or gave other numbers.
    Dropped,
}

impl Speed {
    /// `optimised`
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Unchecked => "unchecked",
            Self::Optimised => "optimised",
            Self::Dropped => "dropped",
        }
    }
}

/// A loaded model. Calls may come from many threads at once.
pub trait Program: Send + Sync {
    /// Where it runs.
    fn device(&self) -> Device;

    /// Its methods with their signatures; `forward` first where there is one.
    fn methods(&self) -> &[Method];

    /// Every operator that the model's code calls, as the library names them: `aten::conv2d`, `prim::If`.
    fn operators(&self) -> &[String];

    /// What the file's graph says of its inputs and outputs, where it has one that does.
    fn graph(&self) -> Option<&Onnx> {
        None
    }

    /// Whether a call changes what a later one computes: the model's code writes to its own attributes. Such a program is
    /// called by one thread at a time.
    fn is_stateful(&self) -> bool {
        false
    }

    /// The program as it was when it was loaded, with a state of its own; asked for where [`Program::is_stateful`] is true.
    ///
    /// # Errors
    /// `Unavailable` if the device has no room.
    fn session(&self) -> Result<Box<dyn Program>> {
        Err(Error::internal("this program keeps no state, so it has no sessions"))
    }

    /// Prepares for many calls of `forward`, before the first one: where the library has a faster form of the same
    /// computation, the first call runs both, and the fast one is used from then on if it agrees within the tolerance.
    ///
    /// # Errors
    /// `Unavailable` if memory has no room for it.
    fn optimise(&mut self, tolerance: Tolerance) -> Result<()> {
        let _plain = tolerance;
        Ok(())
    }

    /// What became of [`Program::optimise`].
    fn speed(&self) -> Speed {
        Speed::Plain
    }

    /// Calls the method of that index in [`Program::methods`]. `None` stands for an argument that was left out and has a
    /// default; there are exactly as many entries as arguments. Results lie in host memory and are the caller's alone.
    ///
    /// # Errors
    /// `InvalidInput` if a value does not fit its argument's type, `Failed` if the model raises, `Unavailable` if memory
    /// runs out.
    fn run(&self, method: usize, arguments: &[Option<Value>]) -> Result<Value>;
}

/// Where a door gets its backend from: binary and wheel open a library at need, each where it finds it.
pub trait Backends: Sync {
    /// The backend for files of that kind; the first call may take as long as loading libtorch does.
    ///
    /// # Errors
    /// `Unavailable` that says what is missing, where it was looked for, and what to do.
    fn open(&self, platform: Platform) -> Result<Arc<dyn Backend>>;

    /// Where libtorch is, without loading it.
    ///
    /// # Errors
    /// `Unavailable` if the backend itself is not there.
    fn locate(&self) -> Result<LibtorchLocation>;

    /// Before [`Backends::open`]: the operators' threads shall sleep while they wait for one another, because other threads
    /// of this process have work to do. By default they spin, which is quicker where nothing else runs.
    fn let_waiting_threads_sleep(&self) {}
}
