//! The kinds of model files there are, by the contract's word for them.

use crate::{Error, Result};
use std::fmt;

/// What runs a file: the contract's `platform`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Platform {
    /// TorchScript, `model.pt`: interpreted by libtorch.
    TorchScript,
    /// A package of native code that torch's Inductor compiled ahead of time, `model.pt2`.
    Compiled,
    /// ONNX, `model.onnx`: run by ONNX Runtime.
    Onnx,
}

impl Platform {
    /// The contract's `platform`, in the words of other servers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TorchScript => "pytorch_torchscript",
            Self::Compiled => "torch_aoti",
            Self::Onnx => "onnxruntime_onnx",
        }
    }

    /// The kind of that word on a command line: `torchscript`, `compiled` or `onnx`.
    ///
    /// # Errors
    /// `InvalidInput` with the words there are.
    pub fn parse(word: &str) -> Result<Self> {
        match word {
            "torchscript" => Ok(Self::TorchScript),
            "compiled" => Ok(Self::Compiled),
            "onnx" => Ok(Self::Onnx),
            _ => Err(Error::invalid_input("expected `torchscript`, `compiled` or `onnx`")),
        }
    }

    /// What a person calls such a file.
    pub fn noun(self) -> &'static str {
        match self {
            Self::TorchScript => "TorchScript archive",
            Self::Compiled => "compiled package",
            Self::Onnx => "ONNX file",
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
