//! The shim as safe Rust: load, describe, run, and texts of libtorch made readable.

use crate::{
    convert::{self, Arguments},
    ffi, gpu,
};
use rust_host_engine::{Device, Error, ErrorKind, Method, Result, Speed, Tolerance, Value, interrupt};
use std::{
    ffi::{CStr, c_char},
    ptr::{self, NonNull},
};

/// A module in libtorch's memory.
pub(crate) struct Module(NonNull<ffi::RawModule>);

/// What a module's methods keep between calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing.
    None,
    /// Attributes that they assign: [`Module::session`] gives a copy.
    InAttributes,
    /// Tensors that they write into: only loading again gives a copy.
    InMemory,
}

// SAFETY: libtorch allows one module to be run, and dropped, by many threads: the shim changes nothing after loading, and
// a module that changes itself is called by one thread at a time, which `Model` in the engine sees to.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: it came from rh_load and is dropped once.
        unsafe { ffi::rh_drop_module(self.0.as_ptr()) }
    }
}

impl Module {
    pub(crate) fn load(bytes: &[u8], device: Device) -> Result<Self> {
        let cuda = match device {
            Device::Cpu => -1,
            Device::Cuda(n) => i32::try_from(n).unwrap_or(i32::MAX),
        };
        let mut module = ptr::null_mut();
        // SAFETY: the bytes live during the call, which copies what it keeps.
        check(|error| unsafe { ffi::rh_load(bytes.as_ptr().cast(), bytes.len(), cuda, &raw mut module, error) })?;
        NonNull::new(module).map(Self).ok_or_else(|| Error::internal("libtorch gave no module"))
    }

    pub(crate) fn state(&self) -> State {
        // SAFETY: the module lives.
        match unsafe { ffi::rh_state_of(self.0.as_ptr()) } {
            ffi::STATELESS => State::None,
            ffi::STATE_IN_ATTRIBUTES => State::InAttributes,
            _ => State::InMemory,
        }
    }

    /// Prepares the fast form of `forward`, where there is one.
    pub(crate) fn optimise(&mut self, tolerance: Tolerance) -> Result<()> {
        // SAFETY: the module lives, and nobody else has it now.
        check(|error| unsafe {
            ffi::rh_optimise(self.0.as_ptr(), tolerance.rtol, tolerance.atol, tolerance.atol_of_largest, error)
        })
    }

    pub(crate) fn speed(&self) -> Speed {
        // SAFETY: the module lives.
        match unsafe { ffi::rh_speed_of(self.0.as_ptr()) } {
            ffi::UNCHECKED => Speed::Unchecked,
            ffi::FAST => Speed::Optimised,
            ffi::DROPPED => Speed::Dropped,
            _ => Speed::Plain,
        }
    }

    /// The module as it was loaded, with attributes of its own and the same weights; for [`State::InAttributes`] alone.
    pub(crate) fn session(&self) -> Result<Self> {
        let mut module = ptr::null_mut();
        // SAFETY: the module lives, and nothing changes the copy that it keeps of itself.
        check(|error| unsafe { ffi::rh_session(self.0.as_ptr(), &raw mut module, error) })?;
        NonNull::new(module).map(Self).ok_or_else(|| Error::internal("libtorch gave no module"))
    }

    pub(crate) fn methods(&self) -> Result<Vec<Method>> {
        let mut text = ptr::null_mut();
        // SAFETY: the module lives.
        check(|error| unsafe { ffi::rh_methods(self.0.as_ptr(), &raw mut text, error) })?;
        Ok(take_text(text).lines().filter_map(Method::parse).collect())
    }

    pub(crate) fn operators(&self) -> Result<Vec<String>> {
        let mut text = ptr::null_mut();
        // SAFETY: the module lives.
        check(|error| unsafe { ffi::rh_operators(self.0.as_ptr(), &raw mut text, error) })?;
        Ok(take_text(text).lines().map(str::to_owned).collect())
    }

    pub(crate) fn run(&self, method: usize, arguments: &[Option<Value>]) -> Result<Value> {
        let raw = Arguments::new(arguments);
        let mut result = ptr::null_mut();
        // SAFETY: the arguments live during the call, which takes their owners over, also when it fails.
        check(|error| unsafe {
            ffi::rh_run(self.0.as_ptr(), method, raw.as_ptr(), raw.len(), &raw mut result, error)
        })?;
        // SAFETY: the result is there, its tree is converted once, and it is dropped after that.
        unsafe {
            let value = convert::to_value(&*ffi::rh_result_value(result));
            ffi::rh_drop_result(result);
            value
        }
    }
}

/// Sets libtorch up for this process.
pub(crate) fn initialise() -> Result<()> {
    // SAFETY: no arguments but the place for a text.
    check(|error| unsafe { ffi::rh_initialise(error) })?;
    // SAFETY: the function lives as long as the process.
    unsafe { ffi::rh_set_poll(Some(poll)) };
    Ok(())
}

/// Asked by loops of the model's code, on the thread that runs them.
extern "C" fn poll() -> i32 {
    i32::from(interrupt::is_wanted())
}

/// Version of the libtorch that this was compiled against.
pub(crate) fn version() -> String {
    // SAFETY: a constant text.
    unsafe { CStr::from_ptr(ffi::rh_version()) }.to_string_lossy().into_owned()
}

/// Brings libtorch's CUDA half in.
pub(crate) fn load_cuda() -> Result<()> {
    // SAFETY: no arguments but the place for a text.
    check(|error| unsafe { ffi::rh_load_cuda(error) })
}

fn check(call: impl FnOnce(*mut *mut c_char) -> i32) -> Result<()> {
    let mut error = ptr::null_mut();
    let status = call(&raw mut error);
    if status == ffi::OK {
        return Ok(());
    }
    let text = take_text(error);
    if matches!(status, ffi::FAILED | ffi::NO_MEMORY | ffi::INVALID_MODEL)
        && let Some(e) = gpu::explain(&text)
    {
        return Err(e);
    }
    Err(match status {
        ffi::INVALID_INPUT => Error::new(ErrorKind::InvalidInput, text),
        ffi::FAILED => explain(&text),
        ffi::NO_MEMORY => Error::unavailable(format!("there is not enough memory: {}", first_line(&text)))
            .hint("give a smaller batch"),
        ffi::INVALID_MODEL => {
            Error::new(ErrorKind::InvalidModel, format!("libtorch cannot load it: {}", first_line(&text)))
        }
        ffi::UNAVAILABLE => Error::unavailable(text),
        ffi::INTERRUPTED => interrupt::error(),
        other => Error::internal(format!("the shim answered {other}: {text}")),
    })
}

fn take_text(text: *mut c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the shim allocated a text with a zero at its end, which is freed once.
    unsafe {
        let owned = CStr::from_ptr(text).to_string_lossy().into_owned();
        ffi::rh_free_text(text);
        owned
    }
}

/// For a file libtorch's first line is the useful one.
fn first_line(text: &str) -> String {
    text.lines().map(str::trim).find(|l| !l.is_empty()).unwrap_or("unknown reason").trim_end_matches('.').to_owned()
}

/// For an error inside `forward` the last line is: the first is always the interpreter's, between them is its trace.
fn explain(text: &str) -> Error {
    let interpreted = text.contains("TorchScript interpreter");
    let line = if interpreted { last_line(text) } else { first_line(text) };
    let line = line.strip_prefix("RuntimeError: ").unwrap_or(&line);
    if line.contains("DefaultCPUAllocator") || line.contains("not enough memory") {
        return Error::unavailable(format!("there is not enough memory: {line}")).hint("give a smaller batch");
    }
    Error::failed(format!("the model failed: {line}"))
}

fn last_line(text: &str) -> String {
    text.lines().rev().map(str::trim).find(|l| !l.is_empty()).unwrap_or("unknown reason").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_interpreter_trace_the_last_line_is_told() {
        let text = "The following operation failed in the TorchScript interpreter.\nTraceback of TorchScript (most recent call last):\n  ...\nRuntimeError: mat1 and mat2 shapes cannot be multiplied (1x5 and 4x16)\n";
        let e = explain(text);
        assert_eq!(e.message, "the model failed: mat1 and mat2 shapes cannot be multiplied (1x5 and 4x16)");
    }
}
