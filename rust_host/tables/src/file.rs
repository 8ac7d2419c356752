//! A file that appears whole or not at all: written without a name where the file system can, else beside its place; then
//! synced and put there in one step.
//!
//! A file without a name is gone with the process, however that ends. One with a name is removed when it is dropped, and by
//! [`remove_unfinished`], which a program calls when a signal ends it.

use rust_host_engine::{Error, Result};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Seek, Write},
    os::{fd::AsRawFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Files that would stay behind. Held while one is put in its place, so that none is between two names when a signal asks.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn unfinished() -> MutexGuard<'static, Vec<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes every file that was begun in this process and has a name. What is returned keeps others from being begun or
/// finished until it is dropped: whoever calls this is about to end the process.
pub fn remove_unfinished() -> impl Sized {
    let mut files = unfinished();
    for file in files.drain(..) {
        let _gone = fs::remove_file(file);
    }
    files
}

/// A file that is being written; dropped before [`AtomicFile::finish`] it leaves nothing.
///
/// ```
/// use rust_host_tables::AtomicFile;
/// # fn main() -> rust_host_engine::Result<()> {
/// let target = std::env::temp_dir().join("rust-host-doc-example.txt");
/// let mut file = AtomicFile::create(&target)?;
/// file.write(b"whole")?;
/// assert!(!target.exists());
/// file.finish()?;
/// assert_eq!(std::fs::read(&target).ok().as_deref(), Some(&b"whole"[..]));
/// # let _gone = std::fs::remove_file(target);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct AtomicFile {
    target: PathBuf,
    file: File,
    place: Place,
    is_program: bool,
}

/// Where the bytes are until they are all there.
#[derive(Debug)]
enum Place {
    Unnamed,
    Named(PathBuf),
    /// With another process, which this asks to finish it.
    Elsewhere(fn(&Path) -> Result<()>),
}

impl AtomicFile {
    /// Begins a file; what is at `target` stays as it is until [`AtomicFile::finish`].
    ///
    /// # Errors
    /// `NotFound` for a folder that is not there, `InvalidInput` for a folder or a device in its place, `Unavailable` for
    /// what the system refuses.
    pub fn create(target: &Path) -> Result<Self> {
        if let Ok(about) = fs::metadata(target)
            && !about.is_file()
        {
            let is = if about.is_dir() { "a folder" } else { "a device or a pipe" };
            return Err(Error::invalid_input(format!("`{}` is {is}, expected a file", target.display())));
        }
        let folder = folder_of(target);
        if !folder.is_dir() {
            return Err(Error::not_found(format!("`{}`: no such folder", folder.display()))
                .hint(format!("`mkdir -p {}`", folder.display())));
        }
        match unnamed(target, folder) {
            Some(file) => Ok(Self::new(target, file, Place::Unnamed)),
            None => Self::named(target),
        }
    }

    /// A file that another process began and will finish, when `finish` asks it.
    pub fn elsewhere(target: &Path, file: File, finish: fn(&Path) -> Result<()>) -> Self {
        Self::new(target, file, Place::Elsewhere(finish))
    }

    fn new(target: &Path, file: File, place: Place) -> Self {
        Self { target: target.to_owned(), file, place, is_program: false }
    }

    /// Who may read it may run it. What was there before does not say who may, as it does for other files.
    pub fn is_program(&mut self) {
        self.is_program = true;
    }

    fn named(target: &Path) -> Result<Self> {
        let (temporary, file) = named(target).map_err(|e| Error::io(target, "write", e))?;
        Ok(Self::new(target, file, Place::Named(temporary)))
    }

    /// Appends the bytes.
    ///
    /// # Errors
    /// `Unavailable` with the path and the reason.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| Error::io(&self.target, "write", e))
    }

    /// The open file, for a writer that does its own writing.
    ///
    /// # Errors
    /// `Unavailable` if this process may open no more files.
    pub fn handle(&self) -> Result<File> {
        self.file.try_clone().map_err(|e| Error::io(&self.target, "write", e))
    }

    /// Waits until the bytes are on the disk, so that [`AtomicFile::finish`] has little left that could fail.
    ///
    /// # Errors
    /// `Unavailable` with the path and the reason.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|e| Error::io(&self.target, "write", e))
    }

    /// Puts it in its place.
    ///
    /// # Errors
    /// `Unavailable` with the path and the reason; what was there stays.
    pub fn finish(mut self) -> Result<()> {
        self.sync()?;
        if let Place::Elsewhere(finish) = self.place {
            return finish(&self.target);
        }
        if self.is_program {
            let mode = self.file.metadata().map_err(|e| Error::io(&self.target, "write", e))?.permissions().mode();
            let runs = Permissions::from_mode(mode | (mode & 0o444) >> 2);
            self.file.set_permissions(runs).map_err(|e| Error::io(&self.target, "make executable", e))?;
        } else if let Ok(before) = fs::metadata(&self.target) {
            let _kept = self.file.set_permissions(before.permissions());
        }
        self.put().map_err(|e| Error::io(&self.target, "write", e))?;
        // The name itself; some file systems cannot sync a folder, and the file is whole either way.
        if let Ok(folder) = File::open(folder_of(&self.target)) {
            let _synced = folder.sync_all();
        }
        Ok(())
    }

    fn put(&mut self) -> io::Result<()> {
        let temporary = match &self.place {
            Place::Elsewhere(_) => return Ok(()),
            Place::Named(temporary) => temporary.clone(),
            Place::Unnamed => {
                let mut files = unfinished();
                match link(&self.file, &self.target) {
                    Ok(()) => return Ok(()),
                    Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                        drop(files);
                        self.copy_to_a_name()?
                    }
                    Err(_) => {
                        // Something is there, which only a rename replaces in one step.
                        let temporary = temporary(&self.target);
                        let _old = fs::remove_file(&temporary);
                        link(&self.file, &temporary)?;
                        files.push(temporary.clone());
                        self.place = Place::Named(temporary.clone());
                        return rename(files, &temporary, &self.target);
                    }
                }
            }
        };
        rename(unfinished(), &temporary, &self.target)
    }

    /// A file system that makes files without a name and cannot name them later: nothing is lost.
    fn copy_to_a_name(&mut self) -> io::Result<PathBuf> {
        let (temporary, mut file) = named(&self.target)?;
        self.place = Place::Named(temporary.clone());
        self.file.rewind()?;
        io::copy(&mut self.file, &mut file)?;
        file.sync_all()?;
        self.file = file;
        Ok(temporary)
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if let Place::Named(temporary) = &self.place {
            let mut files = unfinished();
            // Not there any more: it was finished.
            if let Some(at) = files.iter().position(|f| f == temporary) {
                files.swap_remove(at);
                let _gone = fs::remove_file(temporary);
            }
        }
    }
}

fn rename(mut files: MutexGuard<'_, Vec<PathBuf>>, temporary: &Path, target: &Path) -> io::Result<()> {
    fs::rename(temporary, target)?;
    files.retain(|f| f != temporary);
    Ok(())
}

fn folder_of(target: &Path) -> &Path {
    match target.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

/// A file in that folder that has no name yet; `None` where the file system, the kernel or the name does not allow it.
fn unnamed(target: &Path, folder: &Path) -> Option<File> {
    // It gets its name by its path in /proc; a name that cannot be is better told by an attempt to create it.
    let can_be = fs::symlink_metadata(target).map_or_else(|e| e.kind() == io::ErrorKind::NotFound, |_| true);
    if !can_be || !Path::new("/proc/self/fd").is_dir() {
        return None;
    }
    // Read too, for `copy_to_a_name`.
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, folder, flags, Mode::from_raw_mode(0o666)).ok().map(File::from)
}

fn temporary(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    folder_of(target).join(format!(".{name}.{}.part", std::process::id()))
}

/// A new file beside the target, which [`remove_unfinished`] knows.
fn named(target: &Path) -> io::Result<(PathBuf, File)> {
    let path = temporary(target);
    let mut files = unfinished();
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
    files.push(path.clone());
    Ok((path, file))
}

fn link(file: &File, name: &Path) -> io::Result<()> {
    let from = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(rustix::fs::linkat(CWD, from, CWD, name, AtFlags::SYMLINK_FOLLOW)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_written_without_a_name_and_then_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        for content in ["new", "over it"] {
            let mut file = AtomicFile::create(&target).unwrap();
            assert!(matches!(file.place, Place::Unnamed), "{file:?}");
            file.write(content.as_bytes()).unwrap();
            assert!(!names(folder.path()).iter().any(|n| n.ends_with(".part")));
            file.finish().unwrap();
            assert_eq!((fs::read_to_string(&target).unwrap().as_str(), names(folder.path()).len()), (content, 1));
        }
        drop(AtomicFile::create(&target).unwrap());
        assert_eq!(fs::read_to_string(&target).unwrap(), "over it");
    }

    #[test]
    fn where_that_cannot_be_a_file_beside_it_is_written_and_removed_when_it_is_not_finished() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        let mut file = AtomicFile::named(&target).unwrap();
        file.write(b"named").unwrap();
        assert_eq!(names(folder.path()), [format!(".out.{}.part", std::process::id())]);
        file.finish().unwrap();
        drop(AtomicFile::named(&target).unwrap());
        assert_eq!((fs::read_to_string(&target).unwrap().as_str(), names(folder.path()).len()), ("named", 1));
    }

    #[test]
    fn what_cannot_be_named_later_is_copied() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        let mut file = AtomicFile::create(&target).unwrap();
        file.write(b"copied").unwrap();
        let temporary = file.copy_to_a_name().unwrap();
        assert!(temporary.exists());
        file.finish().unwrap();
        assert_eq!((fs::read_to_string(&target).unwrap().as_str(), names(folder.path()).len()), ("copied", 1));
    }

    #[test]
    fn permissions_of_what_is_replaced_stay() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        AtomicFile::create(&target).unwrap().finish().unwrap();
        fs::set_permissions(&target, fs::Permissions::from_mode(0o640)).unwrap();
        AtomicFile::create(&target).unwrap().finish().unwrap();
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o640);
    }
}
