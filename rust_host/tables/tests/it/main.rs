//! Files in, files out, with a model in Rust instead of libtorch: the contracts and signatures are those of real files.

mod broken;
mod csv_tables;
mod model;
mod picture_folders;
