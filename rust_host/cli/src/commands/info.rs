//! `info`: what a file says about itself, without libtorch.

use rust_host_engine::{Archive, Description, Result, signed::PublicKeys};
use std::path::{Path, PathBuf};

/// A file and what it says.
pub(crate) struct Info {
    /// The file.
    pub path: PathBuf,
    /// What it says.
    pub about: Description,
}

/// Reads the file, if one of the keys has signed it, where there are any.
///
/// # Errors
/// What [`Archive::open_signed`] and [`Description::read`] say.
pub(crate) fn info(file: &Path, signed_by: Option<&PublicKeys>) -> Result<Info> {
    let about = Description::read(&Archive::open_signed(file, signed_by)?)?;
    Ok(Info { path: file.to_owned(), about })
}
