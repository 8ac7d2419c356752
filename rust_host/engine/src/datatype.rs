//! Datatypes, under the names of the Open Inference Protocol.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What the elements of a tensor are. The protocol's table, and `BF16`, which it lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Datatype {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Bf16,
    Fp32,
    Fp64,
}

impl Datatype {
    /// Every datatype, in the order of the protocol's table.
    pub const ALL: [Self; 13] = [
        Self::Bool,
        Self::Uint8,
        Self::Uint16,
        Self::Uint32,
        Self::Uint64,
        Self::Int8,
        Self::Int16,
        Self::Int32,
        Self::Int64,
        Self::Fp16,
        Self::Bf16,
        Self::Fp32,
        Self::Fp64,
    ];

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => 1,
            Self::Uint16 | Self::Int16 | Self::Fp16 | Self::Bf16 => 2,
            Self::Uint32 | Self::Int32 | Self::Fp32 => 4,
            Self::Uint64 | Self::Int64 | Self::Fp64 => 8,
        }
    }

    /// The protocol's name: `FP32`, `INT64`, …
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Uint16 => "UINT16",
            Self::Uint32 => "UINT32",
            Self::Uint64 => "UINT64",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Bf16 => "BF16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
        }
    }

    /// NumPy's and torch's name: `float32`, `int64`, …
    pub const fn numpy_name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Uint8 => "uint8",
            Self::Uint16 => "uint16",
            Self::Uint32 => "uint32",
            Self::Uint64 => "uint64",
            Self::Int8 => "int8",
            Self::Int16 => "int16",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Fp16 => "float16",
            Self::Bf16 => "bfloat16",
            Self::Fp32 => "float32",
            Self::Fp64 => "float64",
        }
    }

    /// torch's number of it (`c10::ScalarType`), which the format of its archives fixes.
    pub const fn torch_code(self) -> i32 {
        match self {
            Self::Uint8 => 0,
            Self::Int8 => 1,
            Self::Int16 => 2,
            Self::Int32 => 3,
            Self::Int64 => 4,
            Self::Fp16 => 5,
            Self::Fp32 => 6,
            Self::Fp64 => 7,
            Self::Bool => 11,
            Self::Bf16 => 15,
            Self::Uint16 => 27,
            Self::Uint32 => 28,
            Self::Uint64 => 29,
        }
    }

    /// The datatype of that number; `None` for complex and quantised ones.
    pub fn from_torch_code(code: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|d| d.torch_code() == code)
    }

    /// FP16, BF16, FP32 or FP64.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::Fp16 | Self::Bf16 | Self::Fp32 | Self::Fp64)
    }

    /// The datatype of that protocol name.
    ///
    /// # Errors
    /// `InvalidInput` that lists the names there are.
    pub fn parse(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|d| d.as_str() == name).ok_or_else(|| {
            let all: Vec<_> = Self::ALL.iter().map(|d| d.as_str()).collect();
            Error::invalid_input(format!("unknown datatype `{name}`, expected one of {}", all.join(" ")))
        })
    }
}

impl fmt::Display for Datatype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_serde_writes() {
        for d in Datatype::ALL {
            assert_eq!(serde_json::to_string(&d).unwrap(), format!("\"{d}\""));
            assert_eq!(Datatype::parse(d.as_str()).unwrap(), d);
            assert_eq!(Datatype::from_torch_code(d.torch_code()), Some(d));
        }
    }
}
