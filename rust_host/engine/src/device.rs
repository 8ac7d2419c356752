//! Where a model runs: what was asked for, and what was settled.

use crate::{Error, Result};
use std::fmt;

/// A device that a model was loaded on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Device {
    /// The processor.
    Cpu,
    /// The GPU of that number.
    Cuda(usize),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(n) => write!(f, "cuda:{n}"),
        }
    }
}

/// What a user asks for. `cuda` never falls back to the processor in silence; `auto` takes CUDA where there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DeviceRequest {
    /// CUDA if it can be used here, otherwise the processor.
    #[default]
    Auto,
    /// This device, or an error that says why not.
    Only(Device),
}

impl std::str::FromStr for DeviceRequest {
    type Err = Error;

    /// `auto`, `cpu`, `cuda` (the first GPU) or `cuda:N`.
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Only(Device::Cpu)),
            "cuda" => Ok(Self::Only(Device::Cuda(0))),
            other => other
                .strip_prefix("cuda:")
                .and_then(|n| n.parse().ok())
                .map(|n| Self::Only(Device::Cuda(n)))
                .ok_or_else(|| {
                    Error::invalid_input(format!("unknown device `{other}`, expected auto, cpu, cuda or cuda:N"))
                }),
        }
    }
}

impl fmt::Display for DeviceRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Only(device) => device.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_read_as_it_is_written() {
        for text in ["auto", "cpu", "cuda:0", "cuda:7"] {
            assert_eq!(text.parse::<DeviceRequest>().unwrap().to_string(), text);
        }
        assert_eq!("cuda".parse::<DeviceRequest>().unwrap(), DeviceRequest::Only(Device::Cuda(0)));
        for text in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "CPU"] {
            assert!(text.parse::<DeviceRequest>().unwrap_err().message.contains("cuda:N"), "{text}");
        }
    }
}
