//! A program: the host's file with the model behind it, alone or with libtorch beside it.

use crate::folder::Files;
use rust_host_engine::{
    Bytes, Error, Package, Result,
    attached::{self, Parts},
    machine::LIBTORCH_VERSION,
};
use rust_host_loader::look_in_own_folder;
use rust_host_tables::AtomicFile;
use std::{
    borrow::Cow,
    fs::File,
    io,
    path::{Path, PathBuf},
};

/// Where the program will be: in a folder of its name.
pub(super) fn path_in_folder(output: &Path) -> Result<PathBuf> {
    let shown = output.display();
    let name = output.file_name().filter(|name| name.to_str().is_some_and(|name| !name.contains(".so")));
    match name {
        _ if output.is_file() => {
            Err(Error::invalid_input(format!("`{shown}` is a file, expected a folder for the program and libtorch")))
        }
        Some(name) => Ok(output.join(name)),
        None => Err(Error::invalid_input(format!("`{shown}` cannot be the name of a program and of its folder"))),
    }
}

/// Writes the program. Returns its size.
pub(super) fn write(path: &Path, host: &[u8], model: &Bytes, package: &Package<'_>) -> Result<u64> {
    let mut program = AtomicFile::create(path)?;
    let bytes = fill(&mut program, host, model, package)?;
    program.finish()?;
    Ok(bytes)
}

fn fill(program: &mut AtomicFile, host: &[u8], model: &Bytes, package: &Package<'_>) -> Result<u64> {
    let Parts { padding, trailer } = attached::parts(host.len(), model, place(model, package));
    let parts = [host, &padding, model, &trailer];
    program.is_program();
    parts.iter().try_for_each(|part| program.write(part))?;
    Ok(parts.iter().map(|part| part.len() as u64).sum())
}

/// The program, and the libraries beside it. Returns the size of all.
pub(super) fn write_folder(
    program: &Path,
    host: &[u8],
    model: &Bytes,
    package: &Package<'_>,
    libraries: &[PathBuf],
) -> Result<u64> {
    let folder = program.parent().unwrap_or(Path::new("."));
    let mut files = Files::begin(folder)?;
    let mut bytes = 0;
    for library in libraries {
        let name = library.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let mut from = File::open(library).map_err(|e| Error::io(library, "read", e))?;
        let mut to = files.create(name)?.handle()?;
        bytes += io::copy(&mut from, &mut to).map_err(|e| Error::io(&folder.join(name), "write", e))?;
        look_in_own_folder(library, &to)?;
    }
    bytes += LIBTORCH_VERSION.len() as u64;
    files.create("libtorch-version")?.write(LIBTORCH_VERSION.as_bytes())?;
    let name = program.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    bytes += fill(files.create(name)?, host, model, package)?;
    files.finish()?;
    Ok(bytes)
}

/// Where its code lies in the file; 0 if it lies there packed.
fn place(model: &Bytes, package: &Package<'_>) -> usize {
    match package.code {
        Cow::Borrowed(code) => code.as_ptr().addr() - model.as_ptr().addr(),
        Cow::Owned(_) => 0,
    }
}
