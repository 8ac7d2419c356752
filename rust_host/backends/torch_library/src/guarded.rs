//! No panic leaves this library: its opener has a standard library of its own, and one that crosses ends the process.

use rust_host_engine::{
    Archive, Backend, Device, DeviceRequest, Error, Method, Platform, Program, Result, Speed, Tolerance, Value,
    onnx::Onnx,
};
use std::{
    panic::{self, AssertUnwindSafe},
    sync::Arc,
};

/// What `work` gives; a panic in it is an error.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(Error::internal("the backend panicked")))
}

/// The backend as its opener sees it.
pub(crate) struct Guarded(pub Arc<dyn Backend>);

impl Backend for Guarded {
    fn platform(&self) -> Platform {
        self.0.platform()
    }

    fn library(&self) -> String {
        self.0.library()
    }

    fn device(&self, request: DeviceRequest) -> Result<Device> {
        guarded(|| self.0.device(request))
    }

    fn open(&self, archive: &Archive, device: Device) -> Result<Box<dyn Program>> {
        guarded(|| Ok(Box::new(GuardedProgram(self.0.open(archive, device)?)) as Box<dyn Program>))
    }

    fn set_threads(&self, count: usize) {
        self.0.set_threads(count);
    }

    fn threads(&self) -> usize {
        self.0.threads()
    }
}

struct GuardedProgram(Box<dyn Program>);

impl Program for GuardedProgram {
    fn device(&self) -> Device {
        self.0.device()
    }

    fn methods(&self) -> &[Method] {
        self.0.methods()
    }

    fn operators(&self) -> &[String] {
        self.0.operators()
    }

    fn graph(&self) -> Option<&Onnx> {
        self.0.graph()
    }

    fn is_stateful(&self) -> bool {
        self.0.is_stateful()
    }

    fn session(&self) -> Result<Box<dyn Program>> {
        guarded(|| Ok(Box::new(Self(self.0.session()?)) as Box<dyn Program>))
    }

    fn optimise(&mut self, tolerance: Tolerance) -> Result<()> {
        guarded(|| self.0.optimise(tolerance))
    }

    fn speed(&self) -> Speed {
        self.0.speed()
    }

    fn run(&self, method: usize, arguments: &[Option<Value>]) -> Result<Value> {
        guarded(|| self.0.run(method, arguments))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Panics;

    impl Backend for Panics {
        fn platform(&self) -> Platform {
            Platform::TorchScript
        }

        fn library(&self) -> String {
            String::new()
        }

        fn device(&self, _: DeviceRequest) -> Result<Device> {
            panic!("a mistake")
        }

        fn open(&self, _: &Archive, _: Device) -> Result<Box<dyn Program>> {
            panic!("a mistake")
        }

        fn set_threads(&self, _: usize) {}

        fn threads(&self) -> usize {
            1
        }
    }

    #[test]
    fn a_panic_is_an_error() {
        let e = Guarded(Arc::new(Panics)).device(DeviceRequest::Auto).unwrap_err();
        assert_eq!(e.message, "the backend panicked");
    }
}
