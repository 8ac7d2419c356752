//! `build`: a compiled package → one program that carries it, its contract and its golden examples; with libtorch beside it, in
//! a folder, for a model that needs it.

use crate::folder::Files;
use rust_host_console::Verified;
use rust_host_engine::{
    Archive, Backends, Error, ErrorKind, Model, Package, Platform, Result,
    attached::{self, Parts},
    file, golden,
    machine::LIBTORCH_VERSION,
    operators::Policy,
    trust,
};
use rust_host_loader::{libraries_of, look_in_own_folder};
use rust_host_tables::AtomicFile;
use std::{
    borrow::Cow,
    env,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// The host that is put before the model.
const HOST: &str = "rust-host-program";

/// What is to be made of what.
pub(crate) struct Settings {
    /// The package.
    pub file: PathBuf,
    /// The program, or the folder for it and libtorch.
    pub output: PathBuf,
    /// Which packages are opened.
    pub policy: Policy,
    /// Whether libtorch is to lie beside it.
    pub with_libtorch: bool,
}

/// A program that was written.
pub(crate) struct Built {
    /// Where it is.
    pub path: PathBuf,
    /// Its size, with that of what lies beside it.
    pub bytes: u64,
    /// Whether that is libtorch.
    pub with_libtorch: bool,
    /// SHA-256 of the model file in it.
    pub model_digest: String,
    /// What its golden examples gave here.
    pub verified: Verified,
}

/// Writes a program, after the model in it has reproduced its golden examples with no more than the program will have.
///
/// # Errors
/// `InvalidInput` for a file that is no compiled package or does not need what it is to have, `Refused` for one that is not
/// trusted, `InvalidContract` for one without golden examples, `Mismatch` if it does not reproduce them, `Unavailable` if it was
/// compiled for another machine, needs libtorch, or the host is not there; and what reading and writing say.
pub(crate) fn build(settings: &Settings, backends: &dyn Backends) -> Result<Built> {
    let Settings { file: package, output, policy, with_libtorch } = settings;
    let archive = Archive::open_signed(package, policy.signed_by.as_ref())?;
    let shown = package.display().to_string();
    if archive.platform() != Platform::Compiled {
        return Err(Error::invalid_input(format!(
            "`{shown}` is a {}, expected a compiled package: a program without libtorch carries the model's machine code",
            archive.platform().noun()
        ))
        .hint("`py-authoring export --method compiled` writes one, `model.pt2`"));
    }
    trust::check(&archive, policy)?;
    let path = path_of_program(output, *with_libtorch)?;
    let at = |e: Error| Error { message: format!("`{shown}`: {}", e.message), ..e };
    if fs::canonicalize(package).is_ok_and(|own| fs::canonicalize(&path).is_ok_and(|to| to == own)) {
        return Err(Error::invalid_input(format!(
            "`{shown}` is the package itself, expected another file for the program"
        )));
    }
    let read = Package::read(&archive).and_then(|package| alone(&package).map(|()| package)).map_err(at)?;
    if *with_libtorch && rust_host_compiled::of_libtorch(&read).is_empty() {
        return Err(Error::invalid_input(format!("`{shown}` calls nothing of libtorch"))
            .hint("without `--with-libtorch` it becomes one file that runs alone"));
    }
    let host = file::read(&find_host()?, ErrorKind::Unavailable)?;
    let libtorch = if *with_libtorch { Some(backends.locate()?.check()?.to_owned()) } else { None };
    let libraries = libtorch.as_deref().map(libraries_of).transpose()?;
    let verified = verify(&archive, libtorch)?;
    if !verified.verdict.ok {
        return Err(Error::new(
            ErrorKind::Mismatch,
            format!("`{shown}` does not reproduce its golden examples on this machine"),
        )
        .hint(format!("`rust-host verify {shown}` says how far it is off")));
    }
    let model = archive.bytes();
    let Parts { padding, trailer } = attached::parts(host.len(), model, place(&archive, &read));
    let parts = [&host[..], &padding, model, &trailer];
    let beside = match libraries {
        None => {
            let mut program = AtomicFile::create(&path)?;
            write(&mut program, &parts)?;
            program.finish()?;
            0
        }
        Some(libraries) => write_folder(&path, &parts, &libraries)?,
    };
    Ok(Built {
        path,
        bytes: beside + parts.iter().map(|part| part.len() as u64).sum::<u64>(),
        with_libtorch: *with_libtorch,
        model_digest: trust::digest(model),
        verified,
    })
}

fn write(program: &mut AtomicFile, parts: &[&[u8]]) -> Result<()> {
    program.is_program();
    parts.iter().try_for_each(|part| program.write(part))
}

/// Where the program will be: at the output, or in a folder of its name.
fn path_of_program(output: &Path, with_libtorch: bool) -> Result<PathBuf> {
    if !with_libtorch {
        return Ok(output.to_owned());
    }
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

/// The program, and the libraries beside it. Returns the libraries' bytes.
fn write_folder(program: &Path, parts: &[&[u8]], libraries: &[PathBuf]) -> Result<u64> {
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
    write(files.create(name)?, parts)?;
    files.finish()?;
    Ok(bytes)
}

/// Whether its code runs on this machine, with nothing beside it but the C library.
fn alone(package: &Package<'_>) -> Result<()> {
    package.built_for.check()?;
    let beside = |name: &&str| !["libc.so", "libm.so", "ld-linux"].iter().any(|own| name.starts_with(own));
    let others: Vec<&str> = package.libraries.iter().map(String::as_str).filter(beside).collect();
    if others.is_empty() {
        return Ok(());
    }
    Err(Error::unavailable(format!(
        "its code needs `{}` beside it, and a program has the C library alone",
        others.join("`, `")
    ))
    .hint("export it again: `py-authoring export --method compiled` puts all into the package"))
}

/// Where its code lies in the file; 0 if it lies there packed.
fn place(archive: &Archive, package: &Package<'_>) -> usize {
    match package.code {
        Cow::Borrowed(code) => code.as_ptr().addr() - archive.bytes().as_ptr().addr(),
        Cow::Owned(_) => 0,
    }
}

/// Runs the examples as the program will: with that libtorch, or where an operator of it is needed, with none.
fn verify(archive: &Archive, libtorch: Option<PathBuf>) -> Result<Verified> {
    let backend = rust_host_compiled::backend(move || {
        libtorch.clone().ok_or_else(|| {
            Error::unavailable("a program of one file carries no libtorch")
                .hint("`--with-libtorch` makes a folder that has it; `rust-host info` lists what it calls")
        })
    });
    let model = Model::of_this_program(Archive::clone(archive), backend.as_ref())?;
    Ok(Verified {
        model_name: model.contract().map(|c| c.name.clone()).unwrap_or_default(),
        device: model.device(),
        library: backend.library(),
        verdict: golden::verify(&model)?,
        notes: Vec::new(),
    })
}

/// Beside the running program, or in the `lib` beside its `bin`, as the libraries are.
fn find_host() -> Result<PathBuf> {
    let program = env::current_exe()
        .map_err(|e| Error::unavailable(format!("the path of the running program cannot be found: {e}")))?;
    find_host_near(program.parent().unwrap_or(Path::new("/")))
}

fn find_host_near(folder: &Path) -> Result<PathBuf> {
    let places = [folder.join(HOST), folder.join("../lib").join(HOST)];
    places.iter().find(|p| p.is_file()).cloned().ok_or_else(|| {
        let [beside, lib] = places.map(|p| p.display().to_string());
        Error::unavailable(format!(
            "the host that programs are made of is missing: there is neither `{beside}` nor `{lib}`"
        ))
        .hint("it is in the archive of rust-host, not in the wheel: unpack that, or `cargo build --release` in its source")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_host_is_named_with_both_places_and_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let e = find_host_near(folder.path()).unwrap_err();
        assert!(e.message.contains(&folder.path().join(HOST).display().to_string()) && e.message.contains("../lib"));
        std::fs::write(folder.path().join(HOST), "").unwrap();
        assert_eq!(find_host_near(folder.path()).unwrap(), folder.path().join(HOST));
    }
}
