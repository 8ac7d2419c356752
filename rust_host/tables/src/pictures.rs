//! Folders and lists of pictures → one piece a picture.

use crate::run::{Failure, Passed, Piece};
use rust_host_engine::{Contract, Error, ErrorKind, Result, Tensor, file, picture};
use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

/// Paths of pictures, and how many other files were left out.
pub(crate) struct Listing {
    pub paths: Vec<PathBuf>,
    pub others: usize,
}

/// Every PNG and JPEG file below a folder, by its ending, sorted; hidden files and folders are left out.
pub(crate) fn folder(folder: &Path) -> Result<Listing> {
    let mut found = Listing { paths: Vec::new(), others: 0 };
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).map_err(|e| Error::io(&folder, "read", e))? {
            let entry = entry.map_err(|e| Error::io(&folder, "read", e))?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = entry.path();
            // Links to folders are not followed: they can go round in circles.
            let kind = entry.file_type().map_err(|e| Error::io(&path, "read", e))?;
            if kind.is_dir() {
                open.push(path);
            } else if has_picture_ending(&path) {
                found.paths.push(path);
            } else {
                found.others += 1;
            }
        }
    }
    found.paths.sort();
    if found.paths.is_empty() {
        return Err(Error::invalid_input(format!("`{}` has no .png, .jpg or .jpeg file", folder.display())));
    }
    Ok(found)
}

/// One path a line, as it is; blank lines are skipped.
pub(crate) fn list(path: &Path) -> Result<Listing> {
    let open = file::open(path, ErrorKind::InvalidInput)?;
    let mut paths = Vec::new();
    for (i, line) in BufReader::new(open).lines().enumerate() {
        let line = line.map_err(|e| match e.kind() {
            std::io::ErrorKind::InvalidData => {
                Error::invalid_input(format!("`{}`: line {} is no text, expected a path a line", path.display(), i + 1))
            }
            _ => Error::io(path, "read", e),
        })?;
        if !line.trim().is_empty() {
            paths.push(PathBuf::from(line.trim_end_matches('\r')));
        }
    }
    Ok(Listing { paths, others: 0 })
}

fn has_picture_ending(path: &Path) -> bool {
    let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    matches!(ending.as_str(), "png" | "jpg" | "jpeg")
}

/// Reads one picture. What is wrong with it is in the piece, because it may not end the run.
pub(crate) fn decode(path: &Path, contract: &Contract, input: &str) -> Piece {
    let shown = path.display().to_string();
    let read = || -> Result<Tensor> {
        let bytes = file::read(path, ErrorKind::InvalidInput)?;
        let tensor = picture::read(&bytes, Some(contract), input, &shown)?;
        fits(contract, input, &tensor).map_err(|e| Error { message: format!("`{shown}`: {}", e.message), ..e })?;
        Ok(tensor)
    };
    let (inputs, failed) = match read() {
        Ok(tensor) => (vec![tensor], Vec::new()),
        Err(e) => (Vec::new(), vec![Failure { row: 0, what: e.message }]),
    };
    Piece { rows: 1, bytes: 1, inputs, passed: Passed::Paths(vec![shown]), failed }
}

/// Whether the picture has the sizes that the contract fixes; its neighbours in the batch shall not be blamed for it.
fn fits(contract: &Contract, input: &str, tensor: &Tensor) -> Result<()> {
    let Some(about) = contract.inputs.iter().find(|i| i.name == input) else { return Ok(()) };
    let same = about.shape.len() == tensor.shape().len()
        && about.shape.iter().zip(tensor.shape()).skip(1).all(|(&want, &got)| want < 0 || want == got);
    if same {
        return Ok(());
    }
    let sizes = |shape: &[i64]| {
        let shown = shape.iter().skip(1).map(|n| if *n < 0 { "any".to_owned() } else { n.to_string() });
        shown.collect::<Vec<_>>().join(" × ")
    };
    Err(Error::invalid_input(format!(
        "the picture is {}, model `{}` takes {}",
        sizes(tensor.shape()),
        contract.name,
        sizes(&about.shape)
    )))
}
