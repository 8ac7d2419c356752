//! Typed vectors that rows of text are parsed into, and that become tensors without a copy.

use crate::number::{self, Wrong};
use half::{bf16, f16};
use rust_host_engine::{Datatype, Result, Tensor};

/// The elements of one input, row by row.
#[allow(missing_docs, reason = "the names are the protocol's")]
pub(crate) enum Elements {
    Bool(Vec<bool>),
    Uint8(Vec<u8>),
    Uint16(Vec<u16>),
    Uint32(Vec<u32>),
    Uint64(Vec<u64>),
    Int8(Vec<i8>),
    Int16(Vec<i16>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Fp16(Vec<f16>),
    Bf16(Vec<bf16>),
    Fp32(Vec<f32>),
    Fp64(Vec<f64>),
}

/// The same expression for every type of vector.
macro_rules! each {
    ($self:expr, $v:ident => $body:expr) => {
        match $self {
            Elements::Bool($v) => $body,
            Elements::Uint8($v) => $body,
            Elements::Uint16($v) => $body,
            Elements::Uint32($v) => $body,
            Elements::Uint64($v) => $body,
            Elements::Int8($v) => $body,
            Elements::Int16($v) => $body,
            Elements::Int32($v) => $body,
            Elements::Int64($v) => $body,
            Elements::Fp16($v) => $body,
            Elements::Bf16($v) => $body,
            Elements::Fp32($v) => $body,
            Elements::Fp64($v) => $body,
        }
    };
}

impl Elements {
    pub(crate) fn new(datatype: Datatype, capacity: usize) -> Self {
        macro_rules! make {
            ($($name:ident)*) => { match datatype { $(Datatype::$name => Self::$name(Vec::with_capacity(capacity)),)* } };
        }
        make!(Bool Uint8 Uint16 Uint32 Uint64 Int8 Int16 Int32 Int64 Fp16 Bf16 Fp32 Fp64)
    }

    /// Makes it longer with zeros, or shorter.
    pub(crate) fn resize(&mut self, length: usize) {
        each!(self, v => v.resize(length, Default::default()))
    }

    /// Reads a number from the beginning of `text` where the whole number ends at a byte that `ends` knows; `None` where
    /// the slow way must look. This is where a large table spends its time.
    #[inline]
    pub(crate) fn set_fast(&mut self, at: usize, text: &[u8]) -> Option<usize> {
        match self {
            Self::Fp32(v) => {
                let (value, length) = fast_float2::parse_partial::<f32, _>(text).ok()?;
                if !value.is_finite() {
                    return None;
                }
                *v.get_mut(at)? = value;
                Some(length)
            }
            Self::Fp64(v) => {
                let (value, length) = fast_float2::parse_partial::<f64, _>(text).ok()?;
                if !value.is_finite() {
                    return None;
                }
                *v.get_mut(at)? = value;
                Some(length)
            }
            _ => None,
        }
    }

    /// Reads one whole field.
    pub(crate) fn set(&mut self, at: usize, text: &[u8]) -> std::result::Result<(), Wrong> {
        macro_rules! put {
            ($v:expr, $value:expr) => {{
                let value = $value?;
                if let Some(slot) = $v.get_mut(at) {
                    *slot = value;
                }
                Ok(())
            }};
        }
        match self {
            Self::Bool(v) => put!(v, number::boolean(text)),
            Self::Uint8(v) => put!(v, number::integer(text)),
            Self::Uint16(v) => put!(v, number::integer(text)),
            Self::Uint32(v) => put!(v, number::integer(text)),
            Self::Uint64(v) => put!(v, number::integer(text)),
            Self::Int8(v) => put!(v, number::integer(text)),
            Self::Int16(v) => put!(v, number::integer(text)),
            Self::Int32(v) => put!(v, number::integer(text)),
            Self::Int64(v) => put!(v, number::integer(text)),
            Self::Fp16(v) => put!(v, number::narrow(text, f16::from_f64, |x: f16| x.is_infinite())),
            Self::Bf16(v) => put!(v, number::narrow(text, bf16::from_f64, |x: bf16| x.is_infinite())),
            Self::Fp32(v) => put!(v, number::float::<f32>(text, |x| x.is_infinite())),
            Self::Fp64(v) => put!(v, number::float::<f64>(text, |x| x.is_infinite())),
        }
    }

    pub(crate) fn into_tensor(self, shape: Vec<i64>) -> Result<Tensor> {
        match self {
            Self::Bool(v) => Tensor::from_bools(shape, v),
            Self::Uint8(v) => Tensor::from_elements(shape, v),
            Self::Uint16(v) => Tensor::from_elements(shape, v),
            Self::Uint32(v) => Tensor::from_elements(shape, v),
            Self::Uint64(v) => Tensor::from_elements(shape, v),
            Self::Int8(v) => Tensor::from_elements(shape, v),
            Self::Int16(v) => Tensor::from_elements(shape, v),
            Self::Int32(v) => Tensor::from_elements(shape, v),
            Self::Int64(v) => Tensor::from_elements(shape, v),
            Self::Fp16(v) => Tensor::from_elements(shape, v),
            Self::Bf16(v) => Tensor::from_elements(shape, v),
            Self::Fp32(v) => Tensor::from_elements(shape, v),
            Self::Fp64(v) => Tensor::from_elements(shape, v),
        }
    }
}
