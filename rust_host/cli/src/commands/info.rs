//! `info`: what a file says about itself, without libtorch.

use rust_host_engine::{Archive, Description, Result};
use std::path::{Path, PathBuf};

/// A file and what it says.
pub(crate) struct Info {
    /// The file.
    pub path: PathBuf,
    /// What it says.
    pub about: Description,
}

/// Reads the file.
///
/// # Errors
/// What [`Archive::open`] and [`Description::read`] say.
pub(crate) fn info(file: &Path) -> Result<Info> {
    let about = Description::read(&Archive::open(file)?)?;
    Ok(Info { path: file.to_owned(), about })
}
