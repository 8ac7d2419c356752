//! A model file at the end of a program's own file: `rust-host build` puts it there, the program finds it by the last bytes.
//!
//! ```text
//! program | model file | trailer: SHA-256 of the model file, where it begins, its length (little-endian), MARK
//! ```

use crate::{Error, Result};
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

const MARK: &[u8; 16] = b"\x7frust-host model";
const TRAILER: usize = 32 + 8 + 8 + MARK.len();
/// Where a model file may begin: a multiple of the page size, so that its bytes can be mapped.
const ALIGNMENT: usize = 4096;

/// What follows the bytes of a program: padding and the trailer around a model file.
#[derive(Debug)]
pub struct Parts {
    /// Zeros before the model file.
    pub padding: Vec<u8>,
    /// What comes behind it.
    pub trailer: Vec<u8>,
}

/// How `model` is attached to a program of `size` bytes.
///
/// ```
/// let parts = rust_host_engine::attached::parts(5000, b"model");
/// assert_eq!(5000 + parts.padding.len(), 8192);
/// ```
pub fn parts(size: usize, model: &[u8]) -> Parts {
    let padding = vec![0; size.next_multiple_of(ALIGNMENT) - size];
    let mut trailer = Vec::with_capacity(TRAILER);
    trailer.extend_from_slice(&Sha256::digest(model));
    trailer.extend_from_slice(&((size + padding.len()) as u64).to_le_bytes());
    trailer.extend_from_slice(&(model.len() as u64).to_le_bytes());
    trailer.extend_from_slice(MARK);
    Parts { padding, trailer }
}

/// A model file that was found.
#[derive(Debug)]
pub struct Attached {
    path: PathBuf,
    file: File,
    start: u64,
    length: u64,
    digest: [u8; 32],
}

impl Attached {
    /// Looks at the end of a program's file; `path` is for messages.
    ///
    /// # Errors
    /// `InvalidModel` if there is no model or the trailer contradicts the file, `Unavailable` if it cannot be read.
    pub fn find(path: &Path, file: File) -> Result<Self> {
        let shown = path.display();
        let unreadable = |e| Error::io(path, "read", e);
        let size = file.metadata().map_err(unreadable)?.len();
        let mut trailer = [0; TRAILER];
        let at = size.checked_sub(TRAILER as u64);
        at.map_or(Ok(()), |at| file.read_exact_at(&mut trailer, at)).map_err(unreadable)?;
        let (Some(digest), Some((start, rest))) =
            (trailer.first_chunk::<32>(), trailer.get(32..).and_then(<[u8]>::split_first_chunk::<8>))
        else {
            return Err(Error::internal("the trailer is shorter than its parts"));
        };
        let Some((length, mark)) = rest.split_first_chunk::<8>() else {
            return Err(Error::internal("the trailer is shorter than its parts"));
        };
        if mark != MARK {
            return Err(Error::invalid_model(format!(
                "`{shown}` carries no model: it is the bare host, or it was cut short or stripped after it was built"
            ))
            .hint("`rust-host build MODEL -o FILE` makes a program of a compiled model"));
        }
        let (start, length) = (u64::from_le_bytes(*start), u64::from_le_bytes(*length));
        if start.checked_add(length).is_none_or(|end| Some(end) != at) {
            return Err(Error::invalid_model(format!(
                "`{shown}` is damaged: its model lies at {start} with {length} bytes, and the file has {size}"
            ))
            .hint("copy or build it again"));
        }
        Ok(Self { path: path.to_owned(), file, start, length, digest: *digest })
    }

    /// The model file's bytes. They are not compared with the digest: the program is one file, and whoever could change the
    /// model could change the code that looks as well. Hashing 6 MB would double the time to the first answer.
    ///
    /// # Errors
    /// `Unavailable` if they cannot be read or memory has no room.
    pub fn read(&mut self) -> Result<Vec<u8>> {
        let unreadable = |e| Error::io(&self.path, "read", e);
        let mut bytes = Vec::new();
        let room = usize::try_from(self.length).ok().and_then(|n| bytes.try_reserve_exact(n).ok());
        room.ok_or_else(|| Error::unavailable(format!("{} bytes of the model do not fit in memory", self.length)))?;
        self.file.seek(SeekFrom::Start(self.start)).map_err(unreadable)?;
        Read::by_ref(&mut self.file).take(self.length).read_to_end(&mut bytes).map_err(unreadable)?;
        Ok(bytes)
    }

    /// SHA-256 of the model file as it was attached: 64 hexadecimal digits.
    pub fn digest(&self) -> String {
        self.digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Compares the bytes with the digest.
    ///
    /// # Errors
    /// `Mismatch` if they are others.
    pub fn check(&self, bytes: &[u8]) -> Result<()> {
        match Sha256::digest(bytes)[..] == self.digest {
            true => Ok(()),
            false => Err(Error::new(
                crate::ErrorKind::Mismatch,
                format!("`{}` is damaged: its model is not the one that it was built with", self.path.display()),
            )
            .hint("copy or build it again")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attached(program: &[u8], model: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Result<Attached> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        let Parts { padding, trailer } = parts(program.len(), model);
        let mut bytes = [program, &padding, model, &trailer].concat();
        change(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        Attached::find(&path, File::open(&path).unwrap())
    }

    #[test]
    fn what_was_attached_is_found_whatever_the_sizes() {
        for (program, model) in [(0, 1), (1, 0), (4096, 4096), (4097, 5), (70_000, 9_999)] {
            let (program, model) = (vec![1; program], vec![2; model]);
            let mut found = attached(&program, &model, |_| {}).unwrap();
            let bytes = found.read().unwrap();
            assert!(bytes == model && found.start % 4096 == 0);
            assert_eq!(found.digest(), crate::trust::digest(&model));
            found.check(&bytes).unwrap();
            assert!(found.check(&[bytes, vec![0]].concat()).unwrap_err().message.contains("damaged"));
        }
    }

    #[test]
    fn a_program_without_a_model_and_one_that_was_cut_say_so() {
        let says = |change: fn(&mut Vec<u8>)| attached(&[1; 5000], &[2; 3000], change).unwrap_err().message;
        assert!(says(|bytes| bytes.truncate(5000)).contains("carries no model"));
        assert!(says(|bytes| bytes.truncate(3)).contains("carries no model"));
        assert!(says(|bytes| bytes.truncate(bytes.len() - 1)).contains("carries no model"));
        assert!(says(|bytes| bytes.push(0)).contains("carries no model"));
        assert!(says(|bytes| drop(bytes.drain(100..200))).contains("is damaged"));
    }
}
