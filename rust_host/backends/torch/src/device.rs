//! Which device a request means here, and the exact reason where it cannot be had.

use crate::shim;
use rust_host_engine::{Device, DeviceRequest, Error, Result, machine};
use std::sync::OnceLock;

/// `auto` asks for CUDA only where a driver is, because bringing libtorch's CUDA half in costs 100 ms and 400 MB.
pub(crate) fn settle(request: DeviceRequest) -> Result<Device> {
    match request {
        DeviceRequest::Only(Device::Cpu) => Ok(Device::Cpu),
        DeviceRequest::Auto => Ok(match cuda_devices() {
            Ok(n) if n > 0 => Device::Cuda(0),
            _ => Device::Cpu,
        }),
        DeviceRequest::Only(Device::Cuda(index)) => {
            let count = cuda_devices()?;
            if index < count {
                return Ok(Device::Cuda(index));
            }
            Err(Error::not_found(format!(
                "`cuda:{index}` is not there, this machine has {count} CUDA device(s), numbered from 0"
            )))
        }
    }
}

/// Number of CUDA devices that libtorch can use, or why there is none. Looked up once: a driver does not come and go.
fn cuda_devices() -> Result<usize> {
    static COUNT: OnceLock<std::result::Result<usize, String>> = OnceLock::new();
    COUNT.get_or_init(|| count_devices().map_err(|e| e.message)).clone().map_err(|message| {
        Error::unavailable(message).hint("`rust-host doctor` shows what this machine has; `--device cpu` runs without")
    })
}

fn count_devices() -> Result<usize> {
    let none = |why: &str| Error::unavailable(format!("CUDA cannot be used here: {why}"));
    // The same look as `rust-host doctor` takes, before 100 ms and 400 MB are spent on libtorch's CUDA half.
    if let Some(why) = machine::cuda(None).why_not {
        return Err(none(&why));
    }
    shim::load_cuda().map_err(|e| none(&format!("libtorch_cuda.so cannot be loaded: {}", e.message)))?;
    match usize::try_from(tch::Cuda::device_count()) {
        Ok(n) if n > 0 => Ok(n),
        _ => Err(none("the driver shows no device")),
    }
}
