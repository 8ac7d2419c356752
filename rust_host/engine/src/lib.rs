//! The engine of rust-host: everything between a file and its answers that needs no libtorch.
//!
//! The flow, one module a step:
//!
//! 1. [`archive`] reads a file, where that is asked for only one that a key's owner [`signed`], says of which [`Platform`] it is, and
//!    checks that it is whole ([`zip`]). [`scan`] checks that a
//!    TorchScript archive holds nothing but a model ([`pickle`], [`tokens`], [`operators`], [`script`]), [`trust`] that the
//!    owner of this machine wants a compiled [`package`];
//! 2. [`contract`] says what the model takes and gives, [`description`] what can be known without one;
//! 3. a [`Backend`] opens the archive's bytes on a [`Device`] and becomes a [`Program`];
//! 4. [`model`] binds named inputs ([`Tensor`], [`Value`]) to its arguments, checks them, runs it, names the outputs;
//! 5. [`golden`] replays the file's own examples, [`measure()`] times it.
//!
//! A program that `rust-host build` wrote has its file [`attached`]. [`machine`] says what this machine has, [`threads`] how many threads a call gets on it, and
//! [`host_settings`] what was measured on it. [`mod@file`] reads files, [`npy`], [`json`] and
//! [`picture`] turn them into values and back. Nothing here prints, and nothing knows a door.
//!
//! ```
//! use rust_host_engine::{Datatype, Tensor};
//! let picture = Tensor::from_elements(vec![1, 1, 2, 2], vec![0f32, 0.5, 0.5, 1.0])?;
//! assert_eq!((picture.datatype(), picture.shape()), (Datatype::Fp32, &[1i64, 1, 2, 2][..]));
//! # Ok::<(), rust_host_engine::Error>(())
//! ```

pub mod archive;
mod at_load;
pub mod attached;
mod attributes;
pub mod backend;
mod bytes;
pub mod contract;
mod datatype;
pub mod description;
mod device;
pub mod error;
pub mod file;
pub mod foreign;
pub mod golden;
pub mod host_settings;
pub mod interrupt;
pub mod json;
pub mod machine;
mod measure;
pub mod model;
pub mod npy;
pub mod onnx;
pub mod operators;
pub mod package;
pub mod pickle;
pub mod picture;
mod places;
mod platform;
pub mod process;
mod protobuf;
pub mod scan;
mod scan_code;
pub mod script;
pub mod signed;
mod tensor;
pub mod threads;
pub mod tokens;
pub mod trust;
mod turns;
pub mod value;
pub mod versions;
pub mod zip;

pub use archive::Archive;
pub use backend::{Backend, Backends, Program, Speed, Tolerance};
pub use bytes::Bytes;
pub use contract::Contract;
pub use datatype::Datatype;
pub use description::Description;
pub use device::{Device, DeviceRequest};
pub use error::{Error, ErrorKind, Result};
pub use measure::{Measurement, measure, measure_at_once};
pub use model::Model;
pub use package::Package;
pub use platform::Platform;
pub use script::Script;
pub use tensor::{Element, Memory, Tensor, byte_length};
pub use value::{Argument, Method, Type, Value};

/// What this build is made of: version, compiler, and a hash of the engine's sources. Rust types cross between the binary and
/// the backend that it opens at need, so both must come from one build; each compares this text.
pub const BUILD: &str = concat!(env!("CARGO_PKG_VERSION"), " ", env!("RUST_HOST_RUSTC"), " ", env!("RUST_HOST_SOURCE"));
