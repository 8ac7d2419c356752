//! A model file at the end of a program's own file: `rust-host build` puts it there, the program finds it by the last bytes.
//!
//! ```text
//! program | model file | trailer: SHA-256 of the model file, where it begins, its length (little-endian), MARK
//! ```

use crate::{Bytes, Error, Result};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

const MARK: &[u8; 16] = b"\x7frust-host model";
const TRAILER: usize = 32 + 8 + 8 + MARK.len();
/// The page size, at a multiple of which bytes can be mapped.
const ALIGNMENT: usize = 4096;

/// What follows the bytes of a program: padding and the trailer around a model file.
#[derive(Debug)]
pub struct Parts {
    /// Zeros before the model file.
    pub padding: Vec<u8>,
    /// What comes behind it.
    pub trailer: Vec<u8>,
}

/// How `model` is attached to a program of `size` bytes, so that its byte `at` comes to lie where bytes can be mapped.
///
/// ```
/// let parts = rust_host_engine::attached::parts(5000, b"model", 2);
/// assert_eq!(5000 + parts.padding.len() + 2, 8192);
/// ```
pub fn parts(size: usize, model: &[u8], at: usize) -> Parts {
    let before = size + at;
    let padding = vec![0; before.next_multiple_of(ALIGNMENT) - before];
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
    model: Bytes,
    digest: [u8; 32],
}

impl Attached {
    /// Looks at the end of a program; `path` is for messages.
    ///
    /// # Errors
    /// `InvalidModel` if there is no model or the trailer contradicts the file.
    pub fn find(path: &Path, program: &Bytes) -> Result<Self> {
        let shown = path.display();
        let missing = || {
            Error::invalid_model(format!(
                "`{shown}` carries no model: it is the bare host, or it was cut short or stripped after it was built"
            ))
            .hint("`rust-host build MODEL -o FILE` makes a program of a compiled model")
        };
        let (whole, trailer) = program.split_last_chunk::<TRAILER>().ok_or_else(missing)?;
        let mut rest = trailer.as_slice();
        let digest: [u8; 32] = next(&mut rest).ok_or_else(missing)?;
        let start = u64::from_le_bytes(next(&mut rest).ok_or_else(missing)?);
        let length = u64::from_le_bytes(next(&mut rest).ok_or_else(missing)?);
        if rest != MARK {
            return Err(missing());
        }
        let range = usize::try_from(start).ok().zip(start.checked_add(length).and_then(|end| end.try_into().ok()));
        let range = range.filter(|(_, end)| *end == whole.len());
        let model = range.and_then(|(start, end): (usize, usize)| program.part(start..end)).ok_or_else(|| {
            Error::invalid_model(format!(
                "`{shown}` is damaged: its model lies at {start} with {length} bytes, and the file has {}",
                program.len()
            ))
            .hint("copy or build it again")
        })?;
        Ok(Self { path: path.to_owned(), model, digest })
    }

    /// The model file. It is not compared with the digest: the program is one file, and whoever could change the model could
    /// change the code that looks as well. Hashing 6 MB would take longer than the answer.
    pub fn model(&self) -> &Bytes {
        &self.model
    }

    /// SHA-256 of the model file as it was attached: 64 hexadecimal digits.
    pub fn digest(&self) -> String {
        self.digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Compares the model file with its digest.
    ///
    /// # Errors
    /// `Mismatch` if it is another.
    pub fn check(&self) -> Result<()> {
        match Sha256::digest(&*self.model)[..] == self.digest {
            true => Ok(()),
            false => Err(Error::new(
                crate::ErrorKind::Mismatch,
                format!("`{}` is damaged: its model is not the one that it was built with", self.path.display()),
            )
            .hint("copy or build it again")),
        }
    }
}

/// Takes the first bytes off.
fn next<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, others) = rest.split_first_chunk::<N>()?;
    *rest = others;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attached(program: &[u8], model: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Result<Attached> {
        let Parts { padding, trailer } = parts(program.len(), model, 1);
        let mut bytes = [program, &padding, model, &trailer].concat();
        change(&mut bytes);
        Attached::find(Path::new("program"), &bytes.into())
    }

    #[test]
    fn what_was_attached_is_found_whatever_the_sizes() {
        for (program, model) in [(0, 1), (1, 0), (4096, 4096), (4097, 5), (70_000, 9_999)] {
            let (program, model) = (vec![1; program], vec![2; model]);
            let found = attached(&program, &model, |_| {}).unwrap();
            assert_eq!(**found.model(), model);
            assert_eq!(found.digest(), crate::trust::digest(&model));
            found.check().unwrap();
        }
    }

    #[test]
    fn a_program_without_a_model_and_one_that_was_cut_or_changed_say_so() {
        let says = |change: fn(&mut Vec<u8>)| attached(&[1; 5000], &[2; 3000], change).unwrap_err().message;
        assert!(says(|bytes| bytes.truncate(5000)).contains("carries no model"));
        assert!(says(|bytes| bytes.truncate(3)).contains("carries no model"));
        assert!(says(|bytes| bytes.truncate(bytes.len() - 1)).contains("carries no model"));
        assert!(says(|bytes| bytes.push(0)).contains("carries no model"));
        assert!(says(|bytes| drop(bytes.drain(100..200))).contains("is damaged"));
        let changed = attached(&[1; 5000], &[2; 3000], |bytes| bytes[9000] = 3).unwrap();
        assert!(changed.check().unwrap_err().message.contains("is damaged"));
    }
}
