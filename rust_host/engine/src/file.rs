//! Foreign files, opened or read whole: no folder, no device that never ends, nothing larger than what memory is left.

use crate::{
    error::{Error, ErrorKind, Result},
    machine,
};
use std::{fs::File, io::Read, os::unix::fs::FileTypeExt, path::Path};

/// Opens a file, a pipe or a socket for reading.
///
/// # Errors
/// `NotFound`, `Unavailable` for what the system refuses; `kind` for a folder or a device.
pub fn open(path: &Path, kind: ErrorKind) -> Result<File> {
    // Before it is opened: opening a device can wait for ever, or do something.
    let about = path.metadata().map_err(|e| Error::io(path, "open", e))?;
    let is = match about.file_type() {
        t if t.is_dir() => "a folder",
        t if t.is_char_device() || t.is_block_device() => "a device",
        _ => return File::open(path).map_err(|e| Error::io(path, "open", e)),
    };
    Err(Error::new(kind, format!("`{}` is {is}, expected a file", path.display())))
}

/// A file's bytes.
///
/// # Errors
/// As [`open`], and `kind` for an empty file, `Unavailable` for one that memory cannot hold.
///
/// ```
/// use rust_host_engine::{ErrorKind, file};
/// let refused = file::read("/dev/zero".as_ref(), ErrorKind::InvalidInput).unwrap_err();
/// assert_eq!(refused.message, "`/dev/zero` is a device, expected a file");
/// ```
pub fn read(path: &Path, kind: ErrorKind) -> Result<Vec<u8>> {
    let shown = format!("`{}`", path.display());
    let mut file = open(path, kind)?;
    let about = file.metadata().map_err(|e| Error::io(path, "read", e))?;
    let size = if about.is_file() { about.len() } else { 0 };
    let bytes = within(&mut file, size, machine::memory_left(), &shown).map_err(|e| match e {
        Stopped::Io(e) => Error::io(path, "read", e),
        Stopped::TooLarge(e) => e,
    })?;
    if bytes.is_empty() {
        return Err(Error::new(kind, format!("{shown} is empty")));
    }
    Ok(bytes)
}

/// What comes from standard input, to its end.
///
/// # Errors
/// `InvalidInput` if nothing came, `Unavailable` if it cannot be read or memory cannot hold it.
pub fn read_stdin() -> Result<Vec<u8>> {
    let bytes = within(&mut std::io::stdin().lock(), 0, machine::memory_left(), "stdin").map_err(|e| match e {
        Stopped::Io(e) => Error::unavailable(format!("stdin cannot be read: {e}")),
        Stopped::TooLarge(e) => e,
    })?;
    if bytes.is_empty() {
        return Err(Error::invalid_input("stdin is empty"));
    }
    Ok(bytes)
}

enum Stopped {
    Io(std::io::Error),
    TooLarge(Error),
}

/// Reads to the end. `left` is halved for what does not say its size: a growing vector holds its bytes twice while it grows.
fn within(from: &mut dyn Read, size: u64, left: Option<u64>, shown: &str) -> std::result::Result<Vec<u8>, Stopped> {
    let too_large =
        |what: String| Stopped::TooLarge(Error::unavailable(format!("{shown}: {what} do not fit in memory")));
    let limit = left.unwrap_or(u64::MAX);
    if size > limit {
        return Err(too_large(format!("{size} bytes")));
    }
    let mut bytes = Vec::new();
    let exact = usize::try_from(size).ok().and_then(|n| bytes.try_reserve_exact(n).ok());
    exact.ok_or_else(|| too_large(format!("{size} bytes")))?;
    let limit = if size > 0 { limit } else { limit / 2 };
    let read = from.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(Stopped::Io)?;
    if read as u64 > limit {
        return Err(too_large(format!("more than {limit} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_ends_is_refused() {
        let stopped = within(&mut std::io::repeat(b'1'), 0, Some(1 << 20), "stdin");
        let Err(Stopped::TooLarge(e)) = stopped else { panic!("it was read") };
        assert_eq!(e.message, "stdin: more than 524288 bytes do not fit in memory");
        assert!(within(&mut [0u8; 9].as_slice(), 9, Some(9), "f").is_ok());
        assert!(within(&mut [0u8; 9].as_slice(), 9, Some(8), "f").is_err());
    }

    #[test]
    fn folders_and_devices_are_named() {
        for (path, is) in [("/dev/zero", "a device"), ("/dev/full", "a device"), ("/dev", "a folder")] {
            let e = open(Path::new(path), ErrorKind::InvalidInput).unwrap_err();
            assert_eq!((e.kind, e.message), (ErrorKind::InvalidInput, format!("`{path}` is {is}, expected a file")));
        }
        assert_eq!(open(Path::new("/nope"), ErrorKind::InvalidInput).unwrap_err().kind, ErrorKind::NotFound);
    }
}
