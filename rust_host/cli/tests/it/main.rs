//! The binary `rust-host` from outside, in an empty environment: whole outputs, exit codes, and what is left behind.
#![expect(clippy::unwrap_used, reason = "a harness that cannot do its work ends the test")]

mod bad_input;
mod bad_model;
mod broken_house;
mod build;
mod host;
mod inform;
mod onnx;
mod run;
mod sandbox;
mod tables;
mod tune;
