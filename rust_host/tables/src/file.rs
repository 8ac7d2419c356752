//! A file that appears whole or not at all: written beside its place, synced, renamed.

use rust_host_engine::{Error, Result};
use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

/// A file that is being written; dropped before [`AtomicFile::finish`] it leaves nothing.
pub(crate) struct AtomicFile {
    target: PathBuf,
    temporary: PathBuf,
    file: File,
    finished: bool,
}

/// The hidden file beside `target` that this process writes before it is whole. A door that ends the process in the middle
/// of a run removes it.
#[must_use]
pub fn unfinished(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.{}.part", std::process::id()))
}

impl AtomicFile {
    /// Begins a file; what is at `target` stays as it is until [`AtomicFile::finish`].
    ///
    /// # Errors
    /// `NotFound` for a folder that is not there, `InvalidInput` for a folder in its place, `Unavailable` for what the
    /// system refuses.
    pub(crate) fn create(target: &Path) -> Result<Self> {
        if target.is_dir() {
            return Err(Error::invalid_input(format!("`{}` is a folder, expected a file", target.display())));
        }
        let folder = match target.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        if !folder.is_dir() {
            return Err(Error::not_found(format!("`{}`: no such folder", folder.display()))
                .hint(format!("`mkdir -p {}`", folder.display())));
        }
        let temporary = unfinished(target);
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&temporary);
        let file = file.map_err(|e| Error::io(target, "write", e))?;
        Ok(Self { target: target.to_owned(), temporary, file, finished: false })
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| Error::io(&self.target, "write", e))
    }

    /// The open file, for a writer that does its own writing.
    #[cfg(feature = "batch")]
    pub(crate) fn handle(&self) -> Result<File> {
        self.file.try_clone().map_err(|e| Error::io(&self.target, "write", e))
    }

    /// Puts it in its place.
    pub(crate) fn finish(mut self) -> Result<()> {
        let failed = |e| Error::io(&self.target, "write", e);
        self.file.sync_all().map_err(failed)?;
        if let Ok(before) = fs::metadata(&self.target) {
            let _kept = self.file.set_permissions(before.permissions());
        }
        fs::rename(&self.temporary, &self.target).map_err(failed)?;
        self.finished = true;
        // The name itself; some file systems cannot sync a folder, and the file is whole either way.
        if let Some(folder) = self.target.parent().and_then(|p| File::open(p).ok()) {
            let _synced = folder.sync_all();
        }
        Ok(())
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if !self.finished {
            let _gone = fs::remove_file(&self.temporary);
        }
    }
}
