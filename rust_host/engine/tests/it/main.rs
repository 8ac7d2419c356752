//! The engine's integration tests: the contract samples that both languages read, and archives of every broken kind.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod archive;
mod contract;
mod model;
