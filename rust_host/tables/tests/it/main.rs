//! Files in, files out, with a model in Rust instead of libtorch: the contracts and signatures are those of real files.

#![expect(clippy::unwrap_used, reason = "a harness that cannot do its work ends the test")]

mod broken;
mod csv_tables;
mod model;
#[cfg(feature = "batch")]
mod parquet_tables;
mod picture_folders;
#[cfg(feature = "arrow")]
mod tables_in_memory;
